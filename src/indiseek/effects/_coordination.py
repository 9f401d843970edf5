"""A new state: what each layer has alone goes together in the same cells, outside the known shared axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from indiseek.effects._labels import Labels, min_p
from indiseek.effects._moderated import permuted_t
from indiseek.effects._pairs import canonical_pairs, within_donors
from indiseek.effects._profiles import Profiles
from indiseek.effects._spaces import POWERS, consensus

Array = NDArray[np.float64]
COORDINATED = "coordinated"
# A correlation is known well enough of so many cells, and all cells of large studies would take hours.
_MOST_CELLS = 500
# Labellings of which the scores of all cells are held at a time; a p above the limit is not made more exact.
_CHUNK = 100
_NEVER_CALLED = 0.2
_TINY = 1e-12
_P = ("p_first", "p_second", "pvalue")


def coordination(
    values: Sequence[Any],
    components: Sequence[Array],
    donor: NDArray[np.intp],
    profiles: Profiles,
    labels: Labels,
    *,
    n_permutations: int = 999,
    seed: int = 0,
) -> dict[str, object]:
    r"""Test whether what each layer has alone goes together in the cells of one side more than of the other.

    A state that only one side has, and that moves genes and proteins which have nothing to do with each other in the
    other cells, looks like an effect on RNA alone and one on protein alone. In the same cells, it is one state. The
    score of a cell in a layer is

    .. math::
        s_i = \sum_j t_j^3\, x_{ij} / \sigma_j,

    with :math:`t_j` the private effect of :func:`compare_profiles`, :math:`\sigma_j` the standard deviation within
    donors, and less what canonical pairs of both layers tell of it, weak ones too. Compared are donors' rank
    correlations of the two layers' scores over cells.

    Parameters
    ----------
    values, components, donor
        As :func:`profiles` takes them.
    profiles
        What it made of them.
    labels
        Labels of the donors.
    n_permutations, seed
        As in :meth:`Labels.contrasts`; fewer are made where p is far from small. Of a donor with more than 500 cells
        so many are drawn.

    Returns
    -------
    A row as of :func:`compare_profiles`, with ``space`` ``"coordinated"``: ``effect``, the difference of the mean
    correlations; ``share``, the mean correlation on the side where it is higher; ``p_first``, with scores chosen anew
    for every labelling, and ``p_second``, with the scores that the observed labels chose: the first does not know that
    the scores follow true effects, the second not that they were chosen. NaN where a layer has no feature.
    """
    if not all(layer.means.shape[1] for layer in profiles.layers):
        return {"space": COORDINATED, "effect": 0.0, "share": 0.0, **dict.fromkeys(_P, np.nan)}
    contrasts = labels.contrasts(n_permutations, seed)
    # Taken of all cells: a sub-state that the known axes describe is none that is new, however weak they are.
    pairs = canonical_pairs(components[0], components[1], donor, least=0.0)
    axes = within_donors(np.column_stack([pairs.first, pairs.second]), donor)
    rows = _some(donor, seed)
    scores = [
        _Scores.of(values[i][:, layer.columns], axes, donor, rows, _weights(profiles, i, labels, contrasts))
        for i, layer in enumerate(profiles.layers)
    ]
    correlation = np.empty((0, len(profiles.n_cells)))
    for start in range(0, len(contrasts), _CHUNK):
        part = slice(start, start + _CHUNK)
        found = _rank_correlations(scores[0](part), scores[1](part), donor[rows])
        correlation = np.vstack([correlation, found])
        anew = (contrasts[: len(correlation)] * correlation).sum(axis=1)
        p_first = min_p(np.abs(anew)[:, None])
        if p_first > _NEVER_CALLED:
            break
    p_second = min_p(np.abs(contrasts @ correlation[0])[:, None])
    higher = labels.informative & (labels.case if anew[0] > 0 else ~labels.case)
    return {
        "space": COORDINATED,
        "effect": float(anew[0]),
        "share": float(correlation[0, higher].mean()),
        **dict(zip(_P, (p_first, p_second, max(p_first, p_second)), strict=True)),
    }


@dataclass(frozen=True, eq=False)
class _Scores:
    """Scores of cells in one layer for any labelling: ``values @ weights - axes @ tie @ weights``."""

    values: Any
    axes: Array
    tie: Array
    weights: Array

    @classmethod
    def of(cls, values: Any, axes: Array, donor: NDArray[np.intp], rows: NDArray[np.intp], weights: Array) -> _Scores:
        tie = np.asarray(np.linalg.pinv(axes.T @ axes, hermitian=True) @ np.asarray(axes.T @ values))
        return cls(values[rows], axes[rows], tie, (weights / _spread(values, donor)).T)

    def __call__(self, labellings: slice) -> Array:
        weights = self.weights[:, labellings]
        return np.asarray(self.values @ weights) - self.axes @ (self.tie @ weights)


def _weights(profiles: Profiles, i: int, labels: Labels, contrasts: Array) -> Array:
    """Cubes of the private t of every labelling, ``(n_labellings, n_features)``: few features carry most of a score."""
    versions = (profiles.layers[i].means, *(profiles.private(i, e) for e in POWERS))
    return consensus([permuted_t(labels.centered(each), contrasts, labels.n_free) for each in versions]) ** 3


def _spread(values: Any, donor: NDArray[np.intp]) -> Array:
    """Standard deviation of each feature within donors."""
    sizes = np.bincount(donor)
    average = sparse.csr_matrix((1 / sizes[donor], (donor, np.arange(len(donor)))))
    squares = values.multiply(values) if sparse.issparse(values) else values**2
    means, seconds = (_dense(average @ each) for each in (values, squares))
    variance = sizes @ (seconds - means**2) / sizes.sum()
    return np.asarray(np.sqrt(np.maximum(variance, _TINY)))


def _dense(values: Any) -> Array:
    return np.asarray(values.toarray() if sparse.issparse(values) else values)


def _some(donor: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Positions of at most so many cells of each donor, in order."""
    order = np.random.default_rng(seed).permutation(len(donor))
    ranked = order[np.argsort(donor[order], kind="stable")]
    place = np.arange(len(donor)) - np.searchsorted(donor[ranked], donor[ranked])
    return np.sort(ranked[place < _MOST_CELLS])


def _rank_correlations(first: Array, second: Array, donor: NDArray[np.intp]) -> Array:
    """Correlation of the ranks of two scores within each donor, ``(n_labellings, n_donors)``."""
    found = np.empty((first.shape[1], int(donor.max()) + 1))
    for d in range(found.shape[1]):
        here = donor == d
        a, b = (_ranks(np.ascontiguousarray(each[here].T)) for each in (first, second))
        found[:, d] = (a * b).sum(axis=1) / np.maximum((a**2).sum(axis=1), _TINY)
    return found


def _ranks(values: Array) -> Array:
    """Ranks along each row, less their mean."""
    ranks = np.empty(values.shape)
    places = np.broadcast_to(np.arange(values.shape[1]) - (values.shape[1] - 1) / 2, values.shape)
    np.put_along_axis(ranks, values.argsort(axis=1), places, axis=1)
    return ranks
