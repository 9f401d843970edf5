"""Three verdicts of a reading with a standard error: below the limit, above it, or too few cells to tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._explained import Explained

Verdict = Literal["pass", "FAIL", "too few cells", "note"]

# With fewer, a standard error is no better known than what it is of.
LEAST_TO_PASS = 300
# Standard errors to either side of a 95 % interval.
NORMAL_95 = 1.96
# One draw in fifty passes by accident with a leak as large as the limit, and one in a hundred fails, because a FAIL is
# looked for twice, in the map and in the total.
BELOW, ABOVE = 2.05, 2.33
# Limits over standard errors at which a reading of 0 passes in about 80 % of draws.
CLEAN_PASS = 2.9
# Nobody collects more than so many times the cells for one verdict.
_LEAST_MORE = 1.2
_MANY_TIMES = 20


def at_most(
    value: float,
    se: float,
    limit: float,
    *,
    n_cells: int,
    above: tuple[float, float] | None = None,
    least: float = 0.0,
    min_cells: int = LEAST_TO_PASS,
) -> Verdict:
    """Whether a quantity lies below its limit.

    Parameters
    ----------
    value, se
        Estimate and standard error.
    limit
        Largest value accepted.
    n_cells
        Cells it was measured on.
    above
        Estimate and standard error for the question whether the limit is exceeded, by default the same.
    least
        Smallest value that the quantity can have: an estimate below it is an accident and helps nobody to pass.
    min_cells
        With fewer nothing passes, default 300.
    """
    over, over_se = (value, se) if above is None else above
    if over - ABOVE * over_se > limit:
        return "FAIL"
    if n_cells >= min_cells and max(value, least) + BELOW * se < limit:
        return "pass"
    return "too few cells"


def at_least(value: float, se: float, limit: float, *, n_cells: int, min_cells: int = LEAST_TO_PASS) -> Verdict:
    """Whether a quantity lies above its limit, by the same rule."""
    return at_most(-value, se, -limit, n_cells=n_cells, least=-math.inf, min_cells=min_cells)


def cells_for(reading: Explained, limit: float) -> int:
    """Cells with which a clean code would pass in about 80 % of draws, two digits; 0 if no number of cells tells."""
    n, null_se = reading.n_cells, reading.null_se
    if not math.isfinite(null_se):
        # No cells left for the products: what they cost as a rule, half of which the target's directions share.
        null_se = math.sqrt(reading.n_inputs * (reading.n_inputs + 5) * reading.concentration) / n
    wanted = max(float(LEAST_TO_PASS), CLEAN_PASS * n * null_se / limit)
    # The variance that a leak adds falls as 1 / n, not as 1 / n^2.
    wanted = max(wanted, 4 * limit * reading.concentration * (CLEAN_PASS / limit) ** 2)
    return two_digits(wanted)


def cells_to_tell(reading: Explained, limit: float) -> int:
    """Cells that would turn *too few cells* into a verdict, two digits; 0 if no reasonable number does.

    With fewer cells than a clean code needs it is that number; with more the reading lies near the limit, and its error
    has to fall, as one over the root of the cells, to the distance that is left.
    """
    clean = cells_for(reading, limit)
    if clean > reading.n_cells:
        return clean
    distance = reading.total - limit
    error = ABOVE * reading.guard if distance > 0 else BELOW * reading.se
    if not abs(distance) * math.sqrt(_MANY_TIMES) > error:
        return 0
    # A few cells more would only be another draw.
    return two_digits(reading.n_cells * max(_LEAST_MORE, (error / abs(distance)) ** 2))


def two_digits(cells: float) -> int:
    """A number of cells, rounded up to two digits."""
    if not math.isfinite(cells) or cells <= 0:
        return 0
    unit = 10 ** max(0, math.floor(math.log10(cells)) - 1)
    return math.ceil(cells / unit) * unit
