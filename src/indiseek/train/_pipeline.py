"""The trained parts of a model: transforms, and one objective a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from indiseek.data import Cells, CellTensors, Transform
from indiseek.objectives import Objective
from indiseek.train._guards import seeded
from indiseek.train._stage import Shapes, Stage

# Small enough that what a flow of 100 proteins needs for a batch, some 30 kB a cell, stays below the data.
INFERENCE_BATCH = 2048


class Pipeline(nn.Module):
    """Transforms of the modalities and the objectives of the stages, in their order.

    Parameters
    ----------
    transforms
        Fitted transform by modality, in the model's order.
    stages
        The stages, in the order of training.
    n_categories
        Number of categories by covariate, as in :class:`Shapes`.
    seed
        Seed of the weights.
    """

    def __init__(
        self, transforms: Mapping[str, Transform], stages: Sequence[Stage], n_categories: Mapping[str, int], seed: int
    ) -> None:
        super().__init__()
        self.names = tuple(transforms)
        self.stages = {stage.name: stage for stage in stages}
        self.transforms = nn.ModuleList(transforms.values())
        shapes = Shapes(
            {name: transform.n_output for name, transform in transforms.items()},
            {name: transform.rank for name, transform in transforms.items()},
            dict(n_categories),
        )
        with seeded(seed):
            self.objectives = nn.ModuleDict({stage.name: stage.objective(shapes) for stage in stages})
        self.bridge = _Bridge()

    @property
    def device(self) -> torch.device:
        """Device of transforms and networks."""
        return self.transform(self.names[0]).device

    def transform(self, modality: str) -> Transform:
        """Transform of a modality."""
        return cast(Transform, self.transforms[self.names.index(modality)])

    def objective(self, stage: str) -> Objective:
        """Objective of a stage."""
        return cast(Objective, self.objectives[stage])

    @property
    def conditions(self) -> list[str]:
        """Stages whose frozen codes are given to later ones."""
        given = {name for stage in self.stages.values() for name in stage.given}
        return [name for name in self.stages if name in given]

    def inputs(self, stage: str, cells: CellTensors) -> CellTensors:
        """What a stage sees of cells: features, covariates and, where it is given any, frozen codes.

        Where cells have only one modality, the others' frozen codes are predicted from its own.
        """
        given = self.stages[stage].given
        if not given:
            return cells
        if not cells.present:
            codes = [self.codes(name, cells) for name in given]
            joined = zip(*(code.values() for code in codes), strict=True)
            return cells._replace(condition=tuple(torch.cat(parts, dim=-1) for parts in joined))
        only = self._only(cells)
        own = {name: self.codes(name, cells)[only] for name in self.conditions}
        predicted = self.bridge(self.names.index(only), torch.cat(list(own.values()), dim=-1))
        widths = [code.shape[1] for code in own.values()]
        by_stage = [dict(zip(own, code.split(widths, dim=-1), strict=True)) for code in predicted]
        return cells._replace(condition=tuple(torch.cat([parts[name] for name in given], dim=-1) for parts in by_stage))

    def fit_bridge(self, cells: CellTensors) -> None:
        """Learn from training cells to predict the frozen codes of absent modalities."""
        codes = [self.codes(name, cells) for name in self.conditions]
        joined = zip(*(code.values() for code in codes), strict=True)
        self.bridge.fit([torch.cat(parts, dim=-1) for parts in joined])

    @torch.no_grad()
    def codes(self, stage: str, cells: CellTensors, batch_size: int = INFERENCE_BATCH) -> dict[str, Tensor]:
        """Codes of one stage, ``(n_cells, n_latent)`` for each modality that the cells have, batch by batch."""
        seen = self.inputs(stage, cells)
        objective = self.objective(stage)
        if not cells.present:
            return dict(zip(self.names, _by_batch(objective.latents, seen, batch_size), strict=True))
        only = self._only(cells)
        position = self.names.index(only)
        return {only: _by_batch(lambda batch: (objective.encode(position, batch),), seen, batch_size)[0]}

    @torch.no_grad()
    def joint(self, stage: str, cells: CellTensors, batch_size: int = INFERENCE_BATCH) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``; of cells that have only one, that one's."""
        if cells.present:
            return self.codes(stage, cells, batch_size)[self._only(cells)]
        objective = self.objective(stage)
        return _by_batch(lambda batch: (objective.joint(batch),), self.inputs(stage, cells), batch_size)[0]

    def tensors(self, cells: Cells, rows: Any = None) -> CellTensors:
        """Transformed features and covariates of all cells, or of those at `rows`, on the device."""
        return cells.tensors([self.transform(name) for name in self.names], rows)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state."""
        self.bridge.allocate(state["bridge.maps"].shape)
        self.load_state_dict(state)
        self.eval()

    def _only(self, cells: CellTensors) -> str:
        """The one modality that these cells have."""
        return next(name for name, x in zip(self.names, cells.features, strict=True) if x.shape[1])


class _Bridge(nn.Module):
    """Linear maps between the frozen codes of modalities, fitted in closed form.

    Codes of shared stages are aligned, so that a linear map with a constant is enough to bring one
    modality's code to where the other's would lie on average.
    """

    maps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("maps", torch.zeros(0, 0, 1, 0))

    def allocate(self, shape: Sequence[int]) -> None:
        """Make room for maps of this shape, ``(n_modalities, n_modalities, n_condition + 1, n_condition)``."""
        self.maps = torch.zeros(tuple(shape), device=self.maps.device)

    @torch.no_grad()
    def fit(self, codes: Sequence[Tensor], ridge: float = 1e-3) -> None:
        """Least squares from each modality's code to each other's.

        Parameters
        ----------
        codes
            ``(n_cells, n_condition)`` for each modality, training cells.
        ridge
            Penalty relative to the number of cells.
        """
        self.maps = self.maps.new_zeros(len(codes), len(codes), codes[0].shape[1] + 1, codes[0].shape[1])
        for i, source in enumerate(codes):
            inputs = _with_constant(source)
            gram = inputs.T @ inputs + ridge * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
            for j, target in enumerate(codes):
                self.maps[i, j] = torch.linalg.solve(gram, inputs.T @ target)

    def forward(self, modality: int, code: Tensor) -> tuple[Tensor, ...]:
        """Codes of all modalities, ``(n_cells, n_condition)`` each: the given one, and predictions."""
        inputs = _with_constant(code)
        return tuple(code if j == modality else inputs @ self.maps[modality, j] for j in range(self.maps.shape[1]))


def _with_constant(code: Tensor) -> Tensor:
    return torch.cat([code, torch.ones(len(code), 1, device=code.device)], dim=-1)


def _by_batch(
    function: Callable[[CellTensors], tuple[Tensor, ...]], cells: CellTensors, batch_size: int
) -> tuple[Tensor, ...]:
    """What `function` gives for all cells, written batch by batch into one tensor each.

    Batches' results kept until the end would lie scattered between what each batch needs for a moment, and keep
    the memory around them from being used again.
    """
    results: tuple[Tensor, ...] = ()
    for rows in torch.arange(cells.n_cells, device=cells.device).split(batch_size):
        found = function(cells.take(rows))
        results = results or tuple(x.new_empty((cells.n_cells, *x.shape[1:])) for x in found)
        for result, x in zip(results, found, strict=True):
            result[rows] = x
    return results
