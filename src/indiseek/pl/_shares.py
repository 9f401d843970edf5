from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from indiseek._checks import check_choice, check_number

from ._figure import NotebookFigure, as_text, check_columns
from ._spaces import DISPLAY_NAMES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito; the order of lightness tells the parts apart without colour.
_SHARED, _SPECIFIC, _LEFT_OUT, _NOISE = "#0072B2", "#E69F00", "#F6D58E", "#E3E3E3"
_KIT = re.compile(r"[-_]TotalSeq-?[A-D]$", re.IGNORECASE)
_ORDERS = ("specific", "shared", "noise", "left_out", "in_code")
_ROW, _HEAD = 0.19, 1.15


def features(
    table: pd.DataFrame,
    *,
    modality: str | Sequence[str] | None = None,
    n_top: int = 30,
    sort_by: str = "specific",
    panel_width: float = 4.2,
) -> Figure:
    """Shares of the variance of each feature, as stacked bars: shared, specific, counting noise.

    One panel a modality. Shown are the features of which the lower end of the interval is highest, so that a feature of
    few cells does not come first, in the order of the share itself; the line in a bar is the interval of that share.

    Parameters
    ----------
    table
        What ``model.feature_table()`` gave.
    modality
        Modality or modalities shown; all by default.
    n_top
        Most features shown of a modality.
    sort_by
        ``"specific"``, ``"shared"``, ``"noise"``, or of the specific share ``"in_code"`` or ``"left_out"``.
    panel_width
        Width of one panel in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    KeyError
        If a modality is not in the table.
    ValueError
        If an argument is out of range, or no feature has shares.
    """
    check_columns(table, ("modality", "feature", "shared", "specific", "noise", "in_code"), "model.feature_table()")
    check_number("n_top", n_top, low=1, whole=True)
    check_number("panel_width", panel_width, above=0)
    check_choice("sort_by", sort_by, _ORDERS)
    known = list(dict.fromkeys(table["modality"]))
    wanted = known if modality is None else [modality] if isinstance(modality, str) else list(modality)
    for name in wanted:
        if name not in known:
            raise KeyError(f"expected modality to be one of {known}, got {name!r}; choose one of them.")
    shown = {name: _top(table[table["modality"] == name], int(n_top), sort_by) for name in wanted}
    if not any(len(rows) for rows in shown.values()):
        raise ValueError("expected features with shares, got none; measure them on more cells.")
    longest = max(len(rows) for rows in shown.values())
    figure = NotebookFigure(figsize=(panel_width * len(shown), _HEAD + _ROW * longest), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (name, rows) in zip(axes, shown.items(), strict=True):
        _draw(ax, rows, sort_by)
        total = int((table["modality"] == name).sum())
        title = DISPLAY_NAMES.get(name.lower(), name)
        ax.set_title(as_text(title if total == len(rows) else f"{title}: {len(rows)} of {total}"), fontsize=10)
        ax.set_ylim(longest - 0.4, -0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _top(rows: pd.DataFrame, n_top: int, sort_by: str) -> pd.DataFrame:
    known = rows.dropna(subset=[sort_by])
    lower = f"{sort_by}_low" if f"{sort_by}_low" in known else sort_by
    return known.nlargest(n_top, lower).sort_values(sort_by, ascending=False, kind="stable")


def _draw(ax: Axes, rows: pd.DataFrame, sort_by: str) -> None:
    y = np.arange(len(rows))
    specific = rows["specific"].to_numpy(dtype=float)
    # Without codes all of it is in none.
    in_code = rows["in_code"].fillna(0.0).to_numpy(dtype=float)
    parts = (
        (rows["shared"].to_numpy(dtype=float), _SHARED, "shared"),
        (in_code, _SPECIFIC, "specific, in the code"),
        (specific - in_code, _LEFT_OUT, "specific, in no code"),
        (rows["noise"].fillna(0.0).to_numpy(dtype=float), _NOISE, "counting noise"),
    )
    if sort_by in ("specific", "in_code", "left_out"):
        # What the bars are sorted by begins at the axis, where lengths are compared.
        parts = (parts[1], parts[2], parts[0], parts[3])
    left = np.zeros(len(rows))
    for width, color, label in parts:
        ax.barh(y, width, left=left, color=color, height=0.82, label=label)
        left += width
    if sort_by in ("specific", "shared"):
        ends = rows[[f"{sort_by}_low", f"{sort_by}_high"]].to_numpy(dtype=float).T
        ax.hlines(y, ends[0], ends[1], color="black", linewidth=0.8)
    names = [
        as_text(_KIT.sub("", str(row.feature)) + (" (control)" if getattr(row, "is_control", False) else ""))
        for row in rows.itertuples()
    ]
    ax.set_yticks(y, names, fontsize=7.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of variance", fontsize=9)
    ax.tick_params(length=2, labelsize=7.5)
    ax.spines[["top", "right"]].set_visible(False)
