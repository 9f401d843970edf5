"""One row of several, each measured on cells of its own: means, and standard errors that fall with the cells."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._explained import Explained

if TYPE_CHECKING:
    from collections.abc import Sequence

_COUNTS = ("n_cells", "copies", "of_training_cells")
_ERRORS = ("se", "se_map", "null_se", "guard", "guard_map", "mlp_se", "trees_se", "foscttm_se")
# Settings, and what is said of the least favourable.
_LARGEST = ("n_inputs", "max_cells", "n_permutations", "p_limit", "k", "limit", "cells_needed", "left_out", "constant")


def mean_row(rows: pd.DataFrame) -> dict[str, Any]:
    """Means weighted by cells, of standard errors the root of the sum of squares, of counts the sum.

    Parameters
    ----------
    rows
        Rows of one table that tell of the same thing, each of other cells.
    """
    weights = rows["n_cells"].to_numpy(dtype=float) if "n_cells" in rows else np.ones(len(rows))
    weights = weights / weights.sum()
    found: dict[str, Any] = {}
    for name in rows:
        values = rows[name]
        if name in _COUNTS:
            found[name] = int(values.sum())
        elif name in _LARGEST:
            found[name] = values.max()
        elif name == "n_training":
            found[name] = int(values.min())
        elif values.dtype.kind != "f":
            found[name] = values.iloc[0]
        elif name in _ERRORS:
            found[name] = float(np.sqrt(np.square(weights * values.to_numpy()).sum()))
        else:
            found[name] = float(weights @ values.to_numpy())
    return found


def mean_reading(readings: Sequence[Explained]) -> Explained:
    """Mean of independent readings, weighted by their cells."""
    return reading_of(mean_row(pd.DataFrame([asdict(reading) for reading in readings])))


def reading_of(row: dict[str, Any]) -> Explained:
    """The reading that a row tells of."""
    return Explained(**{name: row[name] for name in Explained.__dataclass_fields__})
