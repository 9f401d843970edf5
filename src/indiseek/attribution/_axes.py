"""Axes of a space that can be read: what is reproducible first, turned so that few features carry each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from indiseek._checks import check_choice, check_seed
from indiseek.attribution._moments import Codes, Moments
from indiseek.attribution._shares import within

Array = NDArray[np.float64]
ROTATIONS = ("varimax", "none")
_N_SHUFFLES, _MOST_TURNS = 99, 1000
_QUANTILE = 0.95
# Less of an axis than this repeats in another count of the same cells: no feature can be read off it.
LEAST_RELIABILITY = 0.3
# A feature names an axis if it loads at least so much of what the first one does.
_N_NAMED, _LEAST_NAMED = 3, 0.4
_TINY = 1e-12
# Antibodies are named with their kit, which is the same for all.
_KIT = re.compile(r"[-_]TotalSeq-?[A-D]$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Axes:
    """Axes of a space.

    Attributes
    ----------
    space
        Name of the space.
    rotation
        Orthogonal matrix ``(n_dims, n_dims)``: codes times it are the coordinates on the axes, and times its transpose
        the codes again. An orthogonal map of a code keeps what the code is independent of.
    table
        One row for each axis: ``dimension``, from 1; ``name``, the space and the features that surely load most on it;
        ``reliability``, the correlation that another count of the same cells would have with this one along the axis;
        ``share``, of the reproducible variance of the features that all axes follow; ``is_noise``, whether nothing
        reproducible was found.
    """

    space: str
    rotation: Array
    table: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """Names of the axes."""
        return [str(name) for name in self.table["name"]]

    @property
    def n_axes(self) -> int:
        """Number of axes that are not noise."""
        return int((~self.table["is_noise"]).sum())

    def coordinates(self, codes: ArrayLike, *, with_noise: bool = False) -> Array:
        """Coordinates on the axes, ``(n_cells, n_axes)``.

        Parameters
        ----------
        codes
            Codes of the space, ``(n_cells, n_dims)``.
        with_noise
            Whether axes of noise are among them: ``(n_cells, n_dims)`` then.
        """
        kept = np.ones(len(self.table), dtype=bool) if with_noise else ~self.table["is_noise"].to_numpy()
        found: Array = np.asarray(codes, dtype=np.float64) @ self.rotation[:, kept]
        return found


def find_axes(
    space: str,
    codes: Codes,
    moments: Moments,
    names: Sequence[str],
    *,
    of_space: NDArray[np.bool_] | None = None,
    batch: NDArray[np.intp] | None = None,
    rotation: str = "varimax",
    seed: int = 0,
) -> Axes:
    r"""Find the axes of a space.

    The codes of the two halves of the counts share nothing but what another count would repeat, so the eigenvectors of
    :math:`\tfrac12 (K + K^\top)`, :math:`K = \operatorname{cov}(Z_a, Z_b)`, are the directions in which the space holds
    that. Those whose reliability :math:`2 r / (1 + r)`, r the correlation of the halves, is below 0.3 or reached by
    chance, as the best direction where the cells of one half are shuffled, are noise. The others are turned by varimax
    on the loadings of code and feature from different halves, so that few features carry an axis, and put in the order
    of the squares of these loadings. What an axis follows most points upwards.

    Parameters
    ----------
    space
        Name of the space.
    codes
        Codes from all counts and from two halves.
    moments
        Of these codes with the features.
    names
        Names of the features.
    of_space
        Which features are turned by, ``(n_features,)``; of a modality's specific space those of the modality. All by
        default.
    batch
        Batch of each cell as a number from 0, ``(n_cells,)``.
    rotation
        ``"varimax"``, or ``"none"`` for the dimensions as they are, told of in the same way.
    seed
        Seed of the shuffles.

    References
    ----------
    Kaiser, "The varimax criterion for analytic rotation in factor analysis", Psychometrika 1958.
    """
    check_choice("rotation", rotation, ROTATIONS)
    check_seed("seed", seed)
    label = np.zeros(len(codes.whole), dtype=np.intp) if batch is None else batch
    first, second = (np.asarray(within(code, label), dtype=np.float64) for code in (codes.first, codes.second))
    chosen = np.ones(len(names), dtype=bool) if of_space is None else of_space
    n_dims = first.shape[1]
    vectors = np.linalg.eigh(_symmetric(first, second))[1][:, ::-1]
    limit = max(LEAST_RELIABILITY, _by_chance(first, second, seed))
    turned = np.eye(n_dims)
    if rotation == "varimax":
        is_kept = _reliability(first, second, vectors) > limit
        turned = np.hstack([_varimax(moments, vectors[:, is_kept], chosen), vectors[:, ~is_kept]])
    found = moments.along(turned)
    loadings = np.nan_to_num(found.reproducible())[:, chosen]
    carried = np.square(loadings).sum(axis=1)
    reliability = _reliability(first, second, turned)
    is_noise = reliability <= limit
    if rotation == "varimax":
        order = np.lexsort([-carried, is_noise])
        signs = np.where(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], 1)[:, 0] < 0, -1.0, 1.0)
        turned, loadings = (turned * signs)[:, order], (loadings * signs[:, None])[order]
        carried, reliability, is_noise = carried[order], reliability[order], is_noise[order]
    own = [name for name, is_own in zip(names, chosen, strict=True) if is_own]
    found = moments.along(turned)
    # What names an axis is to be large, and not by chance.
    sure = np.nan_to_num(found.loadings() * found.stability(seed=seed))[:, chosen]
    table = pd.DataFrame(
        {
            "dimension": np.arange(1, n_dims + 1),
            "name": [f"{space} {k + 1}: {'noise' if is_noise[k] else _named(sure[k], own)}" for k in range(n_dims)],
            "reliability": reliability,
            "share": carried / max(carried.sum(), _TINY),
            "is_noise": is_noise,
        }
    )
    return Axes(space, turned, table)


def short_names(names: Sequence[str]) -> list[str]:
    """Names of features without the tag of their antibodies' kit."""
    return [_KIT.sub("", str(name)) for name in names]


def varimax(loadings: Array) -> Array:
    r"""Rotation after which the squares of each axis' loadings vary most: few features carry an axis.

    Steps :math:`R \leftarrow U V^\top` with :math:`U S V^\top = L^\top (B^3 - B \, \overline{B^2})`, :math:`B = L R`.
    (statsmodels has the same by gradient projection, which took minutes for 4,000 genes.)

    Parameters
    ----------
    loadings
        ``(n_features, n_axes)``.

    Returns
    -------
    Orthogonal ``(n_axes, n_axes)``.
    """
    turn, reached = np.eye(loadings.shape[1]), 0.0
    for _ in range(_MOST_TURNS):
        turned = loadings @ turn
        u, s, vt = np.linalg.svd(loadings.T @ (turned**3 - turned * np.square(turned).mean(axis=0)))
        turn = u @ vt
        if s.sum() <= reached * (1.0 + 1e-8):
            break
        reached = s.sum()
    return np.asarray(turn)


def _varimax(moments: Moments, kept: Array, chosen: NDArray[np.bool_]) -> Array:
    if kept.shape[1] < 2:
        return kept
    loadings = np.nan_to_num(moments.along(kept).reproducible())[:, chosen].T
    if loadings.shape[0] < loadings.shape[1]:
        return kept
    turned: Array = kept @ varimax(loadings)
    return turned


def _symmetric(first: Array, second: Array) -> Array:
    product = first.T @ second / len(first)
    symmetric: Array = (product + product.T) / 2
    return symmetric


def _reliability(first: Array, second: Array, directions: Array) -> Array:
    a, b = first @ directions, second @ directions
    r = (a * b).sum(axis=0) / np.maximum(np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)), _TINY)
    r = np.clip(r, 0.0, 1.0)
    reliability: Array = 2.0 * r / (1.0 + r)
    return reliability


def _by_chance(first: Array, second: Array, seed: int) -> float:
    """Reliability that some direction has, in 95 of 100 shuffles, although the halves are of different cells."""
    rng = np.random.default_rng(seed)
    # The best direction is looked for among those of one variance, or it would be that of the largest.
    covariance = (first.T @ first + second.T @ second) / (2 * len(first))
    values, vectors = np.linalg.eigh(covariance)
    scale = vectors / np.sqrt(np.maximum(values, _TINY * max(values[-1], _TINY)))
    a, b = first @ scale, second @ scale
    largest = [np.linalg.eigvalsh(_symmetric(a, b[rng.permutation(len(b))]))[-1] for _ in range(_N_SHUFFLES)]
    r = float(np.clip(np.quantile(largest, _QUANTILE), 0.0, 1.0))
    return 2.0 * r / (1.0 + r)


def _named(sure: Array, names: Sequence[str]) -> str:
    """The features that load most, with a minus before those that point down."""
    order = np.argsort(-np.abs(sure), kind="stable")[:_N_NAMED]
    enough = [j for j in order if abs(sure[j]) >= _LEAST_NAMED * abs(sure[order[0]])]
    shown = short_names([names[j] for j in enough])
    return ", ".join(f"{'-' if sure[j] < 0 else ''}{name}" for j, name in zip(enough, shown, strict=True))
