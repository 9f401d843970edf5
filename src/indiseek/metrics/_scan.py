"""A scan for dependence of any form: many simple functions of both sides, one exact joint permutation p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from ._probes import COLLAPSED, varying

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_MAX_SINGLE, _MAX_PAIRED = 60, 6
# The higher ones see what oscillates.
_FREQUENCIES, _PAIR_FREQUENCIES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12), (1, 2)
_TAIL = 0.05


@dataclass(frozen=True)
class Scan:
    """Largest correlation between any function of one side and any of the other, and its permutation p."""

    largest: float
    p_value: float


def scan(code: Array, target: Array, *, n_permutations: int, seed: int) -> Scan:
    """Look for a dependence of another form.

    Functions are cosines of the ranks of single dimensions and of sums and differences of the ranks of two, products of
    two, and indicators of the tails. The statistic is the largest absolute correlation between one of the code and one
    of the target; it is compared with the same for permuted cells, so that p is exact however many functions there are.
    It has no size: a small p says that there is a dependence, not how much.

    Parameters
    ----------
    code, target
        ``(n_cells, n_inputs)`` and ``(n_cells, n_targets)``.
    n_permutations
        Permutations; p is at least ``1 / (n_permutations + 1)``.
    seed
        Seed of the permutations.
    """
    left, right = _functions(code), _functions(target)
    if left.shape[1] == 0 or right.shape[1] == 0:
        return Scan(0.0, 1.0)
    rng = np.random.default_rng([seed, 12])
    observed = _largest(left, right)
    reached = sum(_largest(left[rng.permutation(len(left))], right) >= observed for _ in range(n_permutations))
    return Scan(observed, (1 + reached) / (1 + n_permutations))


def _largest(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(np.abs(left.T @ right).max() / len(left))


def _functions(x: Array) -> NDArray[np.float32]:
    x = x[:, varying(x, least=COLLAPSED)]
    # By variance, for the leading dimensions; a stable order keeps whitened codes as they are.
    x = x[:, np.argsort(-np.round(x.std(axis=0), 6), kind="stable")[:_MAX_SINGLE]]
    if x.shape[1] == 0:
        return np.empty((len(x), 0), dtype=np.float32)
    ranks = (rankdata(x, axis=0) - 0.5) / len(x)
    columns = [np.cos(np.pi * k * ranks) for k in _FREQUENCIES]
    low, high = ranks < _TAIL, ranks > 1 - _TAIL
    columns += [low.astype(float), high.astype(float), (low | high).astype(float)]
    lead = ranks[:, :_MAX_PAIRED]
    first, second = np.triu_indices(lead.shape[1], 1)
    if len(first):
        a, b = lead[:, first], lead[:, second]
        columns += [np.cos(np.pi * k * (a + sign * b)) for k in _PAIR_FREQUENCIES for sign in (1, -1)]
        columns += [(2 * a - 1) * (2 * b - 1), np.sign(2 * a - 1) * np.sign(2 * b - 1)]
        u, v = 2 * a - 1, 2 * b - 1
        columns += [np.cos(k * np.arctan2(v, u)) for k in (2, 4)] + [np.sin(2 * np.arctan2(v, u)), u**2 + v**2]
    table = np.hstack(columns)
    table = table - table.mean(axis=0)
    scale = table.std(axis=0)
    varies = scale > 1e-9
    return np.asarray(table[:, varies] / scale[varies], dtype=np.float32)
