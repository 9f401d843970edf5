"""What a trained model consists of: transforms and one objective a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indiseek.data import Transform, Values
from indiseek.nn import CodeBridge
from indiseek.objectives import Batch, Objective

# Small enough that what a flow of 100 proteins needs for a batch, some 30 kB a cell, stays below the data.
INFERENCE_BATCH = 2048
# Stages that see features only; their codes, side by side, are what later stages see of the other modalities.
_CONDITIONS = ("shared", "context")


class StagedModule(nn.Module):
    """Transforms of the modalities and the objectives of the stages, in their order.

    Parameters
    ----------
    transforms
        One fitted transform for each modality, in the model's order.
    objectives
        Objective by stage name. Stages ``"shared"`` and ``"context"`` see features only; every later stage
        also sees their frozen codes, side by side.
    n_condition
        Dimension of these frozen codes together.
    """

    def __init__(self, transforms: Sequence[Transform], objectives: Mapping[str, Objective], n_condition: int) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.objectives = nn.ModuleDict(objectives)
        self.bridge = CodeBridge(len(transforms), n_condition)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def objective(self, stage: str) -> Objective:
        """Objective of a stage."""
        return cast(Objective, self.objectives[stage])

    def features(self, values: Sequence[Values], rows: NDArray[np.intp] | None = None) -> Batch:
        """Transformed features of all cells, or of those at `rows`, on the device."""
        pairs = zip(self.transforms, values, strict=True)
        return Batch(tuple(cast(Transform, transform).apply_to(matrix, rows) for transform, matrix in pairs))

    @property
    def conditions(self) -> list[str]:
        """Stages whose frozen codes later stages see."""
        return [name for name in _CONDITIONS if name in self.objectives]

    def inputs(self, stage: str, cells: Batch, batch_size: int) -> Batch:
        """What a stage sees of cells: their features and, for a later stage, frozen codes."""
        if stage in _CONDITIONS:
            return cells
        codes = [self.codes(name, cells, batch_size) for name in self.conditions]
        return cells._replace(shared=tuple(torch.cat(parts, dim=-1) for parts in zip(*codes, strict=True)))

    @torch.no_grad()
    def codes(self, stage: str, cells: Batch, batch_size: int) -> tuple[Tensor, ...]:
        """Codes of one stage, one ``(n_cells, n_latent)`` tensor for each modality, batch by batch."""
        return _by_batch(self.objective(stage).latents, self.inputs(stage, cells, batch_size), batch_size)

    @torch.no_grad()
    def joint(self, stage: str, cells: Batch, batch_size: int) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``, batch by batch."""
        seen = self.inputs(stage, cells, batch_size)
        return _by_batch(lambda batch: (self.objective(stage).joint(batch),), seen, batch_size)[0]

    @torch.no_grad()
    def code_of_one(self, stage: str, modality: int, features: Tensor, batch_size: int) -> Tensor:
        """Code ``(n_cells, n_latent)`` of cells that have only one modality; the others' codes are predicted."""
        parts = []
        for x in features.split(batch_size):
            shared: tuple[Tensor, ...] = ()
            if self.conditions and stage not in _CONDITIONS:
                codes = [self.objective(name).encode(modality, x, ()) for name in self.conditions]
                shared = self.bridge(modality, torch.cat(codes, dim=-1))
            parts.append(self.objective(stage).encode(modality, x, shared))
        return torch.cat(parts)


def _by_batch(function: Callable[[Batch], tuple[Tensor, ...]], cells: Batch, batch_size: int) -> tuple[Tensor, ...]:
    """What `function` gives for all cells, written batch by batch into one tensor each.

    Batches' results kept until the end would lie scattered between what each batch needs for a moment, and keep
    the memory around them from being used again.
    """
    results: tuple[Tensor, ...] = ()
    for rows in torch.arange(cells.n_cells, device=cells.features[0].device).split(batch_size):
        found = function(cells.take(rows))
        results = results or tuple(x.new_empty((cells.n_cells, *x.shape[1:])) for x in found)
        for result, x in zip(results, found, strict=True):
            result[rows] = x
    return results
