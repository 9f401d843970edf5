"""Cells of batches that a model does not know: read as of one that it knows, and moved to it where asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import CellTensors, Schema, column_of, covariate_columns
from indiseek.nn import BatchDisplacement
from indiseek.train import Pipeline

logger = logging.getLogger(__name__)

_MIN_CELLS = 100
_ALL = "all cells"


def find_new_batches(schema: Schema, mdata: MuData, batch: Any) -> tuple[pd.DataFrame, dict[str, NDArray[np.intp]]]:
    """Covariates of cells with known batches only, and by new batch the positions of its cells.

    Of a model without batches all cells are one new batch.

    Parameters
    ----------
    schema
        What the model knows.
    mdata
        New cells.
    batch
        Known batch as whose cells those of new ones are read; None for one to be found.

    Raises
    ------
    ValueError
        If `batch` is not known.
    """
    setup, everyone = schema.setup, {_ALL: np.arange(mdata.n_obs)}
    key = setup.batch_key
    if key is None:
        if batch is not None:
            raise ValueError(
                f"expected no batch for a model that was set up without batch_key, got {batch!r}; leave batch out."
            )
        return covariate_columns(mdata, setup), everyone
    known = schema.categories[key]
    if batch is not None and batch not in known:
        raise ValueError(f"expected batch to be one that the model was trained with, {known}, got {batch!r}; name one.")
    if column_of(mdata, key, setup.modalities) is None:
        columns = covariate_columns(mdata, replace(setup, batch_key=None))
        return columns.assign(**{key: pd.Series([known[0]] * mdata.n_obs, index=columns.index)}), everyone
    columns = covariate_columns(mdata, setup)
    names, is_new = columns[key].to_numpy(), ~columns[key].isin(known).to_numpy()
    new = {str(name): np.flatnonzero(is_new & (names == name)) for name in pd.unique(names[is_new])}
    return columns.assign(**{key: np.where(is_new, known[0], names)}), new


def check_enough(new: Mapping[str, NDArray[np.intp]]) -> None:
    """Raise ValueError if there are no new batches to fit a displacement of, or too few cells of one."""
    if not new:
        raise ValueError(
            "expected cells of a new batch for fit_batch=True, got only batches that the model was trained with, of "
            "which it knows the displacement; leave fit_batch out."
        )
    few = {name: len(rows) for name, rows in new.items() if len(rows) < _MIN_CELLS}
    if few:
        raise ValueError(
            f"expected at least {_MIN_CELLS} cells of each new batch for fit_batch=True, got {few}; leave fit_batch "
            "out."
        )


def read_as_known(
    schema: Schema,
    cells: CellTensors,
    new: Mapping[str, NDArray[np.intp]],
    batch: Any,
    reference: CellTensors | None,
) -> tuple[CellTensors, dict[str, str]]:
    """Cells of new batches with the number of a known one, and by new batch the name of that.

    Parameters
    ----------
    schema
        What the model knows.
    cells
        New cells.
    new, batch
        As in :func:`find_new_batches`.
    reference
        Training cells, of which the batch with the nearest mean is taken where none is named.
    """
    key = cast(str, schema.setup.batch_key)
    known = schema.categories[key]
    codes, read_as = cells.covariates[0].clone(), {}
    for name, rows in new.items():
        here = torch.from_numpy(rows).to(codes.device)
        if batch is not None:
            number = known.index(batch)
        else:
            there, own = cast(CellTensors, reference), _joined(cells, cells)[here].mean(dim=0)
            features = _joined(there, cells)
            # A batch without training cells is far from all.
            means = [features[there.covariates[0] == b].mean(dim=0).nan_to_num(torch.inf) for b in range(len(known))]
            number = int((torch.stack(means) - own).square().sum(dim=1).argmin())
        codes[here] = number
        read_as[name] = str(known[number])
        what = f"the cells have no {key!r}" if name == _ALL else f"{name!r} in {key!r} is new to the model"
        how = "the nearest in the mean of the features" if batch is None else "as named"
        logger.warning(f"{what}: {len(rows):,} cells are read as of {known[number]!r}, {how}.")
    return cells._replace(covariates=(codes, *cells.covariates[1:])), read_as


def moved(
    pipeline: Pipeline,
    cells: CellTensors,
    new: Mapping[str, NDArray[np.intp]],
    reference: CellTensors,
    *,
    by_batch: bool,
) -> CellTensors:
    """Cells of which those of new batches lie where the reference's lie, state by state of a joint shared code.

    They are moved together first, by the mean of the states' displacements, then each state.

    Parameters
    ----------
    pipeline
        Transforms and networks.
    cells
        New cells.
    new
        By new batch, positions of its cells.
    reference
        Training cells.
    by_batch
        Whether those of the batch as which cells are read are taken, or all.
    """
    (shared,) = pipeline.stages["everything"].given
    widths = [x.shape[1] for x in cells.features]
    features = [x.clone() for x in cells.features]
    for rows in new.values():
        here = torch.from_numpy(rows).to(cells.device)
        there, own = reference, cells.take(here)
        if by_batch:
            there = reference.take(torch.nonzero(reference.covariates[0] == own.covariates[0][0])[:, 0])
        if not there.n_cells:
            raise ValueError(
                "expected training cells of the batch as which new cells are read, got none; name another one by batch."
            )
        there = _like(there, cells)
        x, c = _joined(there, cells), pipeline.joint(shared, there)
        is_new = torch.cat([torch.zeros(len(x)), torch.ones(len(here))]).long().to(x.device)
        # The states come from codes that hold some of the batch themselves: what all states share is taken out first.
        for is_common in (True, False):
            y, d = _joined(own, cells), pipeline.joint(shared, own)
            displacement = BatchDisplacement(x.shape[1], c.shape[1], 2).to(x.device)
            displacement.fit(torch.cat([x, y]), torch.cat([c, d]), is_new)
            one = torch.ones_like(is_new[len(x) :])
            # Both are moved to their common mean, from where the way back is the reference's.
            to = displacement(y, d, one) - displacement(torch.zeros_like(y), d, 0 * one)
            y = y + (to - y).mean(dim=0) if is_common else to
            own = own._replace(features=tuple(y.split(widths, dim=1)))
        for part, piece in zip(features, own.features, strict=True):
            part[here] = piece
    return cells._replace(features=tuple(features))


def _like(cells: CellTensors, other: CellTensors) -> CellTensors:
    """Cells with the modalities of `other` alone."""
    if not other.present:
        return cells
    pairs = zip(cells.features, other.features, strict=True)
    return cells._replace(
        features=tuple(x if theirs.shape[1] else x[:, :0] for x, theirs in pairs),
        present=tuple(part[:1].expand(cells.n_cells) for part in other.present),
    )


def _joined(cells: CellTensors, like: CellTensors) -> Tensor:
    """Features side by side of the modalities that `like` has."""
    return torch.cat(_like(cells, like).features, dim=1)
