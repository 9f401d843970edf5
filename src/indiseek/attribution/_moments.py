"""How codes and features vary together, in parts of the cells, so that any direction of a space can be read later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indiseek.attribution._shares import within

Array = NDArray[np.float64]
_N_PARTS = 10
_N_SPLITS = 25
_TINY = 1e-12


class Codes(NamedTuple):
    """Codes of the same cells, ``(n_cells, n_dims)`` each, from all counts and from two thinned halves of them.

    Attributes
    ----------
    whole
        From all counts.
    first, second
        From the halves; the same as `whole` where the values are no counts.
    """

    whole: Array
    first: Array
    second: Array


class Piece(NamedTuple):
    """Features of some of the cells, ``(n_piece, n_features)`` each.

    Attributes
    ----------
    rows
        Which cells these are, ``(n_piece,)``.
    whole, first, second
        Values from all counts and from the same two halves as those of the codes.
    """

    rows: NDArray[np.intp]
    whole: NDArray[np.floating]
    first: NDArray[np.floating]
    second: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over parts of the cells for three views: all counts, and code and feature from different halves, twice.

    Attributes
    ----------
    n
        Cells of each part, ``(n_parts,)``.
    z, zz, y, zy
        Sums of codes, of their products, of features, and of products of both: ``(3, n_parts, ...)`` with
        ``(n_dims,)``, ``(n_dims, n_dims)``, ``(n_features,)`` and ``(n_dims, n_features)``.
    spread
        Standard deviation of each feature within its batch, ``(3, n_features)``; 0 where it does not vary.
    """

    n: NDArray[np.intp]
    z: Array
    zz: Array
    y: Array
    zy: Array
    spread: Array

    def along(self, directions: Array) -> Moments:
        """Moments of the codes' projections on directions, ``(n_dims, n_directions)``."""
        return replace(
            self,
            z=self.z @ directions,
            zz=np.einsum("ji,vpjk,kl->vpil", directions, self.zz, directions, optimize=True),
            zy=np.einsum("ji,vpjg->vpig", directions, self.zy, optimize=True),
        )

    def covariance(self, view: int, parts: NDArray[np.intp]) -> Array:
        """Of codes with features in some parts of the cells, in units of a feature's spread, ``(n_dims, n_features)``.

        NaN where a feature does not vary.
        """
        n = self.n[parts].sum()
        z, y = self.z[view, parts].sum(axis=0) / n, self.y[view, parts].sum(axis=0) / n
        found = self.zy[view, parts].sum(axis=0) / n - np.outer(z, y)
        spread = np.where(self.spread[view] > _TINY, self.spread[view], np.nan)
        covariance: Array = found / spread
        return covariance

    def deviation(self, view: int, parts: NDArray[np.intp]) -> Array:
        """Standard deviation of each dimension in some parts of the cells, ``(n_dims,)``."""
        n = self.n[parts].sum()
        squares = np.diagonal(self.zz[view, parts].sum(axis=0)) / n - np.square(self.z[view, parts].sum(axis=0) / n)
        return np.sqrt(np.maximum(squares, _TINY))

    def loadings(self, *, standardised: bool = True, view: int = 0) -> Array:
        """Correlations of dimensions with features, or covariances in units of the features' spread."""
        return self._loadings(view, np.arange(len(self.n)), standardised)

    def reproducible(self, *, standardised: bool = True) -> Array:
        """The same with code and feature from different halves of the counts, which share no counting noise."""
        return (self.loadings(standardised=standardised, view=1) + self.loadings(standardised=standardised, view=2)) / 2

    def stability(self, *, standardised: bool = True, seed: int = 0) -> Array:
        r"""How far halves of the cells agree on each loading, ``(n_dims, n_features)``.

        :math:`\max(0, \overline{l_1 l_2} / \tfrac12 \overline{(l_1^2 + l_2^2)})` over random halves of the cells, where
        :math:`l_1` is of one half, with the code from one half of the counts and the feature from the other, and
        :math:`l_2` of the other half, the other way round: 1 where they say the same, 0 where it is chance.
        """
        rng = np.random.default_rng(seed)
        product = squares = np.zeros((self.z.shape[-1], self.y.shape[-1]))
        for _ in range(_N_SPLITS):
            order = rng.permutation(len(self.n))
            half = len(order) // 2
            one = self._loadings(1, order[:half], standardised)
            other = self._loadings(2, order[half:], standardised)
            product, squares = product + one * other, squares + (one**2 + other**2) / 2
        return np.asarray(np.maximum(product / np.maximum(squares, _TINY), 0.0))

    def _loadings(self, view: int, parts: NDArray[np.intp], standardised: bool) -> Array:
        found = self.covariance(view, parts)
        return found / self.deviation(view, parts)[:, None] if standardised else found


def moments(
    codes: Codes, pieces: Iterable[Piece], n_features: int, *, batch: NDArray[np.intp] | None = None, seed: int = 0
) -> Moments:
    """Sum up, in one pass over the features.

    Parameters
    ----------
    codes
        Codes of the cells.
    pieces
        Features, some cells at a time; every cell once.
    n_features
        Number of features.
    batch
        Batch of each cell as a number from 0, ``(n_cells,)``: all is taken within batches.
    seed
        Seed that puts the cells into parts.
    """
    n_cells, n_dims = codes.whole.shape
    label = np.zeros(n_cells, dtype=np.intp) if batch is None else batch
    n_batches = int(label.max()) + 1
    n_parts = min(_N_PARTS, n_cells)
    part = np.random.default_rng(seed).permutation(n_cells) % n_parts
    centred = [within(code, label) for code in codes]
    y, zy = np.zeros((3, n_parts, n_features)), np.zeros((3, n_parts, n_dims, n_features))
    totals, squares = np.zeros((3, n_batches, n_features)), np.zeros((3, n_features))
    for piece in pieces:
        # The code of one half goes with the features of the other.
        for view, values in enumerate((piece.whole, piece.second, piece.first)):
            code, of_part, of_batch = centred[view][piece.rows], part[piece.rows], label[piece.rows]
            squares[view] += np.square(values).sum(axis=0, dtype=np.float64)
            for b in np.unique(of_batch):
                totals[view, b] += values[of_batch == b].sum(axis=0, dtype=np.float64)
            for q in np.unique(of_part):
                own = values[of_part == q]
                y[view, q] += own.sum(axis=0, dtype=np.float64)
                zy[view, q] += code[of_part == q].astype(values.dtype).T @ own
    sizes = np.bincount(label, minlength=n_batches)
    between = (np.square(totals) / np.maximum(sizes, 1)[None, :, None]).sum(axis=1)
    variance = (squares - between) / n_cells
    z, zz = np.zeros((3, n_parts, n_dims)), np.zeros((3, n_parts, n_dims, n_dims))
    for view, code in enumerate(centred):
        for q in range(n_parts):
            own = code[part == q]
            z[view, q], zz[view, q] = own.sum(axis=0), own.T @ own
    # A constant leaves what rounding does not take away.
    spread = np.sqrt(np.where(variance > 1e-9 * squares / n_cells, variance, 0.0))
    return Moments(np.bincount(part, minlength=n_parts), z, zz, y, zy, spread)
