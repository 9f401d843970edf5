"""New cells as a trained model reads them: their features found, estimated where missing, and moved where asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import (
    Cells,
    CellTensors,
    EstimatedTransform,
    FeatureMatch,
    LeastSquares,
    Split,
    Transform,
    categories_of,
    column_of,
    covariate_columns,
    match_modalities,
)
from indiseek.models._base import FEWER_CELLS, MultimodalModel
from indiseek.nn import BatchDisplacement
from indiseek.train import Pipeline

logger = logging.getLogger(__name__)

_MIN_CELLS_OF_BATCH = 100
# The states come from codes that hold some of the batch themselves until the cells are moved.
_N_MOVES = 3
_ALL = "all cells"


@dataclass(frozen=True, kw_only=True, repr=False)
class QuerySummary:
    """How new cells were read; ``print`` it.

    Attributes
    ----------
    n_cells
        Number of cells.
    features
        By modality, which of the model's features are there: ``matched``, ``renamed``, ``missing`` and ``extra`` names.
    batches
        By new batch, the batch of the model as whose its cells were read; ``"all cells"`` where none has a batch.
    moved
        Whether the features of new batches were moved to the reference's.
    """

    n_cells: int
    features: dict[str, FeatureMatch]
    batches: dict[str, str]
    moved: bool

    def __repr__(self) -> str:
        lines = [f"{self.n_cells:,} cells", *(f"{name!r}: {match}" for name, match in self.features.items())]
        lines += [f"batch {new}: read as {known!r}" for new, known in self.batches.items()]
        return "\n  ".join([*lines, *(["moved to the reference"] if self.moved else [])])


class Query(NamedTuple):
    """New cells that are read.

    Attributes
    ----------
    tensors
        Features and covariates.
    transforms
        By modality that they have, what made the features.
    summary
        How they were read.
    """

    tensors: CellTensors
    transforms: dict[str, Transform]
    summary: QuerySummary


class Reference(NamedTuple):
    """Cells that a model was trained on, and their split."""

    cells: Cells
    split: Split

    def tensors_like(self, query: Query, pipeline: Pipeline, rows: NDArray[np.intp]) -> CellTensors:
        """Cells at `rows` with the features that a query has, read as its cells were."""
        values = {
            name: each.of(self.cells.values[name]) if isinstance(each, EstimatedTransform) else self.cells.values[name]
            for name, each in query.transforms.items()
        }
        return replace(self.cells, values=values).tensors(_in_order(query.transforms, pipeline), rows)


def reference_of(model: MultimodalModel) -> Reference | None:
    """The cells of training; None where the model was loaded without them."""
    split = model.fitted.split
    return None if model.adata is None or split is None else Reference(model._unchanged_cells(), split)


def needed(reference: Reference | None, what: str) -> Reference:
    """The cells of training.

    Raises
    ------
    RuntimeError
        If they are not there.
    """
    if reference is None:
        raise RuntimeError(
            f"expected the cells that the model was trained on, which {what} needs, got a model loaded without them; "
            "call load(path, mdata) with the MuData of training."
        )
    return reference


def read_query(model: MultimodalModel, mdata: MuData, *, batch: Any, fit_batch: bool, min_overlap: float) -> Query:
    """Read new cells. Nothing is written.

    Parameters
    ----------
    model
        Trained model.
    mdata
        New cells.
    batch
        Batch of the model as whose cells of new batches are read; None for the nearest.
    fit_batch
        Whether features of new batches are moved.
    min_overlap
        Least fraction of a modality's features that must be there.
    """
    schema, pipeline, reference = model._schema, model.module, reference_of(model)
    matches = match_modalities(mdata, schema.features, schema.dropped, min_overlap=min_overlap)
    columns, new = _batches(model, mdata, batch)
    if fit_batch:
        _check_new(new, needed(reference, "fit_batch"))
    if new and batch is None and schema.setup.batch_key is not None:
        needed(reference, "finding the batch nearest to a new one (or name it: batch=...)")
    counts = [name for name, transform in model._transforms.items() if transform.needs_counts]
    cells = schema.read(mdata, counts=counts, one_is_enough=True, matches=matches, columns=columns)
    for name, match in matches.items():
        if match.renamed or match.missing or match.extra:
            logger.info(f"{name!r}: {match}")
    with model._explained(len(cells), FEWER_CELLS):
        transforms = {name: _transform(pipeline, name, match, reference) for name, match in matches.items()}
        tensors = cells.tensors(_in_order(transforms, pipeline))
        read_as: dict[str, str] = {}
        if new and schema.setup.batch_key is not None:
            tensors, read_as = _read_as_known(model, tensors, new, batch, reference)
        if fit_batch:
            tensors = _moved(pipeline, tensors, new, cast(Reference, reference))
    summary = QuerySummary(n_cells=len(cells), features=matches, batches=read_as, moved=fit_batch)
    return Query(tensors, transforms, summary)


def codes_of(
    model: MultimodalModel, query: Query
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
    """Codes by key of ``.obsm``: those of the MuData, and those of each modality that the cells have."""
    pipeline, tensors = model.module, query.tensors
    if not tensors.present:
        return model._obsm(tensors)
    (only,), reference = query.transforms, reference_of(model)
    whole: dict[str, NDArray[Any]] = {}
    parts: dict[str, dict[str, NDArray[Any]]] = {only: {}}
    for stage in model.fitted.trained_stages:
        space = pipeline.stages[stage].space
        if space.joint is not None:
            code: Tensor | None = pipeline.joint(stage, tensors)
            if stage != next(iter(pipeline.stages)):
                code = _placed(pipeline, stage, cast(Tensor, code), query, reference)
            if code is None:
                logger.warning(
                    f"{space.joint!r} is left out: where cells of {only!r} alone lie in it is learnt from the cells "
                    "of training, without which the model was loaded; call load(path, mdata) with their MuData."
                )
            else:
                whole[space.joint] = code.cpu().numpy()
                parts[only][space.joint] = whole[space.joint].copy()
        if space.each is not None or space.own is not None:
            model._note_predicted(stage, only)
            found = pipeline.codes(stage, tensors)[only].cpu().numpy()
            if space.each is not None:
                whole[space.each.format(modality=only)] = found
            if space.own is not None:
                parts[only][space.own] = found.copy()
    return whole, parts


def _in_order(transforms: Mapping[str, Transform], pipeline: Pipeline) -> list[Transform]:
    """One transform for each modality of the model; the cells have no values of those that are not in `transforms`."""
    return [transforms.get(name, pipeline.transform(name)) for name in pipeline.names]


def _transform(pipeline: Pipeline, name: str, match: FeatureMatch, reference: Reference | None) -> Transform:
    """The model's transform, or one that estimates what it would give, fitted to the training cells."""
    whole = pipeline.transform(name)
    if not match.missing:
        return whole
    cells, split = needed(reference, f"estimating the {len(match.missing):,} missing features of {name!r}")
    is_there = set(match.matched)
    kept = np.flatnonzero([feature in is_there for feature in cells.schema.features[name]])
    estimated = EstimatedTransform(whole, kept)
    estimated.fit(cells.values[name], split.train)
    return estimated


def _batches(model: MultimodalModel, mdata: MuData, batch: Any) -> tuple[pd.DataFrame, dict[str, NDArray[np.intp]]]:
    """Covariates with known categories only, and by new batch the positions of its cells."""
    setup = model._schema.setup
    key = setup.batch_key
    everyone = {_ALL: np.arange(mdata.n_obs)}
    if key is None:
        if batch is not None:
            raise ValueError(
                f"expected no batch for a model that was set up without batch_key, got {batch!r}; leave batch out."
            )
        return covariate_columns(mdata, setup), everyone
    known = categories_of(model._schema.registry, setup)[key]
    if batch is not None and batch not in known:
        raise ValueError(f"expected batch to be one that the model was trained with, {known}, got {batch!r}; name one.")
    if column_of(mdata, key, setup.modalities) is None:
        columns = covariate_columns(mdata, replace(setup, batch_key=None))
        columns[key] = pd.Series([known[0]] * mdata.n_obs, index=columns.index)
        return columns, everyone
    columns = covariate_columns(mdata, setup)
    is_new = ~columns[key].isin(known).to_numpy()
    names = columns[key].to_numpy()
    new = {str(name): np.flatnonzero(is_new & (names == name)) for name in pd.unique(names[is_new])}
    columns[key] = np.where(is_new, known[0], names)
    return columns, new


def _check_new(new: Mapping[str, NDArray[np.intp]], reference: Reference) -> None:
    if not new:
        key = reference.cells.schema.setup.batch_key
        raise ValueError(
            f"expected cells of a new batch for fit_batch=True, got only batches in {key!r} that the model was trained "
            "with, of which it knows the displacement; leave fit_batch out."
        )
    few = {name: len(rows) for name, rows in new.items() if len(rows) < _MIN_CELLS_OF_BATCH}
    if few:
        raise ValueError(
            f"expected at least {_MIN_CELLS_OF_BATCH} cells of each new batch for fit_batch=True, got {few}; leave "
            "fit_batch out."
        )


def _read_as_known(
    model: MultimodalModel,
    tensors: CellTensors,
    new: Mapping[str, NDArray[np.intp]],
    batch: Any,
    reference: Reference | None,
) -> tuple[CellTensors, dict[str, str]]:
    """Cells of new batches with the code of a known one, and by new batch the name of that."""
    key = cast(str, model._schema.setup.batch_key)
    known = categories_of(model._schema.registry, model._schema.setup)[key]
    codes = tensors.covariates[0].clone()
    means = None
    if batch is None:
        cells, split = cast(Reference, reference)
        features, own = _joined(model.module.tensors(cells, split.train), tensors), cells.covariates[key][split.train]
        # A batch without training cells is far from all.
        means = torch.stack([features[own == b].mean(dim=0).nan_to_num(torch.inf) for b in range(len(known))])
    read_as = {}
    for name, rows in new.items():
        here = torch.from_numpy(rows).to(codes.device)
        if means is None:
            number = known.index(batch)
        else:
            number = int((means - _joined(tensors, tensors)[here].mean(dim=0)).square().sum(dim=1).argmin())
        codes[here] = number
        read_as[name] = str(known[number])
        what = f"{name!r} in {key!r} is no batch" if name != _ALL else f"the cells have no {key!r}"
        how = "the one named" if batch is not None else "the nearest in the mean of the features"
        logger.warning(
            f"{what} that the model was trained with: {len(rows):,} cells are read as of {known[number]!r}, {how}; "
            "fit_batch=True moves their features to it first."
        )
    return tensors._replace(covariates=(codes, *tensors.covariates[1:])), read_as


def _joined(cells: CellTensors, like: CellTensors) -> Tensor:
    """Features side by side of the modalities that the cells of `like` have."""
    pairs = zip(cells.features, like.features, strict=True)
    return torch.cat([x for x, other in pairs if other.shape[1] or not like.present], dim=1)


def _moved(
    pipeline: Pipeline, tensors: CellTensors, new: Mapping[str, NDArray[np.intp]], reference: Reference
) -> CellTensors:
    """Cells whose features, where their batch is new, lie where the reference's of the batch that they are read as lie.

    State by state, in the states of the joint shared code.
    """
    key = reference.cells.schema.setup.batch_key
    rows = reference.split.train
    first = next(iter(pipeline.stages))
    for each in new.values():
        here = torch.from_numpy(each).to(tensors.device)
        theirs = rows
        if key is not None:
            theirs = rows[reference.cells.covariates[key][rows] == int(tensors.covariates[0][here[0]])]
        known = pipeline.tensors(reference.cells, theirs)
        if tensors.present:
            known = known._replace(
                features=tuple(
                    x if other.shape[1] else x[:, :0] for x, other in zip(known.features, tensors.features, strict=True)
                ),
                present=tuple(part[:1].expand(known.n_cells) for part in tensors.present),
            )
        x, c = _joined(known, tensors), pipeline.joint(first, known)
        widths = [part.shape[1] for part in tensors.features]
        for _ in range(_N_MOVES):
            own = tensors.take(here)
            y, d = _joined(own, tensors), pipeline.joint(first, own)
            batch = torch.cat([torch.zeros(len(x)), torch.ones(len(y))]).long().to(x.device)
            displacement = BatchDisplacement(x.shape[1], c.shape[1], 2).to(x.device)
            displacement.fit(torch.cat([x, y]), torch.cat([c, d]), batch)
            ours, other = batch[len(x) :], torch.zeros_like(batch[len(x) :])
            # Both batches are moved to the mean of the two; back from there lies the reference's.
            y = displacement(y, d, ours) - displacement(torch.zeros_like(y), d, other)
            found = [part.clone() for part in tensors.features]
            for part, piece in zip(found, y.split(widths, dim=1), strict=True):
                part[here] = piece
            tensors = tensors._replace(features=tuple(found))
    return tensors


def _placed(pipeline: Pipeline, stage: str, code: Tensor, query: Query, reference: Reference | None) -> Tensor | None:
    """Where cells with one modality would lie among those with all, by least squares from their own code."""
    if reference is None:
        return None
    rows = reference.split.train
    alike = pipeline.joint(stage, reference.tensors_like(query, pipeline, rows))
    return LeastSquares(alike, pipeline.joint(stage, pipeline.tensors(reference.cells, rows)))(code)
