"""Whether the shared code holds what only one modality knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from indiseek.metrics._explained import explained_each

from ._check import Finding, by_verdict, figure, interval, share
from ._independence import parts, pooled_reading, reading_columns

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds


class Excess:
    """Variance that the shared code explains of ``X_i - E[X_i | X_others]``, which the others cannot know.

    The joint code is judged where there is one, because it is the space that is shown; each modality's own otherwise.
    """

    name = "excess"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row for each shared code and modality."""
        targets = {name: x - cells.predictable(name) for name, x in cells.features.items()}
        targets = {name: private for name, private in targets.items() if cells.varies(private)}
        codes = {
            (name, "shared"): explained_each(
                cells.shared[name], {name: private}, max_cells=cells.max_cells, seed=cells.seed
            )
            for name, private in targets.items()
        }
        if cells.joint is not None:
            of_joint = explained_each(cells.joint, targets, max_cells=cells.max_cells, seed=cells.seed)
            codes |= {(name, "joint"): of_joint for name in targets}
        judged = "shared" if cells.joint is None else "joint"
        rows = [
            {"modality": name, "code": code, "others": " and ".join(cells.others(name))}
            | reading_columns(codes[name, code][name], limits.excess, cells.max_cells)
            | {"judged": code == judged}
            for name in targets
            for code in ("shared", "joint")
            if (name, code) in codes
        ]
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Mean of the readings, with a verdict of its own."""
        return pooled_reading(rows, limits.excess)

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """Three verdicts; each modality's own code is only shown where there is a joint one."""
        if not row.judged:
            return None
        name = "Joint shared code" if row.code == "joint" else f"Shared code of {row.modality}"
        what = f"what only {row.modality} knows"
        figures = (
            f"explains {share(row.total)} of what {row.others} cannot know of {row.modality}, "
            f"{interval(row.low, row.high)}, limit {figure(limits.excess)}; {parts(row)}"
        )
        return by_verdict(
            self.name,
            row,
            what,
            (
                f"{name}: holds next to nothing of {what} ({figures})",
                f"{name}: NOT only shared, it also holds {what} ({figures})",
                f"{name}: too few cells to tell whether it holds {what} ({figures})",
            ),
            value=row.total,
            limit=limits.excess,
            if_failed=(
                f"train with fewer shared dimensions than {row.n_inputs} or a stronger alignment: what only "
                f"{row.modality} knows then stays out"
            ),
            fewer="with fewer shared dimensions",
        )
