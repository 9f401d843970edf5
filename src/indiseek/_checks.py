"""Checks of what a user passes in, in one form: what was expected, what came, what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# What every library that draws takes.
_HIGHEST_SEED = 2**32 - 1


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError if `value` is not one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"expected {name} to be one of {list(choices)}, got {value!r}; choose one of them.")


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Raise if `value` is no finite number in its range.

    Parameters
    ----------
    name
        Name of the argument, for the message.
    value
        What the user gave.
    low, high
        Least and greatest value that is allowed.
    above, below
        Values between which it must lie, themselves not allowed.
    whole
        Whether it must be a whole number.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not finite, not whole where it must be, or out of range.
    """
    kind = "a whole number" if whole else "a number"
    bounds = [f"{word} {bound:g}" for word, bound in _bounds(low, above, high, below)]
    wanted = " ".join([kind, " and ".join(bounds)]) if bounds else kind
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected {name} to be {wanted}, got {value!r} of type {type(value).__name__}; give a number.")
    if whole and not isinstance(value, Integral):
        raise ValueError(f"expected {name} to be {wanted}, got {value}; round it.")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected {name} to be {wanted}, got {value}; give a finite one.")
    if (low is not None and number < low) or (above is not None and number <= above):
        raise ValueError(f"expected {name} to be {wanted}, got {value}; choose a larger one.")
    if (high is not None and number > high) or (below is not None and number >= below):
        raise ValueError(f"expected {name} to be {wanted}, got {value}; choose a smaller one.")


def check_seed(name: str, value: object) -> None:
    """Raise if `value` is no whole number that can be a seed: TypeError for no number, else ValueError."""
    check_number(name, value, low=0, whole=True)
    if int(value) > _HIGHEST_SEED:  # type: ignore[call-overload]
        raise ValueError(f"expected {name} of at most {_HIGHEST_SEED}, got {value}; choose a smaller one.")


def check_path(name: str, value: object) -> Path:
    """Path that a user gave.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it is empty.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(
            f"expected {name} to be a path, got {value!r} of type {type(value).__name__}; give a str or a pathlib.Path."
        )
    if not os.fspath(value):
        raise ValueError(f"expected {name} to be a path, got an empty one; give '.' for the current directory.")
    return Path(value)


def check_mapping(name: str, value: object, what: str) -> None:
    """Raise TypeError if `value` is no mapping; `what` says of what, such as ``"transforms by modality"``."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"expected {name} to be a dict of {what}, got {value!r} of type {type(value).__name__}; give a dict."
        )


def check_strings(name: str, value: object) -> tuple[str, ...]:
    """Names that a user gave, as a tuple; TypeError if they are no sequence of strings."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"expected {name} to be a list of names, got {value!r}; write a list such as ['{value}'].")
    found = tuple(value)
    wrong = [each for each in found if not isinstance(each, str)]
    if wrong:
        raise TypeError(f"expected {name} to be a list of names, got {wrong[0]!r} in it; give strings.")
    return tuple(map(str, found))


def printable(text: str) -> str:
    """Text from the data as a terminal may have it: without what would move its cursor or change its colours."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def check_flag(name: str, value: object) -> None:
    """Raise TypeError if `value` is neither True nor False."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"expected {name} to be True or False, got {value!r}; give one of them.")


def check_flags(flags: Mapping[str, object]) -> None:
    """:func:`check_flag` of several, by name."""
    for name, value in flags.items():
        check_flag(name, value)


def check_widths(name: str, widths: Iterable[int]) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple of ints.

    Raises
    ------
    TypeError
        If `widths` is not a sequence of numbers.
    ValueError
        If one is not a whole number of at least 1.
    """
    if isinstance(widths, str | bytes) or not isinstance(widths, Iterable):
        raise TypeError(f"expected {name} to be a sequence of whole numbers, got {widths!r}; for example (256, 256).")
    found = tuple(widths)
    for width in found:
        check_number(f"widths in {name}", width, low=1, whole=True)
    return tuple(int(width) for width in found)


def by_name(name: str, value: T | Mapping[str, T], keys: Sequence[str], *, what: str) -> dict[str, T]:
    """One value for each key: the same for all, or those of a mapping that has all of them.

    Parameters
    ----------
    name
        Name of the argument, for the message.
    value
        One value, or a mapping.
    keys
        Names of which each needs a value.
    what
        What the names are of, such as ``"modalities"``.

    Raises
    ------
    KeyError
        If the mapping has other keys.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(keys, value)
    if set(value) != set(keys):
        raise KeyError(f"expected {name} of the {what} {list(keys)}, got {list(value)}; name each of them.")
    return {key: value[key] for key in keys}


def options_by_stage(
    options: Mapping[str, tuple[Any, Mapping[str, Any] | None]], stages: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What the user says of each stage, where one value is for every stage and a mapping gives some by name.

    Parameters
    ----------
    options
        By name of the argument: what the user gave, None for nothing, and the bounds of :func:`check_number`; None for
        an option that is True or False.
    stages
        Names of the stages.

    Returns
    -------
    By stage, then by argument; without what the user says nothing of.

    Raises
    ------
    KeyError
        If a stage is unknown.
    TypeError, ValueError
        If a value is no number or flag, or out of range.
    """
    found: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
    for name, (given, bounds) in options.items():
        if isinstance(given, Mapping) and (unknown := sorted(set(given) - set(stages), key=str)):
            raise KeyError(f"expected {name} of the stages {list(stages)}, got {unknown}; use their names.")
        for stage in stages:
            value = given.get(stage) if isinstance(given, Mapping) else given
            if value is None:
                continue
            if bounds is None:
                check_flag(name, value)
                found[stage][name] = bool(value)
            else:
                check_number(name, value, **bounds)
                # Lightning refuses numpy's integers.
                found[stage][name] = int(value) if bounds.get("whole") else float(value)
    return found


def _bounds(low: float | None, above: float | None, high: float | None, below: float | None) -> list[tuple[str, float]]:
    words = {"of at least": low, "above": above, "of at most": high, "below": below}
    return [(word, bound) for word, bound in words.items() if bound is not None]
