"""Fresh probes: how well held-out cells' codes predict something, by cross-fitting inside those cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from sklearn.model_selection import KFold

from indiseek._checks import check_choice, check_number, check_seed

from ._checks import as_cells, check_paired
from ._kernel_ridge import fit_predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

Probe = Literal["ridge", "nonlinear"]
PROBES: tuple[Probe, ...] = ("ridge", "nonlinear")
# A dimension of a code that varies by less, in its own size, has collapsed.
COLLAPSED = 1e-9


def probe_r2(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    probe: Probe = "ridge",
    n_splits: int = 5,
    seed: int = 0,
) -> float:
    """Out-of-fold R2 of a fresh probe from ``inputs`` to ``targets`` (1 all, 0 nothing, below 0 worse than the mean).

    The probe never saw a model's training: it is fitted on ``n_splits - 1`` parts of the cells given and scored on the
    remaining part, each part in turn. Over targets the R2 is weighted by variance, ``1 - sum (y - p)^2 / sum (y -
    mean)^2`` over all cells and targets. Scale targets first if each shall count alike.

    Parameters
    ----------
    inputs
        Codes of held-out cells, ``(n_cells, n_inputs)``; standardised within each fold.
    targets
        What the codes may hold, ``(n_cells, n_targets)``, the same cells.
    probe
        ``"ridge"`` (default), or ``"nonlinear"``: kernel ridge, either on polynomials of single inputs or on Gaussian
        kernels of two widths with 300 landmarks. Both choose everything by generalised cross-validation inside the
        training part.
    n_splits
        Number of folds, default 5.
    seed
        Seed of folds and landmarks, default 0.

    Returns
    -------
    float, at most 1.

    Raises
    ------
    ValueError
        If cells differ, values are not finite, all targets are constant, or an option is out of range.
    """
    x, y = pair(inputs, targets)
    (prediction,) = cross_predict(x, [y], probe=probe, n_splits=n_splits, seed=seed)
    return weighted_r2(y, prediction)


def feature_r2(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    probe: Probe = "ridge",
    n_splits: int = 5,
    seed: int = 0,
) -> Array:
    """Out-of-fold R2 of a fresh probe for each target column; NaN for a constant one.

    Parameters
    ----------
    inputs
        Codes of held-out cells, ``(n_cells, n_inputs)``; standardised within each fold.
    targets
        Features, ``(n_cells, n_targets)``, the same cells.
    probe
        ``"ridge"`` (default) or ``"nonlinear"``, as in :func:`probe_r2`; each column chooses its own kernel.
    n_splits
        Number of folds, default 5.
    seed
        Seed of folds and landmarks, default 0.

    Returns
    -------
    Array of shape ``(n_targets,)``.

    Raises
    ------
    ValueError
        If cells differ, values are not finite, or an option is out of range.
    """
    x, y = pair(inputs, targets)
    columns = [y[:, [column]] for column in range(y.shape[1])]
    predictions = cross_predict(x, columns, probe=probe, n_splits=n_splits, seed=seed)
    return column_r2(y, np.hstack(predictions))


def cross_predict(x: Array, targets: Sequence[Array], *, probe: Probe, n_splits: int = 5, seed: int = 0) -> list[Array]:
    """Out-of-fold predictions of each array of ``targets`` from ``x``; each array chooses its own kernel."""
    check_choice("probe", probe, PROBES)
    check_number("n_splits", n_splits, low=2, high=len(x) // 2, whole=True)
    check_seed("seed", seed)
    edges = np.cumsum([0, *(y.shape[1] for y in targets)])
    groups = [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    y = np.hstack(targets)
    prediction = np.empty_like(y)
    rng = np.random.default_rng([seed, 0])
    for train, test in KFold(n_splits, shuffle=True, random_state=seed).split(x):
        prediction[test] = fit_predict(
            x[train], y[train], x[test], groups=groups, nonlinear=probe == "nonlinear", rng=rng
        )
    return [prediction[:, columns] for columns in groups]


def weighted_r2(y: Array, prediction: Array) -> float:
    """R2 over all cells and targets, weighted by the targets' variance."""
    if not varying(y).any():
        raise ValueError("expected at least one target that varies over cells, got constant targets; do drop them")
    return float(1.0 - np.square(y - prediction).sum() / np.square(y - y.mean(axis=0)).sum())


def column_r2(y: Array, prediction: Array) -> Array:
    """R2 of each column; NaN for a constant column."""
    unexplained = np.full(y.shape[1], np.nan)
    total = np.square(y - y.mean(axis=0)).sum(axis=0)
    np.divide(np.square(y - prediction).sum(axis=0), total, out=unexplained, where=varying(y))
    return 1.0 - unexplained


def r2_of_cells(gained: Array, total: Array) -> tuple[float, float]:
    """R2 and its standard error over cells.

    Parameters
    ----------
    gained, total
        Of each cell by how much its squared error is smaller than that of the mean, and the latter, ``(n_cells,)``.
    """
    r2 = float(gained.sum() / total.sum())
    return r2, float(np.sqrt(len(total) * np.var(gained - r2 * total)) / total.sum())


def varying(y: Array, *, least: float = 1e-12) -> NDArray[np.bool_]:
    """Tell which columns vary by more than the rounding of a constant, or by more than `least` of their size."""
    return y.std(axis=0) > least * np.abs(y).max(axis=0)


def pair(inputs: ArrayLike, targets: ArrayLike, x_name: str = "inputs", y_name: str = "targets") -> tuple[Array, Array]:
    """Return two checked matrices of the same cells."""
    x, y = as_cells(inputs, x_name, min_cells=4), as_cells(targets, y_name, min_cells=4)
    check_paired((x, y), (x_name, y_name))
    return x, y
