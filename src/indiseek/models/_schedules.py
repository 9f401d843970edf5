"""How IndiSeek trains each stage by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from indiseek.train import StageSettings


class StageDefaults(NamedTuple):
    """Cells in a step, and steps: few cells take more epochs for as many steps."""

    batch_size: int
    n_steps: int


# Stage 1 usually stops earlier.
DEFAULTS = {
    "shared": StageDefaults(batch_size=512, n_steps=4000),
    "nce-club": StageDefaults(batch_size=512, n_steps=900),
    "flow": StageDefaults(batch_size=256, n_steps=800),
}


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


def specific_settings(
    method: str, max_epochs: int, patience: int | None, n_critic_steps: int, given: Mapping[str, Any]
) -> StageSettings:
    """Stage 2: the learning rates fall along a cosine.

    Parameters
    ----------
    method
        ``"flow"`` or ``"nce-club"``. The latter has no early stopping: its held-out reconstruction gets
        better for as long as independence gets worse.
    max_epochs, patience, n_critic_steps
        As in :class:`indiseek.train.StageSettings`.
    given
        What the user chose of ``lr``, ``critic_lr`` and ``weight_decay``.
    """
    settings = StageSettings(max_epochs=max_epochs, cosine=True)
    if method == "flow":
        settings = replace(settings, patience=patience, weight_decay=1e-4, max_gradient_norm=5.0)
    else:
        settings = replace(
            settings,
            lr=2e-3,
            critic_lr=4e-3,
            n_critic_steps=n_critic_steps,
            warmup_epochs=max_epochs // 40,
            ramp_epochs=max_epochs // 20,
        )
    return replace(settings, **given)
