"""Whether the shared codes of a cell find each other."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pandas as pd

from indiseek.metrics._retrieval import match_ranks
from indiseek.metrics._verdict import ABOVE, NORMAL_95, at_most, two_digits

from ._check import Finding, figure, interval, more_cells
from ._pool import mean_row

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds
    from indiseek.metrics._verdict import Verdict

# Time grows with the square of the cells; the standard error is .003 here.
_MAX_CELLS = 10_000


class Retrieval:
    """FOSCTTM between the shared codes of two modalities, on at most 10,000 cells, with its standard error."""

    name = "retrieval"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a pair of modalities whose shared codes have one space."""
        rows = []
        for modality, other in combinations(cells.features, 2):
            a, b = cells.whole.shared[modality], cells.whole.shared[other]
            if a.shape[1] != b.shape[1]:
                continue
            ranks = match_ranks(a, b, max_cells=_MAX_CELLS, seed=cells.seed)
            value, se = ranks.foscttm(), ranks.foscttm_se()
            rows.append(
                {
                    "modality": modality,
                    "other": other,
                    "foscttm": value,
                    "foscttm_se": se,
                    "foscttm_chance": 0.5,
                    "k": cells.k,
                    "recall": ranks.recall(cells.k),
                    "recall_chance": cells.k / ranks.n_cells,
                    "median_rank": ranks.median_rank(),
                    "median_rank_chance": (ranks.n_cells + 1) / 2,
                    "n_cells": ranks.n_cells,
                    "verdict": _verdict(value, se, ranks.n_cells, limits),
                }
            )
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Means with a verdict of their own."""
        row = mean_row(rows)
        return row | {"verdict": _verdict(row["foscttm"], row["foscttm_se"], row["n_cells"], limits)}

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """FOSCTTM against its limit."""
        reach = NORMAL_95 * row.foscttm_se
        low, high = row.foscttm - reach, row.foscttm + reach
        begin = {
            "pass": "the shared codes match cells",
            "FAIL": "the shared codes do NOT match cells",
        }.get(row.verdict, "too few cells to tell whether the shared codes match cells")
        words = (
            f"{row.modality} and {row.other}: {begin} (FOSCTTM {figure(row.foscttm)}, {interval(low, high)}, chance "
            f"0.500, limit {figure(limits.foscttm)}; the partner is among the {row.k} nearest for {figure(row.recall)} "
            f"of cells, chance {figure(row.recall_chance)})"
        )
        advice, needed = "", 0
        if row.verdict == "FAIL":
            advice = "train the shared stage longer or on more cells, and check that the cells are paired row by row"
        elif row.verdict != "pass":
            room = max(limits.foscttm - row.foscttm, 1e-3)
            needed = two_digits(row.n_cells * (ABOVE * row.foscttm_se / room) ** 2)
            advice = more_cells(
                needed, row.n_cells, max_cells=_MAX_CELLS, instead="train the shared stage longer or on more cells"
            )
        return Finding(
            self.name,
            row.modality,
            f"{row.modality} and {row.other}",
            row.verdict,
            words,
            value=row.foscttm,
            low=low,
            high=high,
            limit=limits.foscttm,
            n_cells=row.n_cells,
            cells_needed=needed,
            advice=advice,
        )


def _verdict(value: float, se: float, n_cells: int, limits: Thresholds) -> Verdict:
    return at_most(value, se, limits.foscttm, n_cells=n_cells, min_cells=0)
