"""A stage of training as a value: its objective, how it is fitted, what it is given, and the space it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from indiseek._checks import options_by_stage
from indiseek.objectives import Objective

PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How one stage is trained.

    Attributes
    ----------
    max_epochs
        Most passes over the training cells.
    batch_size
        Cells in a step, those of all processes together.
    patience
        Epochs without a better held-out value before training stops; None trains to the end.
    lr, critic_lr
        Learning rates of AdamW, of encoders and critics.
    weight_decay
        Decoupled weight decay of the encoders.
    n_critic_steps
        Critic steps, on batches of their own, before each encoder step.
    warmup_epochs
        Epochs in which the critics learn while the terms that use them are off.
    ramp_epochs
        Epochs over which these terms then rise to full weight.
    cosine
        Whether the learning rates fall to zero over `max_epochs` along a half cosine: an encoder and a
        critic that play against each other settle only when both slow down.
    max_gradient_norm
        Norm to which the gradient of a step is cut; None leaves it.
    """

    max_epochs: int
    batch_size: int = 512
    patience: int | None = None
    lr: float = 1e-3
    critic_lr: float = 2e-3
    weight_decay: float = 0.0
    n_critic_steps: int = 0
    warmup_epochs: int = 0
    ramp_epochs: int = 0
    cosine: bool = False
    max_gradient_norm: float | None = None

    @property
    def settled_epoch(self) -> int:
        """First epoch in which every term has its full weight."""
        return self.warmup_epochs + self.ramp_epochs


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a stage takes its gradient steps where the user says nothing else.

    Attributes
    ----------
    n_steps
        Most steps: few cells take more epochs for as many.
    stops_early
        Whether it ends when its held-out value does not fall any more.
    warmup, ramp
        Parts of the epochs, as in :class:`StageSettings`.
    patience_steps
        Steps that patience lasts at the least: epochs of few cells take few.
    batch_size, lr, critic_lr, weight_decay, n_critic_steps, cosine, max_gradient_norm
        As in :class:`StageSettings`.
    """

    n_steps: int
    batch_size: int = 512
    stops_early: bool = True
    lr: float = 1e-3
    critic_lr: float = 2e-3
    weight_decay: float = 0.0
    n_critic_steps: int = 0
    warmup: Fraction = Fraction(0)
    ramp: Fraction = Fraction(0)
    patience_steps: int = 0
    cosine: bool = False
    max_gradient_norm: float | None = None


class Space(NamedTuple):
    """Keys of ``.obsm`` under which a stage's codes are written; None for what is not written.

    Attributes
    ----------
    joint
        Of the joint code, in the MuData and in each modality.
    each
        Of a modality's code in the MuData, with ``{modality}`` for its name.
    own
        Of a modality's code in its own ``.obsm``.
    """

    joint: str | None = None
    each: str | None = None
    own: str | None = None


class Shapes(NamedTuple):
    """What networks need to know of the cells that they are made for.

    Attributes
    ----------
    n_features
        Number of features by modality, after the transforms.
    ranks
        Dimension of the space in which they lie, by modality.
    n_categories
        Number of categories by covariate, in the order of ``CellTensors.covariates``; 0 for one of numbers.
    n_train
        Number of training cells that the stage learns from.
    """

    n_features: dict[str, int]
    ranks: dict[str, int]
    n_categories: dict[str, int]
    n_train: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a model.

    Attributes
    ----------
    name
        Name by which users and files know it.
    objective
        Makes its networks.
    schedule
        How it takes its gradient steps. None for a stage in closed form: all that is fitted is fitted by
        ``objective.start`` from the training cells.
    given
        Names of earlier stages whose frozen codes are its condition.
    space
        What it writes.
    uses_covariates
        Whether its objective looks at ``CellTensors.covariates``.
    most_cells
        Most training cells that it learns from, and most validation cells; of more, so many are drawn. None for all.
    """

    name: str
    objective: Callable[[Shapes], Objective]
    schedule: Schedule | None
    given: tuple[str, ...] = ()
    space: Space = field(default_factory=Space)
    uses_covariates: bool = False
    most_cells: int | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Stage:
        # A value: whoever copies a trained state wants its weights.
        return self


def settings_of(
    stages: Sequence[Stage],
    n_train: int,
    *,
    max_epochs: int | Mapping[str, int] | None,
    batch_size: int | Mapping[str, int] | None,
    lr: float | Mapping[str, float] | None,
    weight_decay: float | Mapping[str, float] | None,
    early_stopping: bool | Mapping[str, bool],
    patience: int | Mapping[str, int] | None,
) -> dict[str, StageSettings | None]:
    """Settings of each stage: what the user says of all stages or of some by name, and the stages' own defaults.

    Parameters
    ----------
    stages
        The stages of a model; one in closed form has no settings.
    n_train
        Number of training cells.
    max_epochs, batch_size, lr, weight_decay, early_stopping, patience
        As in :meth:`indiseek.models.MultimodalModel.train`.

    Raises
    ------
    KeyError
        If a stage is unknown, or has no gradient steps.
    TypeError, ValueError
        If a value is no number, or out of range.
    """
    schedules = {stage.name: stage.schedule for stage in stages if stage.schedule is not None}
    n_cells = {stage.name: min(n_train, stage.most_cells or n_train) for stage in stages}
    checked = options_by_stage(
        {
            "max_epochs": (max_epochs, {"low": 1, "whole": True}),
            "batch_size": (batch_size, {"low": 2, "whole": True}),
            "lr": (lr, {"above": 0}),
            "weight_decay": (weight_decay, {"low": 0}),
            "early_stopping": (early_stopping, None),
            "patience": (patience, {"low": 1, "whole": True}),
        },
        list(schedules),
    )
    settings: dict[str, StageSettings | None] = dict.fromkeys((stage.name for stage in stages), None)
    for name, schedule in schedules.items():
        said = checked[name]
        size = said.get("batch_size", schedule.batch_size)
        epochs = said.get("max_epochs", max(1, round(schedule.n_steps * size / n_cells[name])))
        n_batches = max(1, n_cells[name] // size)
        patience_of = said.get("patience", max(PATIENCE, -(-schedule.patience_steps // n_batches)))
        # Said of all stages, it is said of those that can.
        stops = schedule.stops_early if early_stopping is True else said.get("early_stopping", schedule.stops_early)
        settings[name] = StageSettings(
            max_epochs=epochs,
            batch_size=size,
            patience=patience_of if stops else None,
            lr=said.get("lr", schedule.lr),
            critic_lr=schedule.critic_lr,
            weight_decay=said.get("weight_decay", schedule.weight_decay),
            n_critic_steps=schedule.n_critic_steps,
            warmup_epochs=int(schedule.warmup * epochs),
            ramp_epochs=int(schedule.ramp * epochs),
            cosine=schedule.cosine,
            max_gradient_norm=schedule.max_gradient_norm,
        )
    return settings
