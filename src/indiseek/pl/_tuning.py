from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import matplotlib
import numpy as np

from indiseek._checks import check_number

from ._figure import NotebookFigure, check_has

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    class TuningResult(Protocol):
        """What is drawn of a search: its candidates and its choice."""

        @property
        def table(self) -> pd.DataFrame: ...

        @property
        def chosen(self) -> Mapping[str, Any]: ...


_CHOSEN = "#D55E00"
# Differences that probes do not tell apart shall not fill the panel.
_CONTENT_SPAN = 0.1


def tuning(result: TuningResult, *, panel_size: float = 3.6) -> Figure:
    """Trade-off between the candidates of a search for the shared space, the chosen one marked.

    Two panels over the excess, the R2 to what only one modality knows (the worst modality, further left is better):
    the shared content (the mean over modalities, higher is better) and the held-out InfoNCE with its standard error
    (lower is better). A line joins the candidates of one ``alignment``; numbers are ``n_shared``. Where several
    ``lam`` were tried a third panel shows held-out reconstruction error and leakage.

    Parameters
    ----------
    result
        What ``model.tune()`` gave, or anything with such a ``table`` and ``chosen``.
    panel_size
        Width of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the table has no candidates for the shared space.
    """
    check_has(result, ("table", "chosen"), "the result of tune()")
    check_number("panel_size", panel_size, above=0)
    table = result.table
    shared = table[table["stage"] == "shared"] if "stage" in table else table.iloc[:0]
    if shared.empty:
        raise ValueError(
            f"expected candidates of stage 'shared' in the table, got {len(table)} rows without any; "
            "pass what model.tune() returned"
        )
    excess, content = (shared.filter(regex=f"^{name}_") for name in ("excess", "content"))
    shared = shared.assign(excess=excess.max(axis=1), content=content.mean(axis=1))
    is_chosen = (shared["n_shared"] == result.chosen["n_shared"]) & (shared["alignment"] == result.chosen["alignment"])
    specific = table[table["stage"] == "specific"]
    has_lam = "lam" in specific and specific["lam"].notna().any()
    n_panels = 3 if has_lam else 2
    figure = NotebookFigure(figsize=(panel_size * n_panels, 0.85 * panel_size), layout="constrained")
    axes = [figure.add_subplot(1, n_panels, number) for number in range(1, n_panels + 1)]
    _trade_off(axes[0], shared, is_chosen, "content")
    axes[0].set_ylabel("Shared content\n(mean R2, higher is better)", fontsize=9)
    low, high = axes[0].get_ylim()
    margin = max(0.0, _CONTENT_SPAN - (high - low)) / 2
    axes[0].set_ylim(low - margin, high + margin)
    _trade_off(axes[1], shared, is_chosen, "infonce", error="infonce_se")
    axes[1].set_ylabel("Held-out InfoNCE\n(nats, lower is better)", fontsize=9)
    for ax in axes[:2]:
        ax.set_xlabel("Excess (R2 above null, lower is better)", fontsize=9)
    axes[0].set_title("Shared space", fontsize=10, loc="left")
    axes[0].legend(fontsize=8, title="alignment", title_fontsize=8, frameon=False)
    if has_lam:
        _weights(axes[2], specific, result.chosen["lam"])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure


def _trade_off(ax: Axes, table: pd.DataFrame, is_chosen: pd.Series, y: str, *, error: str | None = None) -> None:
    groups = list(table.groupby("alignment", sort=True))
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(groups)))
    for colour, (alignment, group) in zip(colours, groups, strict=True):
        group = group.sort_values("n_shared")
        bars = None if error is None else group[error]
        ax.errorbar(
            group["excess"],
            group[y],
            bars,
            color=colour,
            label=f"{alignment:g}",
            marker="o",
            markersize=4,
            linewidth=1.2,
        )
    for row in table[["excess", y, "n_shared"]].itertuples(index=False):
        ax.annotate(f"{row[2]:g}", row[:2], xytext=(4, 4), textcoords="offset points", fontsize=8, color="0.3")
    _mark(ax, table["excess"][is_chosen], table[y][is_chosen])


def _weights(ax: Axes, table: pd.DataFrame, chosen: float) -> None:
    table = table.sort_values("lam")
    ax.plot(table["leakage"], table["reconstruction"], color="0.35", marker="o", markersize=4, linewidth=1.2)
    for row in table[["leakage", "reconstruction", "lam"]].itertuples(index=False):
        ax.annotate(f"{row[2]:g}", row[:2], xytext=(4, 4), textcoords="offset points", fontsize=8, color="0.3")
    is_chosen = table["lam"] == chosen
    _mark(ax, table["leakage"][is_chosen], table["reconstruction"][is_chosen])
    ax.set_title("Specific spaces: lam", fontsize=10, loc="left")
    ax.set_xlabel("Leakage (R2 above null, lower is better)", fontsize=9)
    ax.set_ylabel("Held-out reconstruction error\n(lower is better)", fontsize=9)


def _mark(ax: Axes, x: pd.Series, y: pd.Series) -> None:
    ax.scatter(x, y, s=130, facecolors="none", edgecolors=_CHOSEN, linewidths=1.8, zorder=3, gid="chosen")
