"""Whether a specific code is independent of the other modality: map and products, over all cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from indiseek.metrics._explained import Explained, explained_each
from indiseek.metrics._verdict import cells_to_tell

from ._check import Finding, by_verdict, figure, interval, share
from ._pool import mean_row, reading_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

    Array = NDArray[np.float64]


class Independence:
    """Variance that a specific code explains of what it should not hold, with the limit on the total.

    Targets are the ``shared`` code of the other modality, which is what a method made the code independent of, and the
    ``predictable`` part of the code's own modality, ``E[X_i | X_j]``, which says nothing about any code and catches a
    shared code that holds too little.
    """

    name = "independence"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row for each specific code, other modality and target."""
        rows = []
        for modality, code in cells.specific.items():
            found = explained_each(code, forbidden(cells, modality), max_cells=cells.max_cells, seed=cells.seed)
            for (target, other), reading in found.items():
                rows.append(
                    {"modality": modality, "target": target, "other": other}
                    | reading_columns(reading, limits.independence, cells.max_cells)
                    | {"n_training": cells.n_reference, "new_groups": cells.new_groups}
                )
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Mean of the readings, with a verdict of its own."""
        return pooled_reading(rows, limits.independence)

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """Pass, FAIL or too few cells, with the number of cells that would do."""
        return told(self.name, row, limits)


def told(check: str, row: Any, limits: Thresholds, *, begin: str = "", ending: str = "") -> Finding:
    """Finding of a row of readings, over all cells or, with words before and after that say so, within batches."""
    what = target_words(row)
    figures = (
        f"explains {share(row.total)} of its variance, {interval(row.low, row.high)}, limit "
        f"{figure(limits.independence)}; {parts(row)}{ending}"
    )
    begin = f"{begin}{row.modality}-specific space: "
    return by_verdict(
        check,
        row,
        what,
        (
            f"{begin}independent of {what} ({figures})",
            f"{begin}NOT independent of {what} ({figures})",
            f"{begin}too few cells to tell whether it is independent of {what} ({figures})",
        ),
        value=row.total,
        limit=limits.independence,
        if_failed=to_leak_less(row, limits),
        fewer=f"{row.modality} with fewer dimensions",
    )


def forbidden(cells: Cells, modality: str) -> dict[tuple[str, str], Array]:
    """What the specific code of a modality should not hold, by name of the target and other modality."""
    return {
        (target, other): array
        for other in cells.others(modality)
        for target, array in cells.forbidden(modality, other).items()
    }


def reading_columns(reading: Explained, limit: float, max_cells: int) -> dict[str, object]:
    """A reading as columns of a table, with its verdict; `max_cells` are read at most."""
    low, high = reading.interval
    verdict = reading.verdict(limit)
    return {
        "map": reading.map,
        "products": reading.products,
        "total": reading.total,
        "se": reading.se,
        "low": low,
        "high": high,
        "null_se": reading.null_se,
        "se_map": reading.se_map,
        "guard_map": reading.guard_map,
        "guard": reading.guard,
        "concentration": reading.concentration,
        "limit": limit,
        "verdict": verdict,
        "n_cells": reading.n_cells,
        "cells_needed": 0 if verdict in ("pass", "FAIL") else cells_to_tell(reading, limit),
        "max_cells": max_cells,
        "n_inputs": reading.n_inputs,
    }


def pooled_reading(rows: pd.DataFrame, limit: float) -> dict[str, Any]:
    """One row of several readings, each of other cells, with a verdict of its own."""
    row = mean_row(rows)
    return row | reading_columns(reading_of(row), limit, row["max_cells"])


def target_words(row: Any) -> str:
    """What a row's target is called."""
    if row.target == "shared":
        return f"the shared code of {row.other}"
    return f"the part of {row.modality} that {row.other} predicts"


def parts(row: Any) -> str:
    """The two parts of a reading in words."""
    if math.isinf(row.se):
        return f"map {share(row.map)}, products of {row.n_inputs} dimensions not readable from so few cells"
    return f"map {share(row.map)}, products {share(row.products)}"


def to_leak_less(row: Any, limits: Thresholds) -> str:
    """What to do after a FAIL of independence."""
    if row.new_groups:
        return (
            f"train on cells of more groups in {row.new_groups!r}: no fit has seen those of the held-out cells, and "
            "what is their own lies in both modalities; how much of this comes from that, test cells drawn at random "
            "say (train without split_by)"
        )
    return _fewer_dimensions(row.modality, row.n_inputs, int(row.n_training), limits.independence)


def _fewer_dimensions(modality: str, n_inputs: int, n_training: int, limit: float) -> str:
    """What lowers a leak: making d dimensions independent in every state from n cells errs by about d^2 / n."""
    few = max(2, math.floor(math.sqrt(limit * n_training))) if n_training else max(2, n_inputs // 2)
    if few >= n_inputs:
        cells = f" for {n_training:,} training cells" if n_training else ""
        return (
            f"train {modality} on more cells, or with a wider condition: its {n_inputs} dimensions are few{cells}, so "
            "that fewer of them would hardly leak less"
        )
    how = f'transforms={{"{modality}": indiseek.data.LogNormalizePCA(n_components={few})}}, for proteins CLRPCA'
    if not n_training:
        return f"train {modality} with fewer dimensions than {n_inputs}, for instance {how}"
    return (
        f"train {modality} with about {few} dimensions instead of {n_inputs} ({how}): what {n_training:,} training "
        f"cells leave uncertain of {n_inputs} dimensions leaks about {n_inputs}^2 / {n_training:,} = "
        f"{n_inputs**2 / n_training:.3f}, of {few} about {few**2 / n_training:.3f}"
    )
