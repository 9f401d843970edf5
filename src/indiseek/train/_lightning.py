"""One LightningModule for every objective, and its callbacks: keep the best weights, hand out states, show progress.

Lightning calls ``on_validation_epoch_end`` of callbacks before that of the module, which reads the epoch's value;
``on_validation_end`` comes after both, and ``on_train_epoch_end`` last.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, TypedDict, cast

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from indiseek._streams import one_stream
from indiseek.data import CellTensors, OrderedBatches, RowBatches, progress
from indiseek.objectives import Objective, across_processes, gather_objects
from indiseek.train._guards import random_states, set_random_states
from indiseek.train._stage import StageSettings


class StageState(TypedDict):
    """State of a stage after an epoch, tensors and plain values only: what :func:`fit_stage` needs to go on.

    Attributes
    ----------
    objective, optimizers
        Their state dictionaries.
    epochs
        Means of each epoch so far.
    best
        Of early stopping: best value, its epoch and its weights; None without it.
    rows
        Random state of the batches.
    random
        Random states of each process: torch's on the CPU, and the GPU's.
    seconds
        Wall time so far.
    done
        Whether this was the last epoch.
    """

    objective: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    epochs: list[dict[str, float]]
    best: dict[str, Any] | None
    rows: Tensor
    random: list[list[Tensor]]
    seconds: float
    done: bool


def linear_ramp(progress: float, *, warmup: float, length: float) -> float:
    """Weight that is 0 during `warmup` and then rises linearly to 1 over `length`.

    Parameters
    ----------
    progress
        Epochs done, fractions included.
    warmup, length
        Epochs.
    """
    if progress < warmup:
        return 0.0
    return 1.0 if length <= 0 else min(1.0, (progress - warmup) / length)


class StageModule(lightning.LightningModule):
    """Trains one objective: critic steps, then an encoder step, on rows of device-resident tensors.

    Losses are summed on the device and read once an epoch.

    Parameters
    ----------
    objective
        What is trained.
    train, validation
        Cells of each part, on the device of training.
    settings
        Learning rates and schedules.
    resume
        State after an earlier epoch, to go on from.
    """

    def __init__(
        self,
        objective: Objective,
        train: CellTensors,
        validation: CellTensors,
        settings: StageSettings,
        resume: StageState | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.objective = objective
        self.settings = settings
        self.train_cells = train
        self.validation_cells = validation
        self.resume = resume
        self.epochs: list[dict[str, float]] = [] if resume is None else list(resume["epochs"])
        self.first_epoch = len(self.epochs)
        self.monitored = float("nan")
        self._sums: dict[str, Tensor] = {}
        self._n_steps = 0
        self._held_out: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)

    @property
    def epoch(self) -> int:
        """Number of the epoch that runs, those before an interruption included."""
        return self.first_epoch + self.current_epoch

    @property
    def shares_work(self) -> bool:
        """Whether several processes train together."""
        return self.trainer.world_size > 1

    def on_fit_start(self) -> None:
        """See whether all processes have the same cells."""
        if self.shares_work:
            self._check_cells()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Row numbers are made on the device."""
        del device, dataloader_idx
        return batch

    def configure_optimizers(self) -> list[Optimizer]:
        """AdamW for the encoders and, where there are any, for the critics."""
        fused = self.device.type in ("cpu", "cuda")
        encoders, critics = list(self.objective.encoder_parameters()), list(self.objective.critic_parameters())
        optimizers: list[Optimizer] = [
            AdamW(encoders, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=fused)
        ]
        if self.settings.n_critic_steps:
            optimizers.append(AdamW(critics, lr=self.settings.critic_lr, weight_decay=0.0, fused=fused))
        if self.resume is not None:
            for optimizer, state in zip(optimizers, self.resume["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        return optimizers

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums and set the learning rates."""
        self._sums = {}
        self._n_steps = 0
        if self.settings.cosine:
            factor = 0.5 * (1.0 + math.cos(math.pi * self.epoch / self.settings.max_epochs))
            for optimizer, lr in zip(self._optimizers(), (self.settings.lr, self.settings.critic_lr), strict=False):
                optimizer.param_groups[0]["lr"] = lr * factor

    def training_step(self, rows: tuple[Tensor, ...], batch_idx: int) -> None:
        """Critic steps on `rows[1:]`, then one encoder step on `rows[0]`."""
        with one_stream:
            self._training_step(rows, batch_idx)

    def _training_step(self, rows: tuple[Tensor, ...], batch_idx: int) -> None:
        encoder_optimizer, *critic_optimizers = self._optimizers()
        for critic_rows in rows[1:]:
            with self._across():
                critic_loss = self.objective.critic_loss(self.train_cells.take(critic_rows))
            if critic_loss is not None:
                self._step(critic_optimizers[0], critic_loss)
                self._accumulate({"critic_loss": critic_loss.detach()})
        progress = self.epoch + batch_idx / self.trainer.num_training_batches
        warmup, length = self.settings.warmup_epochs, self.settings.ramp_epochs
        self.objective.ramp = linear_ramp(progress, warmup=warmup, length=length)
        with _frozen(self.objective.critic_parameters()):
            with self._across():
                output = self.objective.loss(self.train_cells.take(rows[0]))
            self._step(encoder_optimizer, output.loss)
        self._accumulate({"loss": output.loss.detach(), **output.terms})
        self._n_steps += 1
        if self.device.type == "cpu":
            self._raise_if_diverged()

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's values."""
        self.objective.ramp = 1.0
        self._held_out = defaultdict(list)

    def validation_step(self, rows: Tensor, batch_idx: int) -> None:
        """Held-out terms of one batch, whole; the processes take turns."""
        if batch_idx % self.trainer.world_size != self.trainer.global_rank:
            return
        with one_stream:
            terms = self.objective.validate(self.validation_cells.take(rows))
        for name, value in terms.items():
            self._held_out[name].append((len(rows), value))

    def on_validation_epoch_end(self) -> None:
        """Read the epoch's means, once; they are the same in every process."""
        n = self.validation_cells.n_cells
        means = {
            name: torch.stack([k * value for k, value in parts]).sum() / n for name, parts in self._held_out.items()
        }
        if self.shares_work:
            self._sums = self._summed(self._sums, 1 / self.trainer.world_size)
            means = self._summed(means)
        self._raise_if_diverged(means)
        epoch = {f"train_{name}": float(total) / self._n_steps for name, total in self._sums.items()}
        epoch |= {f"validation_{name}": float(value) for name, value in means.items()}
        self.epochs.append(epoch)
        self.monitored = epoch[f"validation_{self.objective.monitor}"]

    def _across(self) -> AbstractContextManager[None]:
        return across_processes() if self.shares_work else nullcontext()

    def _summed(self, terms: Mapping[str, Tensor], factor: float = 1.0) -> dict[str, Tensor]:
        """Sums over processes; one without a held-out batch of its own has no terms."""
        summed: dict[str, Tensor] = {}
        for part in gather_objects({name: value.cpu() for name, value in terms.items()}):
            for name, value in part.items():
                summed[name] = factor * value + (summed[name] if name in summed else 0.0)
        return summed

    def _check_cells(self) -> None:
        cells = (self.train_cells, self.validation_cells)
        seen = [
            [float(torch.linalg.vector_norm(x.float())) for x in part.features + part.condition + part.labels]
            for part in cells
        ]
        seen.append([float(part.n_cells) for part in cells])
        for number, others in enumerate(gather_objects(seen)):
            # Machines may round in their own ways.
            if not all(len(a) == len(b) and np.allclose(a, b, rtol=1e-3) for a, b in zip(seen, others, strict=True)):
                raise ValueError(
                    f"expected the same cells in every process, got others in process {number} than in "
                    f"{self.trainer.global_rank}; give every process the same data, arguments and seed: each takes its "
                    "own share of every batch by itself."
                )

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.settings.max_gradient_norm is not None:
            parameters = optimizer.param_groups[0]["params"]
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_gradient_norm, foreach=True)
        optimizer.step()

    def _accumulate(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _raise_if_diverged(self, held_out: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        values = self._sums | {f"held-out {name}": value for name, value in held_out.items()}
        broken = [name for name, value in values.items() if not torch.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"expected finite losses, got {float(values[broken[-1]])} in {broken} in epoch "
                f"{self.epoch}; lower lr, or look for extreme values in the data."
            )


@contextmanager
def _frozen(parameters: Iterator[Parameter]) -> Iterator[None]:
    """Gradients pass through these parameters' networks, but are not computed for the parameters."""
    frozen = list(parameters)
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class KeepBest(lightning.Callback):
    """Keep the weights of the best epoch in memory, and stop when no better one comes.

    Parameters
    ----------
    patience
        Epochs without improvement before training stops.
    first_epoch
        First epoch that can be the best: before it the objective's terms do not have their full
        weight, so that its epochs answer another question.
    least_gain
        By how much the best epoch must be better than what there was before training to be kept. Where it is above 0,
        patience is not renewed by gains that add up to less than a twentieth of it.
    """

    def __init__(self, *, patience: int, first_epoch: int = 0, least_gain: float = 0.0) -> None:
        self.patience = patience
        self.first_epoch = first_epoch
        self.least_gain = least_gain
        self.best = self.renewed = float("inf")
        self.best_epoch = self.renewed_epoch = first_epoch
        self.state: dict[str, Tensor] | None = None
        self.start: dict[str, Any] | None = None

    def begin(self, objective: Objective, cells: CellTensors, batch_size: int) -> None:
        """Take what an objective is before training for the first value to beat, epoch -1."""
        objective.eval()
        parts = [
            len(rows) * objective.validate(cells.take(rows))[objective.monitor]
            for rows in OrderedBatches(cells.n_cells, batch_size=batch_size, device=cells.device)
        ]
        self.best, self.best_epoch = float(torch.stack(parts).sum() / cells.n_cells), -1
        self.renewed, self.renewed_epoch = self.best, -1
        self.state = copy.deepcopy(objective.state_dict())
        self.start = {"best": self.best, "state": self.state}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the monitored value with the best so far."""
        if not isinstance(pl_module, StageModule) or pl_module.epoch < self.first_epoch:
            return
        if pl_module.monitored < self.best:
            self.best, self.best_epoch = pl_module.monitored, pl_module.epoch
            self.state = copy.deepcopy(pl_module.objective.state_dict())
        if pl_module.monitored < self.renewed - self.least_gain / 20:
            self.renewed, self.renewed_epoch = pl_module.monitored, pl_module.epoch
        elif pl_module.epoch - self.renewed_epoch >= self.patience:
            trainer.should_stop = True

    def found(self) -> dict[str, Any]:
        """What :meth:`restore` takes."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "renewed": self.renewed,
            "renewed_epoch": self.renewed_epoch,
            "state": self.state,
            "start": self.start,
        }

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from an earlier state."""
        self.best, self.best_epoch, self.state = found["best"], found["best_epoch"], found["state"]
        # Checkpoints of earlier versions renewed patience with every gain.
        self.renewed, self.renewed_epoch = found.get("renewed", self.best), found.get("renewed_epoch", self.best_epoch)
        self.start = found.get("start")

    def settle(self) -> None:
        """Go back to what there was before training if that has gained too little."""
        if self.start is not None and self.start["best"] - self.best < self.least_gain:
            self.best, self.best_epoch, self.state = self.start["best"], -1, self.start["state"]


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
        most = module.settings.max_epochs
        # How many epochs a stage takes that stops early is not known before; a bar to the most would never fill.
        self.most = most if module.settings.patience is not None else None
        self.bar = progress(
            total=most if self.most is None else None,
            most=self.most,
            initial=module.first_epoch,
            desc=f"stage {self.stage}",
            unit="epoch",
            disable=not trainer.is_global_zero,
        )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Move it, with the held-out value beside it."""
        if isinstance(pl_module, StageModule):
            until = "" if self.most is None else f", until it does not fall, at most {self.most}"
            self.bar.set_postfix_str(f"held-out {pl_module.objective.monitor} {pl_module.monitored:.3f}{until}")
        self.bar.update()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close it, with the epochs that there were."""
        self.bar.total = self.bar.n
        self.bar.refresh()
        self.bar.close()
