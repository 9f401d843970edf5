"""Whether a network or boosted trees predict what a specific code should not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from indiseek.metrics._nonlinear import nonlinear_probes
from indiseek.metrics._verdict import CLEAN_PASS, LEAST_TO_PASS, NORMAL_95, at_most, two_digits

from ._check import Finding, by_verdict, figure
from ._independence import target_words, to_leak_less
from ._pool import mean_row

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

_PROBES = ("mlp", "trees")


class Probes:
    """Cross-fitted nonlinear probes from a specific code: lower bounds that see what means and products do not.

    Only the ``shared`` code of the other modality is asked for, where a nonlinear dependence would be left.
    """

    name = "probes"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row for each specific code and other modality: R2 and standard error of both probes."""
        rows = []
        for modality, other in cells.pairs() if cells.specific else ():
            target = cells.forbidden(modality, other)
            if "shared" not in target:
                continue
            code = cells.specific[modality]
            found = nonlinear_probes(code, target["shared"], seed=cells.seed)
            row: dict[str, Any] = (
                {"modality": modality, "target": "shared", "other": other}
                | {name: probed.r2 for name, probed in found.items()}
                | {f"{name}_se": probed.se for name, probed in found.items()}
                | {"n_cells": cells.n_cells, "max_cells": cells.max_cells}
                | {"n_inputs": code.shape[1], "n_training": cells.n_reference, "new_groups": cells.new_groups}
            )
            rows.append(row | _settled(row, limits))
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Means of both probes, with a verdict on the better one."""
        row = mean_row(rows)
        return row | _settled(row, limits)

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """The better of the two probes against the limit of independence."""
        name = {"mlp": "a network", "trees": "boosted trees"}[row.best]
        what = target_words(row)
        figures = (
            f"network R2 {figure(row.mlp)}, boosted trees {figure(row.trees)}, limit {figure(limits.independence)}; "
            f"lower bounds from {row.n_cells:,} cells"
        )
        begin = f"{row.modality}-specific space: "
        return by_verdict(
            self.name,
            row,
            what,
            (
                f"{begin}neither a network nor boosted trees predict {what} ({figures})",
                f"{begin}{name} predict{'s' if row.best == 'mlp' else ''} {what} ({figures})",
                f"{begin}too few cells for a network and boosted trees on {what} ({figures})",
            ),
            value=row.r2,
            limit=limits.independence,
            if_failed=to_leak_less(row, limits),
            fewer=f"{row.modality} with fewer dimensions",
        )


def _settled(row: dict[str, Any], limits: Thresholds) -> dict[str, Any]:
    """The better of the two probes, its interval and verdict, and the cells that would do."""
    best = max(_PROBES, key=lambda name: row[name])
    value, se, n_cells = row[best], row[f"{best}_se"], row["n_cells"]
    errors = CLEAN_PASS * se / limits.independence
    return {
        "best": best,
        "r2": value,
        "low": value - NORMAL_95 * se,
        "high": value + NORMAL_95 * se,
        "verdict": at_most(value, se, limits.independence, n_cells=n_cells),
        "cells_needed": max(LEAST_TO_PASS, two_digits(n_cells * errors**2)),
    }
