"""Cross-fitted nonlinear probes: a network and boosted trees, for dependence that no mean, square or product shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold

from ._explained import normal_scores, winsorised
from ._probes import COLLAPSED, r2_of_cells, varying
from ._regression import ensemble_predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_N_FOLDS = 3
# Directions of the target that are predicted; the rest counts as not explained.
_VARIANCE, _MAX_DIRECTIONS = 0.95, 6
_STOP = 8
_MAX_TREES, _LEAVES, _LEAF_CELLS = 100, 8, 20


@dataclass(frozen=True)
class Probed:
    """Out-of-fold R2 of one probe and its standard error over cells; a lower bound of what the code explains."""

    r2: float
    se: float


def nonlinear_probes(code: Array, target: Array, *, seed: int) -> dict[str, Probed]:
    """What a network (``"mlp"``) and boosted trees (``"trees"``) predict of a target from a code.

    Each is fitted on two thirds of the cells, of which a part decides when to stop, and scored on the remaining third,
    each third in turn. The target is reduced to its leading directions, at most six, that hold 95 % of its variance.

    Parameters
    ----------
    code
        ``(n_cells, n_inputs)``.
    target
        ``(n_cells, n_targets)``.
    seed
        Seed of folds, weights and trees.
    """
    x = winsorised(code)
    x = x[:, varying(x, least=COLLAPSED)]
    y = winsorised(target)
    y = y - y.mean(axis=0)
    total = np.square(y).sum(axis=1)
    if x.shape[1] == 0:
        return {name: Probed(0.0, 0.0) for name in ("mlp", "trees")}
    x = normal_scores(x)
    _, s, axes = np.linalg.svd(y, full_matrices=False)
    share = np.cumsum(np.square(s)) / np.square(s).sum()
    y = y @ axes[: min(_MAX_DIRECTIONS, 1 + int(np.searchsorted(share, _VARIANCE)))].T
    predictions = {"mlp": np.empty_like(y), "trees": np.empty_like(y)}
    for train, test in KFold(_N_FOLDS, shuffle=True, random_state=seed).split(x):
        stop = np.arange(len(train) // _STOP)
        predictions["mlp"][test] = ensemble_predict(x[train], y[train], x[test], held_out=stop, n_members=1, seed=seed)
        for column in range(y.shape[1]):
            trees = HistGradientBoostingRegressor(
                max_iter=_MAX_TREES,
                max_leaf_nodes=_LEAVES,
                min_samples_leaf=_LEAF_CELLS,
                early_stopping=True,
                validation_fraction=1 / _STOP,
                n_iter_no_change=5,
                random_state=seed,
            )
            predictions["trees"][test, column] = trees.fit(x[train], y[train, column]).predict(x[test])
    return {name: _scored(y, prediction, total) for name, prediction in predictions.items()}


def _scored(y: Array, prediction: Array, total: Array) -> Probed:
    gained = np.square(y).sum(axis=1) - np.square(y - prediction).sum(axis=1)
    return Probed(*r2_of_cells(gained, total))
