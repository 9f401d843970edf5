from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, rankdata
from sklearn.neighbors import NearestNeighbors

from indiseek._checks import check_number, check_seed

from ._spaces import row_titles
from ._spaces import spaces as draw_spaces
from ._umap import latent

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mudata import MuData

_N_NEIGHBORS, _MOST_CELLS = 15, 1500
_ALPHA = 0.05


class Structure(NamedTuple):
    """Whether cells lie closer together in a space than where its axes have nothing to do with each other.

    Attributes
    ----------
    closeness
        How much nearer the neighbours are than in shuffled controls: their mean logarithm of the distance to the 15th
        neighbour, less that of the cells. 0 where there is no structure, higher with more.
    pvalue
        Share of the controls, and the cells themselves, in which neighbours are as near.
    """

    closeness: float
    pvalue: float


def structure(codes: ArrayLike, *, n_controls: int = 39, seed: int = 0) -> Structure:
    """Test a space for groups, arms and gradients, which a map would draw of noise too.

    The codes are brought to one variance in all directions, and their distances from the centre to those of a normal
    distribution, because long tails are no structure. A control is turned at random, and every axis is shuffled by
    itself, which destroys what brings cells together.

    Parameters
    ----------
    codes
        Codes of cells, ``(n_cells, n_dims)``; at most 1,500 cells are used.
    n_controls
        Number of shuffled controls.
    seed
        Seed of cells, turns and shuffles.

    Raises
    ------
    ValueError
        If there are fewer than 100 cells or one dimension, or values are not finite.
    """
    check_number("n_controls", n_controls, low=19, whole=True)
    check_seed("seed", seed)
    z = np.asarray(codes, dtype=np.float64)
    if z.ndim != 2 or len(z) < 100 or z.shape[1] < 2 or not np.isfinite(z).all():
        raise ValueError(f"expected finite codes of 100 cells and 2 dimensions at least, got {z.shape}; give more.")
    rng = np.random.default_rng(seed)
    z = z[rng.permutation(len(z))[:_MOST_CELLS]]
    white = _without_tails(_white(z))
    if white.shape[1] < 2:
        raise ValueError(f"expected codes that vary in 2 dimensions at least, got {white.shape[1]}; give others.")
    own = _distance(white)
    controls = []
    for _ in range(n_controls):
        turn = np.linalg.qr(rng.normal(size=(white.shape[1], white.shape[1])))[0]
        controls.append(_distance(_without_tails(_white(rng.permuted(white @ turn, axis=0)))))
    nearer = sum(control <= own for control in controls)
    return Structure(float(np.mean(controls) - own), (1 + nearer) / (1 + n_controls))


def tested_map(
    mdata: MuData,
    spaces: str | Sequence[str] | Mapping[str, str] | None = None,
    *,
    color: str | Sequence[str],
    coordinates: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    panel_size: float = 2.1,
) -> Figure:
    """Maps of spaces that say, where it is so, that there is no structure to be seen.

    Parameters
    ----------
    mdata
        Holds the latents in ``.obsm``. It is not changed.
    spaces
        Key of ``mdata.obsm``, keys, or a mapping from keys to titles; by default as in :func:`spaces`.
    color, coordinates, seed, panel_size
        As in :func:`spaces`.

    Returns
    -------
    matplotlib.figure.Figure
        The title of a row ends with ``no structure found`` and the p of :func:`structure` where that is above .05.

    Raises
    ------
    KeyError, ValueError
        As :func:`spaces` and :func:`structure`.
    """
    titles = row_titles(mdata, [spaces] if isinstance(spaces, str) else spaces)
    said = {}
    for key, title in titles.items():
        found = structure(latent(mdata, key), seed=seed)
        none = found.pvalue > _ALPHA
        said[key] = f"{title}\nno structure found\n(p = {found.pvalue:.2f})" if none else title
    return draw_spaces(mdata, color=color, spaces=said, coordinates=coordinates, seed=seed, panel_size=panel_size)


def _white(z: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    found: np.ndarray = u[:, s > 1e-9 * max(s[0], 1e-300)] * np.sqrt(len(z))
    return found


def _without_tails(white: np.ndarray) -> np.ndarray:
    """Cells at the same angles, at distances from the centre like those of a normal distribution."""
    radius = np.linalg.norm(white, axis=1)
    wanted = np.sqrt(chi2.ppf((rankdata(radius) - 0.5) / len(radius), max(white.shape[1], 1)))
    found: np.ndarray = white * (wanted / np.maximum(radius, 1e-12))[:, None]
    return found


def _distance(z: np.ndarray) -> float:
    found = NearestNeighbors(n_neighbors=_N_NEIGHBORS + 1).fit(z).kneighbors(z)[0][:, -1]
    return float(np.log(np.maximum(found, 1e-12)).mean())
