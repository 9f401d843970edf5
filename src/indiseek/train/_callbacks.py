"""Callbacks: keep the best weights, show progress.

Lightning calls ``on_validation_epoch_end`` of callbacks before that of the module, which reads the epoch's value;
``on_validation_end`` comes after both.
"""

from __future__ import annotations

import copy

import lightning.pytorch as lightning
from torch import Tensor
from tqdm import tqdm

from indiseek.train._stage import StageModule


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
        epoch = trainer.current_epoch
        if not isinstance(pl_module, StageModule) or epoch < self.first_epoch:
            return
        if pl_module.monitored < self.best:
            self.best, self.best_epoch = pl_module.monitored, epoch
            self.state = copy.deepcopy(pl_module.objective.state_dict())
        elif epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True


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
        self.bar = tqdm(total=trainer.max_epochs, desc=f"stage {self.stage}", unit="epoch")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Move it, with the held-out value beside it."""
        if isinstance(pl_module, StageModule):
            self.bar.set_postfix_str(f"held-out {pl_module.objective.monitor} {pl_module.monitored:.3f}")
        self.bar.update()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close it."""
        self.bar.close()
