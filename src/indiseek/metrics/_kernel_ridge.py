"""Ridge regression of many groups of targets on one set of inputs, with the penalty chosen in closed form.

One factorisation of the inputs serves every target, so real targets and their permuted nulls cost little more than one
fit. The nonlinear maps are Hermite polynomials of single inputs, which find a leak in one dimension among many, and the
Nystroem approximation of Gaussian kernels of a few widths, which finds interactions in few dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_LANDMARKS = 300
# Widths of the kernel as multiples of 1 / (median squared distance): the widest is close to a quadratic polynomial.
_INVERSE_WIDTHS = (0.1, 1.0)
# Standardised inputs find a leak in a dimension of small variance; inputs on their own scale (principal components)
# let the large ones lead. Cross-validation chooses, where the scales differ by more than this factor.
_SCALE_EXPONENTS = (0.0, 1.0)
_EQUAL_SCALES = 2.0
# Polynomials grow without bound in a tail, and their scale puts them in the range of the kernels' penalties.
_CLIP = 3.0
_ADDITIVE_SCALE = 0.1
_RIDGE_PENALTIES = np.logspace(-1, 6, 15)
_KERNEL_PENALTIES = np.logspace(-4, 5, 19)


@dataclass(frozen=True)
class _Path:
    """Ridge solutions for all penalties, in the eigenbasis of the inputs' second moment."""

    eigenvalues: Array
    projected_targets: Array
    projected_queries: Array
    penalties: Array
    cross_validation: Array

    def predict(self, columns: slice) -> Array:
        penalty = self.penalties[self.cross_validation[:, columns].argmin(axis=0)]
        weights = self.projected_targets[:, columns] / (self.eigenvalues[:, None] + penalty)
        return self.projected_queries @ weights


def fit_predict(
    inputs: Array,
    targets: Array,
    queries: Array,
    *,
    groups: Sequence[slice],
    nonlinear: bool,
    rng: np.random.Generator,
    n_landmarks: int = N_LANDMARKS,
) -> Array:
    """Fit on ``inputs``, predict ``queries``; groups choose a kernel, columns a penalty.

    Parameters
    ----------
    inputs
        Training inputs, ``(n_train, n_inputs)``; standardised here.
    targets
        Training targets, ``(n_train, n_targets)``.
    queries
        Inputs to predict, ``(n_queries, n_inputs)``.
    groups
        Columns of ``targets`` that share a kernel; the penalty is each column's own. Both are chosen by generalised
        cross-validation.
    nonlinear
        Polynomials and Gaussian kernels besides the inputs themselves.
    rng
        Chooses the landmarks.
    n_landmarks
        Number of cells on which kernels are centred.

    Returns
    -------
    Predictions, ``(n_queries, n_targets)``.

    References
    ----------
    Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", 1979.
    Williams, Seeger, "Using the Nystroem method to speed up kernel machines", 2001.
    """
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    varies = scale > 1e-12 * np.maximum(1.0, np.abs(mean))
    target_mean = targets.mean(axis=0)
    if not varies.any():
        return np.broadcast_to(target_mean, (len(queries), targets.shape[1])).copy()
    inputs = (inputs[:, varies] - mean[varies]) / scale[varies]
    queries = (queries[:, varies] - mean[varies]) / scale[varies]
    centred = targets - target_mean

    paths = [_path(inputs, centred, queries, _RIDGE_PENALTIES)]
    if nonlinear:
        maps = [(_additive(inputs), _additive(queries))]
        chosen = rng.permutation(len(inputs))[:n_landmarks]
        own_scale = scale[varies]
        exponents = _SCALE_EXPONENTS if own_scale.max() > _EQUAL_SCALES * own_scale.min() else _SCALE_EXPONENTS[:1]
        for exponent in exponents:
            width = own_scale**exponent
            maps += _nystroem(inputs * width, queries * width, chosen)
        paths += [_path(features, centred, mapped_queries, _KERNEL_PENALTIES) for features, mapped_queries in maps]

    predictions = np.empty((len(queries), targets.shape[1]))
    for columns in groups:
        scores = [path.cross_validation[:, columns].min(axis=0).sum() for path in paths]
        predictions[:, columns] = paths[int(np.argmin(scores))].predict(columns)
    return predictions + target_mean


def _path(features: Array, targets: Array, queries: Array, penalties: Array) -> _Path:
    centre = features.mean(axis=0)
    features, queries = features - centre, queries - centre
    n_train, n_features = features.shape
    if n_features > n_train:
        # More inputs than cells: the same solutions from the cells' Gram matrix.
        eigenvalues, left = eigh(features @ features.T)
        keep = eigenvalues > eigenvalues[-1] * 1e-12
        eigenvalues, left = eigenvalues[keep], left[:, keep]
        root = np.sqrt(eigenvalues)
        projected_targets = root[:, None] * (left.T @ targets)
        projected_queries = queries @ (features.T @ (left / root))
    else:
        eigenvalues, basis = eigh(features.T @ features)
        eigenvalues = np.maximum(eigenvalues, 0.0)
        projected_targets = basis.T @ (features.T @ targets)
        projected_queries = queries @ basis

    inverse = 1.0 / (eigenvalues[None, :] + penalties[:, None])
    explained = (2 * inverse - eigenvalues * inverse**2) @ np.square(projected_targets)
    residual = np.square(targets).sum(axis=0) - explained
    degrees = 1.0 + (eigenvalues * inverse).sum(axis=1)
    free = (1.0 - degrees / n_train)[:, None]
    # Generalised cross-validation is no estimate of the error near interpolation.
    score = np.where(free >= 0.5, residual / np.square(np.maximum(free, 0.5)), np.inf)
    return _Path(eigenvalues, projected_targets, projected_queries, penalties, score)


def _additive(inputs: Array) -> Array:
    clipped = np.clip(inputs, -_CLIP, _CLIP)
    square = (clipped**2 - 1.0) / np.sqrt(2.0)
    cube = (clipped**3 - 3.0 * clipped) / np.sqrt(6.0)
    return _ADDITIVE_SCALE * np.hstack([clipped, square, cube])


def _nystroem(inputs: Array, queries: Array, chosen: NDArray[np.int64]) -> list[tuple[Array, Array]]:
    landmarks = inputs[chosen]
    between = cdist(landmarks, landmarks, "sqeuclidean")
    to_inputs = cdist(inputs, landmarks, "sqeuclidean")
    to_queries = cdist(queries, landmarks, "sqeuclidean")
    pairs = between[np.triu_indices(len(landmarks), 1)]
    # Most cells may be one and the same point (dropout in a small panel): then the mean stands in for a zero median.
    spread = float(np.median(pairs)) or float(pairs.mean()) or 1.0
    maps = []
    for inverse_width in _INVERSE_WIDTHS:
        gamma = inverse_width / spread
        # A wide kernel in few dimensions is singular to machine precision.
        root = cholesky(np.exp(-gamma * between) + 1e-8 * len(between) * np.eye(len(between)), lower=True)
        maps.append(
            tuple(solve_triangular(root, np.exp(-gamma * to).T, lower=True).T for to in (to_inputs, to_queries))
        )
    return maps
