"""Canonical pairs: along which axes two layers of the same cells agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]
_RIDGE = 0.05
_LEAST = 0.3
_N_FOLDS = 5
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Pairs:
    """Axes of two layers whose scores agree within donors.

    Attributes
    ----------
    first, second
        Scores of the cells, ``(n_cells, n_pairs)`` each, of variance 1 within donors; means of donors are kept.
    correlation
        Correlation of the two scores in donors that did not choose the axes, ``(n_pairs,)``; none rises above the one
        before.
    """

    first: Array
    second: Array
    correlation: Array


def canonical_pairs(first: Array, second: Array, donor: NDArray[np.intp], *, least: float = _LEAST) -> Pairs:
    r"""Find the canonical pairs of two layers' components within donors.

    With the covariances :math:`\Sigma` of components that are centred within donors and of variance 1, the axes are the
    singular vectors of :math:`\tilde\Sigma_{11}^{-1/2} \Sigma_{12} \tilde\Sigma_{22}^{-1/2}`, where
    :math:`\tilde\Sigma = .95\,\Sigma + .05\,I`. Differences between donors, and so batch and condition, have no part in
    the axes. Correlations are those of donors held out, a fifth at a time: in the cells that chose the axes they are
    too high, the more so the fewer there are.

    Parameters
    ----------
    first, second
        Components of the same cells, ``(n_cells, n_components)`` each; their numbers may differ.
    donor
        Donor of each cell as a number from 0, ``(n_cells,)``.
    least
        Least correlation of a pair.
    """
    x, y = _standardized(first, donor), _standardized(second, donor)
    a, b = _axes(x, y)
    correlation = np.minimum.accumulate(_held_out(x, y, donor))
    kept = correlation > least
    scores = []
    for raw, centered, axes in ((first, x, a), (second, y, b)):
        scale = np.maximum((centered @ axes).std(axis=0), _TINY)
        # The axes are of standardised components: the means of donors are brought to their scale.
        scores.append(((raw - raw.mean(axis=0)) / _spread(raw, donor) @ axes / scale)[:, kept])
    return Pairs(scores[0], scores[1], correlation[kept])


def within_donors(values: Array, donor: NDArray[np.intp]) -> Array:
    """Values less the mean of their donor, ``(n_cells, n_columns)``."""
    sizes = np.bincount(donor)
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, donor, values)
    centered: Array = values - (means / np.maximum(sizes, 1)[:, None])[donor]
    return centered


def _spread(values: Array, donor: NDArray[np.intp]) -> Array:
    spread = within_donors(values, donor).std(axis=0)
    return np.where(spread > _TINY, spread, np.inf)


def _standardized(values: Array, donor: NDArray[np.intp]) -> Array:
    standardized: Array = within_donors(values, donor) / _spread(values, donor)
    return standardized


def _held_out(x: Array, y: Array, donor: NDArray[np.intp]) -> Array:
    """Correlation along each pair of axes in donors that did not choose them, ``(n_pairs,)``."""
    fold = donor % _N_FOLDS
    moments = np.zeros((3, min(x.shape[1], y.shape[1])))
    for k in np.unique(fold):
        here = fold == k
        if here.all():
            continue
        u, v = (part[here] @ axes for part, axes in zip((x, y), _axes(x[~here], y[~here]), strict=True))
        moments += np.stack([(u * v).sum(axis=0), (u**2).sum(axis=0), (v**2).sum(axis=0)])
    correlation: Array = moments[0] / np.maximum(np.sqrt(moments[1] * moments[2]), _TINY)
    return correlation


def _axes(x: Array, y: Array) -> tuple[Array, Array]:
    left, right = _whitener(x), _whitener(y)
    u, _, vt = scipy.linalg.svd(left @ (x.T @ y / len(x)) @ right, full_matrices=False)
    return left @ u, right @ vt.T


def _whitener(x: Array) -> Array:
    """Inverse square root of the covariance, shrunk towards the identity."""
    covariance = (1 - _RIDGE) * (x.T @ x / len(x)) + _RIDGE * np.eye(x.shape[1])
    values, vectors = scipy.linalg.eigh(covariance)
    whitener: Array = (vectors / np.sqrt(values)) @ vectors.T
    return whitener
