"""Fit of a pipeline's stages, one after the other, from the start or from where an earlier process stood."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indiseek._checks import check_number, check_path, check_seed
from indiseek.data import Cells, CellTensors, Split
from indiseek.objectives import gather_objects, world_size
from indiseek.train._checkpoint import Checkpoint
from indiseek.train._fit import Process, check_trainer, fit_in_closed_form, fit_stage, resolve_process
from indiseek.train._guards import interrupts_held, memory_of_all_explained
from indiseek.train._lightning import StageState
from indiseek.train._pipeline import Fitted
from indiseek.train._stage import StageSettings

logger = logging.getLogger(__name__)

_PRECISIONS = ("32", "32-true", "bf16", "bf16-mixed")

# Arguments of a Trainer by which stages would end before they are trained, or their held-out values not be what they
# are called, with the values that change nothing, and what to write instead.
_ENDS = "give max_epochs, by stage where they differ: train(max_epochs={'shared': 20})"
_WHOLE = "leave it out: every epoch sees all training and all validation cells; take fewer cells by train_size"
_OWN = "leave it out: the models take their gradient steps themselves"
_DEFEAT: dict[str, tuple[tuple[Any, ...], str]] = {
    "max_steps": ((-1,), _ENDS),
    "max_time": ((None,), _ENDS),
    "min_steps": ((None,), _ENDS),
    "fast_dev_run": ((False, 0), _ENDS),
    "limit_train_batches": ((None, 1.0), _WHOLE),
    "limit_val_batches": ((None, 1.0), _WHOLE),
    "overfit_batches": ((0,), _WHOLE),
    "check_val_every_n_epoch": ((1,), _WHOLE),
    "val_check_interval": ((None, 1.0), _WHOLE),
    "accumulate_grad_batches": ((1,), f"{_OWN}; give batch_size"),
    "gradient_clip_val": ((None,), _OWN),
    "gradient_clip_algorithm": ((None,), _OWN),
    "barebones": ((False,), _OWN),
}

# Two trainings at once would draw from one stream of random numbers of torch.
one_at_a_time = threading.RLock()
"""Held by the thread that trains: others wait for it."""

MakeViews = Callable[[Fitted, NDArray[np.intp], int], tuple[Tensor, ...]]
"""Makes augmented features of the cells at some rows, by a seed, as in ``CellTensors.views``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the stages are trained: all that the result depends on beside the model and its cells.

    Attributes
    ----------
    settings
        By stage; None for one in closed form.
    accelerator, devices, num_nodes, seed, trainer_kwargs
        As in :meth:`indiseek.models.MultimodalModel.train`.
    """

    settings: Mapping[str, StageSettings | None]
    accelerator: str
    devices: int | Sequence[int]
    num_nodes: int
    seed: int
    trainer_kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise for what Lightning would take and these models cannot, or would refuse in its own words."""
        _check_trainer_kwargs(self.trainer_kwargs)
        check_number("num_nodes", self.num_nodes, low=1, whole=True)
        check_seed("seed", self.seed)
        if isinstance(self.devices, list | tuple):
            for number in self.devices:
                check_number("numbers in devices", number, low=0, whole=True)
            if not self.devices or len(set(self.devices)) < len(self.devices):
                raise ValueError(f"expected devices to name each device once, got {self.devices}; for example [0].")
            n_devices = len(self.devices)
        else:
            check_number("devices", self.devices, low=1, whole=True)
            n_devices = cast(int, self.devices)
        strategy = self.trainer_kwargs.get("strategy", "auto")
        if n_devices * self.num_nodes == 1 and isinstance(strategy, str) and strategy != "auto":
            raise ValueError(f"expected no strategy for one device, got {strategy!r}; leave it out.")
        if n_devices * self.num_nodes > 1 and strategy not in ("auto", "ddp"):
            raise ValueError(
                f"expected strategy='ddp' for several devices, got {strategy!r}; leave it out: the networks are small, "
                "and every device holds them whole."
            )
        precision = self.trainer_kwargs.get("precision")
        # Lightning scales float16's gradients before their norm is limited, and the cells are held in single precision.
        if precision is not None and str(precision) not in _PRECISIONS:
            raise ValueError(
                f"expected precision to be one of {_PRECISIONS}, got {precision!r}; pass 'bf16-mixed' where the device "
                "has it, or leave precision out."
            )

    def process(self) -> Process:
        """Where this process trains.

        Raises
        ------
        ValueError
            If there is no such device, or a batch has fewer cells than there are processes.
        """
        process = resolve_process(self.accelerator, devices=self.devices, num_nodes=self.num_nodes)
        if self.trainer_kwargs:
            check_trainer(self.trainer_kwargs, self.accelerator, devices=self.devices, num_nodes=self.num_nodes)
        for stage, settings in self.settings.items():
            if settings is not None and settings.batch_size < process.world_size:
                raise ValueError(
                    f"expected batch_size of at least {process.world_size}, a cell for each process, got "
                    f"{settings.batch_size} for stage {stage!r}; take a larger one or fewer devices."
                )
        return process

    def record(self) -> dict[str, Any]:
        """Plain values that tell this plan from others."""
        return {
            "stages": {name: None if each is None else asdict(each) for name, each in self.settings.items()},
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "seed": self.seed,
            "trainer": {
                key: value for key, value in self.trainer_kwargs.items() if isinstance(value, str | int | float)
            },
        }


def _check_trainer_kwargs(given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(inspect.signature(lightning.Trainer.__init__).parameters))
    if unknown:
        raise TypeError(
            f"expected arguments of train() or of lightning.pytorch.Trainer, got {unknown}; options of a model, "
            "such as those of its critics, are given when it is made."
        )
    for name in filter(_DEFEAT.__contains__, given):
        value, (harmless, advice) = given[name], _DEFEAT[name]
        # 1 batch is not the whole of them, although 1 == 1.0.
        if not any(value is fine or (type(value) is type(fine) and value == fine) for fine in harmless):
            raise ValueError(
                f"expected no {name} but {' or '.join(map(repr, harmless))}, got {value!r}, by "
                f"which stages would not be trained; {advice}."
            )


class Parts(NamedTuple):
    """Cells of a fit.

    Attributes
    ----------
    train, validation
        Those that have every modality, by which modalities are related.
    unpaired
        Training cells that have one modality, a bundle for each.
    """

    train: CellTensors
    validation: CellTensors
    unpaired: Sequence[CellTensors]


class Start(NamedTuple):
    """Where a fit begins.

    Attributes
    ----------
    stage, state
        First stage to train, and the state from which it goes on; None for one that begins.
    seed_offset
        Added to the seeds of the stages, so that a further fit does not repeat an earlier one's batches.
    norms
        Norms of the features, by which a later process knows the cells again.
    """

    stage: str
    state: StageState | None
    seed_offset: int
    norms: list[float]


def fit_pipeline(
    cells: Cells,
    plan: Plan,
    before: Callable[[], Fitted],
    *,
    restored: Callable[[dict[str, Any]], Fitted],
    make_views: MakeViews | None,
    checkpoint_dir: str | Path | None,
    record: Callable[[], dict[str, Any]],
    show_progress: bool,
    keep_checkpoint: bool = False,
) -> Fitted:
    """Train all stages on a state of their own, and give it back.

    Of several threads that call this, one trains at a time.

    Parameters
    ----------
    cells
        The cells of training.
    plan
        How the stages are trained.
    before
        Makes the state to train: split, fitted transforms, networks.
    restored
        Makes it from what a checkpoint holds.
    make_views
        Makes augmented features for objectives that want any; None for none.
    checkpoint_dir
        Where the state is kept after every epoch, and from where an unfinished fit goes on; None for nowhere.
    record
        Gives plain values that tell model and cells from others: a checkpoint of anything else is refused.
    show_progress
        Whether progress bars are shown.
    keep_checkpoint
        Whether the state stays in `checkpoint_dir` when all stages are trained.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted the first stage before it had anything to keep.
    MemoryError
        If the features, a step, or what a stage needs of all its cells do not fit into memory.
    ValueError
        If there is no such device, or the checkpoint is of another fit or in use by one.
    """
    if checkpoint_dir is not None:
        checkpoint_dir = check_path("checkpoint_dir", checkpoint_dir)
    process = plan.process()
    if checkpoint_dir is None:
        with one_at_a_time:
            fitted = before()
            complete = _fit_from(fitted, cells, plan, process, make_views, None, None, show_progress=show_progress)
        fitted.interrupted = not complete
        return fitted
    with one_at_a_time, Checkpoint(checkpoint_dir, record() | plan.record(), writes=process.rank == 0) as checkpoint:
        saved = checkpoint.read()
        fitted = before() if saved is None else restored(saved["fitted"])
        complete = _fit_from(fitted, cells, plan, process, make_views, saved, checkpoint, show_progress=show_progress)
        fitted.interrupted = not complete
        if complete and not keep_checkpoint:
            checkpoint.remove()
            if process.world_size > 1:
                # A next call must not find in one process what another is about to delete.
                gather_objects(None)
    return fitted


def _fit_from(
    fitted: Fitted,
    cells: Cells,
    plan: Plan,
    process: Process,
    make_views: MakeViews | None,
    saved: dict[str, Any] | None,
    checkpoint: Checkpoint | None,
    *,
    show_progress: bool,
) -> bool:
    """Make the tensors of training and validation cells and train the stages; whether all are trained."""
    split = cast(Split, fitted.split)
    paired, others = (split.train, None) if cells.presence is None else cells.presence.parted(split.train)
    rows = np.concatenate([paired, split.validation])
    explained = partial(
        memory_of_all_explained, n_cells=len(rows), n_features=fitted.pipeline.n_features, device=process.device
    )
    with explained("the features of the training and validation cells"):
        fitted.pipeline.to(process.device)
        train, validation = fitted.pipeline.tensors(cells, rows).split(len(paired))
        unpaired = [] if others is None else [fitted.pipeline.tensors(cells, part) for part in cells.alike(others)]
    start = _start_of(fitted, (train, validation, *unpaired), saved, checkpoint)
    if make_views is not None:
        what, advice = "n_views times the training and validation cells", "make the model with a smaller n_views"
        with explained(what, advice=advice):
            train = train._replace(views=make_views(fitted, split.train, plan.seed))
            validation = validation._replace(views=make_views(fitted, split.validation, plan.seed + 1))
    parts = Parts(train, validation, unpaired)
    return _fit_stages(fitted, parts, plan, start, checkpoint, explained, show_progress=show_progress)


def _start_of(
    fitted: Fitted, cells: Sequence[CellTensors], saved: dict[str, Any] | None, checkpoint: Checkpoint | None
) -> Start:
    """Where a fit of these cells begins: where the `saved` state of `checkpoint` stands, or else at the first stage.

    Raises
    ------
    ValueError
        If that state was reached with other values of the cells.
    """
    norms = [float(torch.linalg.vector_norm(x)) for part in cells for x in part.features]
    if saved is None or checkpoint is None:
        return Start(next(iter(fitted.pipeline.stages)), None, len(fitted.history), norms)
    # Machines may round in their own ways.
    if not np.allclose(saved["norms"], norms, rtol=1e-3):
        raise ValueError(
            f"expected the values of the cells with which the fit in {checkpoint.directory} began, got others; "
            "repeat that call to go on with it, or delete the directory to train from the start."
        )
    return Start(saved["stage"], saved["state"], saved["seed_offset"], norms)


def _fit_stages(
    fitted: Fitted,
    cells: Parts,
    plan: Plan,
    start: Start,
    checkpoint: Checkpoint | None,
    explained: Callable[[str], AbstractContextManager[None]],
    *,
    show_progress: bool,
) -> bool:
    """Train the stages from `start` on; whether all are trained, False if the user interrupted one."""
    pipeline = fitted.pipeline
    stages = list(pipeline.stages)
    first = stages.index(start.stage)
    for number, stage in list(enumerate(stages))[first:]:

        def save(state: StageState, stage: str = stage) -> None:
            progress = start._replace(stage=stage, state=state)._asdict()
            cast(Checkpoint, checkpoint).write({"fitted": fitted.payload(), **progress})

        earlier = None
        try:
            # Of a further training, which Ctrl-C before its first epoch must not leave half begun.
            earlier = copy.deepcopy(pipeline.objective(stage)) if stage in fitted.trained_stages else None
            interrupted, n_epochs = _fit_stage(
                fitted,
                cells,
                stage,
                plan,
                seed=plan.seed + number + start.seed_offset,
                save=None if checkpoint is None else save,
                resume=start.state if number == first else None,
                explained=explained,
                show_progress=show_progress,
            )
        except KeyboardInterrupt:
            # Outside the epochs, where Lightning does not see it.
            if not fitted.trained_stages or world_size() > 1:
                raise
            if earlier is not None:
                pipeline.objectives[stage] = earlier
            elif stage in pipeline.objectives:
                del pipeline.objectives[stage]
            interrupted, n_epochs = True, 0
        if interrupted:
            if not fitted.trained_stages:
                raise KeyboardInterrupt
            _say_what_is_kept(fitted, stage, n_epochs, plan.settings[stage])
            return False
    return True


def _fit_stage(
    fitted: Fitted,
    cells: Parts,
    stage: str,
    plan: Plan,
    *,
    seed: int,
    save: Callable[[StageState], None] | None,
    resume: StageState | None,
    explained: Callable[[str], AbstractContextManager[None]],
    show_progress: bool,
) -> tuple[bool, int]:
    """Train one stage; whether the user interrupted it, and how many epochs it has had."""
    pipeline = fitted.pipeline
    train, validation, unpaired = cells
    what = f"what stage {stage!r} needs of all its cells"
    with explained(what):
        seen = (pipeline.to_learn_from(stage, train), pipeline.to_learn_from(stage, validation))
    objective = pipeline.begin(stage)
    if given := pipeline.stages[stage].given:
        objective.follow([pipeline.objective(name) for name in given])
    settings = plan.settings[stage]
    if settings is None:
        with explained(what):
            used = unpaired if objective.uses_unpaired else ()
            result = fit_in_closed_form(objective, seen[0], [pipeline.to_learn_from(stage, part) for part in used])
    else:
        result = fit_stage(
            objective,
            seen,
            settings,
            name=stage,
            accelerator=plan.accelerator,
            devices=plan.devices,
            num_nodes=plan.num_nodes,
            seed=seed,
            show_progress=show_progress,
            save=save,
            resume=resume,
            trainer_kwargs=plan.trainer_kwargs,
        )
        if result.best_epoch < 0 and not result.interrupted:
            logger.info(
                f"stage {stage!r}: its epochs have gained too little, what was computed before them is kept"
                if len(result.history)
                else f"stage {stage!r}: computed, needs no training"
            )
    # Those of the next stage take as much.
    del seen
    with interrupts_held() as late:
        if stage in pipeline.conditions[-1:]:
            with explained(what):
                pipeline.fit_bridge(train)
        if len(result.history) or not result.interrupted:
            fitted.record(stage, result.history, result.seconds)
    return result.interrupted or bool(late), len(result.history)


def _say_what_is_kept(fitted: Fitted, stage: str, n_epochs: int, settings: StageSettings | None) -> None:
    """Say what an interrupted training has left, and take from it what was trained on codes that are others now."""
    stages = list(fitted.pipeline.stages)
    number = stages.index(stage)
    others = stages[number + 1 :] if n_epochs else stages[number:] if number else []
    stale = [name for name in others if name in fitted.trained_stages and fitted.pipeline.stages[name].given]
    fitted.trained_stages = [name for name in fitted.trained_stages if name not in stale]
    kept = "last" if settings is None or settings.patience is None else "best"
    lost = f" but those of {stale}, which were trained on earlier codes" if stale else ""
    logger.warning(
        f"training interrupted in stage {stage!r} after {n_epochs} epochs; the {kept} weights so far are kept{lost}, "
        "train() goes on from them."
    )
