"""Features that not every batch has measured: NaN in all cells of a batch."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indiseek.data._disk import Values, row_chunks
from indiseek.data._transforms import dense
from indiseek.data._values import check_finite, some_of

logger = logging.getLogger(__name__)


def measured_everywhere(
    values: Values, batch: NDArray[Any] | None, n_bad: int, features: pd.Index, where: str
) -> NDArray[np.intp]:
    """Positions of the features that every batch has; what is left out is said.

    A feature that is NaN in all cells of some batches, and in no other cell, was not in these batches' panel. It is
    neither 0 there nor a mean, so that it is left out for all cells. NaN anywhere else is a mistake.

    Parameters
    ----------
    values
        Values with NaN, ``(n_cells, n_features)``.
    batch
        Batch of each cell, ``(n_cells,)``; None for none.
    n_bad
        How many values are NaN or infinite.
    features
        Names of the features.
    where
        Name of the modality, for messages.

    Raises
    ------
    ValueError
        If values are infinite, or NaN otherwise than in all cells of a batch, or no feature is left.
    """
    if batch is None:
        check_finite(n_bad, where)
        return np.arange(len(features))
    codes, batches = pd.factorize(batch)
    missing = np.zeros((len(batches), len(features)), dtype=np.int64)
    start = 0
    for chunk in row_chunks(values):
        stop = start + chunk.shape[0]
        np.add.at(missing, codes[start:stop], np.isnan(dense(chunk)))
        start = stop
    whole = missing == np.bincount(codes, minlength=len(batches))[:, None]
    if missing.sum() != n_bad or ((missing > 0) & ~whole).any():
        check_finite(n_bad, where)
    left_out = whole.any(axis=0)
    if left_out.all():
        raise ValueError(
            f"expected features of modality {where!r} that every batch has, got none that is not NaN in all cells of "
            "one; train a model of the batches that share a panel."
        )
    lacking = [f"{batches[b]!r} without {some_of(features, row)}" for b, row in enumerate(whole) if row.any()]
    logger.warning(
        f"{where!r}: {int(left_out.sum())} of {len(features)} features are left out, which not every batch has "
        f"measured: {'; '.join(lacking)}."
    )
    return np.flatnonzero(~left_out)
