"""Codes of many cells, written chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import zarr
from anndata import AnnData
from anndata.io import write_elem
from mudata import MuData

from indiseek._checks import check_flag
from indiseek.data import checked_array, files_of, new_zarr, progress
from indiseek.models._base import MultimodalModel
from indiseek.objectives import gather_objects, rank
from indiseek.train import INFERENCE_BATCH, plain_torch

# Whole batches and whole chunks of the transforms, so that the codes are those of write_latents to the last bit.
_CHUNK_CELLS = 16 * INFERENCE_BATCH
# What the process that writes says to those that wait.
_GOING_ON, _DONE = "going on", "done"


@plain_torch()
def embed(
    model: MultimodalModel,
    mdata: MuData | None,
    target: str | Path,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
) -> None:
    """Write the codes of cells to a zarr, chunk by chunk: neither the counts nor the codes of all are held.

    :func:`anndata.read_zarr` reads the result: the cells with the MuData's ``.obs``, and in ``.obsm`` what
    :meth:`MultimodalModel.write_latents` would write into the MuData's own. Of several processes that train together,
    the first one writes and the others wait: call it in all of them.

    Parameters
    ----------
    model
        Trained model.
    mdata
        Cells, as :func:`indiseek.data.open_mudata` opens them or in memory; None for those of training.
    target
        Directory to write, ``.zarr``; of a link, what it points to.
    overwrite
        Whether a zarr at `target` is replaced, once the new one is complete; only one that this package has written is.
    show_progress
        Whether a progress bar is shown.

    Raises
    ------
    RuntimeError
        Before training; also in the processes that wait, if the first one fails.
    FileExistsError
        If `target` exists, holds the cells or is not written by this package, or another process writes it.
    OSError
        If the disk is full or the cells' file damaged; nothing new is left then, and an earlier `target` stays.
    """
    if not isinstance(model, MultimodalModel):
        raise TypeError(
            f"expected model to be a model of this package, got {type(model).__name__}; load one with load_model()."
        )
    check_flag("show_progress", show_progress)
    if rank() > 0:
        _wait(target)
        return
    try:
        _write(model, mdata, target, overwrite=overwrite, show_progress=show_progress)
    except BaseException as error:
        gather_objects(f"{type(error).__name__}: {error}")
        raise
    gather_objects(_DONE)


def _wait(target: str | Path) -> None:
    while (said := gather_objects(_GOING_ON)[0]) == _GOING_ON:
        pass
    if said != _DONE:
        raise RuntimeError(
            f"expected the first process to write {target}, got an error there ({said}); see to its cause, and call "
            "embed again in every process."
        )


def _write(
    model: MultimodalModel, mdata: MuData | None, target: str | Path, *, overwrite: bool, show_progress: bool
) -> None:
    cells = model._cells_of(mdata)
    n_cells = len(cells)
    read = cast(MuData, model.adata if mdata is None else mdata)
    with (
        new_zarr(target, overwrite=overwrite, sources=files_of(read)) as path,
        progress(total=n_cells, desc="embed", unit="cell", disable=not show_progress) as bar,
    ):
        root = zarr.open_group(path, mode="w", zarr_format=3)
        write_elem(root, "/", AnnData(obs=read.obs), dataset_kwargs={"shards": None})
        arrays: dict[str, zarr.Array] = {}
        for start in range(0, n_cells, _CHUNK_CELLS):
            rows = np.arange(start, min(start + _CHUNK_CELLS, n_cells))
            codes, _ = model._codes_at(cells, rows)
            for key, code in codes.items():
                if key not in arrays:
                    shape = (n_cells, code.shape[1])
                    arrays[key] = checked_array(root, f"obsm/{key}", shape, code.dtype, n_chunk=_CHUNK_CELLS)
                    arrays[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                    # Of cells before, which lack what it is a code of.
                    for first in range(0, start, _CHUNK_CELLS):
                        arrays[key][first : first + _CHUNK_CELLS] = np.nan
                arrays[key][start : start + len(code)] = code
            for key in set(arrays) - set(codes):
                arrays[key][start : start + len(rows)] = np.nan
            bar.update(len(rows))
            # Those that wait give up where nothing comes for the time-out of their group, on GPUs ten minutes.
            gather_objects(_GOING_ON)
