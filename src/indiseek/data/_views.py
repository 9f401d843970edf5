"""Augmented views of cells, made from their counts before training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data._disk import Matrix, Values, row_chunks
from indiseek.data._transforms import Transform


def thinned_views(
    values: Values,
    transform: Transform,
    rows: NDArray[np.intp],
    n_views: int,
    *,
    lowest: float = 0.5,
    dropout: float = 0.3,
    seed: int = 0,
) -> Tensor:
    r"""Features of the same cells as if they had been sequenced less deeply, and some genes not at all.

    For each cell and view a depth :math:`q \sim U(\text{lowest}, 1)` is drawn and every count thinned to
    :math:`\mathrm{Bin}(x, q)`, which keeps Poisson noise Poisson; and a rate :math:`r \sim U(0, \text{dropout})`, with
    which each feature's count is lost. A view that would be left without any count is the cell as it is. Then the
    counts go through the transform.

    Parameters
    ----------
    values
        Counts, ``(n_cells, n_genes)``.
    transform
        Fitted transform of these counts.
    rows
        Positions of the cells wanted.
    n_views
        Views of each cell.
    lowest
        Lowest depth.
    dropout
        Highest rate of lost features.
    seed
        Seed of the draws.

    Returns
    -------
    ``(len(rows), n_views, n_features)`` on the transform's device: ``4 * n_views * n_features`` bytes a cell.
    """
    rng = np.random.default_rng(seed)
    views = torch.empty((len(rows), n_views, transform.n_output), device=transform.device)
    start = 0
    for chunk in row_chunks(values, rows):
        stop = start + chunk.shape[0]
        for view in range(n_views):
            views[start:stop, view] = transform.apply_to(_thin(chunk, lowest, dropout, rng))
        start = stop
    return views


def _thin(chunk: Matrix, lowest: float, dropout: float, rng: np.random.Generator) -> Matrix:
    depth = rng.uniform(lowest, 1.0, size=chunk.shape[0])
    rate = rng.uniform(0.0, dropout, size=chunk.shape[0])
    if isinstance(chunk, np.ndarray):
        thinned = rng.binomial(chunk.astype(np.int64), depth[:, None])
        thinned = (thinned * (rng.random(chunk.shape) >= rate[:, None])).astype(np.float32)
        return np.where(thinned.any(axis=1, keepdims=True), thinned, chunk)
    n_stored = np.diff(chunk.indptr)
    thinned = rng.binomial(chunk.data.astype(np.int64), np.repeat(depth, n_stored))
    result = chunk.copy()
    result.data = (thinned * (rng.random(len(thinned)) >= np.repeat(rate, n_stored))).astype(np.float32)
    is_empty = np.repeat(np.asarray(result.sum(axis=1)).ravel() == 0, n_stored)
    result.data[is_empty] = chunk.data[is_empty]
    return result
