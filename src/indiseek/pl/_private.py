from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from indiseek._checks import check_number, check_seed, check_strings

from ._colour import find_colour
from ._figure import NotebookFigure, as_text, check_mdata
from ._spaces import row_titles
from ._spaces import spaces as draw_spaces
from ._umap import latent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PAIRS = 10
_MOST_POINTS = 4000
_POINT = "#0072B2"


def private(
    mdata: MuData,
    parts: pd.DataFrame,
    *,
    color: str | Sequence[str] = (),
    spaces: str | Sequence[str] | Mapping[str, str] | None = None,
    coordinates: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    cmap: str = "viridis",
    panel_size: float = 1.9,
) -> Figure:
    """Private parts of features on maps of spaces: what the other modality does not tell of them.

    ``indiseek.pl.private(mdata, model.private_parts(["PD-1", "CD25"]))``

    Parameters
    ----------
    mdata
        Holds the latents in ``.obsm``. It is not changed.
    parts
        What ``model.private_parts(...)`` gave, ``(n_cells, n_features)``, with the names of the cells of `mdata`.
    color
        Further colours, before the private parts, as in :func:`spaces`.
    spaces
        Key of ``mdata.obsm``, keys, or a mapping from keys to titles; by default as in :func:`spaces`.
    coordinates, seed, cmap, panel_size
        As in :func:`spaces`; any map of the cells may be given, as ``coordinates={"X_indiseek": umap}``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    KeyError
        If latents or colours are missing.
    ValueError
        If the parts are of other cells.
    """
    check_mdata(mdata)
    _check_parts(parts)
    if not parts.index.equals(pd.Index(mdata.obs_names)):
        raise ValueError(
            f"expected parts of the {mdata.n_obs} cells of mdata in their order, got {len(parts)} others; call "
            "model.private_parts(features, mdata)."
        )
    wanted = [spaces] if isinstance(spaces, str) else spaces
    titles = row_titles(mdata, wanted)
    columns = {f"{name}, private": parts[name].to_numpy(dtype=float) for name in parts}
    others = [color] if isinstance(color, str) else list(check_strings("color", color))
    with mudata.set_options(pull_on_update=False):
        # The colours beside the codes, on an object of their own.
        shown = MuData({"cells": AnnData(obs=pd.DataFrame(index=mdata.obs_names))})
        found = {name: find_colour(mdata, name) for name in others}
        by_title = {
            colour.title: colour.values.to_numpy() if not colour.is_categorical else colour.values
            for colour in found.values()
        }
        shown.obs = pd.DataFrame({**by_title, **columns}, index=mdata.obs_names)
    for key in titles:
        shown.obsm[key] = latent(mdata, key)
    return draw_spaces(
        shown,
        color=list(shown.obs.columns),
        spaces=titles,
        coordinates=coordinates,
        seed=seed,
        cmap=cmap,
        panel_size=panel_size,
    )


def pairs(
    parts: pd.DataFrame,
    *,
    clip: tuple[float, float] = (0.5, 99.5),
    panel_size: float = 1.25,
    seed: int = 0,
) -> Figure:
    """Private parts of features against each other: below the diagonal cells, above it correlations.

    Features whose private parts go together, or against each other, are signal that neither counting nor the other
    modality makes; background of the antibodies makes all go together.

    Parameters
    ----------
    parts
        What ``model.private_parts(...)`` gave, ``(n_cells, n_features)``, 2 to 10 features.
    clip
        Percentiles between which cells are shown.
    panel_size
        Side of one panel in inches.
    seed
        Fixes which cells are drawn if there are more than 4,000.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are fewer than 2 or more than 10 features.
    """
    _check_parts(parts)
    check_number("panel_size", panel_size, above=0)
    check_seed("seed", seed)
    n = parts.shape[1]
    if not 2 <= n <= _MOST_PAIRS:
        raise ValueError(f"expected 2 to {_MOST_PAIRS} features, got {n}; choose some of them.")
    r = parts.corr().to_numpy()
    rows = np.random.default_rng(seed).permutation(len(parts))[:_MOST_POINTS]
    values = parts.to_numpy(dtype=float)
    limits = np.percentile(values, clip, axis=0).T
    figure = NotebookFigure(figsize=(panel_size * n + 0.3, panel_size * n + 0.3), layout="constrained")
    axes = figure.subplots(n, n, squeeze=False)
    names = [as_text(name) for name in parts]
    for i in range(n):
        for j in range(n):
            ax = axes[i, j]
            if i > j:
                ax.scatter(values[rows, j], values[rows, i], s=2, alpha=0.35, linewidths=0, c=_POINT, rasterized=True)
                ax.set_xlim(limits[j])
                ax.set_ylim(limits[i])
            elif i == j:
                ax.hist(np.clip(values[:, i], *limits[i]), bins=40, color="0.7")
                ax.set_xlim(limits[i])
            else:
                _write_correlation(ax, r[i, j])
            _bare(ax)
            if j == 0:
                ax.set_ylabel(names[i], fontsize=8)
            if i == n - 1:
                ax.set_xlabel(names[j], fontsize=8)
    return figure


def _write_correlation(ax: Axes, r: float) -> None:
    # Lightness tells the size, colour only the sign, which the number has too.
    color = "#D55E00" if r > 0 else "#0072B2"
    ax.patch.set_facecolor(color)
    ax.patch.set_alpha(min(1.0, abs(r)) * 0.8)
    ax.text(0.5, 0.5, f"{r:.2f}", ha="center", va="center", transform=ax.transAxes, fontsize=9)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_box_aspect(1)
    for spine in ax.spines.values():
        spine.set(color="0.85", linewidth=0.6)


def _check_parts(parts: object) -> None:
    if not isinstance(parts, pd.DataFrame):
        raise TypeError(f"expected parts as a table, got {type(parts).__name__}; give what model.private_parts gave.")
    if not parts.shape[1] or not np.isfinite(parts.to_numpy(dtype=float)).all():
        raise ValueError(f"expected finite private parts, got a table of {parts.shape[1]} columns; name some features.")
