"""Arrays as text that a page can hold: few bytes, and read by a browser without a library."""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

# The last value of a byte says that there is none.
MISSING = 255
# Of which 63 is a part, so that steps of a gene, too, are whole numbers.
LEVELS = 252
_PERCENTILES = (1.0, 99.0)


class Quantised(NamedTuple):
    """Numbers in 253 steps.

    Attributes
    ----------
    values
        ``(n_cells,)`` bytes from 0 to 252; 255 for a missing value.
    low, high
        Numbers that 0 and 252 stand for.
    clip
        Steps between which colours change: the 1st and 99th percentile.
    """

    values: NDArray[np.uint8]
    low: float
    high: float
    clip: tuple[int, int]


def quantised(values: NDArray[Any], *, n_levels: int = LEVELS) -> Quantised:
    """Numbers in steps so fine that no eye tells them apart.

    Parameters
    ----------
    values
        ``(n_cells,)``; NaN or infinite where there is none.
    n_levels
        Number of steps above the lowest, a part of 252; fewer can be packed smaller.
    """
    numbers = np.asarray(values, dtype=np.float64)
    there = np.isfinite(numbers)
    found = numbers[there]
    if not found.size:
        return Quantised(np.full(len(numbers), MISSING, dtype=np.uint8), 0.0, 0.0, (0, 0))
    low, high = float(found.min()), float(found.max())
    # Divided first, so that the difference of two large numbers is no infinity.
    step = high / n_levels - low / n_levels
    steps = np.full(len(numbers), MISSING, dtype=np.uint8)
    steps[there] = np.rint(found / step - low / step) * (LEVELS // n_levels) if step > 0 else 0
    below, above = (int(edge) for edge in np.percentile(steps[there], _PERCENTILES))
    if below == above:
        # A marker of few cells would vanish.
        below, above = 0, LEVELS if step > 0 else 0
    return Quantised(steps, low, high, (below, above))


def base64_of(array: NDArray[Any]) -> str:
    """Little-endian bytes of an array as base64."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


def squeezed(content: bytes) -> str:
    """Gzip of bytes as base64, the same for the same bytes."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def as_json(value: Any) -> Markup:
    """JSON that can stand in a script element, whatever text is in it; numbers that are not finite become null."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    return int(value) if isinstance(value, np.integer) else value
