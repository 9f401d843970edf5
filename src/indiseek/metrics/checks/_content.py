"""What each code holds: the part of its modality that the others know, and the part that they cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._probes import probe_r2

if TYPE_CHECKING:
    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

    from ._check import Finding


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
            ceilings = {f"{name}_ceiling": self._r2(x, part, cells.seed) for name, part in parts.items()}
            for code, array in codes.items():
                row: dict[str, object] = {"modality": modality, "code": code, "predictable": np.nan, "private": np.nan}
                row |= {name: self._r2(array, part, cells.seed) for name, part in parts.items()}
                rows.append(row | ceilings)
        return pd.DataFrame(rows)

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """Return None: it is only shown."""
        return None

    @staticmethod
    def _r2(code: np.ndarray, part: np.ndarray, seed: int) -> float:
        return probe_r2(code, part, probe="nonlinear", seed=seed)
