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
    repeated = np.ones(len(table), dtype=bool)
    repeated[np.unique(_groups(table), return_index=True)[1]] = False
    return repeated


def seen_before(table: Array, earlier: Array) -> NDArray[np.bool_]:
    """Tell which rows of ``table`` equal a row of ``earlier``, ``(n_rows,)``."""
    groups = _groups(np.vstack([earlier, table]))
    return np.isin(groups[len(earlier) :], groups[: len(earlier)])


def _groups(table: Array) -> NDArray[np.intp]:
    """Number of each row's group of equal rows.

    Equal rows lie side by side along any direction, so that a sort finds them without comparing all pairs.
    """
    scale = table.std(axis=0)
    scaled = (table - table.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    along = scaled @ np.random.default_rng(0).standard_normal(table.shape[1])
    order = np.argsort(along, kind="stable")
    near = np.flatnonzero(np.abs(np.diff(along[order])) < _SAME * np.sqrt(table.shape[1]))
    same = np.zeros(len(order), dtype=bool)
    same[near + 1] = np.abs(scaled[order[near]] - scaled[order[near + 1]]).max(axis=1) < _SAME
    groups = np.empty(len(order), dtype=np.intp)
    groups[order] = np.cumsum(~same)
    return groups
