"""Whether a specific code is independent within each batch: a shift between them can hide what is dependent within."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._cells import MIN_CELLS
from indiseek.metrics._explained import Explained, explained_each

from ._check import Finding
from ._independence import forbidden, pooled_reading, reading_columns, told
from ._pool import mean_reading

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds


class WithinBatches:
    """The reading of ``independence`` inside every batch, averaged with the batches' cells as weights."""

    name = "independence within batches"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row for each specific code and other modality, over all batches of 100 cells or more."""
        if cells.batch is None or not cells.specific:
            return pd.DataFrame()
        # Smaller batches tell nothing.
        labels, sizes = np.unique(cells.batch, return_counts=True)
        inside = [np.flatnonzero(cells.batch == label) for label in labels[sizes >= MIN_CELLS]]
        rows = []
        for modality, code in cells.specific.items():
            targets = forbidden(cells, modality)
            found: dict[tuple[str, str], list[Explained]] = {key: [] for key in targets}
            for batch in inside:
                own = {key: array[batch] for key, array in targets.items() if cells.varies(array[batch])}
                readings = explained_each(code[batch], own, max_cells=cells.max_cells, seed=cells.seed)
                for key, reading in readings.items():
                    found[key].append(reading)
            rows += [
                {"modality": modality, "target": target, "other": other}
                | reading_columns(mean_reading(of_batches), limits.independence, cells.max_cells)
                | {
                    "n_training": cells.n_reference,
                    "new_groups": cells.new_groups,
                    "n_batches": len(of_batches),
                    "left_out": len(labels) - len(inside),
                    "constant": len(inside) - len(of_batches),
                }
                for (target, other), of_batches in found.items()
                if of_batches
            ]
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Mean of the readings, with a verdict of its own."""
        return pooled_reading(rows, limits.independence)

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """As over all cells."""
        reasons = {f"with under {MIN_CELLS} cells": row.left_out, "where nothing varies": row.constant}
        left_out = " and ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
        ending = f"; mean of {row.n_batches} batches{f', {left_out} left out' if left_out else ''}"
        finding = told(self.name, row, limits, begin="Within batches, ", ending=ending)
        return replace(finding, target=f"{finding.target}, within batches")
