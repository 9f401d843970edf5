"""Splits by which every cell is a test cell once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from indiseek.data._rows import Groups, Split

# Of the cells that are not tested, as many are for validation as by default.
_VALIDATION_FOLDS = 9


def fold_splits(n_folds: int, strata: Sequence[NDArray[np.intp]], groups: Groups | None, *, seed: int) -> list[Split]:
    """Splits into training, validation and test cells, whose test cells together are all cells.

    Parameters
    ----------
    n_folds
        How many.
    strata
        Codes of covariates, ``(n_cells,)`` each, of which every part is to have its share; at least one.
    groups
        Groups that stay whole; None for none.
    seed
        Seed of the folds.

    Raises
    ------
    ValueError
        If there are fewer groups than parts.
    """
    together = np.unique(np.stack(strata), axis=1, return_inverse=True)[1].ravel()
    n_groups = len(together) if groups is None else len(np.unique(groups.codes))
    if n_groups < n_folds + 1:
        what = "cells" if groups is None else f"groups of {groups.name!r}"
        raise ValueError(
            f"expected at least {n_folds + 1} {what}, one for each of {n_folds} folds and one for validation, got "
            f"{n_groups}; take fewer folds."
        )
    codes = None if groups is None else groups.codes
    splits = []
    for test in _parts(n_folds, np.arange(len(together)), together, codes, seed):
        rest = np.setdiff1d(np.arange(len(together)), test)
        validation = next(iter(_parts(_VALIDATION_FOLDS, rest, together, codes, seed)))
        splits.append(Split(np.setdiff1d(rest, validation), validation, test))
    return splits


def _parts(
    n_parts: int, rows: NDArray[np.intp], strata: NDArray[np.intp], codes: NDArray[np.intp] | None, seed: int
) -> list[NDArray[np.intp]]:
    """Sorted positions of each part of some cells."""
    # What is rarer than the parts cannot be in all of them, and goes with the most frequent.
    counts = np.bincount(strata[rows])
    labels = np.where(counts[strata[rows]] < n_parts, counts.argmax(), strata[rows])
    if codes is None:
        folds = StratifiedKFold(n_parts, shuffle=True, random_state=seed).split(labels, labels)
    else:
        n_parts = min(n_parts, len(np.unique(codes[rows])))
        folds = StratifiedGroupKFold(n_parts, shuffle=True, random_state=seed).split(labels, labels, codes[rows])
    return [np.sort(rows[part]) for _, part in folds]
