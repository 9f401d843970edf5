"""What the checks of a matrix need to know, gathered in one pass over its cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# Absolute and relative distance from a whole number within which a value is taken for a count: what single precision
# leaves of counts that were logged and brought back is ten times closer, and what is corrected for ambient molecules
# or normalised is farther.
NEAR = (1e-3, 1e-5)


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
    near
        Whether every value is within :data:`NEAR` of a whole number.
    empty
        ``(n_cells,)``: whether a cell's values add up to 0.
    low, high
        ``(n_features,)``: extremes of each feature.
    """

    n_nonzero: int
    n_bad: int
    lowest: float
    whole: bool
    near: bool
    empty: NDArray[np.bool_]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


def n_bad(chunk: Any) -> int:
    """How many values of a CSR or dense matrix are NaN or infinite."""
    data = chunk.data if sparse.issparse(chunk) else chunk
    return int(data.size - np.isfinite(data).sum())


class Facts(NamedTuple):
    """Facts about all values of some cells, as in :class:`Summary`."""

    n_nonzero: int = 0
    n_bad: int = 0
    lowest: float = np.inf
    whole: bool = True
    near: bool = True

    def joined(self, chunk: Any) -> Facts:
        """With those of further cells, a CSR or dense matrix."""
        data = chunk.data if sparse.issparse(chunk) else chunk
        whole = self.whole and bool(np.array_equal(data, np.rint(data)))
        return Facts(
            self.n_nonzero + int(np.count_nonzero(data)),
            self.n_bad + n_bad(chunk),
            min(self.lowest, float(data.min(initial=np.inf))),
            whole,
            self.near and (whole or _is_near(data)),
        )


def _is_near(data: NDArray[Any]) -> bool:
    absolute, relative = NEAR
    with np.errstate(invalid="ignore"):
        return bool((np.abs(data - np.rint(data)) <= absolute + relative * np.abs(data)).all())


def empty_cells(chunk: Any) -> NDArray[np.bool_]:
    """Whether the values of each cell add up to 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(chunk.sum(axis=1)).ravel() == 0


def summarise(chunks: Iterable[Any], n_features: int) -> Summary:
    """Summary of canonical CSR or dense chunks, ``(n_cells, n_features)`` each, in the order of the cells."""
    facts = Facts()
    empty = [np.zeros(0, dtype=bool)]
    low, high = np.full(n_features, np.inf, dtype=np.float32), np.full(n_features, -np.inf, dtype=np.float32)
    for chunk in chunks:
        facts = facts.joined(chunk)
        empty.append(empty_cells(chunk))
        if chunk.shape[0]:
            extremes = (chunk.min(axis=0), chunk.max(axis=0))
            least, most = (x.toarray().ravel() if sparse.issparse(chunk) else x for x in extremes)
            np.minimum(low, least, out=low)
            np.maximum(high, most, out=high)
    lowest = facts.lowest if facts.n_nonzero else 0.0
    return Summary(facts.n_nonzero, facts.n_bad, lowest, facts.whole, facts.near, np.concatenate(empty), low, high)
