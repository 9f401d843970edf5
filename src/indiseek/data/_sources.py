"""The files from which the values of cells are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import zarr
from mudata import MuData

from indiseek.data._joined import JoinedRows


def files_of(mdata: MuData) -> set[Path]:
    """Files and zarrs, links resolved, that hold the values of `mdata`; empty for values in memory.

    Parameters
    ----------
    mdata
        Cells in memory, backed by an h5mu, or opened by :func:`open_mudata`.
    """
    found = {mdata.filename, *(adata.filename for adata in mdata.mod.values())} - {None}
    # The values of a backed one are not to be touched: its file may be closed.
    parts = [] if found else list(mdata.mod.values())
    stored = [each for adata in parts for each in (adata.X, *adata.layers.values())]
    values = [part for each in stored for part in (each.parts if isinstance(each, JoinedRows) else [each])]
    return {Path(file).resolve() for file in [*found, *(_file_of(each) for each in values)] if file is not None}


def _file_of(values: Any) -> str | None:
    if isinstance(values, anndata.abc.CSRDataset | anndata.abc.CSCDataset):
        values = values.group
    # HDF5 objects are false once their file is closed.
    if isinstance(values, h5py.HLObject):
        return str(values.file.filename) if values else None
    if isinstance(values, zarr.Array | zarr.Group):
        return None if (root := getattr(values.store, "root", None)) is None else str(root)
    return None
