"""New cells as a trained model reads them: their features found, estimated where missing, and moved where asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
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
    match_modalities,
)
from indiseek.models._base import FEWER_CELLS, MultimodalModel
from indiseek.models._new_batches import check_enough, find_new_batches, moved, read_as_known
from indiseek.train import Pipeline

logger = logging.getLogger(__name__)


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
    """Cells that a model was trained on and that have all modalities, and their split."""

    cells: Cells
    split: Split

    def tensors_like(
        self, transforms: Mapping[str, Transform], pipeline: Pipeline, rows: NDArray[np.intp]
    ) -> CellTensors:
        """Cells at `rows` with the features that a query has, read as its cells were: by `transforms`."""
        values = {
            name: each.of(self.cells.values[name]) if isinstance(each, EstimatedTransform) else self.cells.values[name]
            for name, each in transforms.items()
        }
        return replace(self.cells, values=values).tensors(_in_order(transforms, pipeline), rows)


def reference_of(model: MultimodalModel) -> Reference | None:
    """The cells of training that have all modalities; None where the model was loaded without them."""
    split = model.fitted.split
    if model.adata is None or split is None:
        return None
    cells = model._unchanged_cells()
    return Reference(cells.paired(), Split(*map(cells.among_paired, split)))


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
    schema, pipeline = model._schema, model.module
    matches = match_modalities(mdata, schema.features, schema.dropped, min_overlap=min_overlap)
    columns, new = find_new_batches(schema, mdata, batch)
    by_batch = schema.setup.batch_key is not None
    is_nearest = bool(new) and by_batch and batch is None
    reasons = [f"estimating the {len(m.missing):,} missing features of {n!r}" for n, m in matches.items() if m.missing]
    if fit_batch:
        check_enough(new)
        reasons.append("fit_batch")
    if is_nearest:
        reasons.append("finding the batch that is nearest to a new one (or batch=, which names it)")
    reference = needed(reference_of(model), reasons[0]) if reasons else None
    counts = [name for name, transform in model._transforms.items() if transform.needs_counts]
    cells = schema.read(mdata, counts=counts, one_is_enough=True, matches=matches, columns=columns)
    for name, match in matches.items():
        if match.renamed or match.missing or match.extra:
            logger.info(f"{name!r}: {match}")
    read_as: dict[str, str] = {}
    with model._explained(len(cells), FEWER_CELLS):
        transforms = {name: _transform(pipeline, name, match, reference) for name, match in matches.items()}
        tensors = cells.tensors(_in_order(transforms, pipeline))
        known = None
        if reference is not None and (fit_batch or is_nearest):
            known = pipeline.tensors(reference.cells, reference.split.train)
        if new and by_batch:
            tensors, read_as = read_as_known(schema, tensors, new, batch, known)
        if fit_batch:
            tensors = moved(pipeline, tensors, new, cast(CellTensors, known), by_batch=by_batch)
    summary = QuerySummary(n_cells=len(cells), features=matches, batches=read_as, moved=fit_batch)
    return Query(tensors, transforms, summary)


def codes_of(
    model: MultimodalModel, query: Query
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
    """Codes by key of ``.obsm``: those of the MuData, and those of each modality that the cells have."""
    if not query.tensors.present:
        return model._obsm(query.tensors)
    (only,), reference = query.transforms, reference_of(model)

    def place(stage: str) -> LeastSquares | None:
        return None if reference is None else placement(model.module, stage, query.transforms, reference)

    return codes_of_one(model, only, query.tensors, place)


def codes_of_one(
    model: MultimodalModel,
    only: str,
    tensors: CellTensors,
    place: Callable[[str], LeastSquares | None],
    *,
    note: bool = True,
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
    """As :func:`codes_of`, of cells that have one modality.

    Parameters
    ----------
    model
        Trained model.
    only
        The modality.
    tensors
        The cells.
    place
        By stage, what places them among cells with all modalities, as :func:`placement` gives it; None where the cells
        of training are not there.
    note
        Whether what is predicted for them is said.
    """
    pipeline = model.module
    whole: dict[str, NDArray[Any]] = {}
    parts: dict[str, dict[str, NDArray[Any]]] = {only: {}}
    for stage in model.fitted.trained_stages:
        space = pipeline.stages[stage].space
        if space.joint is not None:
            code: Tensor | None = pipeline.joint(stage, tensors)
            if stage != pipeline.default:
                placed = place(stage)
                code = None if placed is None else placed(cast(Tensor, code))
            if code is None:
                logger.warning(
                    f"{space.joint!r} is left out: where cells of {only!r} alone lie in it is learnt from the cells "
                    "of training, without which the model was loaded; call load(path, mdata) with their MuData."
                )
            else:
                whole[space.joint] = code.cpu().numpy()
                parts[only][space.joint] = whole[space.joint].copy()
        if space.each is not None or space.own is not None:
            if note:
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
    cells, split = cast(Reference, reference)
    is_there = set(match.matched)
    kept = np.flatnonzero([feature in is_there for feature in cells.schema.features[name]])
    estimated = EstimatedTransform(whole, kept)
    estimated.fit(cells.values[name], split.train)
    return estimated


def placement(
    pipeline: Pipeline, stage: str, transforms: Mapping[str, Transform], reference: Reference
) -> LeastSquares:
    """Where cells with one modality would lie among those with all, by least squares from their own code."""
    rows = reference.split.train
    alike = pipeline.joint(stage, reference.tensors_like(transforms, pipeline, rows))
    return LeastSquares(alike, pipeline.joint(stage, pipeline.tensors(reference.cells, rows)))
