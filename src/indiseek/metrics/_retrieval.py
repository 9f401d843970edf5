"""Retrieval of the same cell across two modalities, chunked so that n x n distances never exist at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from indiseek._checks import check_choice, check_number, check_seed

from ._checks import as_cells, check_paired

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Metric = Literal["cosine", "euclidean"]
_METRICS = ("cosine", "euclidean")
# Two distances closer than this, relative to the largest squared norm, are one distance computed in two orders.
_TIE_TOLERANCE = 1e-12
# Tiles that stay in the processor's cache are several times faster than whole rows.
_TILE_COLUMNS = 4096


@dataclass(frozen=True)
class MatchRanks:
    """How many cells of the other modality lie closer than the true match, for both directions.

    Attributes
    ----------
    closer
        Number of cells strictly closer than the match, ``(2, n_cells)``; row 0 looks from a into b, row 1 from b
        into a.
    tied
        Number of other cells exactly as far as the match, ``(2, n_cells)``.
    """

    closer: NDArray[np.int64]
    tied: NDArray[np.int64]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.closer.shape[1]

    def foscttm(self) -> float:
        """Return the fraction of samples closer than the true match."""
        return float(np.mean(self.closer + 0.5 * self.tied) / (self.n_cells - 1))

    def foscttm_se(self) -> float:
        """Return the standard error of :meth:`foscttm` over cells."""
        each = (self.closer + 0.5 * self.tied).mean(axis=0) / (self.n_cells - 1)
        return float(each.std(ddof=1) / np.sqrt(self.n_cells))

    def recall(self, k: int) -> float:
        """Return the expected share of matches among the k nearest when ties are broken at random."""
        return float(np.clip((k - self.closer) / (self.tied + 1), 0.0, 1.0).mean())

    def median_rank(self) -> float:
        """Return the median rank of the match, 1 for the nearest."""
        return float(np.median(1 + self.closer + 0.5 * self.tied))


def match_ranks(
    a: ArrayLike,
    b: ArrayLike,
    *,
    metric: Metric = "cosine",
    chunk_size: int = 256,
    max_cells: int | None = None,
    seed: int = 0,
) -> MatchRanks:
    """Rank every true match among all candidates, from a into b and from b into a, in one pass.

    Parameters
    ----------
    a, b
        Codes of the same cells in the same order, ``(n_cells, n_latent)``.
    metric
        ``"cosine"`` (default) or ``"euclidean"``. Under cosine a code of length zero is at right angles to all others.
    chunk_size
        Rows of the distance matrix that exist at a time; memory does not grow with cells squared.
    max_cells
        Cells drawn at random if there are more, cells and candidates alike: time grows with their square. None for all.
    seed
        Seed of the draw, default 0.

    Returns
    -------
    MatchRanks

    Raises
    ------
    ValueError
        If cells or dimensions differ, fewer than 2 cells are given, or the metric is unknown.
    """
    x, y = as_cells(a, "a"), as_cells(b, "b")
    check_paired((x, y), ("a", "b"))
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected a and b in one latent space, got {x.shape[1]} and {y.shape[1]} dimensions; "
            "do compare shared codes, not features"
        )
    check_choice("metric", metric, _METRICS)
    check_number("chunk_size", chunk_size, low=1, whole=True)
    check_seed("seed", seed)
    if max_cells is not None:
        check_number("max_cells", max_cells, low=2, whole=True)
        if len(x) > max_cells:
            drawn = np.random.default_rng([seed, 15]).permutation(len(x))[:max_cells]
            x, y = x[drawn], y[drawn]

    if metric == "cosine":
        x, y = unit_rows(x), unit_rows(y)
    else:
        # Centring removes the common offset that would drown small distances in rounding.
        centre = y.mean(axis=0)
        x, y = x - centre, y - centre
    # Half the squared distance, |x|^2/2 + |y|^2/2 - xy, as one product; for unit rows it orders as the cosine does.
    x_half, y_half = (
        np.full(len(codes), 0.5) if metric == "cosine" else 0.5 * np.square(codes).sum(axis=1) for codes in (x, y)
    )
    left = np.column_stack([x, x_half, np.ones(len(x))])
    right = np.column_stack([-y, np.ones(len(y)), y_half])
    match = np.einsum("ij,ij->i", left, right)
    tolerance = _TIE_TOLERANCE * max(x_half.max(), y_half.max(), np.finfo(float).tiny)
    low, high = match - tolerance, match + tolerance

    n_cells = len(x)
    closer = np.zeros((2, n_cells), dtype=np.int64)
    within = np.zeros((2, n_cells), dtype=np.int64)
    for start in range(0, n_cells, chunk_size):
        rows = slice(start, start + chunk_size)
        for first in range(0, n_cells, _TILE_COLUMNS):
            columns = slice(first, first + _TILE_COLUMNS)
            distance = left[rows] @ right[columns].T
            closer[0, rows] += _count(distance < low[rows, None], axis=1)
            within[0, rows] += _count(distance <= high[rows, None], axis=1)
            closer[1, columns] += _count(distance < low[columns], axis=0)
            within[1, columns] += _count(distance <= high[columns], axis=0)
    return MatchRanks(closer=closer, tied=within - closer - 1)


def foscttm(
    a: ArrayLike,
    b: ArrayLike,
    *,
    metric: Metric = "cosine",
    chunk_size: int = 256,
    max_cells: int | None = 20_000,
    seed: int = 0,
) -> float:
    """Fraction of samples closer than the true match (lower is better: 0 perfect, 0.5 chance).

    For every cell the share of the other ``n_cells - 1`` candidates that lie closer than its own partner, averaged
    over cells and over both directions. Ties count half, so that collapsed codes score 0.5 and not 0.

    Parameters
    ----------
    a, b
        Codes of the same cells in the same order, ``(n_cells, n_latent)``.
    metric
        ``"cosine"`` (default) or ``"euclidean"``.
    chunk_size
        Rows of the distance matrix that exist at a time; memory does not grow with cells squared.
    max_cells
        Cells drawn at random if there are more, default 20,000; None for all. Time grows with the square of the cells
        (200,000 take a hundred times as long as 20,000), and the standard error of a draw of 20,000 is at most
        ``0.5 / sqrt(20,000)`` = 0.0035, in practice below 0.002.
    seed
        Seed of the draw, default 0.

    Returns
    -------
    float in [0, 1].

    Raises
    ------
    ValueError
        If cells or dimensions differ, fewer than 2 cells are given, or the metric is unknown.

    References
    ----------
    Liu, Huang, Singh, Vert, Noble, "Jointly embedding multiple single-cell omics measurements", WABI 2019.
    """
    return match_ranks(a, b, metric=metric, chunk_size=chunk_size, max_cells=max_cells, seed=seed).foscttm()


def recall_at_k(a: ArrayLike, b: ArrayLike, *, k: int = 10, metric: Metric = "cosine", chunk_size: int = 256) -> float:
    """Share of cells whose partner is among the k nearest candidates (higher is better; chance ``k / n_cells``).

    Averaged over both directions; ties are counted by their expectation under random tie-breaking.

    Parameters
    ----------
    a, b
        Codes of the same cells in the same order, ``(n_cells, n_latent)``.
    k
        Number of nearest candidates, default 10.
    metric
        ``"cosine"`` (default) or ``"euclidean"``.
    chunk_size
        Rows of the distance matrix that exist at a time; memory does not grow with cells squared.

    Returns
    -------
    float in [0, 1].

    Raises
    ------
    ValueError
        If ``k`` is not in ``1 .. n_cells``, cells or dimensions differ, or the metric is unknown.
    """
    ranks = match_ranks(a, b, metric=metric, chunk_size=chunk_size)
    check_number("k", k, low=1, high=ranks.n_cells, whole=True)
    return ranks.recall(k)


def median_rank(a: ArrayLike, b: ArrayLike, *, metric: Metric = "cosine", chunk_size: int = 256) -> float:
    """Median rank of the true partner over cells and both directions (lower is better; 1 perfect).

    Chance is ``(n_cells + 1) / 2``; a tie counts half a rank.

    Parameters
    ----------
    a, b
        Codes of the same cells in the same order, ``(n_cells, n_latent)``.
    metric
        ``"cosine"`` (default) or ``"euclidean"``.
    chunk_size
        Rows of the distance matrix that exist at a time; memory does not grow with cells squared.

    Returns
    -------
    float in [1, n_cells].

    Raises
    ------
    ValueError
        If cells or dimensions differ, fewer than 2 cells are given, or the metric is unknown.
    """
    return match_ranks(a, b, metric=metric, chunk_size=chunk_size).median_rank()


def unit_rows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def _count(hits: NDArray[np.bool_], *, axis: int) -> NDArray[np.uint32]:
    # Summing the bytes is several times faster than count_nonzero along an axis.
    return np.add.reduce(hits.view(np.uint8), axis=axis, dtype=np.uint32)
