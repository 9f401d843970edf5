"""How the stages are trained by default: what the models share, and what IndiSeek takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from indiseek.models._arguments import by_stage
from indiseek.train import StageSettings


class StageDefaults(NamedTuple):
    """Cells in a step, and steps: few cells take more epochs for as many steps."""

    batch_size: int
    n_steps: int


PATIENCE = 10
N_CRITIC_STEPS = 2

# Stage 1 usually stops earlier.
DEFAULTS = {
    "shared": StageDefaults(batch_size=512, n_steps=4000),
    "nce-club": StageDefaults(batch_size=512, n_steps=2000),
    "flow": StageDefaults(batch_size=512, n_steps=600),
}


def epochs_and_sizes(
    defaults: Mapping[str, StageDefaults],
    n_train: int,
    *,
    max_epochs: int | Mapping[str, int] | None,
    batch_size: int | Mapping[str, int] | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Epochs and batch size of each stage: by default as many epochs as its steps take.

    Parameters
    ----------
    defaults
        By stage.
    n_train
        Number of training cells.
    max_epochs, batch_size
        Values of :func:`indiseek.models._arguments.by_stage`, which raises for what is wrong with them.
    """
    sizes = by_stage("batch_size", batch_size, {name: d.batch_size for name, d in defaults.items()}, low=2)
    default_epochs = {name: max(1, round(d.n_steps * sizes[name] / n_train)) for name, d in defaults.items()}
    return by_stage("max_epochs", max_epochs, default_epochs, low=1), sizes


def shared_settings(max_epochs: int, patience: int | None, given: Mapping[str, Any]) -> StageSettings:
    """Stage 1: constant learning rate until held-out InfoNCE stops falling.

    Parameters
    ----------
    max_epochs, patience
        As in :class:`indiseek.train.StageSettings`.
    given
        What the user chose of ``lr``, ``critic_lr`` and ``weight_decay``.
    """
    return replace(StageSettings(max_epochs=max_epochs, patience=patience), **given)


def specific_settings(method: str, max_epochs: int, n_critic_steps: int, given: Mapping[str, Any]) -> StageSettings:
    """Stage 2: the learning rates fall along a cosine, and nothing stops earlier.

    Parameters
    ----------
    method
        ``"flow"`` or ``"nce-club"``. The former leaks more where it is stopped, or taken from an earlier epoch,
        while its learning rate is still high; weight decay keeps it from memorising instead. The latter's
        held-out reconstruction gets better for as long as independence gets worse.
    max_epochs, n_critic_steps
        As in :class:`indiseek.train.StageSettings`.
    given
        What the user chose of ``lr``, ``critic_lr`` and ``weight_decay``.
    """
    settings = StageSettings(max_epochs=max_epochs, cosine=True)
    if method == "flow":
        settings = replace(settings, lr=2e-2, weight_decay=1.0, max_gradient_norm=5.0)
    else:
        settings = replace(
            settings,
            lr=1e-3,
            critic_lr=4e-3,
            n_critic_steps=n_critic_steps,
            warmup_epochs=max_epochs // 40,
            ramp_epochs=max_epochs // 20,
        )
    return replace(settings, **given)


def schedule(
    method: str,
    stages: Sequence[str],
    n_train: int,
    *,
    max_epochs: int | Mapping[str, int] | None = None,
    batch_size: int | Mapping[str, int] | None = None,
    patience: int | None,
    n_critic_steps: int,
    given: Mapping[str, Any],
) -> tuple[dict[str, StageSettings], dict[str, int]]:
    """Settings and batch size of each stage, from what the user said and the defaults.

    Parameters
    ----------
    method
        ``"flow"`` or ``"nce-club"``.
    stages
        Names of the stages, the specific one last.
    n_train
        Number of training cells.
    max_epochs, batch_size
        As in :func:`epochs_and_sizes`, which raises for what is wrong with them.
    patience, n_critic_steps, given
        As in :func:`shared_settings` and :func:`specific_settings`.
    """
    defaults = {stage: DEFAULTS[method if stage == "specific" else "shared"] for stage in stages}
    epochs, sizes = epochs_and_sizes(defaults, n_train, max_epochs=max_epochs, batch_size=batch_size)
    settings = {name: shared_settings(epochs[name], patience, given) for name in stages[:-1]}
    settings["specific"] = specific_settings(method, epochs["specific"], n_critic_steps, given)
    return settings, sizes
