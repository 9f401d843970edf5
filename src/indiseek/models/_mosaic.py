"""Codes of cells of which some lack a modality: each kind by itself, and NaN where nothing was measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indiseek.data import Cells, LeastSquares
from indiseek.models._base import FEWER_CELLS, MultimodalModel
from indiseek.models._query import codes_of_one, placement, reference_of

logger = logging.getLogger(__name__)

Codes = dict[str, NDArray[Any]]


class Placements:
    """What places cells with one modality among those with all, by stage and modality; found when asked for, and kept.

    Parameters
    ----------
    model
        Trained model.
    """

    def __init__(self, model: MultimodalModel) -> None:
        self._model = model
        self._known: dict[tuple[str, str], LeastSquares | None] = {}

    def of(self, only: str) -> Callable[[str], LeastSquares | None]:
        """By stage, for cells that have the modality `only`."""

        def place(stage: str) -> LeastSquares | None:
            if (stage, only) not in self._known:
                model, reference = self._model, reference_of(self._model)
                self._known[stage, only] = (
                    None
                    if reference is None
                    else placement(model.module, stage, {only: model.module.transform(only)}, reference)
                )
            return self._known[stage, only]

        return place


def codes_of_some(
    model: MultimodalModel, cells: Cells, rows: NDArray[np.intp] | None, placements: Placements
) -> tuple[Codes, dict[str, Codes]]:
    """Codes by key of ``.obsm``, of all cells or those at `rows`: of the MuData, and of each modality.

    Each has a row for each cell, of NaN where the cell lacks what it is a code of.

    Parameters
    ----------
    model
        Trained model.
    cells
        Cells of which some lack a modality.
    rows
        Positions of those wanted; None for all.
    placements
        What places cells with one modality.
    """
    rows = np.arange(len(cells)) if rows is None else rows
    whole: Codes = {}
    parts: dict[str, Codes] = {name: {} for name in model.modalities}
    for only, here in cells.kinds(rows):
        tensors = model._tensors(cells, rows[here])
        with model._explained(len(here), FEWER_CELLS):
            if only is None:
                found = model._obsm(tensors)
            else:
                found = codes_of_one(model, only, tensors, placements.of(only), note=False)
        _put(whole, found[0], here, len(rows))
        for name, codes in found[1].items():
            _put(parts[name], codes, here, len(rows))
    return whole, parts


def code_of_some(
    model: MultimodalModel,
    cells: Cells,
    rows: NDArray[np.intp] | None,
    kind: str,
    modality: str | None,
    batch_size: int,
    placements: Placements,
) -> NDArray[np.float32]:
    """One code of all cells or those at `rows`, ``(n_cells, n_latent)``; NaN where a cell lacks what it is a code of.

    Parameters
    ----------
    model, cells, rows, placements
        As in :func:`codes_of_some`.
    kind, modality, batch_size
        As in :meth:`indiseek.IndiSeekModel.get_latent_representation`.
    """
    rows, pipeline = np.arange(len(cells)) if rows is None else np.arange(len(cells))[rows], model.module
    found: Codes = {}
    for only, here in cells.kinds(rows):
        if modality is not None and only not in (None, modality):
            continue
        tensors = model._tensors(cells, rows[here])
        with model._explained(len(here), FEWER_CELLS):
            if modality is not None:
                code = pipeline.codes(kind, tensors, batch_size)[modality]
            else:
                code = pipeline.joint(kind, tensors, batch_size)
                if only is not None and kind != pipeline.default:
                    placed = placements.of(only)(kind)
                    if placed is None:
                        raise RuntimeError(
                            f"expected the cells that the model was trained on, by which cells with only {only!r} are "
                            f"placed in kind={kind!r}, got a model loaded without them; call load(path, mdata)."
                        )
                    code = placed(code)
        _put(found, {kind: code.cpu().numpy()}, here, len(rows))
    if kind in found:
        return found[kind]
    raise KeyError(f"expected cells that have modality {modality!r}, got {len(rows)} without it; name another one.")


def _put(whole: Codes, codes: Mapping[str, NDArray[Any]], here: NDArray[np.intp], n_cells: int) -> None:
    for key, code in codes.items():
        if key not in whole:
            whole[key] = np.full((n_cells, code.shape[1]), np.nan, dtype=code.dtype)
        whole[key][here] = code
