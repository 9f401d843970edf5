"""The features of a modality as its code: what later stages are to be independent of, beside shared codes."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.objectives._base import Objective, ObjectiveOutput


@final
class ComponentsObjective(Objective):
    """Codes that are the transformed features themselves: a stage in closed form in which nothing is fitted."""

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Features ``(n_cells, n_features)`` of one modality."""
        return cells.features[modality]

    def joint(self, cells: CellTensors) -> Tensor:
        """Features of all modalities side by side, ``(n_cells, n_features)``."""
        return torch.cat(cells.features, dim=1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Nothing to lose: 0."""
        return ObjectiveOutput(torch.zeros((), device=cells.device), {})
