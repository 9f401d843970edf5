"""Counting noise: what a second count of the same cell would not repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ._checks import as_cells, check_paired
from ._probes import cross_predict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


def thin_counts(counts: Any, *, seed: int = 0) -> tuple[Any, Any]:
    """Split every count into two halves by fair coins: two replicates at half the depth, from one experiment.

    If a count is Poisson given the cell's state, the halves are independent given the state.

    Parameters
    ----------
    counts
        Non-negative integer counts, ``(n_cells, n_features)``, dense or scipy sparse.
    seed
        Seed of the coins, default 0.

    Returns
    -------
    Two matrices of the kind given that add up to ``counts``. Put both through the transform of the counts before they
    go to :func:`certify` or :func:`noise_share`.

    Raises
    ------
    ValueError
        If the values are not non-negative integers.

    References
    ----------
    Neufeld et al., "Data thinning for convolution-closed distributions", JMLR 2024.
    """
    values = counts.data if sparse.issparse(counts) else np.asarray(counts)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise ValueError("expected non-negative integer counts, got other values; do pass raw counts")
    half = np.random.default_rng(seed).binomial(values.astype(np.int64), 0.5).astype(values.dtype)
    if not sparse.issparse(counts):
        return half, values - half
    first, second = counts.copy(), counts.copy()
    first.data, second.data = half, values - half
    return first, second


def noise_share(half_a: ArrayLike, half_b: ArrayLike, *, given: ArrayLike | None = None, seed: int = 0) -> Array:
    """Share of each feature's variance that is counting noise (0 none, 1 all).

    The correlation ``r`` of the two halves is brought to full depth by Spearman and Brown, ``2 r / (1 + r)``. With
    ``given`` both halves are first reduced to what ``given`` does not predict, and the share is that of the remaining
    variance.

    Parameters
    ----------
    half_a, half_b
        Two thinned halves of the same cells' counts after the transform, ``(n_cells, n_features)``.
    given
        What to remove first, ``(n_cells, n_inputs)``: the other modality, or a shared code.
    seed
        Seed of the probe that removes it, default 0.

    Returns
    -------
    Array of shape ``(n_features,)`` in [0, 1]; NaN for a constant feature.

    Raises
    ------
    ValueError
        If cells or features differ or values are not finite.

    References
    ----------
    Spearman, "Correlation calculated from faulty data", British Journal of Psychology 1910.
    """
    a, b = as_cells(half_a, "half_a", min_cells=4), as_cells(half_b, "half_b", min_cells=4)
    check_paired((a, b), ("half_a", "half_b"))
    if a.shape != b.shape:
        raise ValueError(
            f"expected the same features in both halves, got {a.shape[1]} and {b.shape[1]}; "
            "do put them through one transform"
        )
    if given is not None:
        c = as_cells(given, "given", min_cells=4)
        check_paired((a, c), ("half_a", "given"))
        predicted_a, predicted_b = cross_predict(c, [a, b], probe="nonlinear", seed=seed)
        a, b = a - predicted_a, b - predicted_b
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    covariance = (a * b).mean(axis=0)
    scale = np.sqrt(np.square(a).mean(axis=0) * np.square(b).mean(axis=0))
    r = np.full(len(scale), np.nan)
    np.divide(covariance, scale, out=r, where=scale > 1e-20)
    r = np.clip(r, 0.0, 1.0)
    return 1.0 - 2.0 * r / (1.0 + r)
