"""How many components of a modality hold signal: molecular cross-validation, or reconstruction of hidden features."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from indiseek.data._disk import Matrix, Values
from indiseek.data._transforms import Transform

# Below it no feature is foretold by the others: they are components already, or independent.
_MIN_EXPLAINED = 0.05
_N_FOLDS = 4
LEAST_CELLS = 20
"""Fewest training cells in which signal is looked for."""


@dataclass(frozen=True, eq=False)
class ComponentSignal:
    """Signal in each component of a modality, on cells that did not make the components.

    Attributes
    ----------
    n_components
        How many components to take: where `explained` is highest.
    explained
        ``(n_max,)``: share of variance that the first j components explain, of counts that they have not seen, or of
        features that were hidden. Higher is better; it falls where a component adds more noise than signal.
    reliability
        ``(n_max,)``: correlation between two equally deep measurements of a component, from 0 (noise) to 1. Without
        counts, what part of a component is foretold by other features than those that are hidden.
    n_cells
        Number of cells that were looked at.
    """

    n_components: int
    explained: NDArray[np.float64]
    reliability: NDArray[np.float64]
    n_cells: int


def count_components(
    values: Values,
    rows: NDArray[np.intp],
    transform: Transform,
    *,
    max_cells: int = 6000,
    seed: int = 0,
) -> ComponentSignal:
    r"""Choose the number of components of count data by molecular cross-validation.

    The molecules of each cell are dealt at random into two halves A and B, which are independent given the cell's
    expression where counts are Poisson. Components w_k are fitted on half A of three quarters of the cells; for
    the other cells, the first j explain of half B

    .. math::

        E_j = \frac{\sum_{k \le j} \sum_i (2 a_{ik} b_{ik} - a_{ik}^2)}{\sum_{k \le n} \sum_i b_{ik}^2},
        \qquad a_{ik} = w_k \cdot A_i, \; b_{ik} = w_k \cdot B_i,

    averaged over both directions, and n_components is the j where it is highest: a component is taken if more than half
    of its variance at half depth is signal. The reliability at full depth follows by Spearman and Brown,
    :math:`2 r_k / (1 + r_k)`.

    Parameters
    ----------
    values
        Counts of all cells, ``(n_cells, n_features)``.
    rows
        Positions of the training cells.
    transform
        Unfitted transform to components, with the most components to look at; it stays as it is.
    max_cells
        Training cells that are looked at, drawn at random: components that 6,000 cells do not show are of no use here.
    seed
        Seed of the draw of cells and of the halves.

    Raises
    ------
    ValueError
        If the transform is not for counts, or there are fewer than 20 training cells.

    References
    ----------
    Batson, Royer and Webber (2019), bioRxiv 786269, equations 1 to 3; Spearman (1910), Brown (1910).
    """
    if not transform.needs_counts:
        raise ValueError(
            f"expected a transform of counts, got {transform.name!r}; use reconstructed_components for other values."
        )
    rng = np.random.default_rng(seed)
    some = _draw(rows, max_cells, rng)
    halves = _thin(values[some], rng)
    order = rng.permutation(len(some))
    held_out, fitted = np.split(order, [len(some) // _N_FOLDS])
    half = copy.deepcopy(transform)
    half.fit(halves[0], np.sort(fitted))
    a, b = (half.apply_to(matrix, np.sort(held_out)).double().cpu().numpy() for matrix in halves)
    both, single = 2.0 * (a * b).sum(axis=0), 0.5 * (a**2 + b**2).sum(axis=0)
    explained = np.cumsum(both - single) / single.sum()
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    r = (a * b).sum(axis=0) / np.maximum(np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)), 1e-12)
    r = np.clip(r, 0.0, 1.0)
    return ComponentSignal(int(explained.argmax()) + 1, explained, 2.0 * r / (1.0 + r), len(some))


def reconstructed_components(
    values: Values, rows: NDArray[np.intp], *, n_max: int = 50, max_cells: int = 6000, seed: int = 0
) -> ComponentSignal:
    r"""Choose the number of components of values that are not counts by reconstruction of hidden features.

    Features are standardised. Components W and variances :math:`\lambda` are fitted on three quarters of the cells;
    in each of the other cells a quarter of the features H is hidden in turn, and its component scores
    are the posterior mean of probabilistic components given the features V that are left, with noise variance
    :math:`\sigma_j^2`, the mean of the variances beyond the first j,

    .. math::

        \hat x_H = W_H \bigl(W_V^\top W_V + \sigma_j^2 (\Lambda_j - \sigma_j^2)^{-1}\bigr)^{-1} W_V^\top x_V .

    Where no number of components foretells at least a twentieth of the hidden variance, features are as good as
    independent, for example because they are components already: all of them are taken.

    Parameters
    ----------
    values
        Values of all cells, ``(n_cells, n_features)``.
    rows
        Positions of the training cells.
    n_max
        Most components to look at.
    max_cells, seed
        As in :func:`count_components`.

    Raises
    ------
    ValueError
        If there are fewer than 20 training cells.

    References
    ----------
    Owen and Perry (2009), Annals of Applied Statistics 3, 564-594 (holding out features of cells); Tipping and
    Bishop (1999), section 3.2 (posterior mean of the scores).
    """
    rng = np.random.default_rng(seed)
    some = _draw(rows, max_cells, rng)
    taken = values[some]
    x = np.asarray(taken if isinstance(taken, np.ndarray) else taken.toarray(), dtype=np.float64)
    held_out, fitted = np.split(rng.permutation(len(some)), [len(some) // _N_FOLDS])
    mean, spread = x[fitted].mean(axis=0), x[fitted].std(axis=0)
    x = (x - mean) / np.where(spread > 1e-8, spread, np.inf)
    n_features = x.shape[1]
    variances, axes = np.linalg.eigh(x[fitted].T @ x[fitted] / len(fitted))
    variances, axes = variances[::-1], axes[:, ::-1]
    n_max = min(n_max, n_features - 1, len(fitted) - 1)
    if n_max < 1:
        return ComponentSignal(n_features, np.ones(n_features), np.ones(n_features), len(some))
    test, total = x[held_out], np.square(x[held_out]).sum()
    parts = np.array_split(rng.permutation(n_features), min(_N_FOLDS, n_features))
    left, agreement = np.full(n_max, total), np.zeros(n_max)
    for j in range(n_max):
        w = axes[:, : j + 1]
        noise = max(float(variances[j + 1 :].mean()), 1e-8)
        ridge = np.diag(noise / np.maximum(variances[: j + 1] - noise, 1e-8))
        error, shared = 0.0, 0.0
        for hidden in parts:
            seen = np.setdiff1d(np.arange(n_features), hidden)
            scores = np.linalg.solve(w[seen].T @ w[seen] + ridge, w[seen].T @ test[:, seen].T).T
            error += np.square(test[:, hidden] - scores @ w[hidden].T).sum()
            shared += float(np.sum(scores[:, j] * (test[:, hidden] @ w[hidden, j])))
        left[j] = error
        agreement[j] = shared / max(float(np.square(test @ w[:, j]).sum()), 1e-12)
    explained = 1.0 - left / total
    n_components = int(explained.argmax()) + 1 if explained.max() >= _MIN_EXPLAINED else n_features
    return ComponentSignal(n_components, explained, np.clip(agreement, 0.0, 1.0), len(some))


def _draw(rows: NDArray[np.intp], max_cells: int, rng: np.random.Generator) -> NDArray[np.intp]:
    if len(rows) < LEAST_CELLS:
        raise ValueError(
            f"expected at least {LEAST_CELLS} training cells, got {len(rows)}; give the number of components."
        )
    return np.sort(rows if len(rows) <= max_cells else rng.choice(rows, max_cells, replace=False))


def _thin(counts: Matrix, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Deal molecules into two halves; what is nearly a count is taken for one."""
    if isinstance(counts, np.ndarray):
        whole = np.rint(counts).astype(np.int64)
        one = rng.binomial(whole, 0.5)
        return one.astype(np.float32), (whole - one).astype(np.float32)
    whole = np.rint(counts.data).astype(np.int64)
    one = rng.binomial(whole, 0.5)
    parts = []
    for data in (one, whole - one):
        part = sparse.csr_matrix(
            (data.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape, copy=True
        )
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]
