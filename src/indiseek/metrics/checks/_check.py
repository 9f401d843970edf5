"""What a check is: a name, what is measured, how it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds
    from indiseek.metrics._verdict import Verdict


@dataclass(frozen=True)
class Finding:
    """One line of a certificate.

    Attributes
    ----------
    check, modality, target
        Which check, of whose codes, against what.
    verdict
        ``"pass"``, ``"FAIL"``, ``"too few cells"``, or ``"note"`` for what is told and not judged.
    words
        The sentence that says so, without a full stop.
    value, low, high, limit
        What was found with its 95 % interval, and the limit of the verdict; NaN where there is none.
    n_cells, cells_needed
        Cells it was measured on, and how many would do where they are too few (0 otherwise).
    advice
        What to do if the verdict is not pass; empty otherwise.
    """

    check: str
    modality: str
    target: str
    verdict: Verdict
    words: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    limit: float = math.nan
    n_cells: int = 0
    cells_needed: int = 0
    advice: str = ""


class Check(Protocol):
    """One row of the certificate, in a file of its own.

    To add a row, write a file with a class like this in ``metrics/checks/`` and put an instance into ``CHECKS``: the
    table, the summary, the JSON and the plot follow.
    """

    @property
    def name(self) -> str:
        """What the check and its table are called."""
        ...

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """Measure: one row a reading, empty where the check does not apply.

        Parameters
        ----------
        cells
            Features and codes of the held-out cells.
        limits
            Limits of the verdicts, for what is measured against them.
        """
        ...

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """Judge one row of the table (a named tuple), or None where it is only shown.

        Parameters
        ----------
        row
            The row.
        limits
            Limits of the verdicts.
        """
        ...


class PooledCheck(Check, Protocol):
    """A check that can be told of several fits at once, each with held-out cells of its own."""

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any] | None:
        """One row of several; None where one fit's rows are not another's.

        Parameters
        ----------
        rows
            What :meth:`measure` gave of the same codes and target, a row a fit.
        limits
            Limits of the verdicts.
        """
        ...


def figure(value: float) -> str:
    """Three decimals, without a minus before zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def share(value: float) -> str:
    """A share of variance: an estimate may exceed 1 by accident, what it is of cannot."""
    return figure(min(1.0, value))


def interval(low: float, high: float) -> str:
    """A 95 % interval in words."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "95 % interval open"
    return f"95 % interval {figure(low)} to {figure(high)}"


def by_verdict(
    check: str,
    row: Any,
    target: str,
    sentences: tuple[str, str, str],
    *,
    value: float,
    limit: float,
    if_failed: str,
    fewer: str,
) -> Finding:
    """Finding of a row that has a verdict, an interval, and the cells that would do and that are read at most.

    Parameters
    ----------
    check, target, value, limit
        As in :class:`Finding`.
    row
        Row of the check's table.
    sentences
        What is said of a pass, of a FAIL, and of too few cells.
    if_failed
        Advice after a FAIL.
    fewer
        Of what fewer dimensions would ask for fewer cells, such as ``"rna with fewer dimensions"``.
    """
    passed, failed, unclear = sentences
    instead = (
        f"train {fewer} than {row.n_inputs}, for which fewer cells do, or hand in as many and raise max_cells of "
        "metrics.certify"
    )
    advice_on_cells = more_cells(row.cells_needed, row.n_cells, max_cells=row.max_cells, instead=instead)
    words, advice, needed = {"pass": (passed, "", 0), "FAIL": (failed, if_failed, 0)}.get(
        row.verdict, (unclear, advice_on_cells, row.cells_needed)
    )
    return Finding(
        check,
        row.modality,
        target,
        row.verdict,
        words,
        value=min(1.0, value),
        low=row.low,
        high=row.high,
        limit=limit,
        n_cells=row.n_cells,
        cells_needed=needed,
        advice=advice,
    )


def more_cells(needed: int, n_cells: int, *, max_cells: int, instead: str) -> str:
    """What to do where the cells are too few.

    Parameters
    ----------
    needed
        Cells that would do, 0 if no number does.
    n_cells, max_cells
        Cells that were read, and that are read at most.
    instead
        What to do where more cells are needed than are read.
    """
    if needed > max_cells:
        return f"about {needed:,} held-out cells would do, more than the {max_cells:,} that are read at most: {instead}"
    if needed > n_cells:
        return f"hand in about {needed:,} held-out cells instead of {n_cells:,}"
    return (
        "it lies so close to the limit that no number of cells decides: train for less of it, or judge for yourself "
        "whether so much matters"
    )
