"""Cells in, tables out: predictions on the scale that is asked for, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mudata
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import Cells, Matrix, Schema, column_of, row_chunks, to_tensor
from indiseek.metrics import predictability, thin_counts
from indiseek.prediction._predictor import Predicted, Predictor

_PIECE_CELLS = 4096
# Of fewer the ends of an interval are not told.
_LEAST_CELLS = 100


class Prediction(NamedTuple):
    """Predictions with an interval, one table ``(n_cells, n_features)`` each.

    Attributes
    ----------
    value
        What is predicted.
    lower, upper
        Bounds between which the measured value is to lie in the share of cells that was asked for.
    """

    value: pd.DataFrame
    lower: pd.DataFrame
    upper: pd.DataFrame


class Measured(NamedTuple):
    """Predictions of cells beside what was measured, ``(n_cells, n_features)`` each, on the scale of the predictions.

    Attributes
    ----------
    predicted, observed
        Predicted and measured values.
    halves
        Two thinned halves of the counts; None where the values are no counts.
    """

    predicted: NDArray[np.float32]
    observed: NDArray[np.float32]
    halves: tuple[NDArray[np.float32], NDArray[np.float32]] | None


class Recalibration(NamedTuple):
    """What cells with both modalities say of how far predictions of cells like them are off, ``(n_features,)`` each.

    Attributes
    ----------
    shift
        Median of measured less predicted.
    widen
        By how much wider the interval has to be, to hold in the share of these cells that was asked for; None without
        an interval.
    """

    shift: Tensor
    widen: Tensor | None


def check_batch(schema: Schema, batch: object) -> None:
    """Raise ValueError if cells cannot be predicted as of `batch`."""
    key = schema.setup.batch_key
    if key is None:
        raise ValueError(
            f"expected transform_batch=None for a model without a batch, got {batch!r}; leave it out, or set the model "
            "up with batch_key."
        )
    known = schema.categories[key]
    if batch not in known:
        raise ValueError(f"expected transform_batch to be one of {known}, got {batch!r}; choose one of them.")


def as_of_batch(mdata: MuData, names: Sequence[str], schema: Schema, batch: object) -> MuData:
    """Some modalities of cells, and their columns with `batch` for all, whatever batch they have or lack."""
    with mudata.set_options(pull_on_update=False):
        found = MuData({name: mdata.mod[name] for name in names})
        found.obs = mdata.obs.reindex(found.obs_names).assign(**{str(schema.setup.batch_key): batch})
    return found


def check_batches_known(mdata: MuData, schema: Schema) -> None:
    """Raise if cells have no batch, or one of which the model has seen nothing; says what to do."""
    key = schema.setup.batch_key
    if key is None:
        return
    column = column_of(mdata, key, list(mdata.mod))
    if column is None:
        raise KeyError(
            f"expected a column {key!r} in .obs, got {list(mdata.obs.columns)}; add it, or name with transform_batch "
            "the batch as of which these cells are to be predicted."
        )
    known = schema.categories[key]
    new = sorted(set(column) - set(known), key=str)
    if new:
        raise ValueError(
            f"expected in {key!r} batches that the model was trained with, {known}, got {new}; name with "
            "transform_batch the one as of which these cells are to be predicted."
        )


def recalibration(
    predictor: Predictor, cells: Cells, given: str, modality: str, *, interval: float | None
) -> Recalibration:
    """Find how far predictions of some cells with both modalities are off.

    Parameters
    ----------
    predictor
        A fitted one.
    cells
        The cells, in the batch as of which they are predicted.
    given, modality, interval
        As in :func:`prediction`.

    Raises
    ------
    ValueError
        If there are fewer than 100 cells.
    """
    if len(cells) < _LEAST_CELLS:
        raise ValueError(
            f"expected at least {_LEAST_CELLS} cells with {given!r} and {modality!r} in recalibrate, got {len(cells)}; "
            "give more, or leave it out."
        )
    found = predictor(predictor.inputs.apply_to(cells.values[given], None), _batches(predictor, cells), interval)
    observed = torch.from_numpy(_read(predictor, cells.values[modality])).to(found.value.device)
    off = observed - found.value
    shift = off.median(dim=0).values
    if found.half is None or interval is None:
        return Recalibration(shift, None)
    ratio = (off - shift).abs() / found.half.clamp_min(torch.finfo(off.dtype).tiny)
    return Recalibration(shift, torch.quantile(ratio, interval, dim=0))


def prediction(
    predictor: Predictor,
    cells: Cells,
    given: str,
    modality: str,
    *,
    scale: str | None,
    interval: float | None,
    batch: object | None,
    recalibrated: Recalibration | None = None,
) -> pd.DataFrame | Prediction:
    """Tables of predictions, NaN for cells without the modality `given`.

    Parameters
    ----------
    predictor
        A fitted one.
    cells
        Cells that have the modality `given`.
    given, modality
        From which, and which, is predicted.
    scale, interval
        As in :meth:`indiseek.IndiSeekModel.predict`.
    batch
        Name of the batch as of which all are predicted; None for their own.
    recalibrated
        By how much predictions are moved, and intervals widened.
    """
    has = np.arange(len(cells)) if cells.presence is None else np.flatnonzero(cells.presence.has[given])
    x = predictor.inputs.apply_to(cells.values[given], cells.at(given, has))
    batches = _batches(predictor, cells, batch)
    found = predictor(x, batches if batches is None else batches[torch.from_numpy(has).to(batches.device)], interval)
    if recalibrated is not None:
        half = None if found.half is None or recalibrated.widen is None else found.half * recalibrated.widen
        found = Predicted(found.value + recalibrated.shift, half)
    signs = (0.0,) if found.half is None else (0.0, -1.0, 1.0)
    shape = (len(cells), found.value.shape[1])
    arrays = [np.full(shape, np.nan, dtype=np.float32) for _ in signs]
    for start in range(0, len(x), _PIECE_CELLS):
        piece = slice(start, start + _PIECE_CELLS)
        mean = found.value[piece]
        for array, sign in zip(arrays, signs, strict=True):
            bound = mean if found.half is None else mean + sign * found.half[piece]
            array[has[piece]] = _scaled(predictor, bound, mean, scale).cpu().numpy()
    # Of a modality that these cells may lack, so not of what they have.
    columns = pd.Index(cells.schema.features[modality])
    value, *bounds = (pd.DataFrame(array, index=cells.names, columns=columns) for array in arrays)
    return Prediction(value, *bounds) if bounds else value


def _batches(predictor: Predictor, cells: Cells, batch: object | None = None) -> Tensor | None:
    """Codes of the cells' batches, or of `batch` for all; None for a predictor without."""
    key = cells.schema.setup.batch_key
    if key is None or not predictor.n_batches:
        return None
    codes = torch.as_tensor(cells.covariates[key], device=predictor.inputs.device)
    return codes if batch is None else torch.full_like(codes, cells.schema.categories[key].index(batch))


def predictability_table(
    predictor: Predictor,
    cells: Cells,
    rows: NDArray[np.intp],
    given: str,
    modality: str,
    *,
    groups: NDArray[np.generic] | None,
    seed: int,
) -> pd.DataFrame:
    """Table of :func:`indiseek.metrics.predictability` of the cells at `rows`.

    Parameters
    ----------
    predictor
        A fitted one.
    cells, rows
        Cells with both modalities, and positions of the held-out ones.
    given, modality
        From which, and which, is predicted.
    groups
        Type of each held-out cell.
    seed
        Seed of the thinning.
    """
    found = measured(predictor, cells, rows, given, modality, seed=seed)
    batch_key = cells.schema.setup.batch_key
    return predictability(
        found.predicted,
        found.observed,
        batch=None if batch_key is None else cells.covariates[batch_key][rows],
        groups=groups,
        halves=found.halves,
        names=cells.schema.features[modality],
    )


def measured(
    predictor: Predictor,
    cells: Cells,
    rows: NDArray[np.intp],
    given: str,
    modality: str,
    *,
    seed: int | None = None,
    doubled: bool = False,
) -> Measured:
    """Predictions of the cells at `rows`, what was measured, and two halves of that.

    Parameters
    ----------
    predictor
        A fitted one.
    cells, rows
        Cells with both modalities, and positions of those wanted.
    given, modality
        From which, and which, is predicted.
    seed
        Seed of the thinning; None for no halves.
    doubled
        Whether the counts of the halves are doubled, so that a logarithm of few counts has the slope of all of them.
    """
    x = predictor.inputs.apply_to(cells.values[given], rows)
    codes = _batches(predictor, cells)
    value = predictor(x, None if codes is None else codes[torch.from_numpy(rows).to(codes.device)]).value
    counts = cells.values[modality][rows]
    halves = thin_counts(counts, seed=seed) if seed is not None and predictor.units.scales else None
    times = np.float32(2 if doubled else 1)
    return Measured(
        value.cpu().numpy(),
        _read(predictor, counts),
        None if halves is None else (_read(predictor, halves[0] * times), _read(predictor, halves[1] * times)),
    )


def _read(predictor: Predictor, values: Matrix) -> NDArray[np.float32]:
    device = predictor.inputs.device
    pieces = [predictor.units.read(to_tensor(piece, device)).cpu().numpy() for piece in row_chunks(values)]
    return np.concatenate(pieces)


def _scaled(predictor: Predictor, part: Tensor, of: Tensor, scale: str | None) -> Tensor:
    bounded = predictor.units.bounded(part)
    return predictor.units.counts(bounded, of, float(predictor.depth)) if scale == "counts" else bounded
