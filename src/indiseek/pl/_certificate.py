from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from indiseek._checks import check_number

from ._figure import NotebookFigure, as_text, check_has

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    class Certified(Protocol):
        """What is drawn of a certificate."""

        @property
        def verdicts(self) -> pd.DataFrame: ...

        @property
        def features(self) -> pd.DataFrame: ...


# Distinct by marker too, for those who cannot tell the colours.
_COLORS = {"pass": "#0072B2", "FAIL": "#D55E00", "too few cells": "#E69F00", "note": "#777777"}
_MARKERS = {"pass": "o", "FAIL": "X", "too few cells": "D", "note": "."}
_LIMIT = "black"
_PARTS = {"shared": "#0072B2", "specific_share": "#E69F00", "unexplained": "#DDDDDD"}
_PART_NAMES = {"shared": "shared", "specific_share": "specific adds", "unexplained": "unexplained"}
# Antibodies are named with their kit, which is the same for all and takes more room than the protein.
_KIT = r"[-_]TotalSeq-?[A-D]$"
_MOST_FEATURES = 30
_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
_ROW_HEIGHT, _LABEL_LENGTH = 0.26, 64


def certificate(result: Certified, *, panel_height: float = 3.4) -> Figure:
    """Every finding of a certificate with its interval, verdict and limit, and what the codes hold of every feature.

    Above, one row a finding: what was measured with its 95 % interval, coloured by verdict, beside the limit of that
    row. Below, one panel a modality: variance of each feature that the shared code explains, that the specific one
    adds, and the rest; a cross marks where counting noise begins.

    Parameters
    ----------
    result
        What ``model.certify()`` or ``metrics.certify()`` gave.
    panel_height
        Height of the lower panels in inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    check_has(result, ("verdicts", "features"), "a certificate")
    check_number("panel_height", panel_height, above=0)
    # What has no size, such as a p, is told in the summary.
    findings = result.verdicts[result.verdicts["value"].notna()]
    modalities = list(dict.fromkeys(result.features["modality"]))
    shown = [result.features[result.features["modality"] == name].head(_MOST_FEATURES) for name in modalities]
    widths = [1.2 + 0.24 * len(table) for table in shown]
    heights = [0.9 + _ROW_HEIGHT * len(findings), panel_height]
    figure = NotebookFigure(figsize=(max(9.0, sum(widths) + 1.5), sum(heights)), layout="constrained")
    # Two rows of their own, so that long labels above do not narrow the panels below.
    rows = figure.add_gridspec(2, 1, height_ratios=heights)
    _findings(figure.add_subfigure(rows[0]).subplots(), findings)
    below = figure.add_subfigure(rows[1])
    axes = below.subplots(1, len(widths), gridspec_kw={"width_ratios": widths}, squeeze=False)[0]
    for ax, name, table in zip(axes, modalities, shown, strict=True):
        _features(ax, name, table, total=int((result.features["modality"] == name).sum()))
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return figure


def _findings(ax: Axes, table: pd.DataFrame) -> None:
    y = np.arange(len(table))[::-1]
    for verdict, color in _COLORS.items():
        chosen = (table["verdict"] == verdict).to_numpy()
        if not chosen.any():
            continue
        own = table[chosen]
        value = own["value"].to_numpy(dtype=float)
        error = np.abs(np.vstack([value - own["low"].to_numpy(dtype=float), own["high"].to_numpy(dtype=float) - value]))
        ax.errorbar(
            value,
            y[chosen],
            # An interval that these cells leave open has no end to draw.
            xerr=np.where(np.isfinite(error), error, 0.0),
            fmt=_MARKERS[verdict],
            color=color,
            markersize=6,
            linewidth=1.2,
            capsize=2,
            label=verdict,
        )
    limits = table["limit"].to_numpy(dtype=float)
    ax.vlines(limits, y - 0.38, y + 0.38, color=_LIMIT, linewidth=1.2, label="limit")
    for position, row in zip(y, table.itertuples(), strict=True):
        ax.text(1.01, position, f"{row.value:.3f}", va="center", fontsize=8, transform=ax.get_yaxis_transform())
    ax.set_yticks(y, [as_text(_label(row)) for row in table.itertuples()], fontsize=8)
    ax.set_ylim(-0.7, len(table) - 0.3)
    ax.set_xlabel("share, on held-out cells, with 95 % interval (square root scale)", fontsize=9)
    # Limits lie between .01 and .7: the root gives the small ones room.
    ax.set_xscale("function", functions=(_root, _square))
    ax.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    ax.set_xlim(min(-0.01, float(table["value"].min()) - 0.01), max(1.05, float(table["value"].max()) + 0.05))
    ax.axvline(0.0, color="#CCCCCC", linewidth=0.8, zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5)


def _root(x: NDArray[Any]) -> NDArray[Any]:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: NDArray[Any]) -> NDArray[Any]:
    return np.sign(x) * np.square(x)


def _label(row: pd.Series) -> str:
    text = f"{row.check}: {row.modality}, {row.target}"
    return text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 3]}..."


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
    labels = table["feature"].astype(str).str.replace(_KIT, "", regex=True).map(as_text)
    ax.set_xticks(x, labels, rotation=90, fontsize=7)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of variance")
    ax.set_title(
        as_text(name) if total == len(table) else f"{as_text(name)}, first {len(table)} of {total}", fontsize=10
    )
    ax.spines[["top", "right"]].set_visible(False)
