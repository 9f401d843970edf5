"""Whether the codes give their modality back: by a reconstruction from them where there is one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._left_out import left_out
from indiseek.metrics._probes import r2_of_cells
from indiseek.metrics._verdict import NORMAL_95, at_least

from ._check import Finding, figure, interval
from ._features import feature_table
from ._pool import mean_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds
    from indiseek.metrics._verdict import Verdict


class Completeness:
    """Share of a modality's variance that its codes hold together.

    With a reconstruction (by a flow's exact inverse, or by a decoder) that is its R2, and the verdict has three
    outcomes. Without one a probe's R2 is a lower bound: it can pass and never fail.

    Replicates say what another draw of the cell would repeat. What is left out of the codes is then listed as
    *reproducible, not in the codes* and as *counting noise*: of the features, and of everything measured where its
    halves are given too.
    """

    name = "completeness"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a modality."""
        rows = []
        for modality in cells.features:
            table = feature_table(cells, modality)
            weights = np.where(table["both"].notna(), table["variance"], 0.0)
            weights = weights / weights.sum()

            def mean(column: str, table: pd.DataFrame = table, weights: NDArray[np.float64] = weights) -> float:
                values = table[column].to_numpy(dtype=float)
                return float(np.nansum(values * weights)) if np.isfinite(values).any() else math.nan

            given = modality in cells.reconstruction
            in_codes = mean("both")
            se = _error(cells.features[modality], cells.reconstruction[modality]) if given else math.nan
            row: dict[str, object] = {
                "modality": modality,
                "by": "reconstruction" if given else "probe",
                "code": "shared and specific codes" if cells.specific else "shared code",
                "in_codes": in_codes,
                "se": se,
                "shared": mean("shared"),
                "reproducible": mean("reproducible"),
                "reproducible_left_out": mean("reproducible_left_out"),
                "noise_left_out": mean("noise_left_out"),
                "n_cells": cells.n_cells,
            }
            settled = _settled(in_codes, se, cells.n_cells, limits, given=given)
            rows.append(row | settled | left_out(cells, modality))
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Mean with a verdict of its own."""
        row = mean_row(rows)
        return row | _settled(row["in_codes"], row["se"], row["n_cells"], limits, given=row["by"] == "reconstruction")

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """In the words of what another draw of the cell would show."""
        limit = limits.completeness
        or_more, or_less = ("", "") if row.by == "reconstruction" else (" or more", " or less")
        if row.by == "reconstruction":
            how = f"its codes give back {figure(row.in_codes)} of its variance, {interval(row.low, row.high)}"
        else:
            how = f"a probe finds at least {figure(row.in_codes)} of its variance in the {row.code}"
        begin = {"pass": "complete", "FAIL": "NOT complete"}.get(row.verdict, "completeness is not shown")
        words = f"{row.modality}: {begin}, {how} (limit {figure(limit)})"
        if not math.isnan(row.reproducible):
            words += (
                f"; another draw of the cell would repeat {figure(row.reproducible)}; reproducible, not in the codes: "
                f"{figure(row.reproducible_left_out)}{or_more}; counting noise, not "
                f"in the codes: {figure(row.noise_left_out)}{or_less}"
            )
        if not math.isnan(row.all_reproducible):
            words += (
                f"; of all that was measured another draw would repeat {figure(row.all_reproducible)}, of which the "
                f"features hold {figure(row.all_in_features)}: reproducible, not in the codes "
                f"{figure(row.all_left_out)}, counting noise {figure(1.0 - row.all_reproducible)}"
            )
        advice = ""
        if row.verdict == "FAIL":
            lost = figure(1.0 - row.in_codes)
            advice = f"train {row.modality} with more specific dimensions: {lost} of it is not given back"
        elif row.verdict != "pass":
            advice = (
                f"train {row.modality} with more dimensions, or hand in more held-out cells than {row.n_cells:,}: a "
                "probe finds less than there is, the more so from few cells; codes that can be turned back into "
                "features are judged by those, with metrics.certify(reconstruction=...)"
            )
        return Finding(
            self.name,
            row.modality,
            f"{row.modality} itself",
            row.verdict,
            words,
            value=row.in_codes,
            low=row.low,
            high=row.high,
            limit=limit,
            n_cells=row.n_cells,
            advice=advice,
        )


def _settled(in_codes: float, se: float, n_cells: int, limits: Thresholds, *, given: bool) -> dict[str, object]:
    """Interval and verdict; a lower bound is all that a probe gives."""
    limit = limits.completeness
    if given:
        verdict: Verdict = at_least(in_codes, se, limit, n_cells=n_cells, min_cells=0)
        low, high = in_codes - NORMAL_95 * se, min(1.0, in_codes + NORMAL_95 * se)
    else:
        verdict, low, high = ("pass" if in_codes >= limit else "too few cells"), in_codes, 1.0
    return {"low": low, "high": high, "verdict": verdict}


def _error(x: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """Standard error of the R2 of a reconstruction over cells."""
    total = np.square(x - x.mean(axis=0)).sum(axis=1)
    return r2_of_cells(total - np.square(x - back).sum(axis=1), total)[1]
