"""Linear baselines that every table shows beside a model: CCA and PLS-SVD, fitted on training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import svd

from indiseek._checks import check_number

from ._checks import as_cells, check_paired

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


def cca(
    train_a: ArrayLike,
    train_b: ArrayLike,
    test_a: ArrayLike,
    test_b: ArrayLike,
    *,
    n_components: int = 10,
    regularisation: float = 1e-6,
) -> tuple[Array, Array]:
    """Canonical correlation analysis: codes of test cells from directions fitted on training cells.

    Exact solution: both modalities are whitened by their singular vectors and the correlation matrix of the whitened
    variables is decomposed. A code dimension has variance 1 on the training cells, and corresponding dimensions of the
    two codes have the canonical correlation.

    Parameters
    ----------
    train_a, train_b
        Training cells, ``(n_train, n_features_a)`` and ``(n_train, n_features_b)``.
    test_a, test_b
        Cells to encode, ``(n_test, n_features_a)`` and ``(n_test, n_features_b)``.
    n_components
        Number of canonical pairs, default 10.
    regularisation
        Ridge on each correlation matrix, relative to its largest eigenvalue, default 1e-6 (numerical rank only).

    Returns
    -------
    Codes of the test cells, two arrays ``(n_test, n_components)``.

    Raises
    ------
    ValueError
        If cells are not paired, features differ between train and test, or ``n_components`` exceeds the features.

    References
    ----------
    Hotelling, "Relations between two sets of variates", Biometrika 1936.
    """
    a, b, ta, tb = _standardised(train_a, train_b, test_a, test_b, n_components)
    white_a, map_a = _whiten(a, regularisation)
    white_b, map_b = _whiten(b, regularisation)
    check_number("n_components", n_components, low=1, high=min(map_a.shape[1], map_b.shape[1]), whole=True)
    u, _, vt = svd(white_a.T @ white_b, full_matrices=False)
    scale = np.sqrt(len(a) - 1)
    return scale * ta @ map_a @ u[:, :n_components], scale * tb @ map_b @ vt[:n_components].T


def pls_svd(
    train_a: ArrayLike,
    train_b: ArrayLike,
    test_a: ArrayLike,
    test_b: ArrayLike,
    *,
    n_components: int = 10,
) -> tuple[Array, Array]:
    """Partial least squares by the SVD of the cross-covariance: codes of test cells.

    Features are standardised on the training cells; the codes are projections on the singular vectors.

    Parameters
    ----------
    train_a, train_b
        Training cells, ``(n_train, n_features_a)`` and ``(n_train, n_features_b)``.
    test_a, test_b
        Cells to encode, ``(n_test, n_features_a)`` and ``(n_test, n_features_b)``.
    n_components
        Number of pairs of directions, default 10.

    Returns
    -------
    Codes of the test cells, two arrays ``(n_test, n_components)``.

    Raises
    ------
    ValueError
        If cells are not paired, features differ between train and test, or ``n_components`` exceeds the features.

    References
    ----------
    Wegelin, "A survey of partial least squares methods", 2000 (the variant called PLS-SVD).
    """
    a, b, ta, tb = _standardised(train_a, train_b, test_a, test_b, n_components)
    u, _, vt = svd(a.T @ b, full_matrices=False)
    return ta @ u[:, :n_components], tb @ vt[:n_components].T


def _standardised(
    train_a: ArrayLike, train_b: ArrayLike, test_a: ArrayLike, test_b: ArrayLike, n_components: int
) -> tuple[Array, Array, Array, Array]:
    a, b = as_cells(train_a, "train_a"), as_cells(train_b, "train_b")
    ta, tb = as_cells(test_a, "test_a", min_cells=1), as_cells(test_b, "test_b", min_cells=1)
    check_paired((a, b), ("train_a", "train_b"))
    check_paired((ta, tb), ("test_a", "test_b"))
    for name, train, test in (("a", a, ta), ("b", b, tb)):
        if train.shape[1] != test.shape[1]:
            raise ValueError(
                f"expected the same features in train_{name} and test_{name}, got {train.shape[1]} and "
                f"{test.shape[1]}; do put them through the same transform"
            )
    check_number("n_components", n_components, low=1, high=min(a.shape[1], b.shape[1], len(a) - 1), whole=True)
    a, ta = _standardise(a, ta)
    b, tb = _standardise(b, tb)
    return a, b, ta, tb


def _standardise(train: Array, test: Array) -> tuple[Array, Array]:
    mean, scale = train.mean(axis=0), train.std(axis=0, ddof=1)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - mean) / scale, (test - mean) / scale


def _whiten(x: Array, regularisation: float) -> tuple[Array, Array]:
    u, s, vt = svd(x, full_matrices=False)
    keep = s > s[0] * np.sqrt(np.finfo(float).eps)
    u, s, vt = u[:, keep], s[keep], vt[keep]
    shrunk = np.sqrt(s**2 + regularisation * s[0] ** 2)
    return u * (s / shrunk), vt.T / shrunk
