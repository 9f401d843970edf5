"""Checks of what a user passes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {list(choices)}, got {value!r}; choose one of them.")


def check_range(
    name: str, value: float, *, low: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Raise ValueError if `value` is outside its range, or not a number."""
    # Written so that NaN fails too.
    if (low is not None and not value >= low) or (above is not None and not value > above):
        bound = f"of at least {low}" if low is not None else f"above {above}"
        raise ValueError(f"expected {name} {bound}, got {value}; choose a larger one.")
    if below is not None and not value < below:
        raise ValueError(f"expected {name} below {below}, got {value}; choose a smaller one.")


def check_processes(devices: int, num_nodes: int, strategy: Any) -> None:
    """Raise ValueError if `devices` or `num_nodes` is no number of processes, or they cannot train together."""
    for name, value in {"devices": devices, "num_nodes": num_nodes}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}; give their number.")
    if devices * num_nodes > 1 and strategy not in ("auto", "ddp"):
        raise ValueError(
            f"expected strategy='ddp' for several devices, got {strategy!r}; leave it out: the networks are small, and "
            "every device holds them whole."
        )


def by_stage(
    name: str, value: int | Mapping[str, int] | None, default: Mapping[str, int], *, low: int
) -> dict[str, int]:
    """One whole number for each stage, from what the user said and the defaults.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    value
        One number for all stages, numbers for some of them, or None.
    default
        Numbers by stage.
    low
        Least that is allowed.

    Raises
    ------
    KeyError
        If a stage is unknown.
    ValueError
        If a number is too small.
    """
    stages = list(default)
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - set(stages))
        if unknown:
            raise KeyError(f"expected {name} of the stages {stages}, got {unknown}; use their names.")
        result = {stage: value.get(stage, default[stage]) for stage in stages}
    else:
        result = {stage: default[stage] if value is None else value for stage in stages}
    for number in result.values():
        check_range(name, number, low=low)
    # Lightning refuses numpy's integers.
    return {stage: int(number) for stage, number in result.items()}


def candidates(name: str, values: ArrayLike, *, low: float, whole: bool = False) -> tuple[Any, ...]:
    """Values to try, each once, in the order given.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    values
        One number or several.
    low
        Least that is allowed.
    whole
        Whether they must be whole numbers.

    Raises
    ------
    ValueError
        If there is none, or one is too small or not whole.
    """
    numbers = np.atleast_1d(values).ravel()
    if numbers.size == 0:
        raise ValueError(f"expected at least one value of {name} to try, got none; give a list of numbers.")
    for number in numbers:
        check_range(name, number, low=low)
        if whole and number != round(number):
            raise ValueError(f"expected whole numbers for {name}, got {number}; round them.")
    return tuple(dict.fromkeys((numbers.astype(int) if whole else numbers.astype(float)).tolist()))


def split_arguments(
    train_size: float, validation_size: float, external_indexing: Sequence[ArrayLike] | None
) -> dict[str, Any]:
    """What a user asks of the split, by the names of the arguments of ``train``."""
    return {"train_size": train_size, "validation_size": validation_size, "external_indexing": external_indexing}
