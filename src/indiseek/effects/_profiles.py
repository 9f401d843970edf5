"""What is compared of the cells of one type: means of donors, and how features go along with the other layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from indiseek.effects._pairs import canonical_pairs, within_donors

Array = NDArray[np.float64]
_LEAST_SPREAD = 1e-8
# What fewer cells have differs between donors by chance more than by anything else.
_LEAST_DETECTED = 0.1


@dataclass(frozen=True, eq=False)
class Layer:
    """Means of donors of one layer.

    Attributes
    ----------
    name
        Name of the modality.
    features
        Names of the features that are compared.
    columns
        Their positions among all.
    means
        Means of donors, ``(n_donors, n_features)``.
    shared
        Means of donors of this layer's scores along the pairs, ``(n_donors, n_pairs)``.
    tie
        Covariance within donors of each feature with the other layer's scores, ``(n_features, n_pairs)``.
    """

    name: str
    features: tuple[str, ...]
    columns: NDArray[np.intp]
    means: Array
    shared: Array
    tie: Array


@dataclass(frozen=True, eq=False)
class Profiles:
    """What is compared of the cells of one type; the condition has no part in it.

    Attributes
    ----------
    layers
        The two layers.
    correlation
        Correlation of the two scores of each canonical pair within donors, ``(n_pairs,)``.
    n_cells
        Number of cells of each donor, ``(n_donors,)``.
    """

    layers: tuple[Layer, Layer]
    correlation: Array
    n_cells: NDArray[np.intp]

    def private(self, layer: int, power: int) -> Array:
        r"""Means of donors of one layer's features less what the other layer knows of them.

        Of gene j, :math:`F_j - \sum_i \mathrm{cov}(x_j, v_i)\, v_i / \rho_i^e`.

        Parameters
        ----------
        layer
            Which of the two, 0 or 1.
        power
            The power e: 0 is the regression on the other layer's scores, 2 holds all that keeps the two layers' scores
            apart for noise. The truth lies between.

        Returns
        -------
        ``(n_donors, n_features)``.
        """
        own, other = self.layers[layer], self.layers[1 - layer]
        private: Array = own.means - (other.shared / self.correlation**power) @ own.tie.T
        return private


def profiles(
    values: Sequence[Any],
    components: Sequence[Array],
    donor: NDArray[np.intp],
    *,
    names: Sequence[str] = ("rna", "prot"),
    features: Sequence[Sequence[str]] | None = None,
) -> Profiles:
    """Average the cells of one type over donors.

    Parameters
    ----------
    values
        Two layers of the same cells on the scale on which they are compared, ``(n_cells, n_features)`` each, dense or
        sparse: :func:`log_normalized` of genes, :func:`log_centered` of proteins. Of a sparse layer features are left
        out that less than a tenth of the cells have.
    components
        Components of the two layers, ``(n_cells, n_components)`` each, in which the shared axes are looked for.
    donor
        Donor of each cell as a number from 0, ``(n_cells,)``.
    names
        Names of the layers.
    features
        Names of the features of each layer; by default their numbers.
    """
    first, second = (np.asarray(part, dtype=np.float64) for part in components)
    pairs = canonical_pairs(first, second, donor)
    n_cells = np.bincount(donor)
    average = sparse.csr_matrix((1 / n_cells[donor], (donor, np.arange(len(donor)))))
    layers = []
    for i, (own, other) in enumerate(((pairs.first, pairs.second), (pairs.second, pairs.first))):
        means = np.asarray((average @ values[i]).toarray() if sparse.issparse(values[i]) else average @ values[i])
        tie = np.asarray(values[i].T @ within_donors(other, donor)) / max(1, len(donor) - len(n_cells))
        varies = (means.std(axis=0) > _LEAST_SPREAD) & _detected(values[i])
        known = [str(j) for j in range(means.shape[1])] if features is None else features[i]
        kept = tuple(str(name) for name, is_kept in zip(known, varies, strict=True) if is_kept)
        columns = np.flatnonzero(varies)
        layers.append(Layer(names[i], kept, columns, means[:, columns], average @ own, tie[columns]))
    return Profiles((layers[0], layers[1]), pairs.correlation, n_cells)


def _detected(values: Any) -> NDArray[np.bool_]:
    """Which features of a sparse layer enough cells have, ``(n_features,)``; of a dense one all."""
    if not sparse.issparse(values):
        return np.ones(values.shape[1], dtype=bool)
    detected: NDArray[np.bool_] = sparse.csr_matrix(values).getnnz(axis=0) >= _LEAST_DETECTED * values.shape[0]
    return detected
