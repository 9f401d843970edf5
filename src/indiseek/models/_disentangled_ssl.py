"""DisentangledSSL: shared codes by a conditional entropy bottleneck, then specific codes by views and orthogonality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from mudata import MuData

from indiseek._checks import by_name, check_choice, check_number
from indiseek.data import Transform
from indiseek.models._base import MultimodalModel
from indiseek.models._options import Options, check_dimension, check_encoder
from indiseek.nn import Encoder
from indiseek.objectives import (
    Bottleneck,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    Orthogonality,
    SpecificForm,
    n_masked_features,
)
from indiseek.train import Schedule, Space, Stage

# The learning rate falls along a cosine, as published.
_SHARED = Schedule(n_steps=2000, cosine=True)
_SPECIFIC = Schedule(n_steps=1000, cosine=True)


@dataclass(frozen=True, kw_only=True)
class DisentangledSSLOptions(Options):
    """Options of :class:`DisentangledSSLModel`, which documents them."""

    n_shared: int
    n_specific: int | Mapping[str, int]
    beta: float
    bottleneck: Bottleneck
    kappa: float
    form: SpecificForm
    lam: float
    orthogonality: Orthogonality
    noise: float
    masked: float
    temperature: float
    encoder: Encoder

    def __post_init__(self) -> None:
        """Check them."""
        check_dimension("n_shared", self.n_shared, low=2)
        check_dimension("n_specific", self.n_specific, low=2)
        check_number("beta", self.beta, low=0)
        check_choice("bottleneck", self.bottleneck, ("kl", "cosine"))
        check_number("kappa", self.kappa, above=0)
        check_choice("form", self.form, ("paper", "code", "fixed"))
        check_number("lam", self.lam, low=0)
        check_choice("orthogonality", self.orthogonality, ("correlation", "published"))
        check_number("noise", self.noise, low=0)
        check_number("masked", self.masked, low=0, below=1)
        check_number("temperature", self.temperature, above=0)
        check_encoder(self.encoder)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], own_code: Iterable[Any] = ()) -> Any:
        """Rebuild from :meth:`record`; one without a form was made when there was only ``"fixed"``."""
        return super().from_record({"form": "fixed", **record}, own_code)


@final
class DisentangledSSLModel(MultimodalModel):
    r"""Shared and specific codes on the sphere, with the amount of shared information set by a bottleneck.

    Stage 1 learns random codes :math:`C_i \sim vMF(\mu_i(X_i), \kappa)` that keep what the modalities have in
    common and shed what only one knows, :math:`\max I(C_1; X_2) - \beta I(C_1; X_1 \mid X_2)`. Stage 2 freezes
    them and learns codes :math:`Z_i = g_i(X_i, C_i)` that, with the other modality's shared code, tell a cell from
    others under augmentation, and are linearly unrelated to the own shared code,
    :math:`\max I(Z_1, X_2; X_1) - \lambda I(Z_1; C_1)`. All codes given out are unit vectors, but for specific ones of
    ``form="code"``; shared ones are the mean directions :math:`\mu_i`.

    :meth:`train` knows the stages ``"shared"`` (2,000 steps) and ``"specific"`` (1,000 steps), each of 512 cells a step
    with a learning rate that falls from 1e-3 along a cosine; both stop early.

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Set up with the modalities that are found, unless
        :meth:`setup_mudata` was called on it.
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
    form
        ``"paper"``: both steps by the paper's equations. ``"code"``: as the authors' program computes them: cells are
        augmented in both steps, codes of step 2 are not normalised, and the penalty is the mean of a cell's
        and its view's. ``"fixed"``: as ``"paper"``, but views stand beside the shared code of the cell.
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
    encoder
        Form of the encoders; networks of your own.
    transforms
        Transform by modality, out of :mod:`indiseek.data` or derived from :class:`indiseek.data.Transform`; by default
        raw RNA counts get ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData or an option or transform is of the wrong type.
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

    _options_class: ClassVar[type[Options]] = DisentangledSSLOptions

    def __init__(
        self,
        mdata: MuData,
        *,
        n_shared: int = 8,
        n_specific: int | Mapping[str, int] = 8,
        beta: float = 0.01,
        bottleneck: Bottleneck = "kl",
        kappa: float = 1000.0,
        form: SpecificForm = "paper",
        lam: float = 1.0,
        orthogonality: Orthogonality = "correlation",
        noise: float = 0.01,
        masked: float = 0.1,
        temperature: float = 0.07,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        options = DisentangledSSLOptions(
            n_shared=n_shared,
            n_specific=n_specific,
            beta=beta,
            bottleneck=bottleneck,
            kappa=kappa,
            form=form,
            lam=lam,
            orthogonality=orthogonality,
            noise=noise,
            masked=masked,
            temperature=temperature,
            encoder=encoder,
        )
        super().__init__(mdata, options, transforms)

    def _stages(self) -> list[Stage]:
        # What makes the networks holds no model, so that a trained state holds no cells.
        options: DisentangledSSLOptions = self._options
        n_specific = by_name("n_specific", options.n_specific, self.modalities, what="modalities")
        shared = Stage(
            name="shared",
            objective=lambda shapes: DisentangledSharedObjective(
                shapes.n_features,
                options.n_shared,
                beta=options.beta,
                bottleneck=options.bottleneck,
                kappa=options.kappa,
                temperature=options.temperature,
                augment=options.form == "code",
                noise=options.noise,
                masked=options.masked,
                encoder=options.encoder,
            ),
            schedule=_SHARED,
            space=Space(joint="X_disentangledssl_shared"),
        )
        specific = Stage(
            name="specific",
            objective=lambda shapes: DisentangledSpecificObjective(
                shapes.n_features,
                options.n_shared,
                n_specific,
                form=options.form,
                lam=options.lam,
                orthogonality=options.orthogonality,
                noise=options.noise,
                masked=options.masked,
                temperature=options.temperature,
                encoder=options.encoder,
            ),
            schedule=_SPECIFIC,
            given=("shared",),
            space=Space(each="X_disentangledssl_{modality}", own="X_disentangledssl_specific"),
        )
        return [shared, specific]

    def _check_options(self) -> None:
        by_name("n_specific", self._options.n_specific, self.modalities, what="modalities")
        for name, transform in self._transforms.items():
            n_masked_features(transform.max_output(len(self._schema.features[name])), self._options.masked)
