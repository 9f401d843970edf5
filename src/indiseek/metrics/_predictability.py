"""How well each feature is predicted, within what is easily told too, and how well it could be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._checks import as_cells, check_paired
from ._noise import noise_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


def predictability(
    predicted: ArrayLike,
    observed: ArrayLike,
    *,
    batch: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    halves: tuple[ArrayLike, ArrayLike] | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How well each feature of held-out cells is predicted, and how well it could be.

    A prediction that knows a cell's type and batch, and nothing else, correlates well with many proteins. What it knows
    of cells of one type stands in ``r_within_groups``. What nobody can predict is counting noise: ``ceiling`` is the
    correlation of the observed values with what another count of the same cells would repeat.

    Parameters
    ----------
    predicted, observed
        ``(n_cells, n_features)`` each, on one scale.
    batch
        Batch of each cell, ``(n_cells,)``.
    groups
        Type of each cell, or what else is easily told, ``(n_cells,)``.
    halves
        Two thinned halves of the cells' counts (:func:`thin_counts`) on the scale of the others.
    names
        Names of the features.

    Returns
    -------
    One row for each feature, higher is better in all columns:

    ``r``
        correlation of predicted with observed values
    ``r2``
        share of the variance that the predictions take away; below 0 where the mean would be nearer
    ``r_within_batches``
        correlation after the mean of each batch is taken from both; where `batch` is given
    ``r_within_groups``
        likewise of each group, within its batch where there is one; where `groups` is given
    ``ceiling``, ``of_ceiling``
        highest ``r`` that counting noise allows, and ``r`` as a share of it; where `halves` is given

    NaN stands where a feature, or its prediction, does not vary.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.
    """
    p, y = as_cells(predicted, "predicted", min_cells=4), as_cells(observed, "observed", min_cells=4)
    check_paired((p, y), ("predicted", "observed"))
    if p.shape != y.shape:
        raise ValueError(
            f"expected the same features in predicted and observed, got {p.shape[1]} and {y.shape[1]}; do align them"
        )
    variance = y.var(axis=0)
    r2 = np.full(len(variance), np.nan)
    np.divide(np.square(y - p).mean(axis=0), variance, out=r2, where=variance > 0)
    found = {"r": _correlation(p, y), "r2": 1.0 - r2}
    batches = None if batch is None else _codes(batch, "batch", len(y))
    if batches is not None:
        found["r_within_batches"] = _correlation(_within(p, batches), _within(y, batches))
    if groups is not None:
        codes = _codes(groups, "groups", len(y))
        if batches is not None:
            codes = codes * (batches.max() + 1) + batches
        found["r_within_groups"] = _correlation(_within(p, codes), _within(y, codes))
    if halves is not None:
        found["ceiling"] = np.sqrt(1.0 - noise_share(*halves))
        found["of_ceiling"] = np.divide(
            found["r"], found["ceiling"], out=np.full(len(variance), np.nan), where=found["ceiling"] > 0
        )
    return pd.DataFrame(found, index=None if names is None else pd.Index(names))


def _codes(labels: ArrayLike, name: str, n_cells: int) -> NDArray[np.intp]:
    codes = pd.factorize(np.asarray(labels).ravel())[0]
    if len(codes) != n_cells:
        raise ValueError(f"expected in {name} one value for each of {n_cells} cells, got {len(codes)}; do align them")
    return np.asarray(codes, dtype=np.intp)


def _within(values: Array, codes: NDArray[np.intp]) -> Array:
    """Values less the mean of their group."""
    table = pd.DataFrame(values)
    return np.asarray(table - table.groupby(codes).transform("mean"), dtype=np.float64)


def _correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    r = np.full(len(scale), np.nan)
    np.divide((a * b).sum(axis=0), scale, out=r, where=scale > 1e-12 * len(a))
    return r
