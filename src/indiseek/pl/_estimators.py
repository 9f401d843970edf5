from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from indiseek._checks import check_number

from ._figure import NotebookFigure, check_has

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ESTIMATES = {
    "info_nce": ("InfoNCE", "#0072B2", "o"),
    "nce_club": ("NCE-CLUB", "#D55E00", "s"),
    "vclub": ("vCLUB", "#009E73", "^"),
}
_COLUMNS = ("rho", "n_dims", "n_cells", "mutual_information", "jeffreys", *_ESTIMATES)


def estimators(table: pd.DataFrame, *, panel_size: float = 3.2) -> Figure:
    """Estimates of mutual information over the correlation of Gaussian pairs, one panel for each dimension.

    Parameters
    ----------
    table
        One row for each run: correlation ``rho``, number of correlated pairs ``n_dims``, cells of a batch ``n_cells``,
        the true ``mutual_information`` and ``jeffreys`` divergence, and the estimates ``info_nce``, ``nce_club`` and
        ``vclub``, all in nats. Rows with the same correlation and dimension are runs with other seeds.
    panel_size
        Width of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Markers are means over runs, bars their range. The vertical axis is linear up to 1 nat, logarithmic above.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table has no row, or batches of different sizes.
    """
    check_has(table, ("columns", "groupby"), "a table")
    check_number("panel_size", panel_size, above=0)
    missing = [column for column in _COLUMNS if column not in table]
    if missing:
        raise KeyError(f"expected the columns {list(_COLUMNS)}, got none called {missing}; add them to the table")
    sizes = table["n_cells"].unique()
    if len(sizes) != 1:
        raise ValueError(
            f"expected one n_cells in all rows, got {sizes.tolist()}; the ceiling depends on it: draw each on its own"
        )
    panels = list(table.groupby("n_dims"))
    figure = NotebookFigure(figsize=(panel_size * len(panels), 1.15 * panel_size), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (n_dims, rows) in zip(axes, panels, strict=True):
        _draw(ax, rows, float(np.log(sizes[0])))
        ax.set_title(f"{n_dims} pair{'s' if n_dims > 1 else ''}", fontsize=10, loc="left")
    axes[0].set_ylabel("Nats", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw(ax: Axes, rows: pd.DataFrame, ceiling: float) -> None:
    by_rho = rows.groupby("rho")
    mean = by_rho.mean()
    ax.plot(mean.index, mean["mutual_information"], color="black", linewidth=1.4, label="true information")
    ax.plot(mean.index, mean["jeffreys"], color="0.45", linewidth=1.2, linestyle="--", label="true Jeffreys divergence")
    ax.axhline(ceiling, color="#0072B2", linewidth=1, linestyle=":", label="log N, ceiling of InfoNCE")
    for column, (label, colour, marker) in _ESTIMATES.items():
        low, high = by_rho[column].min(), by_rho[column].max()
        error = np.stack([mean[column] - low, high - mean[column]])
        ax.errorbar(
            mean.index,
            mean[column],
            yerr=error,
            color=colour,
            marker=marker,
            markersize=5,
            markerfacecolor="none",
            linestyle="none",
            elinewidth=1,
            label=label,
        )
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set_xlabel("Correlation rho", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
