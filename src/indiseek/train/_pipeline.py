"""The trained parts of a model: transforms, one objective a stage, and what else training leaves behind."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indiseek.data import TRANSFORMS, Cells, CellTensors, ComponentTransform, Split, SplitOptions, Transform
from indiseek.objectives import Objective
from indiseek.prediction import Predictor
from indiseek.train._guards import drawn_from
from indiseek.train._stage import Shapes, Stage

logger = logging.getLogger(__name__)

# Small enough that what a flow of 100 proteins needs for a batch, some 30 kB a cell, stays below the data.
INFERENCE_BATCH = 2048


class Pipeline(nn.Module):
    """Transforms of the modalities and the objectives of the stages, in their order.

    The networks of a stage are made when it begins (:meth:`begin`), because what a stage needs to know may depend on
    what an earlier one has found. All weights come from one stream of random numbers.

    Parameters
    ----------
    transforms
        Fitted transform by modality, in the model's order.
    stages
        The stages, in the order of training.
    n_categories, n_train
        As in :class:`Shapes`.
    seed
        Seed of the weights.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        stages: Sequence[Stage],
        n_categories: Mapping[str, int],
        n_train: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.names = tuple(transforms)
        self.stages = {stage.name: stage for stage in stages}
        self.transforms = nn.ModuleList(transforms.values())
        self._shapes = Shapes({}, {}, dict(n_categories), n_train)
        self.objectives = nn.ModuleDict()
        # From which the next stage's weights are drawn.
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        self.bridge = _Bridge()
        # Fitted when they are first asked for; training has no use for them.
        self.predictors = nn.ModuleDict()
        for name, transform in transforms.items():
            self._shapes.n_features[name], self._shapes.ranks[name] = transform.n_output, transform.rank
        self.n_features = sum(self._shapes.n_features.values())

    @property
    def n_train(self) -> int:
        """Number of cells that the networks are made for."""
        return self._shapes.n_train

    @property
    def device(self) -> torch.device:
        """Device of transforms and networks."""
        # Of a buffer, because a user's own transform may have no other tensor.
        return next(self.transforms.buffers()).device

    def transform(self, modality: str) -> Transform:
        """Transform of a modality."""
        return cast(Transform, self.transforms[self.names.index(modality)])

    def begin(self, stage: str) -> Objective:
        """Objective of a stage, made now if it is not there yet; those of earlier stages are made before it."""
        for name in list(self.stages)[: list(self.stages).index(stage) + 1]:
            if name not in self.objectives:
                self._make(name)
        return self.objective(stage)

    def _make(self, stage: str) -> None:
        made = self.stages[stage]
        shapes = self._shapes._replace(n_train=min(self.n_train, made.most_cells or self.n_train))
        with drawn_from(self.random_state):
            self.objectives[stage] = made.objective(shapes).to(self.device)

    def objective(self, stage: str) -> Objective:
        """Objective of a stage that has begun."""
        return cast(Objective, self.objectives[stage])

    @property
    def default(self) -> str:
        """Stage whose codes a user means who names none: the first that writes a joint code, or the first."""
        joint = [name for name, stage in self.stages.items() if stage.space.joint is not None]
        return joint[0] if joint else next(iter(self.stages))

    @property
    def conditions(self) -> list[str]:
        """Stages whose frozen codes are given to later ones."""
        given = {name for stage in self.stages.values() for name in stage.given}
        return [name for name in self.stages if name in given]

    def inputs(self, stage: str, cells: CellTensors) -> CellTensors:
        """What a stage sees of cells: features, covariates and, where it is given any, frozen codes.

        Where cells have only one modality, the others' frozen codes are predicted from its own for a stage that sees
        them, and empty for others.
        """
        given = self.stages[stage].given
        if not given:
            return cells
        if not cells.present:
            codes = [self.codes(name, cells) for name in given]
            joined = zip(*(code.values() for code in codes), strict=True)
            return cells._replace(condition=tuple(torch.cat(parts, dim=-1) for parts in joined))
        only = self._only(cells)
        if not self.objective(stage).sees_others:
            code = torch.cat([self.codes(name, cells)[only] for name in given], dim=-1)
            blank = code.new_zeros(len(code), 0)
            return cells._replace(condition=tuple(code if name == only else blank for name in self.names))
        own = torch.cat([self.codes(name, cells)[only] for name in self.conditions], dim=-1)
        predicted = self.bridge(self.names.index(only), own)
        by_stage = [dict(zip(self.conditions, parts, strict=True)) for parts in predicted]
        return cells._replace(condition=tuple(torch.cat([parts[name] for name in given], dim=-1) for parts in by_stage))

    def to_learn_from(self, stage: str, cells: CellTensors) -> CellTensors:
        """:meth:`inputs` of the cells; of more than the stage learns from, of so many drawn, always the same."""
        most = self.stages[stage].most_cells
        if most is not None and cells.n_cells > most:
            drawn = torch.randperm(cells.n_cells, generator=torch.Generator().manual_seed(0))[:most]
            cells = cells.take(drawn.sort().values.to(cells.device))
        return self.inputs(stage, cells)

    def fit_bridge(self, cells: CellTensors) -> None:
        """Learn from training cells to predict the frozen codes of absent modalities."""
        codes = [self.codes(name, cells) for name in self.conditions]
        self.bridge.fit([list(parts) for parts in zip(*(code.values() for code in codes), strict=True)])

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
    def reconstruction(self, stage: str, cells: CellTensors, batch_size: int = INFERENCE_BATCH) -> dict[str, Tensor]:
        """Features as the codes give them back, ``(n_cells, n_features)``, of the modalities whose objective can."""
        seen, objective = self.inputs(stage, cells), self.objective(stage)
        some = seen.take(torch.arange(min(2, cells.n_cells), device=cells.device))
        known = [i for i in range(len(self.names)) if objective.reconstruct(i, some) is not None]

        def decoded(batch: CellTensors) -> tuple[Tensor, ...]:
            return tuple(cast(Tensor, objective.reconstruct(i, batch)) for i in known)

        features = _by_batch(decoded, seen, batch_size) if known else ()
        return {self.names[i]: x for i, x in zip(known, features, strict=True)}

    @torch.no_grad()
    def joint(self, stage: str, cells: CellTensors, batch_size: int = INFERENCE_BATCH) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``; of cells that have only one, that one's."""
        if cells.present:
            return self.codes(stage, cells, batch_size)[self._only(cells)]
        objective = self.objective(stage)
        return _by_batch(lambda batch: (objective.joint(batch),), self.inputs(stage, cells), batch_size)[0]

    @torch.no_grad()
    def label_scores(self, stage: str, cells: CellTensors, batch_size: int = INFERENCE_BATCH) -> Tensor:
        """Scores of the labels, ``(n_cells, n_labels)``, by a stage that has learned them."""
        objective = self.objective(stage)
        seen = self.inputs(stage, cells)
        return _by_batch(lambda batch: (cast(Tensor, objective.label_scores(batch)),), seen, batch_size)[0]

    def tensors(self, cells: Cells, rows: NDArray[np.intp] | None = None) -> CellTensors:
        """Transformed features and covariates of all cells, or of those at `rows`, on the device."""
        return cells.tensors([self.transform(name) for name in self.names], rows)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state, with the networks of the stages that it has."""
        begun = [any(key.startswith(f"objectives.{name}.") for key in state) for name in self.stages]
        for number, name in enumerate(self.stages):
            if not any(begun[number:]):
                break
            if name not in self.objectives:
                self._make(name)
            if not begun[number] and self.objectives[name].state_dict():
                # A stage that files of before it existed do not have.
                del self.objectives[name]
        self.bridge.allocate(state, "bridge.")
        for key in {key.split(".")[1] for key in state if key.startswith("predictors.")}:
            given, target = (cast(Transform, self.transforms[int(i)]) for i in key.split("-"))
            self.predictors[key] = Predictor.empty(given, target, state, f"predictors.{key}.")
        self.load_state_dict(state)
        self.eval()

    def predictor(self, given: str, modality: str) -> Predictor | None:
        """What predicts one modality from another; None before it was fitted."""
        key = self._pair(given, modality)
        return cast(Predictor, self.predictors[key]) if key in self.predictors else None

    def keep_predictor(self, given: str, modality: str, predictor: Predictor) -> None:
        """Keep a fitted one, as part of the state."""
        self.predictors[self._pair(given, modality)] = predictor.eval()

    def _pair(self, given: str, modality: str) -> str:
        """By position: names may have any sign but those that torch refuses in a key, alone or together."""
        return f"{self.names.index(given)}-{self.names.index(modality)}"

    def _only(self, cells: CellTensors) -> str:
        """The one modality that these cells have."""
        return next(name for name, x in zip(self.names, cells.features, strict=True) if x.shape[1])


class _Bridge(nn.Module):
    """Linear maps between the frozen codes of modalities, fitted in closed form.

    Codes of shared stages are aligned, so that a linear map with a constant is enough to bring one
    modality's code to where the other's would lie on average.
    """

    maps: Tensor
    widths: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("maps", torch.zeros(0, 0, 1, 0))
        self.register_buffer("widths", torch.zeros(0, 0, dtype=torch.long))

    def allocate(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for the saved maps and widths."""
        for key in ("maps", "widths"):
            self.register_buffer(key, torch.zeros_like(state[prefix + key], device=self.maps.device))

    @torch.no_grad()
    def fit(self, codes: Sequence[Sequence[Tensor]], ridge: float = 1e-3) -> None:
        """Least squares from each modality's codes to each other's.

        Parameters
        ----------
        codes
            For each modality its codes of each stage, ``(n_cells, n_latent)``, training cells.
        ridge
            Penalty relative to the number of cells.
        """
        joined = [torch.cat(list(parts), dim=-1) for parts in codes]
        widest = max(code.shape[1] for code in joined)
        self.widths = torch.tensor([[part.shape[1] for part in parts] for parts in codes], device=self.maps.device)
        # Modalities of fewer dimensions leave the rest at 0.
        self.maps = self.maps.new_zeros(len(codes), len(codes), widest + 1, widest)
        for i, source in enumerate(joined):
            inputs = _with_constant(source)
            gram = inputs.T @ inputs + ridge * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
            for j, target in enumerate(joined):
                found = torch.linalg.solve(gram, inputs.T @ target)
                self.maps[i, j, : source.shape[1], : target.shape[1]] = found[:-1]
                self.maps[i, j, -1, : target.shape[1]] = found[-1]

    def forward(self, modality: int, code: Tensor) -> list[tuple[Tensor, ...]]:
        """Codes of each stage for all modalities: the given ones of one, and predictions."""
        maps = self.maps[modality]
        found = [
            code if j == modality else (code @ maps[j, : code.shape[1]] + maps[j, -1])[:, : int(widths.sum())]
            for j, widths in enumerate(self.widths)
        ]
        return [x.split(widths.tolist(), dim=-1) for x, widths in zip(found, self.widths, strict=True)]


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


@dataclass
class Fitted:
    """State of a trained model. Training works on a copy, so that a failure leaves the model as it was.

    Attributes
    ----------
    pipeline
        Transforms and networks.
    split, split_options
        Split of the cells of training, and what the user asked for, as plain values. The split is None for a model
        that was loaded with other cells.
    cells
        Digest of the names of the cells of training: positions mean nothing in other cells.
    trained_stages
        Stages that have been trained, in order.
    stage_seconds
        Wall time by stage.
    history
        ``(n_epochs, 1)`` table by ``"stage/term"``.
    interrupted
        Whether the user stopped the last training.
    """

    pipeline: Pipeline
    split: Split | None
    split_options: dict[str, Any]
    cells: str
    trained_stages: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, pd.DataFrame] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def transforms(self) -> dict[str, Transform]:
        """Fitted transform by modality."""
        return {name: self.pipeline.transform(name) for name in self.pipeline.names}

    @classmethod
    def new(
        cls,
        cells: Cells,
        transforms: Mapping[str, Transform],
        stages: Sequence[Stage],
        split: SplitOptions,
        seed: int,
    ) -> Self:
        """State before the first stage: a split, transforms fitted on its training cells, and no networks yet."""
        parts, record = split.split(len(cells.names), seed), split.record()
        paired = parts.train if cells.presence is None else cells.presence.parted(parts.train)[0]
        # One by one, so that a transform given for two modalities is fitted to each.
        fitted = dict(transforms)
        for name, transform in transforms.items():
            fitted[name] = copy.deepcopy(transform)
            if cells.presence is None:
                fitted[name].fit(cells.values[name], parts.train)
            else:
                _fit_to_some(fitted[name], name, cells, parts.train, paired)
        found = [
            f"{t.n_output} of {name!r}"
            for name, t in fitted.items()
            if isinstance(t, ComponentTransform) and t.n_components is None
        ]
        if found:
            logger.info(f"components that hold signal in {len(paired)} training cells: {', '.join(found)}")
        n_categories, n_train = cells.schema.n_categories, len(paired)
        return cls(Pipeline(fitted, stages, n_categories, n_train, seed), parts, record, cells.digest)

    def record(self, stage: str, history: pd.DataFrame, seconds: float) -> None:
        """Add what one fit of a stage gave; epochs of a later fit go on counting."""
        for column in history:
            key = f"{stage}/{column}"
            new = history[[column]].rename(columns={column: key})
            if key in self.history:
                new.index = new.index + len(self.history[key])
                new = pd.concat([self.history[key], new]).rename_axis("epoch")
            self.history[key] = new
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        if stage not in self.trained_stages:
            self.trained_stages.append(stage)

    def payload(self) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`from_payload` builds the same state."""
        return {
            "transforms": {
                name: {"name": t.name, "config": t.config(), "n_output": t.n_output}
                for name, t in self.transforms.items()
            },
            "state": {key: value.cpu() for key, value in self.pipeline.state_dict().items()},
            "random_state": self.pipeline.random_state,
            "n_train": self.pipeline.n_train,
            "split": None if self.split is None else [torch.as_tensor(part) for part in self.split],
            "split_options": self.split_options,
            "cells": self.cells,
            "trained_stages": self.trained_stages,
            "stage_seconds": self.stage_seconds,
            "history": {key: table[key].tolist() for key, table in self.history.items()},
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any], pipeline: Pipeline) -> Self:
        """Rebuild from a payload and networks of the right shapes."""
        pipeline.load_state(payload["state"])
        # Files of before stages began one by one have all of them.
        pipeline.random_state = payload.get("random_state", pipeline.random_state)
        split = payload["split"]
        return cls(
            pipeline=pipeline,
            split=None if split is None else Split(*(part.numpy() for part in split)),
            split_options=payload["split_options"],
            cells=payload["cells"],
            trained_stages=payload["trained_stages"],
            stage_seconds=payload["stage_seconds"],
            history={
                key: pd.DataFrame({key: values}).rename_axis("epoch") for key, values in payload["history"].items()
            },
        )


def _fit_to_some(
    transform: Transform, name: str, cells: Cells, train: NDArray[np.intp], paired: NDArray[np.intp]
) -> None:
    """Fit a transform to all training cells that have its modality."""
    values, rows = cells.values[name], cells.at(name, train)
    if isinstance(transform, ComponentTransform):
        # As many as the paired cells can tell from noise: from these all is learned that is made of them.
        transform.fit(values, rows, cells.at(name, paired))
    else:
        transform.fit(values, rows)


def empty_transforms(
    saved: Mapping[str, Any], features: Mapping[str, Sequence[str]], own: Mapping[str, type[Transform]]
) -> dict[str, Transform]:
    """Transforms of the saved kinds with buffers of the saved sizes, ready to take a saved state.

    Parameters
    ----------
    saved
        By modality, as in :meth:`Fitted.payload`.
    features
        Names of the features by modality.
    own
        The user's own classes by name.

    Raises
    ------
    ValueError
        If a class is not known.
    """
    known = {**TRANSFORMS, **own}
    transforms = {}
    for name, entry in saved.items():
        if entry["name"] not in known:
            raise ValueError(
                f"expected the class of the transform {entry['name']!r} of {name!r}, got {sorted(known)}; pass it to "
                "load in own_code."
            )
        transforms[name] = known[entry["name"]](**entry["config"])
        transforms[name].allocate(len(features[name]), entry["n_output"])
    return transforms
