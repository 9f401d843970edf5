from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

_DEFAULT_NAMES = ("rna", "prot")

Sizes = Mapping[str, int] | Sequence[int]


def check_int(value: int, name: str, minimum: int) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``minimum``, else raise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"expected {name} to be an integer >= {minimum}, got {value!r}; give one.")
    return int(value)


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(value: float, name: str, *, zero: bool = False) -> float:
    """Return ``value`` if it is finite and positive (or zero, where that is allowed), else raise."""
    if not is_number(value) or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"expected {name} to be a finite number {'>= 0' if zero else '> 0'}, got {value!r}; give one.")
    return float(value)


def modality_names(*sizes: Sizes) -> tuple[str, ...]:
    """Names of the modalities: those of the first mapping, else rna and prot."""
    names = next((tuple(value) for value in sizes if isinstance(value, Mapping)), _DEFAULT_NAMES)
    if len(names) < 2:
        raise ValueError(f"expected at least two modalities, got {list(names)}; name both.")
    return names


def sizes_by_name(sizes: Sizes, argument: str, names: Sequence[str], *, minimum: int) -> dict[str, int]:
    """One checked size for each of ``names``; a plain sequence follows their order."""
    if isinstance(sizes, Mapping):
        if set(sizes) != set(names):
            raise ValueError(
                f"expected {argument} to have the modalities {list(names)}, got {list(sizes)}; use their names."
            )
        by_name = {name: sizes[name] for name in names}
    elif isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise ValueError(
            f"expected {argument} to have one entry for each of {list(names)}, got {sizes!r}; pass a sequence or a "
            "mapping."
        )
    elif len(sizes) == len(names):
        by_name = dict(zip(names, sizes, strict=True))
    else:
        raise ValueError(
            f"expected {argument} to have one entry for each of {list(names)}, got {len(sizes)}; "
            "pass a mapping to name the modalities"
        )
    return {name: check_int(n, f"{argument}[{name!r}]", minimum) for name, n in by_name.items()}
