"""Features behind the spaces of a trained model: what the attribution layer is given of its cells."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from indiseek.attribution import (
    MIN_GROUP,
    Axes,
    Codes,
    Features,
    Moments,
    Piece,
    feature_shares,
    find_axes,
    group_directions,
    loading_table,
    moments,
    short_names,
)
from indiseek.data import Cells, CellTensors, Matrix, isotype_controls, row_chunks, to_tensor
from indiseek.metrics import conditional_mean, thin_counts
from indiseek.prediction import Predictor, measured, units_of
from indiseek.train import Pipeline

logger = logging.getLogger(__name__)

# More cells change the shares by less than their intervals.
_MOST_HELD_OUT, _MOST_CELLS = 5_000, 10_000
_PIECE_CELLS = 1024
_SHARED, _SPECIFIC, _EVERYTHING = "shared", "specific", "everything"

Halves = Mapping[str, tuple[Matrix, Matrix]]


class Seen(NamedTuple):
    """Cells as the attribution of one space sees them."""

    codes: Codes
    moments: Moments
    modality: list[str]
    feature: list[str]
    of_space: NDArray[np.bool_]
    batch: NDArray[np.intp] | None
    rows: NDArray[np.intp]


def located(features: Mapping[str, Sequence[str]], name: str) -> tuple[str, str]:
    """Modality and full name of a feature; KeyError if there is none, ValueError if two modalities have one.

    Parameters
    ----------
    features
        Names of the features by modality.
    name
        A feature's name, with or without the tag of its kit, or both modality and name, ``"rna:CD4"``.
    """
    modality, _, within = name.partition(":")
    places, wanted = ([modality], within) if within and modality in features else (list(features), name)
    found = [(key, name) for key in places for name in features[key] if name == wanted]
    found = found or [
        (key, full)
        for key in places
        for full, short in zip(features[key], short_names(features[key]), strict=True)
        if short == wanted
    ]
    if not found:
        every = [short for key in places for short in short_names(features[key])]
        close = difflib.get_close_matches(wanted, every, n=5)
        advice = f"did you mean one of {close}?" if close else "see the var_names of each modality."
        raise KeyError(f"expected a feature of {places}, got {name!r}; {advice}")
    if len(found) > 1:
        choices = " or ".join(repr(f"{key}:{full}") for key, full in found)
        raise ValueError(f"expected a name that is found once, got {name!r} in {len(found)} places; write {choices}.")
    return found[0]


def drawn(rows: NDArray[np.intp], most: int, seed: int) -> NDArray[np.intp]:
    """At most so many of the cells, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def shares(
    pipeline: Pipeline,
    predictors: Mapping[tuple[str, str], Predictor],
    cells: Cells,
    rows: NDArray[np.intp],
    *,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """Shares of the variance of every feature, of held-out cells.

    Parameters
    ----------
    pipeline
        Transforms and networks.
    predictors
        Fitted ones by the modality that is given and the one that is predicted.
    cells, rows
        Cells, and positions of the held-out ones.
    n_bootstrap, seed
        As in :func:`indiseek.attribution.feature_shares`.
    """
    rows = drawn(rows, _MOST_HELD_OUT, seed)
    halves = _halves(pipeline, cells, rows, seed)
    specific, states = _codes_of_halves(pipeline, cells, rows, halves)
    batch = _batch(cells, rows)
    tables = []
    for name in pipeline.names:
        others = [other for other in pipeline.names if other != name]
        found = []
        for given in others:
            # The same halves as the codes are made of, because one seed gives one thinning.
            values = measured(predictors[given, name], cells, rows, given, name, seed=seed, doubled=True)
            features = Features(
                tuple(cells.schema.features[name]),
                values.observed,
                values.predicted,
                values.halves,
                codes=specific.get(name),
                states=states.get(given),
                detected=np.asarray((cells.values[name][rows] > 0).sum(axis=0)).ravel() if name in halves else None,
            )
            found.append(feature_shares(features, batch=batch, n_bootstrap=n_bootstrap, seed=seed).assign(given=given))
        tables.append(_best(found).assign(modality=name))
        if name not in halves:
            logger.warning(
                f"the values of {name!r} are no counts: their counting noise is not known, and what is called specific "
                "holds it too."
            )
    table = pd.concat(tables, ignore_index=True)
    controls = {(name, each) for name in pipeline.names for each in isotype_controls(name, cells.schema.features[name])}
    pairs = zip(table["modality"], table["feature"], strict=True)
    table["is_control"] = [pair in controls for pair in pairs]
    first = ["modality", "feature"]
    return table[[*first, *(column for column in table if column not in first)]]


def seen(pipeline: Pipeline, cells: Cells, rows: NDArray[np.intp], space: str, seed: int) -> Seen:
    """Codes of a space and their moments with all features."""
    rows = drawn(rows, _MOST_CELLS, seed)
    halves = _halves(pipeline, cells, rows, seed)
    is_specific = space in pipeline.names
    codes = []
    for tensors in _tensors(pipeline, cells, rows, halves, [space] if is_specific else pipeline.names):
        if is_specific:
            code = pipeline.codes(_SPECIFIC, tensors)[space]
        else:
            code = pipeline.joint(_EVERYTHING if space == _EVERYTHING else pipeline.default, tensors)
        codes.append(code.cpu().numpy().astype(np.float64))
    if is_specific:
        codes[1:] = _independent(pipeline, cells, rows, space, codes[1:], seed)
    names = cells.schema.features
    modality = [name for name in pipeline.names for _ in names[name]]
    feature = [str(each) for name in pipeline.names for each in names[name]]
    batch = _batch(cells, rows)
    three = Codes(*codes)
    found = moments(three, _pieces(pipeline, cells, rows, halves), len(feature), batch=batch, seed=seed)
    of_space = np.array([space in (_SHARED, _EVERYTHING) or name == space for name in modality])
    return Seen(three, found, modality, feature, of_space, batch, rows)


def axes_of(part: Seen, space: str, rotation: str, seed: int) -> Axes:
    """Axes of a space."""
    return find_axes(
        space,
        part.codes,
        part.moments,
        part.feature,
        of_space=part.of_space,
        batch=part.batch,
        rotation=rotation,
        seed=seed,
    )


def table_of_axes(part: Seen, axes: Axes, seed: int) -> pd.DataFrame:
    """Loadings of all features on the axes of a space."""
    labels = axes.table[["dimension", "name", "is_noise"]]
    return loading_table(part.moments.along(axes.rotation), part.modality, part.feature, labels, seed=seed)


def table_of_direction(part: Seen, direction: NDArray[np.float64], seed: int) -> pd.DataFrame:
    """Loadings of all features along one direction of a space."""
    n_dims = part.codes.whole.shape[1]
    if direction.shape != (n_dims,) or not np.isfinite(direction).all() or not np.abs(direction).max() > 0:
        raise ValueError(
            f"expected direction as {n_dims} finite numbers, not all 0, got shape {direction.shape}; give one for each "
            "dimension of the space."
        )
    labels = pd.DataFrame({"dimension": ["direction"]})
    return loading_table(part.moments.along(direction[:, None]), part.modality, part.feature, labels, seed=seed)


def table_of_groups(part: Seen, column: pd.Series, groupby: str, group: Any, seed: int) -> pd.DataFrame:
    """What a space knows of how groups of cells differ from all others."""
    values = column.to_numpy()[part.rows]
    known = sorted(pd.unique(values), key=str)
    if group is not None and group not in known:
        raise ValueError(f"expected group to be one of {known} of {groupby!r}, got {group!r}; choose one of them.")
    wanted = known if group is None else [group]
    least = {each: int((values == each).sum()) for each in wanted}
    few = {each: n for each, n in least.items() if min(n, len(values) - n) < MIN_GROUP}
    if few and group is not None:
        raise ValueError(
            f"expected at least {MIN_GROUP} cells in group {group!r} and outside, got {least[group]} of "
            f"{len(values)}; choose a larger group."
        )
    wanted = [each for each in wanted if each not in few]
    if not wanted:
        raise ValueError(f"expected groups of at least {MIN_GROUP} cells in {groupby!r}, got {least}; choose others.")
    directions = [group_directions(part.codes.whole, values == each, part.batch) for each in wanted]
    labels = pd.DataFrame({"group": wanted})
    along = part.moments.along(np.hstack(directions))
    return loading_table(along, part.modality, part.feature, labels, standardised=False, seed=seed)


def private_parts(
    predictors: Mapping[tuple[str, str], Predictor],
    cells: Cells,
    wanted: Sequence[tuple[str, str, str]],
) -> pd.DataFrame:
    """What another modality leaves of features, ``(n_cells, n_wanted)``.

    Parameters
    ----------
    predictors
        Fitted ones by the modality that is given and the one that is predicted.
    cells
        Cells with all modalities.
    wanted
        Name of the column, modality and feature.
    """
    parts: dict[str, NDArray[np.float64]] = {label: np.empty(len(cells)) for label, _, _ in wanted}
    for (given, name), predictor in predictors.items():
        names = list(cells.schema.features[name])
        own = [(label, names.index(feature)) for label, modality, feature in wanted if modality == name]
        for start in range(0, len(cells), _MOST_HELD_OUT):
            rows = np.arange(start, min(start + _MOST_HELD_OUT, len(cells)))
            values = measured(predictor, cells, rows, given, name)
            for label, j in own:
                parts[label][rows] = values.observed[:, j] - values.predicted[:, j]
    table = pd.DataFrame(parts, index=cells.names)
    key = cells.schema.setup.batch_key
    if key is not None:
        table = table - table.groupby(np.asarray(cells.covariates[key])).transform("mean")
    return table


def _best(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Of each feature the row by the modality that tells most of it."""
    if len(tables) == 1:
        return tables[0]
    shared = np.vstack([table["shared"].fillna(-1.0) for table in tables])
    best = shared.argmax(axis=0)
    return pd.concat([table[best == i] for i, table in enumerate(tables)]).sort_index()


def _batch(cells: Cells, rows: NDArray[np.intp]) -> NDArray[np.intp] | None:
    key = cells.schema.setup.batch_key
    return None if key is None else pd.factorize(np.asarray(cells.covariates[key])[rows])[0]


def _halves(pipeline: Pipeline, cells: Cells, rows: NDArray[np.intp], seed: int) -> Halves:
    """Two thinned halves of the counts of each modality that has counts."""
    return {
        name: thin_counts(cells.values[name][rows], seed=seed)
        for name in pipeline.names
        if pipeline.transform(name).needs_counts
    }


def _tensors(
    pipeline: Pipeline, cells: Cells, rows: NDArray[np.intp], halves: Halves, thinned: Sequence[str]
) -> tuple[CellTensors, CellTensors, CellTensors]:
    """Cells with all counts, and with either half of the counts of some modalities."""
    whole = pipeline.tensors(cells, rows)
    parts = [
        whole._replace(
            features=tuple(
                pipeline.transform(name).apply_to(halves[name][i]) if name in halves and name in thinned else x
                for name, x in zip(pipeline.names, whole.features, strict=True)
            )
        )
        for i in (0, 1)
    ]
    return whole, parts[0], parts[1]


def _independent(
    pipeline: Pipeline,
    cells: Cells,
    rows: NDArray[np.intp],
    space: str,
    codes: Sequence[NDArray[np.float64]],
    seed: int,
) -> list[NDArray[np.float64]]:
    """Specific codes of halves of the counts, less what the other modalities tell of them.

    The map was made for cells of full depth: halves are off in proportion to what the others predict of the features.
    """
    whole = pipeline.tensors(cells, rows)
    shared = pipeline.codes(pipeline.default, whole)
    given = [x for name, x in zip(pipeline.names, whole.features, strict=True) if name != space]
    given += [code for name, code in shared.items() if name != space]
    known = conditional_mean(np.hstack(codes), torch.cat(given, dim=1).cpu().numpy(), seed=seed)
    return [code - part for code, part in zip(codes, np.hsplit(known, 2), strict=True)]


def _codes_of_halves(
    pipeline: Pipeline, cells: Cells, rows: NDArray[np.intp], halves: Halves
) -> tuple[dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], dict[str, NDArray[np.float64]]]:
    """Specific codes of both halves, and shared codes of all counts, by modality."""
    specific = {}
    for name in halves:
        _, first, second = _tensors(pipeline, cells, rows, halves, [name])
        codes = [pipeline.codes(_SPECIFIC, part)[name].cpu().numpy().astype(np.float64) for part in (first, second)]
        specific[name] = (codes[0], codes[1])
    shared = pipeline.codes(pipeline.default, pipeline.tensors(cells, rows))
    return specific, {name: code.cpu().numpy().astype(np.float64) for name, code in shared.items()}


def _pieces(pipeline: Pipeline, cells: Cells, rows: NDArray[np.intp], halves: Halves) -> Iterator[Piece]:
    """Features of all modalities side by side, some cells at a time, on the scale of the logarithms."""
    for start in range(0, len(rows), _PIECE_CELLS):
        here = np.arange(start, min(start + _PIECE_CELLS, len(rows)))
        views: list[list[NDArray[np.float32]]] = [[], [], []]
        for name in pipeline.names:
            whole = _read(pipeline, name, cells.values[name][rows[here]])
            views[0].append(whole)
            for i in (0, 1):
                views[i + 1].append(
                    _read(pipeline, name, halves[name][i][here] * np.float32(2)) if name in halves else whole
                )
        yield Piece(here, *(np.hstack(view) for view in views))


def _read(pipeline: Pipeline, name: str, values: Matrix) -> NDArray[np.float32]:
    transform = pipeline.transform(name)
    units = units_of(transform)
    device = next(transform.buffers()).device
    with torch.no_grad():
        pieces = [units.read(to_tensor(piece, device)).cpu().numpy() for piece in row_chunks(values)]
    return np.concatenate(pieces)
