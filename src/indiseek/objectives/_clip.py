"""Shared codes by contrastive learning across modalities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives._base import Objective, ObjectiveOutput
from indiseek.objectives._gather import gather

_MAX_LOGIT_SCALE: Final = 100.0


def clip_loss(codes_a: Tensor, codes_b: Tensor, logit_scale: Tensor | float, *, batch: Tensor | None = None) -> Tensor:
    r"""Symmetric InfoNCE loss between two sets of unit codes.

    .. math::
        L = -\frac{1}{2N} \sum_i \Big[ \log \frac{e^{s\, a_i \cdot b_i}}{\sum_k e^{s\, a_i \cdot b_k}}
            + \log \frac{e^{s\, a_i \cdot b_i}}{\sum_k e^{s\, a_k \cdot b_i}} \Big]

    Parameters
    ----------
    codes_a, codes_b
        ``(n_cells, n_shared)`` each, rows of unit length, the same cells in the same order.
    logit_scale
        Inverse temperature :math:`s`.
    batch
        Batch of each cell, ``(n_cells,)``: the sums over k then run over the cells of the same batch, so that telling
        batches apart is worth nothing. None for one batch.

    Returns
    -------
    Scalar in nats; ``log(n_cells)`` at chance, lower is better.

    References
    ----------
    Radford et al. (2021), arXiv 2103.00020; stage 1 of Gui et al. (2025), arXiv 2509.21584.
    """
    return symmetric_cross_entropy(_within(logit_scale * codes_a @ codes_b.T, batch))


def _within(logits: Tensor, batch: Tensor | None) -> Tensor:
    """Logits without those of pairs of cells from different batches."""
    if batch is None:
        return logits
    return logits.masked_fill(batch[:, None] != batch[None], float("-inf"))


def symmetric_cross_entropy(logits: Tensor) -> Tensor:
    """Mean over rows and columns of the cross-entropy of the diagonal, in nats, of logits ``(n_cells, n_cells)``."""
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


@final
class CLIPObjective(Objective):
    r"""Shared codes :math:`C_i = f_i(X_i)` on the unit sphere, aligned over all pairs of modalities.

    Minimises the symmetric InfoNCE loss with a learned temperature, plus ``alignment * (1 - cos(c_1, c_2))``.
    The second term is the conditional entropy bottleneck for codes of one fixed concentration: it
    removes from a code what the other modality cannot know.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the codes. A code on the sphere has ``n_shared - 1`` degrees of freedom.
    alignment
        Weight of the alignment term; 0 is the paper's objective.
    temperature
        Starting value; learned afterwards.
    encoder
        Form of the encoders.
    batch
        Position in ``CellTensors.covariates`` of the batch, within which cells are compared; None for none.
    of_condition
        Whether the encoders are given ``CellTensors.condition``, as wide as the features, instead of these.

    References
    ----------
    Gui et al. (2025), arXiv 2509.21584, stage 1; Wang et al. (2025), arXiv 2410.23996, step 1.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_shared: int,
        *,
        alignment: float = 0.0,
        temperature: float = 0.1,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
        batch: int | None = None,
        of_condition: bool = False,
    ) -> None:
        super().__init__()
        self.alignment = alignment
        self.batch = batch
        self.of_condition = of_condition
        self.encoders = nn.ModuleList(encoder.of(name, n, n_shared) for name, n in n_features.items())
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Unit code ``(n_cells, n_shared)`` of one modality."""
        x = (cells.condition if self.of_condition else cells.features)[modality]
        return F.normalize(self.encoders[modality](x), dim=-1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Symmetric InfoNCE plus the alignment term."""
        scale = self.log_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        pairs = list(itertools.combinations(map(gather, self.latents(cells)), 2))
        batch = None if self.batch is None else gather(cells.covariates[self.batch])
        info = torch.stack([clip_loss(a, b, scale, batch=batch) for a, b in pairs]).mean()
        misalignment = torch.stack([1.0 - (a * b).sum(dim=-1).mean() for a, b in pairs]).mean()
        terms = {"infonce": info.detach(), "misalignment": misalignment.detach()}
        return ObjectiveOutput(info + self.alignment * misalignment, terms)

    def infonce_of_cells(self, cells: CellTensors) -> Tensor:
        """InfoNCE of each cell against the others, ``(n_cells,)`` nats; its mean is the loss's term."""
        scale = self.log_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        target = torch.arange(cells.n_cells, device=cells.features[0].device)
        losses = []
        for a, b in itertools.combinations(self.latents(cells), 2):
            batch = None if self.batch is None else cells.covariates[self.batch]
            logits = _within(scale * a @ b.T, batch)
            losses += [F.cross_entropy(side, target, reduction="none") for side in (logits, logits.T)]
        return torch.stack(losses).mean(dim=0)
