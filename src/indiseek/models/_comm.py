"""CoMM: one code of all modalities that holds what is redundant, unique and synergistic."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from mudata import MuData
from numpy.typing import NDArray

from indiseek.data import LogNormalizePCA, Transform, thinned_views
from indiseek.models._arguments import check_choice, check_range
from indiseek.models._base import MultimodalModel
from indiseek.models._fitted import Fitted
from indiseek.models._module import INFERENCE_BATCH
from indiseek.models._schedules import StageDefaults, epochs_and_sizes
from indiseek.objectives import Activation, Batch, CoMMObjective, Form, Negatives, Objective
from indiseek.train import StageSettings

logger = logging.getLogger(__name__)

_DEFAULTS = {"fused": StageDefaults(batch_size=256, n_steps=1000)}


@final
class CoMMModel(MultimodalModel):
    r"""One fused code of paired cells, and the projection of each modality into the same space.

    Every modality becomes a few tokens, and a transformer fuses them into one code :math:`Z`. It is trained by
    contrast between two augmentations :math:`X', X''` of a cell, and between these and the projections :math:`Z_i`,
    which the same network makes of one modality's tokens alone:

    .. math::
        \min_f \; -I(Z', Z'') - \sum_{i=1}^{n} \tfrac12 \big( I(Z_i, Z') + I(Z_i, Z'') \big)

    so that :math:`Z` can hold what both modalities know, what one of them knows, and what only both together tell.
    It is one space, and does not say which of the three a direction is: for that see
    :class:`indiseek.IndiSeekModel`.

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Registered with the modalities that are found, unless
        :meth:`setup_mudata` was called on it. One modality is allowed, with a warning: its code is then learned from
        augmentations alone, and nothing can be redundant or synergistic.
    registry
        For :meth:`load` only.
    n_latent
        Dimension of the codes and of the tokens; a multiple of `n_heads`.
    n_tokens
        Tokens of each modality. A step keeps ``3 * n * batch_size * n_tokens * n_latent`` numbers of them for
        :math:`n` modalities, 4 bytes each, and a few times as many in each layer.
    n_layers, n_heads
        Attention blocks, and heads of each.
    hidden
        Widths of the hidden layers that make the tokens.
    form
        ``"paper"``, the loss above; or ``"code"``, that of the authors' program: projections of the augmented cells,
        each against the other augmentation, and the mean of the :math:`n + 1` terms.
    negatives
        ``"cross"``: InfoNCE as the paper prints it, or ``"both"``: with further negatives out of the same set, as in
        the authors' program.
    temperature
        Of InfoNCE. The published 0.1 gives less to what both modalities have to tell together (see the model's page).
    joint_weight, unimodal_weight
        Weights of the first term and of the others.
    feature_dropout
        Highest rate of dropped features: of genes or proteins before the transform where it takes counts by
        components, else of the transform's features. One number, or one for each modality.
    noise
        Standard deviation of the noise on the transformed features; one number, or one for each modality.
    n_views
        Views of each training and validation cell with thinned counts, made once before training, for modalities
        whose transform is :class:`indiseek.data.LogNormalizePCA`. They take ``4 * n_views * n_components`` bytes a
        cell. 0 augments the transformed features alone.
    lowest_depth
        Counts of a view are thinned to a share drawn between this one and 1.
    activation, layer_norm
        Form of the networks that make the tokens.
    transforms
        Transform by modality, out of :mod:`indiseek.data`; by default raw RNA counts get
        ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData or a transform is not one of the package's.
    KeyError
        If an argument by modality names others than those that there are.
    ValueError
        If cells are not paired or fewer than 100, names are duplicated, values are NaN or infinite, counts
        negative, a cell or a feature is empty, a feature constant, an argument out of range, or an augmentation would
        drop every feature.

    Examples
    --------
    >>> import indiseek
    >>> mdata = indiseek.datasets.pbmc10k_cite()
    >>> model = indiseek.CoMMModel(mdata)
    >>> model.train()
    >>> mdata.obsm["X_comm"].shape
    (6855, 64)

    References
    ----------
    Dufumier et al. (2025), arXiv 2409.07402.
    """

    _key: ClassVar[str] = "comm"
    _least_modalities: ClassVar[int] = 1

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        n_latent: int = 64,
        n_tokens: int = 2,
        n_layers: int = 1,
        n_heads: int = 4,
        hidden: Sequence[int] = (128, 128),
        form: Form = "paper",
        negatives: Negatives = "cross",
        temperature: float = 0.1,
        joint_weight: float = 1.0,
        unimodal_weight: float = 1.0,
        feature_dropout: float | Mapping[str, float] = 0.3,
        noise: float | Mapping[str, float] = 0.2,
        n_views: int = 4,
        lowest_depth: float = 0.5,
        activation: Activation = "gelu",
        layer_norm: bool = True,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        check_choice("form", form, ("paper", "code"))
        check_choice("negatives", negatives, ("both", "cross"))
        check_choice("activation", activation, ("gelu", "relu"))
        for name, number in {"n_tokens": n_tokens, "n_layers": n_layers, "n_heads": n_heads}.items():
            check_range(name, number, low=1)
        check_range("n_latent", n_latent, low=1)
        if n_latent % n_heads:
            raise ValueError(
                f"expected n_latent to be a multiple of n_heads={n_heads}, got {n_latent}; change one of them."
            )
        for width in hidden:
            check_range("widths in hidden", width, low=1)
        check_range("temperature", temperature, above=0)
        check_range("joint_weight", joint_weight, low=0)
        check_range("unimodal_weight", unimodal_weight, low=0)
        if joint_weight == unimodal_weight == 0:
            raise ValueError("expected joint_weight or unimodal_weight above 0, got 0 for both; raise one of them.")
        for rate in _numbers(feature_dropout):
            if not 0 <= rate < 1:
                raise ValueError(
                    f"expected feature_dropout in [0, 1), got {rate}; at 1 every feature could be dropped: choose a "
                    "smaller one."
                )
        for scale in _numbers(noise):
            check_range("noise", scale, low=0, below=float("inf"))
        check_range("n_views", n_views, low=0)
        if n_views == 1:
            raise ValueError("expected n_views of 0, or of at least 2, got 1; both views of a cell would be the same.")
        check_range("lowest_depth", lowest_depth, above=0)
        if lowest_depth > 1:
            raise ValueError(f"expected lowest_depth of at most 1, got {lowest_depth}; a view cannot gain counts.")
        self._arguments = {
            "n_latent": n_latent,
            "n_tokens": n_tokens,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "hidden": list(hidden),
            "form": form,
            "negatives": negatives,
            "temperature": temperature,
            "joint_weight": joint_weight,
            "unimodal_weight": unimodal_weight,
            "feature_dropout": _plain(feature_dropout),
            "noise": _plain(noise),
            "n_views": n_views,
            "lowest_depth": lowest_depth,
            "activation": activation,
            "layer_norm": layer_norm,
        }
        super().__init__(mdata, registry=registry, transforms=transforms)
        if mdata is None:
            return
        for name in ("feature_dropout", "noise"):
            value = self._arguments[name]
            if isinstance(value, dict) and set(value) != set(self.modalities):
                raise KeyError(
                    f"expected {name} of the modalities {list(self.modalities)}, got {list(value)}; name each of them."
                )
        # Without noise, as on held-out cells, only these two make one view unlike the other.
        is_thinned = (
            n_views and lowest_depth < 1 and any(isinstance(t, LogNormalizePCA) for t in self._transforms.values())
        )
        if not (is_thinned or any(_numbers(feature_dropout))):
            raise ValueError(
                "expected augmentations that change held-out cells, got feature_dropout=0 and no thinned counts "
                f"(n_views={n_views}, lowest_depth={lowest_depth}); raise feature_dropout, or n_views for RNA counts."
            )
        if len(self.modalities) == 1:
            logger.warning(
                f"there is no modality but {self.modalities[0]!r}: its code is learned from augmentations alone, and "
                "nothing of it can be redundant with another modality or synergistic."
            )

    def _n_condition(self) -> int:
        return 0

    def _schedule(
        self,
        n_train: int,
        *,
        max_epochs: int | Mapping[str, int] | None,
        batch_size: int | Mapping[str, int] | None,
        patience: int | None,
        given: Mapping[str, Any],
    ) -> tuple[dict[str, StageSettings], dict[str, int]]:
        """The learning rate falls along a cosine."""
        epochs, sizes = epochs_and_sizes(_DEFAULTS, n_train, max_epochs=max_epochs, batch_size=batch_size)
        settings = {
            name: replace(StageSettings(max_epochs=n, patience=patience, weight_decay=1e-2, cosine=True), **given)
            for name, n in epochs.items()
        }
        return settings, sizes

    def _make_objectives(self, n_features: dict[str, int], ranks: dict[str, int]) -> dict[str, Objective]:
        del ranks
        arguments = {key: value for key, value in self._arguments.items() if key not in ("n_views", "lowest_depth")}
        # Where genes are dropped from the counts, no component is dropped.
        arguments["feature_dropout"] = {
            name: 0.0 if self._has_views(name) else rate for name, rate in self._rates().items()
        }
        return {"fused": CoMMObjective(n_features, **arguments)}

    def _rates(self) -> dict[str, float]:
        rate = self._arguments["feature_dropout"]
        return rate if isinstance(rate, dict) else dict.fromkeys(self.modalities, rate)

    def _has_views(self, name: str) -> bool:
        return self._arguments["n_views"] > 0 and isinstance(self._transforms[name], LogNormalizePCA)

    def _views(self, fitted: Fitted, rows: NDArray[Any], seed: int) -> tuple[torch.Tensor, ...]:
        if not any(map(self._has_views, self.modalities)):
            return ()
        views = []
        for name, transform in fitted.transforms.items():
            if self._has_views(name):
                settings = {"lowest": self._arguments["lowest_depth"], "dropout": self._rates()[name], "seed": seed}
                views.append(thinned_views(self._values(name), transform, rows, self._arguments["n_views"], **settings))
            else:
                views.append(transform.apply_to(self._values(name), rows)[:, None])
        return tuple(views)

    def _obsm(self, cells: Batch) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
        fused = self.module.joint("fused", cells, INFERENCE_BATCH).cpu().numpy()
        projections = self._by_name(self.module.codes("fused", cells, INFERENCE_BATCH))
        whole = {"X_comm": fused} | {f"X_comm_{name}": code for name, code in projections.items()}
        parts = {name: {"X_comm": fused.copy(), "X_comm_projection": code.copy()} for name, code in projections.items()}
        return whole, parts


def _numbers(value: float | Mapping[str, float]) -> list[float]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _plain(value: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else value
