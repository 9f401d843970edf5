"""All that is known of a cell in one code, for neighbours of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.objectives._base import Objective, ObjectiveOutput, joint_code


@final
class EverythingObjective(Objective):
    r"""Features of all modalities and the joint shared code, side by side on scales at which cells can be compared.

    .. math::
        \Bigl[\, \frac{x_{ij} - \bar x_{ij}}{a_i \sqrt{s_{ij}}} \,\Bigr]_{i, j}, \quad \frac{c - \bar c}{a_0}

    with the standard deviation :math:`s_{ij}` of a feature in the training cells, and :math:`a` such that the variances
    of each block add up to 1. The root lies between components as they are, of which the first is all there is, and
    standardised ones, where counting noise weighs as much as signal; the shared code draws together what the modalities
    agree on. A stage in closed form: means and scales are found in :meth:`start`.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the shared code, which is ``CellTensors.condition`` of each modality.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, n_features: Mapping[str, int], n_shared: int) -> None:
        super().__init__()
        self.widths = (*n_features.values(), n_shared)
        self.register_buffer("center", torch.zeros(sum(self.widths)))
        self.register_buffer("scale", torch.ones(sum(self.widths)))

    @torch.no_grad()
    def start(self, cells: CellTensors) -> None:
        """Find means and scales in the training cells."""
        everything = self._unscaled(cells).double()
        spread = everything.std(dim=0)
        parts = list(spread.clamp_min(1e-6).split(self.widths))
        root = torch.cat([*(part.sqrt() for part in parts[:-1]), torch.ones_like(parts[-1])])
        size = [(part.square().sum().sqrt() * torch.ones_like(part)) for part in (spread / root).split(self.widths)]
        self.center.copy_(everything.mean(dim=0))
        self.scale.copy_(1.0 / (root * torch.cat(size).clamp_min(1e-6)))

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """What one modality tells, ``(n_cells, n_features + n_shared)``: its features and its own shared code."""
        blocks = list(zip(self.center.split(self.widths), self.scale.split(self.widths), strict=True))
        parts = (cells.features[modality], *blocks[modality]), (cells.condition[modality], *blocks[-1])
        return torch.cat([(x - center) * scale for x, center, scale in parts], dim=1)

    def joint(self, cells: CellTensors) -> Tensor:
        """All that is known of the cells, ``(n_cells, n_features of all modalities + n_shared)``."""
        return (self._unscaled(cells) - self.center) * self.scale

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Nothing to lose: 0."""
        return ObjectiveOutput(torch.zeros((), device=cells.device), {})

    def _unscaled(self, cells: CellTensors) -> Tensor:
        return torch.cat([*cells.features, joint_code(cells.condition)], dim=1)
