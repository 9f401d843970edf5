"""Features of each modality, moved to where the cells of all batches lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import BatchDisplacement
from indiseek.objectives._base import Objective, ObjectiveOutput

# Of the displacement: chosen on COVID blood, three splits with 5,500 training cells.
_STRENGTH = 0.75


@final
class BatchCorrectedObjective(Objective):
    r"""Codes that are the transformed features less most of what the batch adds to them in each state of the cells.

    .. math:: x - \tfrac34 \sum_k \pi_k(c)\, \delta_{bk}

    The states are those of a modality's own shared code, learned by comparing cells within their batch, which knows
    little of the batch: states of the features themselves would be batches before they are types of cells. A modality
    is corrected from itself alone, so that cells without the others are corrected as well. States are mixtures of what
    differs in finer ways, and the last quarter of a displacement takes more from types of cells than from batches. A
    stage in closed form: displacements (:class:`indiseek.nn.BatchDisplacement`) are found in :meth:`start`.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the shared code, which is ``CellTensors.condition`` of each modality.
    n_batches
        Number of batches, the first of ``CellTensors.covariates``.
    seed
        Seed of the states.
    """

    uses_unpaired = True

    def __init__(self, n_features: Mapping[str, int], n_shared: int, n_batches: int, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.displacements = nn.ModuleList(BatchDisplacement(n, n_shared, n_batches) for n in n_features.values())

    def start(self, cells: CellTensors) -> None:
        """Find states and displacements in the training cells."""
        self.start_with(cells, ())

    @torch.no_grad()
    def start_with(self, cells: CellTensors, unpaired: Sequence[CellTensors]) -> None:
        """Find states and displacements of a modality in all training cells that have it."""
        for i in range(len(cells.features)):
            own = [cells, *(each for each in unpaired if each.present[i].all())]
            x = _joined([each.features[i] for each in own])
            shared = _joined([each.condition[i] for each in own])
            batch = _joined([each.covariates[0] for each in own])
            self._displacement(i).fit(x, shared, batch, seed=self.seed)

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Corrected features ``(n_cells, n_features)`` of one modality."""
        displacement = self._displacement(modality)
        x = cells.features[modality]
        corrected: Tensor = displacement(x, cells.condition[modality], cells.covariates[0])
        return torch.lerp(x, corrected, _STRENGTH)

    def joint(self, cells: CellTensors) -> Tensor:
        """Corrected features of all modalities side by side, ``(n_cells, n_features)``."""
        return torch.cat(self.latents(cells), dim=1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Nothing to lose: 0."""
        return ObjectiveOutput(torch.zeros((), device=cells.device), {})

    def _displacement(self, modality: int) -> BatchDisplacement:
        return cast(BatchDisplacement, self.displacements[modality])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows one after the other; of one part alone no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
