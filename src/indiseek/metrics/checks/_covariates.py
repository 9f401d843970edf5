"""What else is in the codes: depth, batch, donor, or any other column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._explained import explained_each
from indiseek.metrics._verdict import NORMAL_95

from ._check import Finding, figure, interval, share
from ._independence import reading_columns
from ._pool import mean_row

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds


class Covariates:
    """Variance of each covariate that each code explains, beside two figures to compare it with.

    ``null`` is the same for permuted cells, and ``ceiling`` what the features explain of which the code is made: those
    of its modality, of the joint code those of all. Labels are taken apart into indicators, so that the share is that
    of telling the labels apart. Nothing is judged: whether a code should hold depth or a batch is the user's to say.
    """

    name = "covariates"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a code and covariate."""
        codes = {("all", "joint"): cells.joint} if cells.joint is not None else {}
        codes |= {(modality, "shared"): array for modality, array in cells.shared.items()}
        codes |= {(modality, "specific"): array for modality, array in cells.specific.items()}
        order = np.random.default_rng([cells.seed, 14]).permutation(cells.n_cells)
        targets = dict(cells.covariates) | {(name, "null"): values[order] for name, values in cells.covariates.items()}
        found = {
            key: explained_each(array, targets, max_cells=cells.max_cells, seed=cells.seed)
            for key, array in codes.items()
        }
        made_of = {"all": np.hstack(list(cells.features.values())), **cells.features}
        ceilings = {
            modality: explained_each(
                made_of[modality], dict(cells.covariates), max_cells=cells.max_cells, seed=cells.seed
            )
            for modality in dict.fromkeys(modality for modality, _ in codes)
        }
        rows = []
        for covariate in cells.covariates:
            for (modality, code), readings in found.items():
                columns = reading_columns(readings[covariate], limits.independence, cells.max_cells)
                rows.append(
                    {"modality": modality, "code": code, "covariate": covariate}
                    | {name: columns[name] for name in ("map", "products", "total", "se", "low", "high", "n_cells")}
                    | {"null": readings[covariate, "null"].total, "ceiling": ceilings[modality][covariate].total}
                    | {"told": code != "shared" or cells.joint is None}
                )
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Means with the interval of the mean."""
        row = mean_row(rows)
        reach = NORMAL_95 * row["se"]
        return row | {"low": row["total"] - reach, "high": min(1.0, row["total"] + reach)}

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """A note for what a code holds beyond the limit of independence; the joint code speaks for the shared ones."""
        if row.low <= limits.independence or not row.told:
            return None
        name = "Joint shared code" if row.code == "joint" else f"{row.modality}, {row.code} code"
        return Finding(
            self.name,
            row.modality,
            f"{row.covariate} in the {row.code} code",
            "note",
            f"{name}: also holds {row.covariate} (explains {share(row.total)} of its variance, "
            f"{interval(row.low, row.high)}; of shuffled cells {figure(row.null)}, all features {share(row.ceiling)})",
            value=min(1.0, row.total),
            low=row.low,
            high=row.high,
            n_cells=row.n_cells,
        )
