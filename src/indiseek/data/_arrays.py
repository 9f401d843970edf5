"""A MuData of plain arrays, tables and tensors by modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from indiseek._checks import check_mapping


def of_arrays(arrays: Mapping[str, Any], obs: pd.DataFrame | None = None) -> MuData:
    """MuData with one modality for each of `arrays`; :func:`indiseek.data.mudata_of` documents it."""
    check_mapping("arrays", arrays, "arrays by modality")
    if not arrays:
        raise ValueError("expected an array for each modality, got an empty dict; for example {'rna': x, 'prot': y}.")
    if obs is not None and not isinstance(obs, pd.DataFrame):
        raise TypeError(
            f"expected obs to be a pandas.DataFrame, got {type(obs).__name__}; make one, a row for each cell."
        )
    tables = {name: _as_table(name, values) for name, values in arrays.items()}
    lengths = {name: values.shape[0] for name, (values, _, _) in tables.items()}
    if obs is not None:
        lengths["obs"] = len(obs)
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"expected the same cells in all modalities, got {lengths} of them; give one row for each cell."
        )
    cells = _names(tables, obs, next(iter(lengths.values())))
    parts = {}
    for name, (values, _, features) in tables.items():
        parts[name] = AnnData(values, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=features))
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(parts)
        if obs is not None:
            mdata.obs = obs.set_axis(cells)
    return mdata


def _as_table(name: str, values: Any) -> tuple[Any, pd.Index | None, pd.Index]:
    """Values as a matrix, the names of its rows where it has any, and those of its columns."""
    if isinstance(values, pd.DataFrame):
        rows, columns, values = values.index.map(str), values.columns.map(str), values.to_numpy()
    else:
        rows = columns = None
    if not sparse.issparse(values):
        values = np.asarray(values)
        if values.dtype.kind not in "biuf":
            raise TypeError(
                f"expected numbers in {name!r}, got an array of {values.dtype}; give one column of numbers for each "
                "feature."
            )
        if values.ndim < 2:
            raise ValueError(
                f"expected {name!r} of shape (n_cells, n_features), or with more axes, got {values.shape}; a single "
                "feature is .reshape(-1, 1)."
            )
        # A MuData holds matrices: an encoder of one's own brings the axes back.
        values = values.reshape(len(values), -1)
        values = values.astype(np.float32) if values.dtype.kind in "bf" else values
    if columns is None:
        columns = pd.Index([f"{name}_{j}" for j in range(values.shape[1])])
    return values, rows, columns


def _names(tables: Mapping[str, Any], obs: pd.DataFrame | None, n_cells: int) -> pd.Index:
    """Names of the cells, of whatever has them; all that have them must agree."""
    known = {name: rows for name, (_, rows, _) in tables.items() if rows is not None}
    if obs is not None:
        known["obs"] = obs.index.map(str)
    if not known:
        return pd.Index([f"cell_{i}" for i in range(n_cells)])
    first, names = next(iter(known.items()))
    for other, rows in known.items():
        if not rows.equals(names):
            raise ValueError(
                f"expected the same names of cells in the same order in {first!r} and {other!r}, got others; for "
                f"example take {other}.loc[{first}.index]."
            )
    return names
