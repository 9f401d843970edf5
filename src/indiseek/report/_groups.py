"""How many cells there are of each batch, donor and condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indiseek._checks import printable

_MOST_ROWS, _MOST_TABLES = 40, 10


def group_tables(
    obs: pd.DataFrame, first: Sequence[str], parts: Mapping[str, NDArray[np.intp]]
) -> list[dict[str, Any]]:
    """A small table for each annotation with few different words.

    Parameters
    ----------
    obs
        Annotations of all cells.
    first
        Columns that come first whatever they hold, such as the batch.
    parts
        Positions of the cells of each part of the split, by name.
    """
    tables = []
    for name in dict.fromkeys([*first, *map(str, obs.columns)]):
        values = obs[name]
        is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        words = values.astype(object).where(values.notna(), "none").map(str)
        total = words.value_counts()
        if name not in first and (is_number or not 1 < len(total) <= _MOST_ROWS):
            continue
        by_part = {part: words.iloc[rows].value_counts() for part, rows in parts.items()}
        rows = [
            [
                printable(word),
                f"{n:,}",
                f"{n / len(words):.1%}",
                *(f"{found.get(word, 0):,}" for found in by_part.values()),
            ]
            for word, n in total.head(_MOST_ROWS).items()
        ]
        if len(total) > _MOST_ROWS:
            rest = total.iloc[_MOST_ROWS:]
            rows.append(
                [f"{len(rest)} others", f"{rest.sum():,}", f"{rest.sum() / len(words):.1%}", *[""] * len(parts)]
            )
        caption = f"{printable(name)}: {len(total)} {'value' if len(total) == 1 else 'values'}"
        tables.append({"caption": caption, "columns": [printable(name), "cells", "share", *parts], "rows": rows})
        if len(tables) == _MOST_TABLES:
            break
    return tables
