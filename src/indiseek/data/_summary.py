"""What the checks of a matrix need to know, gathered in one pass over its cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True)
class Summary:
    """Facts about the values of one modality.

    Attributes
    ----------
    n_nonzero, n_bad
        Values other than 0, and values that are NaN or infinite.
    lowest
        Smallest of the values other than 0; 0 where there are none.
    whole
        Whether every value is a whole number; says nothing about signs.
    empty
        ``(n_cells,)``: whether a cell's values add up to 0.
    low, high
        ``(n_features,)``: extremes of each feature.
    """

    n_nonzero: int
    n_bad: int
    lowest: float
    whole: bool
    empty: NDArray[np.bool_]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


def n_bad(chunk: Any) -> int:
    """How many values of a CSR or dense matrix are NaN or infinite."""
    data = chunk.data if sparse.issparse(chunk) else chunk
    return int(data.size - np.isfinite(data).sum())


def summarise(chunks: Iterable[Any], n_features: int) -> Summary:
    """Summary of canonical CSR or dense chunks, ``(n_cells, n_features)`` each, in the order of the cells."""
    n_nonzero = n_not_finite = 0
    lowest = np.inf
    whole = True
    empty = [np.zeros(0, dtype=bool)]
    low, high = np.full(n_features, np.inf, dtype=np.float32), np.full(n_features, -np.inf, dtype=np.float32)
    for chunk in chunks:
        is_sparse = sparse.issparse(chunk)
        data = chunk.data if is_sparse else chunk
        n_nonzero += int(np.count_nonzero(data))
        n_not_finite += n_bad(chunk)
        lowest = min(lowest, float(data.min(initial=np.inf)))
        whole = whole and bool(np.array_equal(data, np.rint(data)))
        with np.errstate(invalid="ignore"):
            empty.append(np.asarray(chunk.sum(axis=1)).ravel() == 0)
        if chunk.shape[0]:
            extremes = (chunk.min(axis=0), chunk.max(axis=0))
            least, most = (x.toarray().ravel() if is_sparse else x for x in extremes)
            np.minimum(low, least, out=low)
            np.maximum(high, most, out=high)
    return Summary(n_nonzero, n_not_finite, lowest if n_nonzero else 0.0, whole, np.concatenate(empty), low, high)
