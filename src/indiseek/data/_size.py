"""How much room an h5mu takes, told before it is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import anndata
import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from indiseek.data._joined import JoinedRows

# What HDF5 needs for the headers of an array, and for a text beside its characters.
_ARRAY_BYTES, _TEXT_BYTES = 4096, 64
_SLOTS = ("obsm", "varm", "obsp", "varp", "uns")


def most_bytes(mdata: MuData) -> int:
    """Upper bound of the size of `mdata` as an h5mu, without reading what lies on disk.

    Parameters
    ----------
    mdata
        Cells in memory, backed or opened.
    """
    n_bytes = 2**17 + sum(_bytes(each) for each in (mdata.obs, mdata.var, mdata.obsmap, mdata.varmap))
    for adata in mdata.mod.values():
        raw = () if adata.raw is None else (adata.raw.X, adata.raw.var, adata.raw.varm)
        n_bytes += sum(_bytes(each) for each in (adata.X, *adata.layers.values(), adata.obs, adata.var, *raw))
    n_bytes += sum(_bytes(getattr(part, slot)) for part in (mdata, *mdata.mod.values()) for slot in _SLOTS)
    return n_bytes


def _bytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return _ARRAY_BYTES + sum(_bytes(each) for each in value.values())
    if isinstance(value, pd.DataFrame):
        return sum(_bytes(value[column].array) for column in value) + _bytes(value.index.array) + _ARRAY_BYTES
    if isinstance(value, JoinedRows):
        return sum(_bytes(part) for part in value.parts)
    if isinstance(value, anndata.abc.CSRDataset | anndata.abc.CSCDataset):
        value = value.group
        return _ARRAY_BYTES + sum(_bytes(value[key]) for key in ("data", "indices", "indptr"))
    if sparse.issparse(value):
        parts = (getattr(value, key, None) for key in ("data", "indices", "indptr"))
        return _ARRAY_BYTES + sum(_bytes(part) for part in parts if part is not None)
    if isinstance(value, pd.Categorical):
        return _bytes(value.codes) + _bytes(value.categories.array)
    if isinstance(value, pd.api.extensions.ExtensionArray):
        value = np.asarray(value, dtype=None if isinstance(value.dtype, np.dtype) else object)
    if (dtype := getattr(value, "dtype", None)) is not None and hasattr(value, "shape"):
        n_values = int(np.prod(value.shape))
        if getattr(dtype, "kind", "O") not in "OU":
            return _ARRAY_BYTES + n_values * dtype.itemsize
        texts = value.ravel() if isinstance(value, np.ndarray) else ()
        return _ARRAY_BYTES + n_values * _TEXT_BYTES + sum(len(str(text).encode()) for text in texts)
    return _ARRAY_BYTES + sys.getsizeof(value)
