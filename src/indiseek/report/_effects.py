"""Effects by space as plain values for the page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from indiseek._checks import printable
from indiseek.report._names import sentence_case, spoken

_MOST_FEATURES = 10


def effect_rows(effects: Any) -> dict[str, Any]:
    """Groups of cells by space, and the features that stand out most.

    Parameters
    ----------
    effects
        :class:`indiseek.effects.Effects`.
    """
    table: pd.DataFrame = effects.effects
    spaces = [str(space) for space in dict.fromkeys(table["space"])]
    rows = []
    for group, part in table.groupby("group", sort=False):
        by_space = part.set_index("space")
        cells = []
        for space in spaces:
            there = space in by_space.index
            q = float(by_space.loc[space, "qvalue"]) if there else float("nan")
            called = there and bool(by_space.loc[space, "call"])
            cells.append({"text": f"q {q:.2g}" if q == q else "not tested", "called": called})
        first = part.iloc[0]
        replicates = f"{first['n_first']:g} and {first['n_second']:g}"
        rows.append({"group": printable(str(group)), "cells": cells, "replicates": replicates})
    return {
        "sides": [printable(str(side)) for side in effects.sides],
        "alpha": f"{effects.alpha:g}",
        "spaces": ["Shared" if space == "shared" else f"{sentence_case(spoken(space))} alone" for space in spaces],
        "rows": rows,
        "left_out": [
            f"{printable(str(row.group))}: {printable(str(row.reason))}" for row in effects.left_out.itertuples()
        ],
        "features": _features(effects.features),
    }


def _features(table: pd.DataFrame) -> list[dict[str, str]]:
    """Features whose private part is surest."""
    if not {"qvalue", "feature", "private"} <= set(table.columns):
        return []
    first = table.dropna(subset=["qvalue"]).sort_values("qvalue", kind="stable").head(_MOST_FEATURES)
    return [
        {
            "group": printable(str(row.group)),
            "feature": printable(str(row.feature)),
            "total": f"{row.total:+.2f}",
            "private": f"{row.private:+.2f}",
            "q": f"{row.qvalue:.2g}",
        }
        for row in first.itertuples(index=False)
    ]
