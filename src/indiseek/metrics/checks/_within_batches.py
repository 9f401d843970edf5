"""Whether a specific code is independent within each batch: a shift between them can hide what is dependent within."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._explained import Explained, explained

from ._check import Finding
from ._independence import Independence, reading_columns

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

# Smaller batches tell nothing and are left out.
_MIN_CELLS = 100


class WithinBatches(Independence):
    """The reading of :class:`Independence` inside every batch, averaged with the batches' cells as weights."""

    name = "independence within batches"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row for each specific code and other modality, over all batches of 100 cells or more."""
        if cells.batch is None or not cells.specific:
            return pd.DataFrame()
        labels, sizes = np.unique(cells.batch, return_counts=True)
        large = labels[sizes >= _MIN_CELLS]
        if len(large) == 0:
            return pd.DataFrame()
        rows = []
        for modality, other in cells.pairs():
            for target, array in cells.forbidden(modality, other).items():
                inside = [np.flatnonzero(cells.batch == label) for label in large]
                readings = [
                    explained(cells.specific[modality][rows], array[rows], seed=cells.seed)
                    for rows in inside
                    if np.ptp(array[rows], axis=0).any()
                ]
                if readings:
                    rows.append(
                        {"modality": modality, "target": target, "other": other}
                        | reading_columns(pooled(readings), limits.independence)
                        | {"n_training": cells.n_reference, "n_batches": len(readings), "left_out": len(labels)}
                    )
        table = pd.DataFrame(rows)
        if len(table):
            table["left_out"] -= table["n_batches"]
        return table

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """As over all cells."""
        finding = super().judge(row, limits)
        left_out = f", {row.left_out} with under {_MIN_CELLS} cells left out" if row.left_out else ""
        ending = f"; mean of {row.n_batches} batches{left_out})"
        return replace(
            finding,
            target=f"{finding.target}, within batches",
            words=f"Within batches, {finding.words.removesuffix(')')}{ending}",
        )


def pooled(readings: list[Explained]) -> Explained:
    """Mean of independent readings, weighted by their cells."""
    cells = np.array([reading.n_cells for reading in readings])
    weights = cells / cells.sum()

    def mean(name: str) -> float:
        return float(weights @ [getattr(reading, name) for reading in readings])

    def error(name: str) -> float:
        return float(np.sqrt(np.square(weights) @ np.square([getattr(reading, name) for reading in readings])))

    return Explained(
        map=mean("map"),
        products=mean("products"),
        se_map=error("se_map"),
        se=error("se"),
        null_se=error("null_se"),
        guard_map=error("guard_map"),
        guard=error("guard"),
        concentration=mean("concentration"),
        n_cells=int(cells.sum()),
        n_inputs=max(reading.n_inputs for reading in readings),
    )
