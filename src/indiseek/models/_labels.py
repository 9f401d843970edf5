"""Labels of new cells from their neighbours among the cells of training, and how far these are to be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.neighbors import NearestNeighbors

from indiseek.data import CellTensors, column_of
from indiseek.models._certificate import MIN_HELD_OUT_CELLS
from indiseek.models._query import Query, Reference
from indiseek.objectives import EverythingObjective
from indiseek.train import Pipeline

logger = logging.getLogger(__name__)

# Part of the held-out cells that are flagged.
_FLAGGED = 0.05
# Part of new cells that is more than new types of cells are likely to be.
_MANY = 0.5
_TINY = 1e-12


class Labelled(NamedTuple):
    """Cells of training and held-out ones that have a label.

    Attributes
    ----------
    names
        The labels that there are among the training cells.
    train, held_out
        Positions of the cells.
    of_train, of_held_out
        Their labels, as positions in `names`; -1 for one that no training cell has.
    """

    names: pd.Index
    train: NDArray[np.intp]
    held_out: NDArray[np.intp]
    of_train: NDArray[np.intp]
    of_held_out: NDArray[np.intp]


def labelled(mdata: MuData, labels: str, reference: Reference, n_neighbors: int) -> Labelled:
    """Find the cells of the reference that have a label.

    Parameters
    ----------
    mdata
        Cells of training.
    labels
        Column of ``.obs``, of the MuData or else of a modality.
    reference
        The same cells, and their split.
    n_neighbors
        Fewest training cells with a label.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds numbers that are no labels, fewer than two labels, or too few cells have one.
    """
    column = column_of(mdata, labels, reference.cells.schema.modalities)
    if column is None:
        raise KeyError(
            f"expected a column {labels!r} in .obs of the cells that the model was trained on, got "
            f"{list(mdata.obs.columns)} in the MuData and no such column in a modality; name one that is there."
        )
    # Those that lack a modality are not among the cells of the reference.
    column = column if len(column) == len(reference.cells) else column.loc[reference.cells.names]
    if pd.api.types.is_float_dtype(column) and not (column.dropna() % 1 == 0).all():
        raise ValueError(
            f"expected labels in {labels!r}, got {column.dtype} values with fractions such as "
            f"{column.dropna().iloc[0]!r}; name a column of categories."
        )
    has = column.notna().to_numpy()
    train, validation, test = (np.asarray(part)[has[part]] for part in reference.split)
    if not has.all():
        logger.warning(f"{(~has).sum():,} of {len(has):,} cells have no label in {labels!r}: they are left out.")
    column = column.astype(object)
    names = pd.Index(sorted(column.iloc[train].unique(), key=str))
    if len(names) < 2 or len(train) < n_neighbors:
        raise ValueError(
            f"expected in {labels!r} at least two labels, and {n_neighbors} training cells with one, got "
            f"{len(names)} ({', '.join(map(str, names[:1])) or 'none'}) in {len(train)} training cells; name a column "
            "that tells cells apart."
        )
    held_out = test if len(test) >= MIN_HELD_OUT_CELLS else np.concatenate([validation, test])
    if len(held_out) < MIN_HELD_OUT_CELLS:
        raise ValueError(
            f"expected at least {MIN_HELD_OUT_CELLS} validation and test cells with a label in {labels!r}, by which "
            f"probabilities and limits are set, got {len(held_out)}; train with smaller train_size."
        )
    found = [np.asarray(names.get_indexer(column.iloc[rows].tolist()), dtype=np.intp) for rows in (train, held_out)]
    return Labelled(names, train, held_out, *found)


def table_of_labels(probabilities: NDArray[Any], names: Sequence[Any], cells: pd.Index, *, soft: bool) -> pd.DataFrame:
    """Labels by a head: one row for each cell.

    Parameters
    ----------
    probabilities
        ``(n_cells, n_labels)``; NaN for cells of which nothing is known.
    names
        Names of the labels.
    cells
        Names of the cells.
    soft
        Whether all probabilities are wanted, instead of the likeliest label and its own.
    """
    if soft:
        return pd.DataFrame(probabilities, index=cells, columns=pd.Index(names, dtype=object))
    best = np.where(np.isnan(probabilities[:, 0]), -1, probabilities.argmax(axis=1))
    label = pd.Categorical.from_codes(best, categories=list(names))
    return pd.DataFrame({"label": label, "probability": probabilities.max(axis=1)}, index=cells)


class LabelSpace(NamedTuple):
    """Codes in which neighbours are alike, ``(n_cells, n_latent)``: of new cells, training cells and held-out ones."""

    query: NDArray[Any]
    train: NDArray[Any]
    held_out: NDArray[Any]


def comparable(pipeline: Pipeline, query: Query, reference: Reference, known: Labelled) -> LabelSpace:
    """Codes of new cells, and of those with a label.

    They are those of :class:`indiseek.objectives.EverythingObjective`, with the features that the new cells have, read
    as theirs were, and without moving batches: the neighbours in a cell's own batch are the better ones.
    """
    rows = (known.train, known.held_out)
    cells = [query.tensors, *(reference.tensors_like(query.transforms, pipeline, part) for part in rows)]
    (shared,) = pipeline.stages["everything"].given
    own = []
    for each in cells:
        codes = tuple(pipeline.codes(shared, each).values())
        own.append(CellTensors(tuple(x for x in each.features if x.shape[1]), codes))
    widths = {name: x.shape[1] for name, x in zip(query.transforms, own[0].features, strict=True)}
    objective = EverythingObjective(widths, own[0].condition[0].shape[1]).to(pipeline.device)
    with torch.no_grad():
        objective.start(own[1])
        return LabelSpace(*(objective.joint(each).cpu().numpy() for each in own))


def transferred(space: LabelSpace, known: Labelled, n_neighbors: int) -> pd.DataFrame:
    """Label, probability and whether a cell is unlike the reference, ``(n_cells, 3)``.

    Parameters
    ----------
    space
        Codes of all.
    known
        Labels of training and held-out cells.
    n_neighbors
        Number of neighbours.
    """
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(space.train)
    # Of a training cell, without itself.
    spacing = neighbours.kneighbors()[0].mean(axis=1)
    vote, share, far = _voted(neighbours, spacing, space.query, known)
    vote_there, share_there, far_there = _voted(neighbours, spacing, space.held_out, known)
    right = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
        share_there, (vote_there == known.of_held_out).astype(float)
    )
    is_unlike = far > np.quantile(far_there, 1.0 - _FLAGGED)
    if is_unlike.mean() > _MANY:
        logger.warning(
            f"{100 * is_unlike.mean():.0f} % of the cells are unlike the reference: cells of another experiment may be "
            "shifted as a whole, which fit_batch=True takes out."
        )
    return pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(vote, categories=known.names),
            "probability": right.predict(share),
            "unlike_reference": is_unlike,
        }
    )


def _voted(
    neighbours: NearestNeighbors, spacing: NDArray[Any], cells: NDArray[Any], known: Labelled
) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any]]:
    """Label of the most weight, its share of it, and distance to the neighbours by the root of that between them."""
    distance, index = neighbours.kneighbors(cells)
    weight = 1.0 / np.maximum(distance, _TINY)
    votes = np.zeros((len(cells), len(known.names)))
    np.add.at(votes, (np.arange(len(cells))[:, None], known.of_train[index]), weight)
    votes /= votes.sum(axis=1, keepdims=True)
    # By its root: the distance alone flags types that vary much, one relative to the spacing those that vary little.
    far = distance.mean(axis=1) / np.sqrt(np.maximum(spacing[index].mean(axis=1), _TINY))
    return votes.argmax(axis=1), votes.max(axis=1), far
