"""Fit of a model's stages, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from indiseek.models._checkpoint import Checkpoint
from indiseek.models._fitted import Fitted, cells_digest
from indiseek.models._module import INFERENCE_BATCH
from indiseek.objectives import Batch
from indiseek.train import Place, StageSettings, StageState, fit_stage, resolve_place
from indiseek.train._memory import all_must_fit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the stages are trained: all that the result depends on beside the model and its cells.

    Attributes
    ----------
    settings, batch_sizes
        By stage.
    split
        What the user asks of the split.
    accelerator, devices, num_nodes, seed, trainer_kwargs
        As in :meth:`MultimodalModel.train`.
    """

    settings: Mapping[str, StageSettings]
    batch_sizes: Mapping[str, int]
    split: dict[str, Any]
    accelerator: str
    devices: int
    num_nodes: int
    seed: int
    trainer_kwargs: dict[str, Any]

    def place(self) -> Place:
        """Where this process trains.

        Raises
        ------
        ValueError
            If there is no such device, or a batch has fewer cells than there are processes.
        """
        place = resolve_place(self.accelerator, devices=self.devices, num_nodes=self.num_nodes)
        for stage, size in self.batch_sizes.items():
            if size < place.world_size:
                raise ValueError(
                    f"expected batch_size of at least {place.world_size}, a cell for each process, got {size} for "
                    f"stage {stage!r}; take a larger one or fewer devices."
                )
        return place

    def description(self) -> dict[str, Any]:
        """Plain values that tell this plan from others."""
        indexing = self.split["external_indexing"]
        digests = None if indexing is None else [cells_digest(pd.Index(np.asarray(part))) for part in indexing]
        return {
            "split": self.split | {"external_indexing": digests},
            "stages": {name: asdict(setting) for name, setting in self.settings.items()},
            "batch_size": self.batch_sizes,
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "seed": self.seed,
            "trainer": {
                key: value for key, value in self.trainer_kwargs.items() if isinstance(value, str | int | float)
            },
        }


class Start(NamedTuple):
    """Where a fit begins.

    Attributes
    ----------
    stage, state
        First stage to train, and the state from which it goes on; None for one that begins.
    moved_by
        Added to the seeds of the stages, so that a further fit does not repeat an earlier one's batches.
    lengths
        Norms of the features, by which a later process knows the cells again.
    """

    stage: str
    state: StageState | None
    moved_by: int
    lengths: list[float]


def start_of(fitted: Fitted, cells: tuple[Batch, Batch], saved: dict[str, Any] | None, checkpoint: Checkpoint) -> Start:
    """Where a fit of these cells begins: where the `saved` state of `checkpoint` stands, or else at the first stage.

    Raises
    ------
    ValueError
        If that state was reached with other values of the cells.
    """
    lengths = [float(torch.linalg.vector_norm(x)) for part in cells for x in part.features]
    if saved is None:
        return Start(next(iter(fitted.module.objectives)), None, len(fitted.history), lengths)
    # Machines may round in their own ways.
    if not np.allclose(saved["lengths"], lengths, rtol=1e-3):
        raise ValueError(
            f"expected the values of the cells with which the fit in {checkpoint.directory} began, got others; "
            "repeat that call to go on with it, or delete the directory to train from the start."
        )
    return Start(saved["stage"], saved["state"], saved["moved_by"], lengths)


def fit_stages(
    fitted: Fitted,
    cells: tuple[Batch, Batch],
    plan: Plan,
    start: Start,
    checkpoint: Checkpoint,
    *,
    show_progress: bool,
) -> bool:
    """Train the stages from `start` on.

    Parameters
    ----------
    fitted
        State to train; changed.
    cells
        Training and validation cells: features, and views where the objective wants any.
    plan
        How the stages are trained.
    start
        Where to begin.
    checkpoint
        Where the state is kept after every epoch.
    show_progress
        Whether progress bars are shown.

    Returns
    -------
    Whether all stages are trained; False if the user interrupted one.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted the first stage before it had anything to keep.
    MemoryError
        If a step, or what a stage needs of all its cells, does not fit into memory.
    """
    module = fitted.module
    stages = list(module.objectives)
    train, validation = cells
    n_cells, n_features = train.n_cells + validation.n_cells, sum(x.shape[1] for x in train.features)
    first = stages.index(start.stage)
    for number, stage in list(enumerate(stages))[first:]:

        def save(state: StageState, stage: str = stage) -> None:
            progress = start._replace(stage=stage, state=state)._asdict()
            checkpoint.write({"fitted": fitted.payload(), **progress})

        what = f"what stage {stage!r} needs of all its cells"
        cells_must_fit = partial(all_must_fit, what, n_cells, n_features, train.features[0].device)
        with cells_must_fit():
            seen = (
                module.inputs(stage, train, INFERENCE_BATCH),
                module.inputs(stage, validation, INFERENCE_BATCH),
            )
        result = fit_stage(
            module.objective(stage),
            seen,
            plan.settings[stage],
            name=stage,
            batch_size=plan.batch_sizes[stage],
            accelerator=plan.accelerator,
            devices=plan.devices,
            num_nodes=plan.num_nodes,
            seed=plan.seed + number + start.moved_by,
            show_progress=show_progress,
            save=None if checkpoint.directory is None else save,
            resume=start.state if number == first else None,
            trainer_kwargs=plan.trainer_kwargs,
        )
        # Those of the next stage take as much.
        del seen
        if len(result.history):
            fitted.record(stage, result)
        if stage in module.conditions[-1:]:
            with cells_must_fit():
                module.bridge.fit(module.inputs("specific", train, INFERENCE_BATCH).shared)
        if result.interrupted:
            if not fitted.trained_stages:
                raise KeyboardInterrupt
            kept = "last" if plan.settings[stage].patience is None else "best"
            logger.warning(
                f"training interrupted in stage {stage!r} after {len(result.history)} epochs; the {kept} weights "
                "so far are kept, train() goes on from them."
            )
            return False
    return True
