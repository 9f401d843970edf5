"""Specific codes by augmented views and orthogonality to the shared codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives._augmented_view import augmented_view, n_masked_features
from indiseek.objectives._base import Objective, ObjectiveOutput, joint_code
from indiseek.objectives._clip import symmetric_cross_entropy
from indiseek.objectives._disentangled_shared import DisentangledSharedObjective
from indiseek.objectives._gather import gather

Orthogonality = Literal["correlation", "published"]
SpecificForm = Literal["paper", "code", "fixed"]


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
    r"""Specific codes :math:`Z_i = g_i(X_i, C_i)` that with :math:`C_j` tell cells apart.

    Maximises :math:`I(Z_i, X_j; X_i) - \lambda I(Z_i; C_i)` for each modality :math:`i`, with :math:`j` the other
    ones and the shared codes frozen. The first term is InfoNCE between a cell :math:`x` and an augmented view
    :math:`v` of it, of the codes beside the other modality's shared code; the second is replaced by a linear penalty:

    .. math::
        L = \sum_i L_{InfoNCE}\big([z_i(x), c_j(x)], [z_i(v), c_j(v)]; \tau\big) + \lambda\, L_{orth}(Z_i, C_i)

    The pair of codes is brought to unit length as a whole. `form` says what stands in it:

    - ``"paper"``: the equation, all codes of unit length, the penalty on the codes of the cell.
    - ``"code"``: as the authors' program has it. The cell is augmented too, and the view is made of that; no code is
      normalised before it stands in the pair, so that the lengths of both say how much each counts; the
      penalty, of normalised codes, is the mean of the cell's and the view's. Codes are given out as they are.
    - ``"fixed"``: as ``"paper"``, but with :math:`c_i(x), c_j(x)` on both sides, so that no view is encoded anew.
      The form of models saved before there were others.

    The first two encode views by copies of the shared encoders, which :meth:`follow` takes. Of more than two modalities
    :math:`c_j` is the mean direction of the others' codes (``"code"``: their mean). The penalty is zero for
    codes that are uncorrelated, whatever else they share: only probes on held-out cells show independence.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the frozen shared codes.
    n_specific
        Dimension of the specific code by modality name.
    form
        ``"paper"``, ``"code"`` or ``"fixed"``.
    lam
        Weight :math:`\lambda` of the orthogonality.
    orthogonality
        Form of the penalty, see :func:`orthogonality_loss`.
    noise, masked
        Augmentation, see :func:`augmented_view`.
    temperature
        Temperature :math:`\tau` of InfoNCE.
    encoder
        Form of the encoders, that of the shared ones.

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
        form: SpecificForm = "paper",
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
        self.form: SpecificForm = form
        self.lam = lam
        self.orthogonality: Orthogonality = orthogonality
        self.noise = noise
        self.masked = masked
        self.temperature = temperature
        self.names = tuple(n_features)
        self.encoders = nn.ModuleList(
            encoder.of(name, n + n_shared, n_specific[name]) for name, n in n_features.items()
        )
        copied = {} if form == "fixed" else n_features
        self.shared = nn.ModuleList(encoder.of(name, n, n_shared) for name, n in copied.items())
        self.shared.requires_grad_(False)

    def follow(self, earlier: Sequence[Objective]) -> None:
        """Copy the weights of the shared encoders."""
        if self.form != "fixed":
            self.shared.load_state_dict(cast(DisentangledSharedObjective, earlier[0]).encoders.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the shared encoders are frozen and stay in that of evaluation."""
        super().train(mode)
        self.shared.eval()
        return self

    def encoder_parameters(self) -> Iterator[Parameter]:
        """Parameters of the specific encoders."""
        return self.encoders.parameters()

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Code ``(n_cells, n_specific)`` of one modality, given its own shared code; of unit length but for "code"."""
        features = cells.features[modality]
        own = self._shared(modality, features) if self.form == "code" else cells.condition[modality]
        return self._code(modality, features, own)

    def _code(self, modality: int, features: Tensor, own: Tensor) -> Tensor:
        code: Tensor = self.encoders[modality](torch.cat([features, own], dim=-1))
        return code if self.form == "code" else F.normalize(code, dim=-1)

    @torch.no_grad()
    def _shared(self, modality: int, features: Tensor) -> Tensor:
        code: Tensor = self.shared[modality](features)
        return code if self.form == "code" else F.normalize(code, dim=-1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum over modalities of InfoNCE and ``ramp * lam * orthogonality``; in evaluation a cell is its own view."""
        return self._augmented_loss(cells, None) if self.training else self._loss(cells, cells.features)

    def validate(self, cells: CellTensors) -> dict[str, Tensor]:
        """Held-out ``loss`` and its parts, of views that are the same at every call."""
        output = self._augmented_loss(cells, torch.Generator(cells.features[0].device).manual_seed(0))
        return {"loss": output.loss, **output.terms}

    def _augmented_loss(self, cells: CellTensors, generator: torch.Generator | None) -> ObjectiveOutput:
        if self.form == "code":
            cells = cells._replace(features=self._views(cells.features, generator))
        return self._loss(cells, self._views(cells.features, generator))

    def _views(self, features: tuple[Tensor, ...], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return tuple(augmented_view(x, noise=self.noise, masked=self.masked, generator=generator) for x in features)

    def _loss(self, cells: CellTensors, views: tuple[Tensor, ...]) -> ObjectiveOutput:
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=cells.features[0].device)
        lam = self.ramp * self.lam
        shared = self._shared_of_both(cells, views)
        for i, name in enumerate(self.names):
            # One pass over a cell and its view: small products cost little more when there are more rows.
            code = self._code(i, torch.cat([cells.features[i], views[i]]), shared[i])
            others = [c for j, c in enumerate(shared) if j != i]
            known = torch.stack(others).mean(dim=0) if self.form == "code" else joint_code(others)
            # Of halves of unit length, the cosine of the pairs is the mean of the halves' cosines.
            pairs = F.normalize(torch.cat([code, known], dim=-1), dim=-1)
            seen, viewed = map(gather, pairs.chunk(2))
            info = symmetric_cross_entropy(seen @ viewed.T / self.temperature)
            penalty = self._penalty(code, shared[i])
            total = total + info + lam * penalty
            terms |= {f"infonce_{name}": info.detach(), f"orthogonality_{name}": penalty.detach()}
        return ObjectiveOutput(total, terms)

    def _shared_of_both(self, cells: CellTensors, views: tuple[Tensor, ...]) -> list[Tensor]:
        """Shared codes of the cells and, below them, of their views."""
        if self.form == "fixed":
            return [torch.cat([c, c]) for c in cells.condition]
        if self.form == "paper":
            return [torch.cat([c, self._shared(i, views[i])]) for i, c in enumerate(cells.condition)]
        return [self._shared(i, torch.cat(both)) for i, both in enumerate(zip(cells.features, views, strict=True))]

    def _penalty(self, codes: Tensor, shared: Tensor) -> Tensor:
        """Of the cells, in the first half of the rows; of ``"code"`` the mean of both halves, of unit length."""
        halves = list(zip(codes.chunk(2), shared.chunk(2), strict=True))
        if self.form != "code":
            return orthogonality_loss(gather(halves[0][0]), gather(halves[0][1]), self.orthogonality)
        unit = [(gather(F.normalize(z, dim=-1)), gather(F.normalize(c, dim=-1))) for z, c in halves]
        return torch.stack([orthogonality_loss(z, c, self.orthogonality) for z, c in unit]).mean()
