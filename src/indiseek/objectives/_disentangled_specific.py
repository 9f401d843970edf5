"""Specific codes by augmented views and orthogonality to the shared codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives._base import Objective, ObjectiveOutput, joint_code
from indiseek.objectives._clip import symmetric_cross_entropy
from indiseek.objectives._gather import gather

Orthogonality = Literal["correlation", "published"]


def augmented_view(
    features: Tensor, *, noise: float, masked: float, generator: torch.Generator | None = None
) -> Tensor:
    """A copy of the cells, a third of them with noise, a third with features set to zero.

    Parameters
    ----------
    features
        ``(n_cells, n_features)``.
    noise
        Standard deviation of the Gaussian noise.
    masked
        Fraction of the features that are set to zero, rounded to a whole number of them.
    generator
        Where the random numbers come from, on the device of `features`; by default torch's random state.

    Returns
    -------
    ``(n_cells, n_features)``.

    Raises
    ------
    ValueError
        If `masked` is negative or would zero every feature.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, experiments (noise 0.01, a tenth of the features).
    """
    n_masked = n_masked_features(features.shape[1], masked)
    drawn: dict[str, Any] = {"generator": generator, "device": features.device}
    noised, zeroed, _ = torch.randperm(len(features), **drawn).tensor_split(3)
    view = features.clone()
    view[noised] += noise * torch.randn(view[noised].shape, dtype=view.dtype, **drawn)
    # The features at which random numbers of each cell's own are largest.
    picked = torch.rand(view[zeroed].shape, **drawn).topk(n_masked, dim=1).indices
    view[zeroed[:, None], picked] = 0.0
    return view


def n_masked_features(n_features: int, masked: float) -> int:
    """Number of features that :func:`augmented_view` sets to zero in a cell.

    Parameters
    ----------
    n_features
        Number of features.
    masked
        Fraction to be set to zero.

    Raises
    ------
    ValueError
        If `masked` is negative or no feature would be left.
    """
    if not (0 <= masked <= 1 and round(masked * n_features) < n_features):
        raise ValueError(
            f"expected masked to leave at least one of {n_features} features, got {masked}; choose a smaller fraction."
        )
    return round(masked * n_features)


def orthogonality_loss(codes_z: Tensor, codes_c: Tensor, form: Orthogonality = "correlation") -> Tensor:
    r"""How far two sets of codes are from being linearly unrelated.

    ``"correlation"`` standardises each dimension over the batch and takes the mean over the dimensions of
    :math:`Z` of the summed squared correlations with those of :math:`C`,

    .. math:: L = \frac{1}{d_z} \sum_{kl} \Big( \frac1N \sum_n \tilde z_{nk} \tilde c_{nl} \Big)^2

    ``"published"`` is :math:`\lVert Z^\top C \rVert_F` of the codes as they are, uncentred and summed over the
    batch. It grows with the batch, and for unrelated codes of unit length is about :math:`\sqrt N` rather than
    0, a floor that no code gets under without giving up on the other terms: its weight works as a switch.

    Parameters
    ----------
    codes_z
        ``(n_cells, n_specific)``; of unit length for ``"published"``.
    codes_c
        ``(n_cells, n_shared)``, likewise.
    form
        ``"correlation"`` or ``"published"``.

    Returns
    -------
    Scalar; lower is better.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, step 2.
    """
    if form == "published":
        return torch.linalg.matrix_norm(codes_z.T @ codes_c)
    correlation = _standardised(codes_z).T @ _standardised(codes_c) / len(codes_z)
    return correlation.square().sum() / codes_z.shape[1]


def _standardised(codes: Tensor) -> Tensor:
    centred = codes - codes.mean(dim=0)
    return centred * torch.rsqrt(centred.square().mean(dim=0) + 1e-8)


@final
class DisentangledSpecificObjective(Objective):
    r"""Specific codes :math:`Z_i = g_i(X_i, C_i)` on the unit sphere that with :math:`C_j` tell cells apart.

    Maximises :math:`I(Z_i, X_j; X_i) - \lambda I(Z_i; C_i)` for each modality :math:`i`, with :math:`j` the other
    ones and the shared codes frozen. The first term is InfoNCE between a cell and an augmented view of it,
    :math:`v`, of the codes beside the other modality's shared code; the second is replaced by a linear penalty:

    .. math::
        L = \sum_i L_{InfoNCE}\big([z_i(x), c_j], [z_i(v), c_j]; \tau\big) + \lambda\, L_{orth}(Z_i, C_i)

    Of more than two modalities :math:`c_j` is the mean direction of the others' codes. The penalty is zero for
    codes that are uncorrelated, whatever else they share: only probes on held-out cells show independence.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the frozen shared codes.
    n_specific
        Dimension of the specific code by modality name.
    lam
        Weight :math:`\lambda` of the orthogonality.
    orthogonality
        Form of the penalty, see :func:`orthogonality_loss`.
    noise, masked
        Augmentation, see :func:`augmented_view`.
    temperature
        Temperature :math:`\tau` of InfoNCE.
    encoder
        Form of the encoders.

    Raises
    ------
    ValueError
        If the augmentation would zero every feature of a modality.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, step 2.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_shared: int,
        n_specific: Mapping[str, int],
        *,
        lam: float = 1.0,
        orthogonality: Orthogonality = "correlation",
        noise: float = 0.01,
        masked: float = 0.1,
        temperature: float = 0.07,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        for n in n_features.values():
            n_masked_features(n, masked)
        self.lam = lam
        self.orthogonality: Orthogonality = orthogonality
        self.noise = noise
        self.masked = masked
        self.temperature = temperature
        self.names = tuple(n_features)
        self.encoders = nn.ModuleList(
            encoder.of(name, n + n_shared, n_specific[name]) for name, n in n_features.items()
        )

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Unit code ``(n_cells, n_specific)`` of one modality, given its own shared code."""
        return self._code(modality, cells.features[modality], cells.condition[modality])

    def _code(self, modality: int, features: Tensor, own_shared: Tensor) -> Tensor:
        return F.normalize(self.encoders[modality](torch.cat([features, own_shared], dim=-1)), dim=-1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum over modalities of InfoNCE and ``ramp * lam * orthogonality``; in evaluation a cell is its own view."""
        views = tuple(self._view(x) for x in cells.features) if self.training else cells.features
        return self._loss(cells, views)

    def validate(self, cells: CellTensors) -> dict[str, Tensor]:
        """Held-out ``loss`` and its parts, of views that are the same at every call."""
        generator = torch.Generator(cells.features[0].device).manual_seed(0)
        views = tuple(self._view(x, generator) for x in cells.features)
        output = self._loss(cells, views)
        return {"loss": output.loss, **output.terms}

    def _view(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return augmented_view(features, noise=self.noise, masked=self.masked, generator=generator)

    def _loss(self, cells: CellTensors, views: tuple[Tensor, ...]) -> ObjectiveOutput:
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=cells.features[0].device)
        lam = self.ramp * self.lam
        # One pass over a cell and its view: small products cost little more when there are more rows.
        for i, both in enumerate(map(torch.cat, zip(cells.features, views, strict=True))):
            own = cells.condition[i]
            code, other = map(gather, self._code(i, both, torch.cat([own, own])).chunk(2))
            known = gather(joint_code([c for j, c in enumerate(cells.condition) if j != i]))
            # Both halves have unit length, so that half their product is the cosine of the pairs of codes.
            info = symmetric_cross_entropy(0.5 / self.temperature * (code @ other.T + known @ known.T))
            penalty = orthogonality_loss(code, gather(own), self.orthogonality)
            total = total + info + lam * penalty
            terms |= {f"infonce_{self.names[i]}": info.detach(), f"orthogonality_{self.names[i]}": penalty.detach()}
        return ObjectiveOutput(total, terms)
