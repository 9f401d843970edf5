"""Fit one stage with Lightning."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import pandas as pd
import torch
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from indiseek.data import OrderedBatches, RowBatches
from indiseek.objectives import Batch, Objective
from indiseek.train._callbacks import KeepBest, Progress
from indiseek.train._seed import seeded
from indiseek.train._stage import StageModule, StageSettings


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


def resolve_device(accelerator: str) -> torch.device:
    """Device that Lightning picks for `accelerator`.

    Parameters
    ----------
    accelerator
        ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, ... as Lightning names them.
    """
    with _quiet():
        trainer = lightning.Trainer(accelerator=accelerator, devices=1, **_NO_FILES)
    return trainer.strategy.root_device


def fit_stage(
    objective: Objective,
    cells: tuple[Batch, Batch],
    settings: StageSettings,
    *,
    name: str,
    batch_size: int,
    accelerator: str = "auto",
    seed: int = 0,
    show_progress: bool = True,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> StageResult:
    """Train `objective` in place and leave it with the weights of its best epoch, in eval mode.

    Parameters
    ----------
    objective
        What is trained.
    cells
        Training and validation cells.
    settings
        Learning rates, epochs, schedules.
    name
        Name of the stage, for the progress bar and messages.
    batch_size
        Cells in a step.
    accelerator
        As Lightning names them.
    seed
        Seed of the batches and of whatever the objective draws; the user's random state is left alone.
    show_progress
        Whether a progress bar is shown.
    trainer_kwargs
        Further arguments of :class:`lightning.pytorch.Trainer`.

    Raises
    ------
    FloatingPointError
        If a loss is not finite; names the terms.
    """
    train, validation = cells
    callbacks: list[lightning.Callback] = list((trainer_kwargs or {}).get("callbacks", ()))
    keep_best = None
    if settings.patience is not None:
        keep_best = KeepBest(patience=settings.patience, first_epoch=settings.settled_epoch)
        callbacks.append(keep_best)
    if show_progress:
        callbacks.append(Progress(name))
    module = StageModule(objective, train, validation, settings)
    options = {**_NO_FILES, **(trainer_kwargs or {}), "callbacks": callbacks}
    start = time.perf_counter()
    with torch.no_grad():
        objective.to(train.features[0].device).start(train)
    objective.train()
    with _quiet(), seeded(seed), _sigint_kept():
        trainer = lightning.Trainer(max_epochs=settings.max_epochs, accelerator=accelerator, devices=1, **options)
        device = trainer.strategy.root_device
        rows = RowBatches(
            train.n_cells, batch_size=batch_size, n_extra=settings.n_critic_steps, seed=seed, device=device
        )
        held_out = OrderedBatches(validation.n_cells, batch_size=batch_size, device=device)
        try:
            trainer.fit(module, rows, held_out)
        except SystemExit:
            if not trainer.interrupted:
                raise
    if keep_best is not None and keep_best.state is not None:
        objective.load_state_dict(keep_best.state)
    objective.to(device).eval()
    with torch.no_grad():
        objective.finish(train.to(device))
    history = pd.DataFrame(module.epochs).rename_axis("epoch")
    best_epoch = len(history) - 1 if keep_best is None or keep_best.state is None else keep_best.best_epoch
    return StageResult(history, best_epoch, time.perf_counter() - start, trainer.interrupted)


_NO_FILES: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


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
            yield
    finally:
        logger.setLevel(level)


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
