"""Whether cells are copies of another: they predict each other and read as a leak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ._check import Finding, figure
from ._pool import mean_row

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds
    from indiseek.metrics._verdict import Verdict

# A library in which so many cells repeat was put together wrongly.
_MANY = 0.01


class Duplicates:
    """Cells that equal another, or a training cell, in all modalities; they are left out of all that follows."""

    name = "duplicates"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row."""
        total = cells.whole.n_cells + cells.n_copies + cells.n_seen
        share = (cells.n_copies + cells.n_seen) / total
        return pd.DataFrame(
            [
                {
                    "modality": "all",
                    "copies": cells.n_copies,
                    "of_training_cells": cells.n_seen,
                    "share": share,
                    "n_cells": total,
                }
            ]
        )

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Copies among all cells."""
        row = mean_row(rows)
        return row | {"share": (row["copies"] + row["of_training_cells"]) / row["n_cells"]}

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """Pass without copies, a note with a few, FAIL from one in a hundred."""
        found = f"{row.copies:,} copies of other held-out cells and {row.of_training_cells:,} of training cells"
        verdict: Verdict = "pass" if row.share == 0 else ("FAIL" if row.share > _MANY else "note")
        words = f"Held-out cells: {'no' if row.share == 0 else found.split(' of ')[0]} copies of other cells"
        if row.share:
            words = f"Held-out cells: {found} among {row.n_cells:,}, left out of all that follows"
        return Finding(
            self.name,
            row.modality,
            "other cells",
            verdict,
            f"{words} (limit {figure(_MANY)})",
            value=row.share,
            limit=_MANY,
            n_cells=row.n_cells,
            advice="look for files that were joined twice, and train again without the copies"
            if verdict == "FAIL"
            else "",
        )
