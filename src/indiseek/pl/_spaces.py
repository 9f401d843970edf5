from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import colors as mcolors
from matplotlib.cm import ScalarMappable
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from indiseek._checks import check_choice, check_mapping, check_number, check_seed, check_strings

from ._colour import Colour, find_colour
from ._figure import NotebookFigure, as_text, check_mdata
from ._umap import latent, umap_coordinates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData

# Okabe and Ito, distinguishable with any colour vision; black is left out, it reads as text.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_MISSING = "#D0D0D0"
_NO_LABEL = {"unassigned", "unknown", "nan"}
DISPLAY_NAMES = {
    "rna": "RNA",
    "gex": "RNA",
    "prot": "Protein",
    "protein": "Protein",
    "adt": "Protein",
    "ab": "Protein",
    "atac": "ATAC",
}
# By model: key of the joint code, the start of the modalities' keys, and their titles.
_CODES = (
    ("X_indiseek_shared", "X_indiseek_", "Shared", "{}-specific"),
    ("X_disentangledssl_shared", "X_disentangledssl_", "Shared", "{}-specific"),
    ("X_comm", "X_comm_", "Fused", "{} projected"),
)
_AXES = "_axes"


def spaces(
    mdata: MuData,
    *,
    color: str | Sequence[str],
    spaces: Sequence[str] | Mapping[str, str] | None = None,
    coordinates: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    clip: tuple[float, float] = (1.0, 99.0),
    cmap: str = "viridis",
    point_size: float | None = None,
    panel_size: float = 1.9,
) -> Figure:
    """UMAPs of the shared and the modality-specific spaces, one row for each space and one column for each colour.

    Parameters
    ----------
    mdata
        Holds the latents in ``.obsm``. It is not changed.
    color
        Features of any modality or columns of ``.obs``. ``"rna:CD4"`` names a feature that two modalities have.
        Counts are shown as log(1 + count), other values as they are.
    spaces
        Keys of ``mdata.obsm`` from top to bottom, or a mapping from keys to row titles. By default
        ``X_indiseek_shared`` and ``X_indiseek_<modality>`` for each modality, of which where they are there the
        axes without noise that ``write_axes`` has written, or where there is no such code what DisentangledSSLModel or
        CoMMModel wrote.
    coordinates
        What :func:`umap_coordinates` returned for these keys; by default it is called with ``seed``.
    seed
        Fixes the UMAPs and the order in which points are drawn, which is random so that no type hides another.
    clip
        Percentiles at which the colour scale of a continuous colour ends.
    cmap
        Matplotlib colour map of continuous colours.
    point_size
        Area of a point in square points; by default smaller the more cells there are.
    panel_size
        Side of one panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Shown by notebooks as it is; ``.savefig("spaces.png", dpi=200)`` writes it.

    Raises
    ------
    KeyError
        If latents are missing, or a colour is in no modality and no ``.obs``.
    ValueError
        If there is no colour or no space, a colour's name is found in two modalities, or coordinates do not fit the
        cells.
    """
    check_mdata(mdata)
    names = [color] if isinstance(color, str) else list(check_strings("color", color))
    check_seed("seed", seed)
    check_number("panel_size", panel_size, above=0)
    if point_size is not None:
        check_number("point_size", point_size, above=0)
    check_choice("cmap", cmap, list(mpl.colormaps))
    if coordinates is not None:
        check_mapping("coordinates", coordinates, "coordinates by key")
    if not isinstance(clip, tuple | list) or len(clip) != 2:
        raise TypeError(f"expected clip as two percentiles, got {clip!r}; for example (1, 99).")
    for limit in clip:
        check_number("percentiles in clip", limit, low=0, high=100)
    titles = row_titles(mdata, spaces)
    if not names or not titles:
        raise ValueError(f"expected at least one colour and one space, got {names} and {list(titles)}; name them.")
    low, high = clip
    if not low < high:
        raise ValueError(f"expected clip as two increasing percentiles in [0, 100], got {clip}; for example (1, 99).")
    colours = [find_colour(mdata, name) for name in names]
    if coordinates is None:
        coordinates = umap_coordinates(mdata, titles, seed=seed)
    points = {key: _checked(coordinates, key, mdata.n_obs) for key in titles}
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    if point_size is None:
        point_size = float(np.clip(9000 * (panel_size / 1.9) ** 2 / mdata.n_obs, 0.3, 12))

    key_height = max(_key_height(colour) for colour in colours)
    header = 0.35
    figure = NotebookFigure(
        figsize=(panel_size * len(colours) + 0.35, panel_size * len(titles) + header + key_height),
        layout=ConstrainedLayoutEngine(w_pad=0.035, h_pad=0.035, wspace=0.0, hspace=0.0),
    )
    grid = figure.add_gridspec(len(titles) + 1, len(colours), height_ratios=[*[panel_size] * len(titles), key_height])
    for column, colour in enumerate(colours):
        rgba, scale = _paint(colour, cmap, clip)
        for row, (key, title) in enumerate(titles.items()):
            ax = figure.add_subplot(grid[row, column])
            xy = points[key][order]
            ax.scatter(xy[:, 0], xy[:, 1], c=rgba[order], s=point_size, linewidths=0, rasterized=True)
            _strip(ax)
            if row == 0:
                ax.set_title(as_text(colour.title), fontsize=11, fontweight="bold")
            if column == 0:
                lines = [as_text(line) for line in title.split("\n")]
                ax.set_ylabel("\n".join(lines), fontsize=11, fontweight="bold")
        _draw_key(figure.add_subplot(grid[len(titles), column]), colour, scale)
    return figure


def check_colors(mdata: MuData, color: str | Sequence[str]) -> None:
    """Raise where :func:`spaces` could not find a colour, before anything is computed.

    Parameters
    ----------
    mdata, color
        As in :func:`spaces`.

    Raises
    ------
    KeyError
        If a colour is in no modality and no ``.obs``.
    ValueError
        If a colour's name is found in two modalities.
    """
    check_mdata(mdata)
    for name in [color] if isinstance(color, str) else check_strings("color", color):
        find_colour(mdata, name)


def row_titles(mdata: MuData, spaces: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Keys of ``.obsm`` and titles of the rows, after what the user named."""
    by_model = [
        {joint: title} | {f"{start}{name}": own.format(DISPLAY_NAMES.get(name.lower(), name)) for name in mdata.mod}
        for joint, start, title, own in _CODES
    ]
    if spaces is None:
        first = next((keys for keys in by_model if next(iter(keys)) in mdata.obsm), by_model[0])
        # Axes that model.write_axes has written leave out what is noise.
        spaces = {key + _AXES if key + _AXES in mdata.obsm else key: title for key, title in first.items()}
    known = {f"{key}{end}": title for keys in by_model for key, title in keys.items() for end in ("", _AXES)}
    if not isinstance(spaces, Mapping):
        spaces = {key: known.get(key, key) for key in check_strings("spaces", spaces)}
    titles = dict(spaces)
    for key in titles:
        latent(mdata, key)
    return titles


def _checked(coordinates: Mapping[str, np.ndarray], key: str, n_cells: int) -> np.ndarray:
    if key not in coordinates:
        raise ValueError(
            f"expected coordinates for {key!r}, got {list(coordinates)}; pass umap_coordinates(mdata, keys)"
        )
    xy = np.asarray(coordinates[key])
    if xy.shape != (n_cells, 2):
        raise ValueError(f"expected coordinates[{key!r}] of shape ({n_cells}, 2), got {xy.shape}; compute them anew.")
    return xy


def _paint(colour: Colour, cmap: str, clip: tuple[float, float]) -> tuple[np.ndarray, ScalarMappable | None]:
    """RGBA of every cell, and the scale of a continuous colour."""
    if colour.is_categorical:
        palette = _category_colours(colour)
        missing = mcolors.to_rgba(_MISSING)
        by_code = np.array([*(mcolors.to_rgba(c) for c in palette.values()), missing])
        # Code -1, a missing label, takes the last row.
        return by_code[colour.values.cat.codes.to_numpy()], None
    values = colour.values.to_numpy(dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, clip) if finite.size else (0.0, 1.0)
    if low == high:
        # A marker of fewer cells than the clip leaves out would vanish.
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    scale = ScalarMappable(mcolors.Normalize(low, high), mpl.colormaps[cmap].with_extremes(bad=_MISSING))
    return scale.to_rgba(np.ma.masked_invalid(values)), scale


def _category_colours(colour: Colour) -> dict[str, str]:
    categories = [str(category) for category in colour.values.cat.categories]
    labelled = [category for category in categories if category.lower() not in _NO_LABEL]
    if len(labelled) <= len(_PALETTE):
        hues: Sequence[str] = _PALETTE
    else:
        # No palette keeps this many categories apart for every eye; neighbours in the list at least differ.
        spread = mpl.colormaps["turbo"](np.linspace(0.03, 0.97, len(labelled)))
        hues = [mcolors.to_hex(c) for c in spread]
    by_name = dict(zip(labelled, hues, strict=False))
    return {category: by_name.get(category, _MISSING) for category in categories}


def _key_columns(colour: Colour) -> int:
    return 2 if len(colour.values.cat.categories) > 4 else 1


def _key_height(colour: Colour) -> float:
    """Height in inches of the colour bar or legend under a column."""
    if not colour.is_categorical:
        return 0.32
    return 0.1 + 0.16 * math.ceil(len(colour.values.cat.categories) / _key_columns(colour))


def _draw_key(ax: Axes, colour: Colour, scale: ScalarMappable | None) -> None:
    ax.set_axis_off()
    if scale is None:
        handles = [
            Line2D([], [], linestyle="", marker="o", markersize=5, markeredgewidth=0, color=hue, label=category)
            for category, hue in ((as_text(name), hue) for name, hue in _category_colours(colour).items())
        ]
        ax.legend(
            handles=handles,
            loc="upper center",
            ncols=_key_columns(colour),
            fontsize=7.5,
            frameon=False,
            borderpad=0,
            handletextpad=0.1,
            columnspacing=0.6,
            labelspacing=0.25,
        )
        return
    bar = ax.inset_axes((0.12, 0.7, 0.76, 0.22))
    colorbar = ax.figure.colorbar(scale, cax=bar, orientation="horizontal")
    colorbar.outline.set_visible(False)
    colorbar.ax.tick_params(labelsize=7.5, length=2, pad=1)
    colorbar.locator = MaxNLocator(3)
    colorbar.set_label("log(1 + count)" if colour.is_log_counts else "value", fontsize=7.5, labelpad=1)


def _strip(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_box_aspect(1)
    ax.margins(0.05)
    for spine in ax.spines.values():
        spine.set(color="0.85", linewidth=0.6)
