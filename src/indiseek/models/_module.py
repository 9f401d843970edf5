"""What a trained model consists of: transforms and one objective a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from indiseek.data import Matrix, Transform
from indiseek.nn import CodeBridge
from indiseek.objectives import Batch, Objective

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

    def features(self, values: Sequence[Matrix]) -> Batch:
        """Transformed features of all cells, on the device."""
        pairs = zip(self.transforms, values, strict=True)
        return Batch(tuple(cast(Transform, transform).apply_to(matrix) for transform, matrix in pairs))

    @property
    def conditions(self) -> list[str]:
        """Stages whose frozen codes later stages see."""
        return [name for name in _CONDITIONS if name in self.objectives]

    def inputs(self, stage: str, cells: Batch, batch_size: int) -> Batch:
        """What a stage sees of cells: their features and, for a later stage, frozen codes."""
        if stage in _CONDITIONS:
            return cells
        codes = [self.codes(name, cells, batch_size) for name in self.conditions]
        return Batch(cells.features, tuple(torch.cat(parts, dim=-1) for parts in zip(*codes, strict=True)))

    @torch.no_grad()
    def codes(self, stage: str, cells: Batch, batch_size: int) -> tuple[Tensor, ...]:
        """Codes of one stage, one ``(n_cells, n_latent)`` tensor for each modality, batch by batch."""
        seen = self.inputs(stage, cells, batch_size)
        rows = torch.arange(seen.n_cells, device=seen.features[0].device)
        parts = [self.objective(stage).latents(seen.take(chunk)) for chunk in rows.split(batch_size)]
        return tuple(torch.cat(codes) for codes in zip(*parts, strict=True))

    @torch.no_grad()
    def joint(self, stage: str, cells: Batch, batch_size: int) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``, batch by batch."""
        seen = self.inputs(stage, cells, batch_size)
        rows = torch.arange(seen.n_cells, device=seen.features[0].device)
        return torch.cat([self.objective(stage).joint(seen.take(chunk)) for chunk in rows.split(batch_size)])

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
