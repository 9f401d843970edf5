"""Cells that are copies of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# In standard deviations: the same cell, put through the same transform in another batch, differs by rounding.
_SAME = 1e-4


def copies(table: Array) -> NDArray[np.bool_]:
    """Tell which rows equal another one that is kept, ``(n_rows,)``: all but one of each group."""
    return _repeated(table, np.zeros(len(table), dtype=bool))


def seen_before(table: Array, earlier: Array) -> NDArray[np.bool_]:
    """Tell which rows of ``table`` equal a row of ``earlier``, ``(n_rows,)``."""
    first = np.r_[np.ones(len(earlier), dtype=bool), np.zeros(len(table), dtype=bool)]
    return _repeated(np.vstack([earlier, table]), first)[len(earlier) :]


def _repeated(table: Array, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows that equal a kept one; of a group without any, the first along a random direction is kept.

    Equal rows lie side by side along any direction, so that a sort finds them without comparing all pairs.
    """
    scale = table.std(axis=0)
    scaled = (table - table.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    along = scaled @ np.random.default_rng(0).standard_normal(table.shape[1])
    order = np.argsort(along, kind="stable")
    near = np.abs(np.diff(along[order])) < _SAME * np.sqrt(table.shape[1])
    same = np.zeros(len(near), dtype=bool)
    at = np.flatnonzero(near)
    same[at] = np.abs(scaled[order[at]] - scaled[order[at + 1]]).max(axis=1) < _SAME
    group = np.cumsum(np.r_[True, ~same]) - 1
    has_kept = np.bincount(group, weights=kept[order]) > 0
    leader = np.zeros(len(order), dtype=bool)
    leader[np.r_[0, np.flatnonzero(~same) + 1]] = True
    repeated = np.empty(len(order), dtype=bool)
    repeated[order] = np.where(has_kept[group], ~kept[order], ~leader)
    return repeated
