"""Callbacks: keep the best weights, hand out the state of each epoch, show progress.

Lightning calls ``on_validation_epoch_end`` of callbacks before that of the module, which reads the epoch's value;
``on_validation_end`` comes after both, and ``on_train_epoch_end`` last.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, cast

import lightning.pytorch as lightning
from torch import Tensor
from tqdm import tqdm

from indiseek.data import RowBatches
from indiseek.objectives import gather_objects
from indiseek.train._guards import random_states, set_random_states
from indiseek.train._module import StageModule, StageState


class KeepBest(lightning.Callback):
    """Keep the weights of the best epoch in memory, and stop when no better one comes.

    Parameters
    ----------
    patience
        Epochs without improvement before training stops.
    first_epoch
        First epoch that can be the best: before it the objective's terms do not have their full
        weight, so that its epochs answer another question.
    """

    def __init__(self, *, patience: int, first_epoch: int = 0) -> None:
        self.patience = patience
        self.first_epoch = first_epoch
        self.best = float("inf")
        self.best_epoch = first_epoch
        self.state: dict[str, Tensor] | None = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the monitored value with the best so far."""
        if not isinstance(pl_module, StageModule) or pl_module.epoch < self.first_epoch:
            return
        if pl_module.monitored < self.best:
            self.best, self.best_epoch = pl_module.monitored, pl_module.epoch
            self.state = copy.deepcopy(pl_module.objective.state_dict())
        elif pl_module.epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def found(self) -> dict[str, Any]:
        """What :meth:`restore` takes."""
        return {"best": self.best, "best_epoch": self.best_epoch, "state": self.state}

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from an earlier state."""
        self.best, self.best_epoch, self.state = found["best"], found["best_epoch"], found["state"]


class EveryEpoch(lightning.Callback):
    """Hand out the state after each epoch, and take up the random state of an earlier one.

    Parameters
    ----------
    save
        Called with the state, in the first process only; None where nobody wants it.
    keep_best
        Callback of early stopping, if there is one.
    resume
        State to go on from.
    """

    def __init__(
        self,
        save: Callable[[StageState], None] | None,
        keep_best: KeepBest | None,
        resume: StageState | None,
    ) -> None:
        self.save, self.keep_best, self.resume = save, keep_best, resume
        self.start = time.perf_counter() - (0.0 if resume is None else resume["seconds"])

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw what an uninterrupted training would draw."""
        if self.resume is not None and trainer.current_epoch == 0:
            set_random_states(self.resume["random"][trainer.global_rank], pl_module.device)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hand out the state."""
        if self.save is None:
            return
        module = cast(StageModule, pl_module)
        own = random_states(module.device)
        random = gather_objects(own) if module.shares_work else [own]
        if trainer.is_global_zero:
            self.save(
                StageState(
                    objective=module.objective.state_dict(),
                    optimizers=[optimizer.state_dict() for optimizer in trainer.optimizers],
                    epochs=module.epochs,
                    best=None if self.keep_best is None else self.keep_best.found(),
                    rows=cast(RowBatches, trainer.train_dataloader).state,
                    random=random,
                    seconds=time.perf_counter() - self.start,
                    done=trainer.should_stop or module.epoch + 1 == module.settings.max_epochs,
                )
            )


class Progress(lightning.Callback):
    """One progress bar a stage that moves with the epochs.

    Parameters
    ----------
    stage
        Name that the bar carries.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the bar."""
        module = cast(StageModule, pl_module)
        self.bar = tqdm(
            total=module.settings.max_epochs,
            initial=module.first_epoch,
            desc=f"stage {self.stage}",
            unit="epoch",
            disable=not trainer.is_global_zero,
        )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Move it, with the held-out value beside it."""
        if isinstance(pl_module, StageModule):
            self.bar.set_postfix_str(f"held-out {pl_module.objective.monitor} {pl_module.monitored:.3f}")
        self.bar.update()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close it."""
        self.bar.close()
