"""Counting noise: what a second count of the same cell would not repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from indiseek._checks import check_seed

from ._checks import as_cells, check_paired
from ._probes import cross_predict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


def thin_counts(counts: Any, *, overdispersion: ArrayLike | None = None, seed: int = 0) -> tuple[Any, Any]:
    r"""Split every count into two halves by coins: two replicates at half the depth, from one experiment.

    If a count is Poisson given the cell's state, fair coins make halves that are independent given the state. A count
    that varies more, :math:`\operatorname{var} = \mu + \phi \mu^2` (negative binomial), shares the additional variance
    between such halves, which then looks reproducible. With its overdispersion :math:`\phi` each count gets a coin of
    its own, whose bias is drawn from a Beta distribution with both parameters :math:`1 / (2 \phi)`: the halves are
    independent again.

    Parameters
    ----------
    counts
        Non-negative integer counts, ``(n_cells, n_features)``, dense or scipy sparse.
    overdispersion
        :math:`\phi` of each feature, ``(n_features,)``, 0 for Poisson, the default. Two draws of the same cells tell it
        (:func:`overdispersion`); a single library does not, because a cell's state varies too.
    seed
        Seed of the coins, default 0.

    Returns
    -------
    Two matrices of the kind given that add up to ``counts``. Put both through the transform of the counts before they
    go to :func:`certify` or :func:`noise_share`.

    Raises
    ------
    ValueError
        If the values are not non-negative integers, or the overdispersion is negative or has another length.

    References
    ----------
    Neufeld et al., "Data thinning for convolution-closed distributions", JMLR 2024.
    """
    check_seed("seed", seed)
    values = counts.data if sparse.issparse(counts) else np.asarray(counts)
    if values.ndim != (1 if sparse.issparse(counts) else 2) or values.dtype.kind not in "biuf":
        raise ValueError(f"expected a matrix of counts, got {type(counts).__name__}; do pass cells by features")
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise ValueError("expected non-negative integer counts, got other values; do pass raw counts")
    rng = np.random.default_rng(seed)
    coins: float | Array = 0.5
    if overdispersion is not None:
        phi = as_cells(overdispersion, "overdispersion", min_cells=1).ravel()
        if phi.shape != (counts.shape[1],) or not (phi >= 0).all():
            raise ValueError(
                f"expected overdispersion as {counts.shape[1]} values of at least 0, one for each feature, got shape "
                f"{phi.shape}; do take them from metrics.overdispersion"
            )
        columns = _columns(counts) if sparse.issparse(counts) else np.broadcast_to(np.arange(len(phi)), values.shape)
        # Beyond 1e6 a Beta distribution is a fair coin to six digits.
        size = 0.5 / np.maximum(phi, 5e-7)[columns]
        coins = rng.beta(size, size)
    half = rng.binomial(values.astype(np.int64), coins).astype(values.dtype)
    if not sparse.issparse(counts):
        return half, values - half
    first, second = counts.copy(), counts.copy()
    first.data, second.data = half, values - half
    return first, second


def overdispersion(draw_a: Any, draw_b: Any) -> Array:
    r"""Overdispersion of counts from two draws of the same cells: two libraries, or the same cells sequenced twice.

    With independent draws :math:`a, b` of a mean :math:`\mu` that varies over cells and variance :math:`\mu + \phi
    \mu^2` around it, :math:`\operatorname{E}(a - b)^2 = 2 (\operatorname{E}\mu + \phi \operatorname{E}\mu^2)`,
    :math:`\operatorname{E}(a + b) = 2 \operatorname{E}\mu` and :math:`\operatorname{E} a b = \operatorname{E}\mu^2`, so

    .. math:: \phi = \frac{\operatorname{E}(a - b)^2 - \operatorname{E}(a + b)}{2 \operatorname{E} a b}

    Parameters
    ----------
    draw_a, draw_b
        Counts of the same cells at the same depth, ``(n_cells, n_features)``, dense or scipy sparse. Halves made by
        :func:`thin_counts` do not tell it: they give about 0 whatever it is.

    Returns
    -------
    Array of shape ``(n_features,)``, at least 0; 0 for a feature that the draws never share.

    Raises
    ------
    ValueError
        If the two differ in shape.
    """
    draw_a, draw_b = (draw if sparse.issparse(draw) else as_cells(draw, "draws") for draw in (draw_a, draw_b))
    if draw_a.shape != draw_b.shape:
        raise ValueError(
            f"expected two draws of the same cells and features, got shapes {draw_a.shape} and {draw_b.shape}; do "
            "align them"
        )
    a, b = (sparse.csr_matrix(draw, dtype=np.float64) for draw in (draw_a, draw_b))
    difference = a - b
    squares, total, shared = (
        np.asarray(matrix.mean(axis=0)).ravel() for matrix in (difference.multiply(difference), a + b, a.multiply(b))
    )
    phi = np.divide(squares - total, 2 * shared, out=np.zeros_like(total), where=shared > 0)
    return np.maximum(phi, 0.0)


def _columns(counts: Any) -> Any:
    """Column of every stored value, in the order of ``.data``."""
    if counts.format == "csr":
        return counts.indices
    if counts.format == "csc":
        return np.repeat(np.arange(counts.shape[1]), np.diff(counts.indptr))
    raise ValueError(f"expected counts in csr or csc format, got {counts.format}; do call .tocsr()")


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
    check_seed("seed", seed)
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
