"""Whether there is a dependence of another form: a note with its p, because it has no size."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import combine_pvalues

from indiseek.metrics._scan import scan

from ._check import Finding, figure
from ._pool import mean_row

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

# Of a code that is put beside another; pairs of dimensions across the two are read, which few leading ones allow.
_BESIDE = 3
_SMALL_P = 0.05
_MAX_CELLS = 2000


class OtherForms:
    """A scan of simple functions of both sides, with one exact joint permutation p.

    Asked are each specific code and the other's shared code, the two specific codes, and both specific codes together
    and the shared ones.
    """

    name = "other forms"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a pair of codes: largest correlation of two functions and its p."""
        if not cells.specific or cells.n_permutations == 0:
            return pd.DataFrame()
        rows = []
        n_asked = 2 * len(cells.pairs())
        # So many that the smallest p can be told from accident among all that is asked.
        n_permutations = max(cells.n_permutations, int(np.ceil(n_asked / _SMALL_P)) - 1)
        drawn = np.random.default_rng([cells.seed, 13]).permutation(cells.n_cells)[:_MAX_CELLS]
        once = set(combinations(cells.features, 2))
        for modality, other in cells.pairs():
            z, w = cells.specific[modality], cells.specific[other]
            asked = {f"the shared code of {other}": (z, cells.shared[other])}
            if (modality, other) in once:
                both = np.hstack([z[:, :_BESIDE], w[:, :_BESIDE]])
                asked[f"the specific code of {other}"] = z, w
                asked[f"the shared codes, together with that of {other}"] = (
                    both,
                    np.hstack([cells.shared[modality], cells.shared[other]]),
                )
            for target, (code, array) in asked.items():
                found = scan(code[drawn], array[drawn], n_permutations=n_permutations, seed=cells.seed)
                rows.append(
                    {
                        "modality": modality,
                        "target": target,
                        "largest": found.largest,
                        "p": found.p_value,
                        "p_limit": _SMALL_P / n_asked,
                        "n_permutations": n_permutations,
                        "n_cells": len(drawn),
                    }
                )
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Largest correlation of all, and Fisher's p of all."""
        together = combine_pvalues(rows["p"], method="fisher").pvalue
        return mean_row(rows) | {"largest": rows["largest"].max(), "p": float(together)}

    def judge(self, row: Any, limits: Thresholds) -> Finding:
        """Always a note."""
        figures = (
            f"p = {figure(row.p)} from {row.n_permutations} permutations, significant at {figure(row.p_limit)} or "
            f"below; {row.n_cells:,} cells"
        )
        if row.p <= row.p_limit:
            found = f"dependence of another form on {row.target}, of which no size is known ({figures})"
        else:
            found = f"no dependence of another form found on {row.target} ({figures})"
        return Finding(
            self.name,
            row.modality,
            row.target,
            "note",
            f"{row.modality}-specific space: {found}",
            n_cells=row.n_cells,
        )
