"""CoMM: one code of all modalities that holds what is redundant, unique and synergistic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray

from indiseek._checks import by_name, check_choice, check_number
from indiseek.data import LogNormalizePCA, Transform, thinned_views
from indiseek.models._base import MultimodalModel
from indiseek.models._options import Options, check_dimension, check_encoder
from indiseek.nn import Encoder
from indiseek.objectives import CoMMObjective, Form, Negatives, Objective
from indiseek.train import Fitted, MakeViews, Schedule, Shapes, Space, Stage

logger = logging.getLogger(__name__)

_FUSED = Schedule(n_steps=1000, batch_size=256, weight_decay=1e-2, cosine=True)


@dataclass(frozen=True, kw_only=True)
class CoMMOptions(Options):
    """Options of :class:`CoMMModel`, which documents them."""

    n_latent: int
    n_tokens: int
    n_layers: int
    n_heads: int
    form: Form
    negatives: Negatives
    temperature: float
    joint_weight: float
    unimodal_weight: float
    feature_dropout: float | Mapping[str, float]
    noise: float | Mapping[str, float]
    n_views: int
    lowest_depth: float
    encoder: Encoder

    def __post_init__(self) -> None:
        """Check them."""
        check_number("n_latent", self.n_latent, low=1, whole=True)
        check_dimension("n_latent", self.n_latent, low=1)
        check_encoder(self.encoder)
        for name in ("n_tokens", "n_layers", "n_heads"):
            check_number(name, getattr(self, name), low=1, whole=True)
        if self.n_latent % self.n_heads:
            raise ValueError(
                f"expected n_latent to be a multiple of n_heads={self.n_heads}, got {self.n_latent}; change one of "
                "them."
            )
        check_choice("form", self.form, ("paper", "code"))
        check_choice("negatives", self.negatives, ("both", "cross"))
        check_number("temperature", self.temperature, above=0)
        check_number("joint_weight", self.joint_weight, low=0)
        check_number("unimodal_weight", self.unimodal_weight, low=0)
        if self.joint_weight == self.unimodal_weight == 0:
            raise ValueError("expected joint_weight or unimodal_weight above 0, got 0 for both; raise one of them.")
        for rate in _numbers(self.feature_dropout):
            # At 1 every feature could be dropped.
            check_number("feature_dropout", rate, low=0, below=1)
        for scale in _numbers(self.noise):
            check_number("noise", scale, low=0)
        check_number("n_views", self.n_views, low=0, whole=True)
        if self.n_views == 1:
            raise ValueError("expected n_views of 0, or of at least 2, got 1; both views of a cell would be the same.")
        check_number("lowest_depth", self.lowest_depth, above=0, high=1)


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

    :meth:`train` knows the stage ``"fused"``: 1,000 steps of 256 cells with weight decay 1e-2 and a learning rate that
    falls from 1e-3 along a cosine; it stops early.

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Set up with the modalities that are found, unless
        :meth:`setup_mudata` was called on it. One modality is allowed, with a warning: its code is then learned from
        augmentations alone, and nothing can be redundant or synergistic.
    n_latent
        Dimension of the codes and of the tokens; a multiple of `n_heads`.
    n_tokens
        Tokens of each modality. A step keeps ``3 * n * batch_size * n_tokens * n_latent`` numbers of them for
        :math:`n` modalities, 4 bytes each, and a few times as many in each layer.
    n_layers, n_heads
        Attention blocks, and heads of each.
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
    encoder
        Form of the networks that make the tokens; networks of your own.
    transforms
        Transform by modality, out of :mod:`indiseek.data` or derived from :class:`indiseek.data.Transform`; by default
        raw RNA counts get ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData or an option or transform is of the wrong type.
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

    _least_modalities: ClassVar[int] = 1
    _options_class: ClassVar[type[Options]] = CoMMOptions

    def __init__(
        self,
        mdata: MuData,
        *,
        n_latent: int = 64,
        n_tokens: int = 2,
        n_layers: int = 1,
        n_heads: int = 4,
        form: Form = "paper",
        negatives: Negatives = "cross",
        temperature: float = 0.1,
        joint_weight: float = 1.0,
        unimodal_weight: float = 1.0,
        feature_dropout: float | Mapping[str, float] = 0.3,
        noise: float | Mapping[str, float] = 0.2,
        n_views: int = 4,
        lowest_depth: float = 0.5,
        encoder: Encoder = Encoder(hidden=(128, 128)),  # noqa: B008 (frozen)
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        options = CoMMOptions(
            n_latent=n_latent,
            n_tokens=n_tokens,
            n_layers=n_layers,
            n_heads=n_heads,
            form=form,
            negatives=negatives,
            temperature=temperature,
            joint_weight=joint_weight,
            unimodal_weight=unimodal_weight,
            feature_dropout=feature_dropout,
            noise=noise,
            n_views=n_views,
            lowest_depth=lowest_depth,
            encoder=encoder,
        )
        super().__init__(mdata, options, transforms)
        if len(self.modalities) == 1:
            logger.warning(
                f"there is no modality but {self.modalities[0]!r}: its code is learned from augmentations alone, and "
                "nothing of it can be redundant with another modality or synergistic."
            )

    def _check_options(self) -> None:
        options: CoMMOptions = self._options
        for name in ("feature_dropout", "noise"):
            by_name(name, getattr(options, name), self.modalities, what="modalities")
        # Without noise, as on held-out cells, only these two make one view unlike the other.
        is_thinned = options.lowest_depth < 1 and any(map(self._has_views, self.modalities))
        if not (is_thinned or any(_numbers(options.feature_dropout))):
            raise ValueError(
                "expected augmentations that change held-out cells, got feature_dropout=0 and no thinned counts "
                f"(n_views={options.n_views}, lowest_depth={options.lowest_depth}); raise feature_dropout, or n_views "
                "for RNA counts."
            )

    def _stages(self) -> list[Stage]:
        # What makes the networks holds no model, so that a trained state holds no cells.
        options: CoMMOptions = self._options
        # Where genes are dropped from the counts, no component is dropped.
        rates = {name: 0.0 if self._has_views(name) else rate for name, rate in self._rates().items()}

        def fused(shapes: Shapes) -> Objective:
            return CoMMObjective(
                shapes.n_features,
                options.n_latent,
                n_tokens=options.n_tokens,
                n_layers=options.n_layers,
                n_heads=options.n_heads,
                form=options.form,
                negatives=options.negatives,
                temperature=options.temperature,
                joint_weight=options.joint_weight,
                unimodal_weight=options.unimodal_weight,
                feature_dropout=rates,
                noise=options.noise,
                encoder=options.encoder,
            )

        space = Space(joint="X_comm", each="X_comm_{modality}", own="X_comm_projection")
        return [Stage(name="fused", objective=fused, schedule=_FUSED, space=space)]

    def _rates(self) -> dict[str, float]:
        return by_name("feature_dropout", self._options.feature_dropout, self.modalities, what="modalities")

    def _has_views(self, name: str) -> bool:
        return self._options.n_views > 0 and isinstance(self._transforms[name], LogNormalizePCA)

    @property
    def _make_views(self) -> MakeViews | None:
        return self._views if any(map(self._has_views, self.modalities)) else None

    def _views(self, fitted: Fitted, rows: NDArray[np.intp], seed: int) -> tuple[torch.Tensor, ...]:
        views = []
        for name, transform in fitted.transforms.items():
            values = self._training_cells().values[name]
            if self._has_views(name):
                rate, lowest = self._rates()[name], self._options.lowest_depth
                n_views = self._options.n_views
                views.append(thinned_views(values, transform, rows, n_views, lowest=lowest, dropout=rate, seed=seed))
            else:
                views.append(transform.apply_to(values, rows)[:, None])
        return tuple(views)


def _numbers(value: float | Mapping[str, float]) -> list[float]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
