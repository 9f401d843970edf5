from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ._figure import NotebookFigure, as_text

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    class Certified(Protocol):
        """What is drawn of a certificate."""

        @property
        def leakage(self) -> pd.DataFrame: ...

        @property
        def features(self) -> pd.DataFrame: ...

        @property
        def thresholds(self) -> Any: ...


_TARGETS = {
    "shared": "shared code of {row.other}",
    "features": "features of {row.other}",
    "predictable": "what {row.other} predicts",
}
_FOUND, _CEILING, _LIMIT = "#0072B2", "#CCCCCC", "#D55E00"
_PARTS = {"shared": "#0072B2", "specific_share": "#E69F00", "unexplained": "#DDDDDD"}
_PART_NAMES = {"shared": "shared", "specific_share": "specific adds", "unexplained": "unexplained"}
_MOST_FEATURES = 30


def certificate(result: Certified, *, panel_height: float = 3.4) -> Figure:
    """Leakage of every specific code beside its ceiling, and what the codes explain of every feature.

    Left, where there are specific codes: R2 of a fresh probe from each to what it should not hold, above the null, with
    the limit of the verdict and the ceiling, the same from the modality itself. Right, one panel a modality: variance
    of each feature that the shared code explains, that the specific one adds, and the rest; a cross marks where
    counting noise begins.

    Parameters
    ----------
    result
        What ``model.certify()`` or ``metrics.certify()`` gave.
    panel_height
        Height of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    modalities = list(dict.fromkeys(result.features["modality"]))
    shown = [result.features[result.features["modality"] == name].head(_MOST_FEATURES) for name in modalities]
    left = [] if result.leakage.empty else [4.2]
    widths = [*left, *(1.2 + 0.24 * len(table) for table in shown)]
    figure = NotebookFigure(figsize=(sum(widths), panel_height), layout="constrained")
    axes = figure.subplots(1, len(widths), gridspec_kw={"width_ratios": widths}, squeeze=False)[0]
    if left:
        _leakage(axes[0], result.leakage, float(result.thresholds.leakage))
    for ax, name, table in zip(axes[len(left) :], modalities, shown, strict=True):
        _features(ax, name, table, total=int((result.features["modality"] == name).sum()))
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return figure


def _leakage(ax: Axes, table: pd.DataFrame, limit: float) -> None:
    names = [f"{row.modality}-specific: {_TARGETS[row.target].format(row=row)}" for row in table.itertuples()]
    y = np.arange(len(table))[::-1]
    ax.barh(y, table["ceiling"], color=_CEILING, height=0.7, label="ceiling: the modality itself")
    ax.barh(y, table["above_null"], color=_FOUND, height=0.7, label="found, above the null")
    ax.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1, label=f"limit {limit:.2f}")
    for position, value in zip(y, table["above_null"], strict=True):
        ax.text(max(float(value), limit) + 0.02, position, f"{value:.2f}", va="center", fontsize=8)
    ax.set_yticks(y, list(map(as_text, names)), fontsize=8)
    ax.set_xlabel("R2 on held-out cells")
    ax.set_title("Leakage", fontsize=10)
    ax.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.18), ncols=3)
    ax.spines[["top", "right"]].set_visible(False)


def _features(ax: Axes, name: str, table: pd.DataFrame, *, total: int) -> None:
    x = np.arange(len(table))
    bottom = np.zeros(len(table))
    # Without specific codes there is nothing that they add.
    for part, color in _PARTS.items():
        if table[part].isna().all():
            continue
        height = table[part].clip(lower=0).to_numpy(dtype=float)
        ax.bar(x, height, bottom=bottom, color=color, width=0.85, label=_PART_NAMES[part])
        bottom += height
    if table["noise"].notna().any():
        ax.plot(x, 1 - table["noise"], linestyle="none", marker="x", color="black", label="counting noise above")
    labels = table["feature"].astype(str).str.removesuffix("_TotalSeqB").map(as_text)
    ax.set_xticks(x, labels, rotation=90, fontsize=7)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of variance")
    ax.set_title(
        as_text(name) if total == len(table) else f"{as_text(name)}, first {len(table)} of {total}", fontsize=10
    )
    ax.spines[["top", "right"]].set_visible(False)
