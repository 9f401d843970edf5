from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from indiseek._checks import check_number

from ._figure import NotebookFigure, as_text, check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito.
_UP, _DOWN = "#D55E00", "#0072B2"
_KIT = re.compile(r"[-_]TotalSeq-?[A-D]$", re.IGNORECASE)
_ROW, _HEAD, _COLUMNS = 0.19, 0.55, 4
_MOST_PANELS = 24
# No panel spreads loadings over its whole width that hardly differ from 0.
_LEAST_REACH = 0.1


def loadings(
    table: pd.DataFrame,
    *,
    modality: str | Sequence[str] | None = None,
    shown: Sequence[Any] | None = None,
    n_top: int = 8,
    with_noise: bool = False,
    panel_width: float = 2.6,
) -> Figure:
    """The features that load most on each axis, on a direction, or on each group of cells.

    One panel each. Bars to the right point up; pale ones are those on which halves of the cells do not agree.

    Parameters
    ----------
    table
        What ``model.attribution()`` gave.
    modality
        Modality or modalities shown; by default all, or the one that has the largest loading in every panel.
    shown
        Dimensions or groups shown; by default the first 24 that are not noise.
    n_top
        Features in a panel, the largest loadings of either sign.
    with_noise
        Whether axes of noise are shown too.
    panel_width
        Width of one panel in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is nothing to show.
    """
    check_columns(table, ("modality", "feature", "loading", "stability", "rank"), "model.attribution()")
    check_number("n_top", n_top, low=1, whole=True)
    check_number("panel_width", panel_width, above=0)
    key = "group" if "group" in table else "dimension"
    wanted = _modalities(table) if modality is None else [modality] if isinstance(modality, str) else list(modality)
    rows = table[table["modality"].isin(wanted)]
    if not with_noise and "is_noise" in rows:
        rows = rows[~rows["is_noise"]]
    if shown is not None:
        rows = rows[rows[key].isin(list(shown))]
    panels = list(dict.fromkeys(rows[key]))[:_MOST_PANELS]
    if not panels:
        every = list(dict.fromkeys(table[key]))
        raise ValueError(
            f"expected something to show of modalities {list(dict.fromkeys(table['modality']))} and {key} {every}, got "
            f"modality={modality!r} and shown={shown!r}; choose of these, or with_noise=True for axes of noise."
        )
    n_columns = min(_COLUMNS, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    figure = NotebookFigure(
        figsize=(panel_width * n_columns, (_HEAD + _ROW * n_top) * n_rows + 0.35), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        own = rows[rows[key] == panel]
        top = own.reindex(own["loading"].abs().nlargest(n_top).index).sort_values("loading", ascending=False)
        _draw(ax, top, several=len(wanted) > 1)
        ax.set_title(as_text(_title(own, panel)), fontsize=8.5)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.supxlabel("difference in standard deviations" if key == "group" else "correlation", fontsize=9)
    handles = [Patch(color=_UP, label="up"), Patch(color=_DOWN, label="down"), Patch(color="#CCCCCC", label="unstable")]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    return figure


def _modalities(table: pd.DataFrame) -> list[str]:
    """The one modality that has the largest loading everywhere, as of a specific space; else all."""
    key = "group" if "group" in table else "dimension"
    first = table[table["rank"] == 1]
    best = first.loc[first.groupby(key)["loading"].apply(lambda of: of.abs().idxmax()), "modality"].unique()
    return list(best) if len(best) == 1 else list(dict.fromkeys(table["modality"]))


def _title(rows: pd.DataFrame, panel: Any) -> str:
    if "name" not in rows:
        return str(panel)
    space, _, rest = str(rows["name"].iloc[0]).partition(":")
    return f"{space}{':' if 'noise' in rest else ''}{rest if 'noise' in rest else ''}"


def _draw(ax: Axes, rows: pd.DataFrame, *, several: bool) -> None:
    y = np.arange(len(rows))
    size = rows["loading"].to_numpy(dtype=float)
    # Paler the less halves of the cells agree.
    strength = np.clip(rows["stability"].to_numpy(dtype=float), 0.15, 1.0)
    for position, width, alpha in zip(y, size, strength, strict=True):
        ax.barh(position, width, color=_UP if width > 0 else _DOWN, alpha=alpha, height=0.8)
    names = [
        as_text(_KIT.sub("", str(row.feature)) + (f" ({row.modality})" if several else "")) for row in rows.itertuples()
    ]
    ax.set_yticks(y, names, fontsize=7)
    ax.invert_yaxis()
    reach = max(_LEAST_REACH, float(np.abs(size).max()) * 1.05)
    ax.set_xlim(min(0.0, float(size.min())) * 1.05 - 0.02 * reach, max(0.0, float(size.max())) * 1.05 + 0.02 * reach)
    ax.axvline(0.0, color="0.6", linewidth=0.6)
    ax.tick_params(length=2, labelsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.spines[["top", "right"]].set_visible(False)
