"""Fit one stage with Lightning."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import pandas as pd
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from indiseek.data import CellTensors, OrderedBatches, RowBatches
from indiseek.objectives import Objective, gather_objects
from indiseek.train._guards import interrupts_held, memory_explained, memory_of_all_explained, seeded
from indiseek.train._lightning import EveryEpoch, KeepBest, Progress, StageModule, StageState
from indiseek.train._stage import StageSettings


@dataclass(frozen=True)
class StageResult:
    """What a fit of one stage gives back.

    Attributes
    ----------
    history
        ``(n_epochs, n_terms)``: means of each epoch.
    best_epoch
        Row of `history` whose weights the objective now has.
    seconds
        Wall time.
    interrupted
        Whether the user stopped it (Ctrl-C).
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float
    interrupted: bool


class Process(NamedTuple):
    """One of the processes that train together, and where.

    Attributes
    ----------
    device
        Its device.
    rank
        Its number; the first one writes files.
    world_size
        How many processes train together.
    """

    device: torch.device
    rank: int
    world_size: int


def resolve_process(accelerator: str, *, devices: int | Sequence[int] = 1, num_nodes: int = 1) -> Process:
    """Where Lightning puts this process.

    Parameters
    ----------
    accelerator
        ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, ... as Lightning names them.
    devices
        Number of devices of each machine, or the number of each, such as ``[1]`` for the second.
    num_nodes
        Number of machines.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    try:
        with _quiet():
            trainer = lightning.Trainer(
                accelerator=accelerator,
                devices=devices if isinstance(devices, int) else list(devices),
                num_nodes=num_nodes,
                **{**_NO_FILES, **_strategy(devices, num_nodes)},
            )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        what = f"accelerator={accelerator!r}" if devices == 1 else f"accelerator={accelerator!r}, devices={devices!r}"
        named = re.fullmatch(r"(cuda|gpu):(\d+)", str(accelerator))
        advice = (
            f"pass accelerator='gpu', devices=[{named[2]}]."
            if named
            else "pass accelerator='auto', which takes what there is, or accelerator='cpu'."
        )
        raise ValueError(
            f"expected a device that this machine has, got {what} ({' '.join(str(error).split())}); {advice}"
        ) from error
    return Process(trainer.strategy.root_device, trainer.global_rank, trainer.world_size)


def check_trainer(
    given: Mapping[str, Any], accelerator: str, *, devices: int | Sequence[int] = 1, num_nodes: int = 1
) -> None:
    """Raise for further arguments that a Trainer would refuse, before any work.

    Parameters
    ----------
    given
        The arguments.
    accelerator, devices, num_nodes
        As in :func:`resolve_process`.

    Raises
    ------
    TypeError
        If callbacks are none.
    ValueError
        If another argument is refused.
    """
    options = {**_NO_FILES, **given, **_strategy(devices, num_nodes), "callbacks": _callbacks_of(given)}
    if isinstance(options["logger"], str):
        raise TypeError(f"expected a logger of lightning.pytorch, got {options['logger']!r}; give one, or True.")
    try:
        with _quiet(), _torch_flags_kept():
            lightning.Trainer(
                accelerator=accelerator,
                devices=devices if isinstance(devices, int) else list(devices),
                num_nodes=num_nodes,
                **options,
            )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError, AttributeError) as error:
        raise ValueError(
            f"expected arguments that lightning.pytorch.Trainer takes, got {sorted(given)} "
            f"({' '.join(str(error).split())}); see what it says of them, or leave them out."
        ) from error


def _callbacks_of(given: Mapping[str, Any]) -> list[lightning.Callback]:
    """Callbacks of the user, of whom Lightning takes one alone, a list, or None."""
    callbacks = given.get("callbacks")
    found = list(callbacks) if isinstance(callbacks, list | tuple) else [] if callbacks is None else [callbacks]
    for callback in found:
        if not isinstance(callback, lightning.Callback):
            raise TypeError(
                f"expected callbacks of lightning.pytorch, got {callback!r} of type {type(callback).__name__}; give a "
                "list of them."
            )
    return found


def resolve_device(accelerator: str) -> torch.device:
    """Device that Lightning picks for `accelerator`.

    Parameters
    ----------
    accelerator
        As in :func:`resolve_process`.
    """
    return resolve_process(accelerator).device


def fit_stage(
    objective: Objective,
    cells: tuple[CellTensors, CellTensors],
    settings: StageSettings,
    *,
    name: str,
    accelerator: str = "auto",
    devices: int | Sequence[int] = 1,
    num_nodes: int = 1,
    seed: int = 0,
    show_progress: bool = True,
    save: Callable[[StageState], None] | None = None,
    resume: StageState | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> StageResult:
    """Train `objective` in place and leave it with the weights of its best epoch, in eval mode.

    One that starts fitted and needs no steps is left as it starts, with an empty history.

    Parameters
    ----------
    objective
        What is trained.
    cells
        Training and validation cells.
    settings
        Batch size, learning rates, epochs, schedules.
    name
        Name of the stage, for the progress bar and messages.
    accelerator
        As Lightning names them.
    devices, num_nodes
        Devices of each machine, as in :func:`resolve_process`, and number of machines; each device has a process
        of its own. In each of them this function is called with the same arguments, and leaves the same weights.
    seed
        Seed of the batches and of whatever the objective draws; the user's random state is left alone.
    show_progress
        Whether a progress bar is shown.
    save
        Called with the state after each epoch, in the first process only.
    resume
        Such a state, to go on from; the result is that of an uninterrupted fit.
    trainer_kwargs
        Further arguments of :class:`lightning.pytorch.Trainer`.

    Raises
    ------
    FloatingPointError
        If a loss is not finite; names the terms.
    MemoryError
        If a step does not fit into memory, where it names a batch size to try; or all cells, or what is computed from
        all of them at once, do not.
    KeyboardInterrupt
        If the user stopped one of several processes.
    RuntimeError
        If something ended the stage before its first epoch was over.
    ValueError
        If the processes do not have the same cells.
    """
    callbacks = _callbacks_of(trainer_kwargs or {})
    train, validation = cells
    n_train, n_validation = train.n_cells, validation.n_cells
    keep_best = None
    if settings.patience is not None:
        keep_best = KeepBest(
            patience=settings.patience, first_epoch=settings.settled_epoch, least_gain=objective.least_gain
        )
        callbacks.append(keep_best)
    if show_progress:
        callbacks.append(Progress(name))
    callbacks.append(EveryEpoch(save, keep_best, resume))
    module = StageModule(objective, train, validation, settings, resume)
    n_cells, n_features = n_train + n_validation, sum(x.shape[1] for x in train.features)
    all_explained = partial(memory_of_all_explained, f"what stage {name!r} needs of all its cells", n_cells, n_features)
    strategy = _strategy(devices, num_nodes, objective)
    options = {**_NO_FILES, **(trainer_kwargs or {}), **strategy, "callbacks": callbacks}
    start = time.perf_counter()
    device = train.features[0].device
    with all_explained(device), torch.no_grad():
        objective.to(device)
        if resume is None:
            objective.start(train)
        else:
            objective.load_state_dict(resume["objective"])
        to_beat = keep_best if resume is None and objective.starts_fitted else None
        if to_beat is not None and not objective.needs_steps(train, validation):
            objective.eval().finish(train)
            return _without_steps(start)
        train, validation = objective.prepared(train), objective.prepared(validation)
        if to_beat is not None:
            to_beat.begin(objective, validation, settings.batch_size)
    if resume is not None:
        if keep_best is not None and resume["best"] is not None:
            keep_best.restore(resume["best"])
        start -= resume["seconds"]
    objective.train()
    with _quiet(), _sigint_kept(), _torch_flags_kept(), seeded(seed):
        trainer = lightning.Trainer(
            max_epochs=settings.max_epochs - module.first_epoch,
            accelerator=accelerator,
            devices=devices if isinstance(devices, int) else list(devices),
            num_nodes=num_nodes,
            **options,
        )
        process = Process(trainer.strategy.root_device, trainer.global_rank, trainer.world_size)
        if process.rank:
            # Each process draws noise of its own for its share of the cells.
            torch.manual_seed(seed + _RANK_STRIDE * process.rank)
        rows = RowBatches(
            n_train,
            batch_size=settings.batch_size,
            n_extra=settings.n_critic_steps,
            seed=seed,
            device=process.device,
            rank=process.rank,
            world_size=process.world_size,
        )
        held_out = OrderedBatches(n_validation, batch_size=settings.batch_size, device=process.device)
        if resume is not None:
            rows.state = resume["rows"]
        with all_explained(process.device):
            module.train_cells, module.validation_cells = train.to(process.device), validation.to(process.device)
        advice = f"try train(batch_size={{{name!r}: {max(2, rows.batch_size // 2)}}})"
        try:
            if resume is None or not resume["done"]:
                with memory_explained(f"batches of {rows.batch_size} cells of stage {name!r}", process.device, advice):
                    trainer.fit(module, rows, held_out)
        except SIGTERMException:
            raise
        except SystemExit as error:
            if not trainer.interrupted:
                raise
            if process.world_size > 1:
                # The others may be anywhere by now.
                raise KeyboardInterrupt from error
    with interrupts_held() as late:
        if keep_best is not None and keep_best.state is not None:
            keep_best.settle()
            objective.load_state_dict(keep_best.state)
        with all_explained(process.device), torch.no_grad():
            objective.to(process.device).eval()
            objective.finish(module.train_cells)
        if process.world_size > 1:
            objective.load_state_dict(gather_objects({k: v.cpu() for k, v in objective.state_dict().items()})[0])
    # Lightning's objects refer to each other in circles and would hold the cells until they are collected.
    del module.train_cells, module.validation_cells
    if not module.epochs and not trainer.interrupted:
        raise RuntimeError(
            f"expected stage {name!r} to be trained for an epoch, got none, although nobody stopped it; leave out "
            "arguments of the Trainer and callbacks that end it."
        )
    history = pd.DataFrame(module.epochs).rename_axis("epoch")
    best_epoch = len(history) - 1 if keep_best is None or keep_best.state is None else keep_best.best_epoch
    return StageResult(history, best_epoch, time.perf_counter() - start, trainer.interrupted or bool(late))


def fit_in_closed_form(objective: Objective, train: CellTensors, unpaired: Sequence[CellTensors] = ()) -> StageResult:
    """Fit an objective without gradient steps: by what it does before and after them.

    Parameters
    ----------
    objective
        What is fitted, on the device of the cells.
    train
        All training cells that have every modality.
    unpaired
        Those that have one, a bundle for each modality.
    """
    start = time.perf_counter()
    with torch.no_grad():
        if unpaired:
            objective.start_with(train, unpaired)
        else:
            objective.start(train)
        objective.eval().finish(train)
    return _without_steps(start)


def _without_steps(start: float) -> StageResult:
    """Result of a stage that began at `start` and took no gradient steps."""
    return StageResult(pd.DataFrame().rename_axis("epoch"), -1, time.perf_counter() - start, interrupted=False)


# Far from the seeds of neighbouring stages and fits.
_RANK_STRIDE = 1_000_003
_NO_FILES: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def _strategy(devices: int | Sequence[int], num_nodes: int, objective: Objective | None = None) -> dict[str, Any]:
    """Argument of the Trainer for several processes; none for one."""
    if (devices if isinstance(devices, int) else len(devices)) * num_nodes == 1:
        return {}
    # Critic steps give the encoders no gradient, and encoder steps the critics none. Buffers are the same everywhere.
    has_critics = objective is not None and next(objective.critic_parameters(), None) is not None
    return {"strategy": DDPStrategy(find_unused_parameters=has_critics, broadcast_buffers=False)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on loaders and hardware, and those of torch on Lightning's own code."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            # Lightning's own use of a class that newer torch deprecates.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # Its new name does not exist in older torch.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _torch_flags_kept() -> Iterator[None]:
    """The Trainer sets torch's flags for ``deterministic`` and ``benchmark`` and leaves them so."""
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        (torch.is_deterministic_algorithms_warn_only_enabled()),
    )
    benchmark = torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        else:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """Lightning ignores further Ctrl-C after the first one and never undoes that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
