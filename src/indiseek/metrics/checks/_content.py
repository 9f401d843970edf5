"""What each code holds: the part of its modality that the others know, and the part that they cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._probes import cross_predict, weighted_r2

from ._pool import mean_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

    from ._check import Finding

    Array = NDArray[np.float64]


class Content:
    """R2 of a fresh probe from each code to the ``predictable`` and ``private`` part of its modality. Not judged.

    The ceilings are the same from the modality itself. A probe's R2 is a lower bound; of what a specific code should
    *not* hold, ``independence`` is the measurement.
    """

    name = "content"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a modality and code."""
        rows = []
        for modality, x in cells.features.items():
            predictable = cells.predictable(modality)
            parts = {"predictable": predictable, "private": x - predictable}
            parts = {name: part for name, part in parts.items() if cells.varies(part)}
            codes = {"specific": cells.specific[modality]} if cells.specific else {}
            codes["shared"] = cells.shared[modality]
            if cells.joint is not None:
                codes["joint"] = cells.joint
            ceilings = {f"{name}_ceiling": r2 for name, r2 in _r2_each(x, parts, cells.seed).items()}
            for code, array in codes.items():
                row: dict[str, object] = {"modality": modality, "code": code, "predictable": np.nan, "private": np.nan}
                rows.append(row | _r2_each(array, parts, cells.seed) | ceilings)
        return pd.DataFrame(rows)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
        """Means."""
        return mean_row(rows)

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """Return None: it is only shown."""
        return None


def _r2_each(code: Array, parts: dict[str, Array], seed: int) -> dict[str, float]:
    """R2 of each part; one call, because what takes time depends on the code alone."""
    if not parts:
        return {}
    predictions = cross_predict(code, list(parts.values()), probe="nonlinear", seed=seed)
    return {name: weighted_r2(part, guess) for (name, part), guess in zip(parts.items(), predictions, strict=True)}
