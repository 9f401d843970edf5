"""Layers of cells on the scale on which donors are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
_LIBRARY = 1e4


def log_normalized(counts: Any) -> sparse.csr_matrix:
    """Logarithm of counts at 10,000 a cell, plus 1: what genes are compared on.

    Parameters
    ----------
    counts
        Dense or sparse counts, ``(n_cells, n_features)``.

    Returns
    -------
    ``(n_cells, n_features)``, sparse.
    """
    found = sparse.csr_matrix(counts, dtype=np.float64)
    library = np.maximum(np.asarray(found.sum(axis=1)).ravel(), 1.0)
    found = sparse.csr_matrix(sparse.diags(_LIBRARY / library) @ found)
    found.data = np.log1p(found.data)
    return found


def log_centered(counts: Any) -> Array:
    """Logarithm of counts plus 1, less the cell's mean over the features: what proteins are compared on.

    Parameters
    ----------
    counts
        Dense or sparse counts, ``(n_cells, n_features)``.

    Returns
    -------
    ``(n_cells, n_features)``, dense.
    """
    dense = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    logs = np.log1p(dense.astype(np.float64))
    centered: Array = logs - logs.mean(axis=1, keepdims=True)
    return centered


def thinned(counts: Any, cells_of: NDArray[Any], seed: int) -> sparse.csr_matrix:
    """Counts thinned so that each set of cells has the mean depth of the shallowest.

    Parameters
    ----------
    counts
        Dense or sparse counts, ``(n_cells, n_features)``.
    cells_of
        The set, such as the donor, of each cell, ``(n_cells,)``.
    seed
        Seed of the draws.
    """
    found = sparse.csr_matrix(counts, copy=True)
    depth = np.asarray(found.sum(axis=1), dtype=np.float64).ravel()
    names, code = np.unique(cells_of, return_inverse=True)
    means = np.bincount(code, depth) / np.bincount(code, minlength=len(names))
    kept = np.repeat((means.min() / means)[code], np.diff(found.indptr))
    rng = np.random.default_rng(seed)
    found.data = rng.binomial(np.rint(found.data).astype(np.int64), kept).astype(np.float64)
    found.eliminate_zeros()
    return found
