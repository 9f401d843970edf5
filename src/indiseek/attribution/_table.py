"""Loadings as a tidy table, of dimensions, directions or groups of cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indiseek.attribution._moments import Moments
from indiseek.attribution._shares import within

Array = NDArray[np.float64]
MIN_GROUP = 10
_TINY = 1e-9


def loading_table(
    moments: Moments,
    modality: Sequence[str],
    feature: Sequence[str],
    labels: pd.DataFrame,
    *,
    standardised: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each row of `labels` and feature.

    Parameters
    ----------
    moments
        Of as many directions as there are labels.
    modality, feature
        Modality and name of each feature.
    labels
        Columns that tell the directions.
    standardised
        Whether loadings are correlations; else they are effects in standard deviations of the feature.
    seed
        Seed of the halves.

    Returns
    -------
    Columns of `labels`, then ``modality``, ``feature``, ``loading``, ``stability`` and ``rank``, 1 for the largest
    loading of its modality in either direction; in the order of the ranks. Features that do not vary are left out.
    """
    loading = moments.loadings(standardised=standardised)
    stability = moments.stability(standardised=standardised, seed=seed)
    tables = []
    for k, label in enumerate(labels.itertuples(index=False)):
        table = pd.DataFrame(
            {"modality": list(modality), "feature": list(feature), "loading": loading[k], "stability": stability[k]}
        ).dropna()
        size = table["loading"].abs()
        table["rank"] = size.groupby(table["modality"], sort=False).rank(ascending=False, method="first").astype(int)
        for place, (key, value) in enumerate(zip(labels.columns, label, strict=True)):
            table.insert(place, key, value)
        # Modalities stay in their order.
        table["_order"] = pd.factorize(table["modality"])[0]
        tables.append(table.sort_values(["_order", "rank"]).drop(columns="_order"))
    return pd.concat(tables, ignore_index=True)


def group_directions(code: Array, members: NDArray[np.bool_], batch: NDArray[np.intp] | None = None) -> Array:
    r"""Direction of a space that tells a group of cells from the others, ``(n_dims, 1)``.

    :math:`v = \Sigma^{-1} (\bar z_{in} - \bar z_{out})`. The covariance of a feature with :math:`v \cdot z` is then the
    difference between the group and the others in what the space, by linear regression, knows of the feature.

    Parameters
    ----------
    code
        Codes of the cells, ``(n_cells, n_dims)``.
    members
        Which cells are of the group, ``(n_cells,)``.
    batch
        Batch of each cell as a number from 0.
    """
    z = within(code, np.zeros(len(code), dtype=np.intp) if batch is None else batch)
    covariance = z.T @ z / len(z)
    difference = z[members].mean(axis=0) - z[~members].mean(axis=0)
    scale = max(float(np.trace(covariance)) / len(covariance), _TINY)
    direction: Array = np.linalg.solve(covariance + 1e-6 * scale * np.eye(len(covariance)), difference)[:, None]
    return direction
