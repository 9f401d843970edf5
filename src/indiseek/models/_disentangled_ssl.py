"""DisentangledSSL: shared codes by a conditional entropy bottleneck, then specific codes by views and orthogonality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

from mudata import MuData

from indiseek.data import Transform
from indiseek.models._arguments import check_choice, check_range
from indiseek.models._base import MultimodalModel
from indiseek.models._schedules import StageDefaults, epochs_and_sizes
from indiseek.objectives import (
    Activation,
    Bottleneck,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    Objective,
    Orthogonality,
    n_masked_features,
)
from indiseek.train import StageSettings

_DEFAULTS = {
    "shared": StageDefaults(batch_size=512, n_steps=2000),
    "specific": StageDefaults(batch_size=512, n_steps=1000),
}


@final
class DisentangledSSLModel(MultimodalModel):
    r"""Shared and specific codes on the sphere, with the amount of shared information set by a bottleneck.

    Stage 1 learns random codes :math:`C_i \sim vMF(\mu_i(X_i), \kappa)` that keep what the modalities have in
    common and shed what only one knows, :math:`\max I(C_1; X_2) - \beta I(C_1; X_1 \mid X_2)`. Stage 2 freezes
    them and learns codes :math:`Z_i = g_i(X_i, C_i)` that, with the other modality's shared code, tell a cell from
    others under augmentation, and are linearly unrelated to the own shared code,
    :math:`\max I(Z_1, X_2; X_1) - \lambda I(Z_1; C_1)`. All codes given out are unit vectors; shared ones are
    the mean directions :math:`\mu_i`.

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Registered with the modalities that are found, unless
        :meth:`setup_mudata` was called on it.
    registry
        For :meth:`load` only.
    n_shared
        Dimension of the shared codes. They lie on the unit sphere and so have one degree of freedom less.
    n_specific
        Dimension of the specific codes; one number, or one for each modality. They lie on a sphere likewise.
    beta
        Weight :math:`\beta` of the bottleneck: larger keeps less.
    bottleneck
        What `beta` weighs: ``"kl"``, the divergence between the modalities' codes in nats, or ``"cosine"``, the
        published ``1 - cos``, for which `beta` is ``kappa * A(kappa)`` times larger: about 952 times for 100
        dimensions.
    kappa
        Concentration of the shared codes: smaller blurs them more.
    lam
        Weight :math:`\lambda` of the orthogonality.
    orthogonality
        ``"correlation"``, the squared correlations over a batch, or ``"published"``, the norm of the uncentred
        products, which has a floor of about the root of the batch size.
    noise
        Standard deviation of the augmentation's noise, in units of the transformed features.
    masked
        Fraction of the transformed features that the augmentation sets to zero.
    temperature
        Temperature of InfoNCE in both stages.
    hidden
        Widths of the encoders' hidden layers.
    activation, layer_norm
        Form of the encoders.
    transforms
        Transform by modality, out of :mod:`indiseek.data`; by default raw RNA counts get
        ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData or a transform is not one of the package's.
    KeyError
        If `n_specific` or `transforms` names an unknown modality.
    ValueError
        If cells are not paired or fewer than 100, names are duplicated, values are NaN or infinite, counts
        negative, a cell or a feature is empty, a feature constant, an argument out of range, or the augmentation
        would zero every feature of a modality.

    Examples
    --------
    >>> import indiseek
    >>> mdata = indiseek.datasets.pbmc10k_cite()
    >>> model = indiseek.DisentangledSSLModel(mdata)
    >>> model.train()
    >>> mdata.obsm["X_disentangledssl_shared"].shape[0] == mdata.n_obs
    True

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996.
    """

    _key: ClassVar[str] = "disentangledssl"

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        n_shared: int = 8,
        n_specific: int | Mapping[str, int] = 8,
        beta: float = 0.01,
        bottleneck: Bottleneck = "kl",
        kappa: float = 1000.0,
        lam: float = 1.0,
        orthogonality: Orthogonality = "correlation",
        noise: float = 0.01,
        masked: float = 0.1,
        temperature: float = 0.07,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "gelu",
        layer_norm: bool = True,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        check_choice("bottleneck", bottleneck, ("kl", "cosine"))
        check_choice("orthogonality", orthogonality, ("correlation", "published"))
        check_choice("activation", activation, ("gelu", "relu"))
        check_range("n_shared", n_shared, low=2)
        for n in n_specific.values() if isinstance(n_specific, Mapping) else [n_specific]:
            check_range("n_specific", n, low=2)
        for width in hidden:
            check_range("widths in hidden", width, low=1)
        check_range("beta", beta, low=0, below=float("inf"))
        check_range("kappa", kappa, above=0, below=float("inf"))
        check_range("lam", lam, low=0, below=float("inf"))
        check_range("noise", noise, low=0, below=float("inf"))
        check_range("masked", masked, low=0, below=1)
        check_range("temperature", temperature, above=0)
        self._arguments = {
            "n_shared": n_shared,
            "n_specific": dict(n_specific) if isinstance(n_specific, Mapping) else n_specific,
            "beta": beta,
            "bottleneck": bottleneck,
            "kappa": kappa,
            "lam": lam,
            "orthogonality": orthogonality,
            "noise": noise,
            "masked": masked,
            "temperature": temperature,
            "hidden": list(hidden),
            "activation": activation,
            "layer_norm": layer_norm,
        }
        super().__init__(mdata, registry=registry, transforms=transforms)
        if mdata is not None:
            self._check_sizes()

    def _check_sizes(self) -> None:
        n_specific = self._n_specific()
        if set(n_specific) != set(self.modalities):
            raise KeyError(
                f"expected n_specific of the modalities {list(self.modalities)}, got {list(n_specific)}; "
                "name each of them."
            )
        for name in self.modalities:
            n_features = self._transforms[name].max_output(len(self._var_names[name]))
            n_masked_features(n_features, self._arguments["masked"])

    def _schedule(
        self,
        n_train: int,
        *,
        max_epochs: int | Mapping[str, int] | None,
        batch_size: int | Mapping[str, int] | None,
        patience: int | None,
        given: Mapping[str, Any],
    ) -> tuple[dict[str, StageSettings], dict[str, int]]:
        """Both stages alike: the learning rate falls along a cosine, as published."""
        epochs, sizes = epochs_and_sizes(_DEFAULTS, n_train, max_epochs=max_epochs, batch_size=batch_size)
        settings = {
            name: replace(StageSettings(max_epochs=n, patience=patience, cosine=True), **given)
            for name, n in epochs.items()
        }
        return settings, sizes

    def _n_condition(self) -> int:
        return int(self._arguments["n_shared"])

    def _n_specific(self) -> dict[str, int]:
        wanted = self._arguments["n_specific"]
        return dict(wanted) if isinstance(wanted, dict) else dict.fromkeys(self.modalities, wanted)

    def _make_objectives(self, n_features: dict[str, int], ranks: dict[str, int]) -> dict[str, Objective]:
        del ranks
        n_shared = self._arguments["n_shared"]
        form = {key: self._arguments[key] for key in ("temperature", "hidden", "activation", "layer_norm")}
        first = {key: self._arguments[key] for key in ("beta", "bottleneck", "kappa")}
        second = {key: self._arguments[key] for key in ("lam", "orthogonality", "noise", "masked")}
        return {
            "shared": DisentangledSharedObjective(n_features, n_shared, **first, **form),
            "specific": DisentangledSpecificObjective(n_features, n_shared, self._n_specific(), **second, **form),
        }
