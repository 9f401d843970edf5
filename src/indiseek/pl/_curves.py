from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from indiseek._checks import check_mapping, check_number

from ._figure import NotebookFigure, as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"train": "#0072B2", "validation": "#D55E00"}
# What the losses' own names say to those who know them.
_WORDS = {
    "infonce": "InfoNCE, nats",
    "misalignment": "1 - cosine of a cell's codes",
    "nll": "-log p per axis, nats",
    "leakage": "leakage, nats",
}
_NAME = re.compile(r"(?:(?P<stage>[^/]+)/)?(?P<split>train|validation)_(?P<quantity>.+)")


def training_curves(history: Mapping[str, pd.DataFrame], *, panel_size: float = 3.0) -> Figure:
    """Losses and their terms by epoch, one row for each stage and one panel for each quantity.

    Parameters
    ----------
    history
        What ``model.history`` holds: for each name a table with the epoch as index and one column. Names are
        ``"<stage>/<train or validation>_<quantity>"``, such as ``"shared/validation_loss"``; others are not drawn.
        Training and validation of the same quantity share a panel.
    panel_size
        Width of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        In the panels of a stage with a ``validation_loss`` a dashed line marks the epoch where it was lowest.

    Raises
    ------
    ValueError
        If the history has no curve.
    """
    check_mapping("history", history, "tables by name")
    check_number("panel_size", panel_size, above=0)
    stages = _by_stage(history)
    if not stages:
        raise ValueError(
            f"expected names such as 'shared/train_loss' in history, got {list(history)}; call model.train() first"
        )
    n_columns = max(len(panels) for panels in stages.values())
    figure = NotebookFigure(
        figsize=(panel_size * n_columns, 0.8 * panel_size * len(stages) + 0.3), layout="constrained"
    )
    rows = figure.add_gridspec(len(stages), 1)
    for row, (stage, panels) in enumerate(stages.items()):
        best = _best_epoch(panels)
        # Each stage fills its row, however many panels another one has.
        grid = rows[row].subgridspec(1, len(panels))
        for column, (quantity, curves) in enumerate(panels.items()):
            ax = figure.add_subplot(grid[column])
            _draw(ax, curves, best, is_first=row == column == 0)
            prefix = f"{stage.capitalize()}: " if stage else ""
            ax.set_title(as_text(f"{prefix}{_in_words(quantity)}"), fontsize=10, loc="left")
            ax.set_xlabel("Epoch", fontsize=9)
    return figure


def _in_words(quantity: str) -> str:
    for name, words in _WORDS.items():
        if quantity == name:
            return words
        if quantity.startswith(f"{name}_"):
            return f"{quantity.removeprefix(f'{name}_')}, {words}"
    return quantity.replace("_", " ")


def _by_stage(history: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, pd.Series]]]:
    """``stage -> quantity -> split -> curve`` in the order of the history, the loss first in each stage."""
    stages: dict[str, dict[str, dict[str, pd.Series]]] = defaultdict(dict)
    for name, table in history.items():
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        curve = table.iloc[:, 0].astype(float).dropna()
        if not curve.empty:
            stages[match["stage"] or ""].setdefault(match["quantity"], {})[match["split"]] = curve
    return {stage: dict(sorted(panels.items(), key=lambda item: item[0] != "loss")) for stage, panels in stages.items()}


def _best_epoch(panels: Mapping[str, Mapping[str, pd.Series]]) -> float | None:
    validation = panels.get("loss", {}).get("validation")
    return None if validation is None else float(validation.idxmin())


def _draw(ax: Axes, curves: Mapping[str, pd.Series], best: float | None, *, is_first: bool) -> None:
    for split, colour in _COLOURS.items():
        if split in curves:
            curve = curves[split]
            marker = "o" if len(curve) == 1 else None
            ax.plot(curve.index, curve, color=colour, label=split, linewidth=1.6, marker=marker, markersize=4)
    if best is not None:
        ax.axvline(best, color="0.45", linewidth=1, linestyle="--", zorder=0, label=f"best epoch ({best:g})")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if best is not None or is_first:
        ax.legend(fontsize=8, facecolor="white", edgecolor="none", framealpha=0.85)
