"""Distance correlation of two codes with a permutation test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from indiseek._checks import check_number, check_seed

from ._probes import pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Dependence:
    """Bias-corrected squared distance correlation and its permutation test.

    Attributes
    ----------
    value
        Bias-corrected squared distance correlation: 0 on average under independence (it may be slightly negative), 1
        for codes that are rotations of each other.
    null
        Mean over permutations.
    p_value
        Share of permutations with at least this value, counting the data as one of them.
    """

    value: float
    null: float
    p_value: float


def distance_correlation(
    a: ArrayLike,
    b: ArrayLike,
    *,
    n_permutations: int = 200,
    max_cells: int = 2000,
    seed: int = 0,
) -> Dependence:
    """Distance correlation of two codes (0 if and only if independent, in the limit of many cells).

    Columns are standardised first, so that every dimension counts alike.

    Parameters
    ----------
    a, b
        Codes of the same cells, ``(n_cells, n_a)`` and ``(n_cells, n_b)``.
    n_permutations
        Permutations of the cells of ``a``, default 200; the smallest p-value is ``1 / (n_permutations + 1)``.
    max_cells
        Cells drawn at random if there are more, default 2,000: time and memory grow with their square.
    seed
        Seed of the draw and the permutations, default 0.

    Returns
    -------
    Dependence

    Raises
    ------
    ValueError
        If cells differ, values are not finite, or an option is out of range.

    References
    ----------
    Szekely, Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 2014, eq. 2.4.
    """
    x, y = pair(a, b, "a", "b")
    (result,) = distance_correlations(x, [y], n_permutations=n_permutations, max_cells=max_cells, seed=seed)
    return result


def distance_correlations(
    x: Array, targets: Sequence[Array], *, n_permutations: int, max_cells: int, seed: int
) -> list[Dependence]:
    """Distance correlation of one code with several targets; a permutation of the code serves all of them."""
    check_number("n_permutations", n_permutations, low=0, whole=True)
    check_number("max_cells", max_cells, low=4, whole=True)
    check_seed("seed", seed)
    rng = np.random.default_rng([seed, 2])
    cells = np.sort(rng.permutation(len(x))[:max_cells])
    code = _centred_distances(x[cells])
    others = [_centred_distances(y[cells]) for y in targets]
    norms = [np.sqrt(np.vdot(code, code) * np.vdot(other, other)) for other in others]
    observed = np.array([np.vdot(code, other) for other in others])
    permuted = np.empty((n_permutations, len(others)))
    for row in permuted:
        order = rng.permutation(len(cells))
        # take keeps the memory layout, without which the products would copy; one shuffle serves all targets.
        shuffled = np.take(code[order], order, axis=1, mode="clip")
        row[:] = [np.vdot(shuffled, other) for other in others]
    p_values = (1 + (permuted >= observed).sum(axis=0)) / (1 + n_permutations)
    return [
        Dependence(
            value=float(observed[k] / norms[k]) if norms[k] > 0 else 0.0,
            null=float(permuted[:, k].mean() / norms[k]) if norms[k] > 0 and n_permutations else 0.0,
            p_value=float(p_values[k]),
        )
        for k in range(len(others))
    ]


def _centred_distances(x: Array) -> NDArray[np.float32]:
    """U-centred distances: rows sum to 0 off the diagonal, which removes the bias of the plain statistic."""
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 1e-12 * np.maximum(1.0, np.abs(x).max(axis=0)), scale, np.inf)
    n = len(x)
    distance = cdist(x, x)
    rows = distance.sum(axis=0)
    distance -= (rows / (n - 2))[:, None]
    distance -= rows / (n - 2)
    distance += rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(distance, 0.0)
    # Half the memory traffic of the permutations; their sums of 4e6 terms stay exact to 1e-5.
    return distance.astype(np.float32)
