"""What a trained model consists of: transforms and one objective a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from indiseek.data import Matrix, Transform
from indiseek.objectives import Batch, Objective


class StagedModule(nn.Module):
    """Transforms of the modalities and the objectives of the stages, in their order.

    Parameters
    ----------
    transforms
        One fitted transform for each modality, in the model's order.
    objectives
        Objective by stage name. The codes of the stage ``"shared"`` are inputs of the later ones.
    """

    def __init__(self, transforms: Sequence[Transform], objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.objectives = nn.ModuleDict(objectives)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def features(self, values: Sequence[Matrix]) -> Batch:
        """Transformed features of all cells, on the device."""
        pairs = zip(self.transforms, values, strict=True)
        return Batch(tuple(cast(Transform, transform).apply_to(matrix) for transform, matrix in pairs))

    @torch.inference_mode()
    def codes(self, stage: str, cells: Batch, batch_size: int) -> tuple[torch.Tensor, ...]:
        """Codes of one stage, one ``(n_cells, n_latent)`` tensor for each modality, batch by batch."""
        objective = cast(Objective, self.objectives[stage])
        rows = torch.arange(cells.n_cells, device=cells.features[0].device)
        parts = [objective.latents(cells.take(chunk)) for chunk in rows.split(batch_size)]
        return tuple(torch.cat(codes) for codes in zip(*parts, strict=True))

    def with_shared(self, cells: Batch, batch_size: int) -> Batch:
        """The same cells with their frozen shared codes."""
        # A clone, because tensors made in inference mode cannot be saved for a backward pass.
        return Batch(cells.features, tuple(code.clone() for code in self.codes("shared", cells, batch_size)))
