"""Several files as one: cells one after another, features by name, values where they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import anndata
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

_NAMES_SHOWN = 5


@final
class JoinedRows(anndata.abc.CSRDataset):
    """Rows of several matrices on disk, one after another, as one matrix that is read when it is asked for.

    Parameters
    ----------
    parts
        CSR datasets of anndata, or dense HDF5 datasets or zarr arrays, ``(n_cells, n_features)`` each.
    columns
        Positions of the features wanted in each part, in their order.

    Attributes
    ----------
    shape
        ``(n_cells, n_features)`` of all.
    reading
        The part that was read last.
    """

    backend = "hdf5"

    def __init__(self, parts: Sequence[Any], columns: Sequence[NDArray[np.intp]]) -> None:
        self.parts = tuple(parts)
        self._columns = tuple(columns)
        self._starts = np.cumsum([0, *(int(part.shape[0]) for part in parts)])
        self.shape = (int(self._starts[-1]), len(columns[0]))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.is_dense = not any(isinstance(part, anndata.abc.CSRDataset) for part in parts)
        self.reading = self.parts[0]

    def __getitem__(self, index: Any) -> Any:
        """Rows at a slice, positions or a mask, or rows and columns of them."""
        if isinstance(index, tuple):
            rows, columns = (np.ravel(each) if isinstance(each, np.ndarray) else each for each in index)
            return self[rows][:, columns]
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step == 1:
                return self._run(start, max(start, stop))
        rows = np.arange(self.shape[0])[index]
        wanted, back = np.unique(np.atleast_1d(rows), return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
        return self._stack([self._run(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)])[back]

    def copy(self) -> JoinedRows:
        """Itself: what lies on disk is not changed."""
        return self

    def to_memory(self) -> Any:
        """All values."""
        return self[:]

    def _run(self, start: int, stop: int) -> Any:
        """Contiguous rows."""
        pieces = []
        for part, columns, first, end in zip(
            self.parts, self._columns, self._starts[:-1], self._starts[1:], strict=True
        ):
            low, high = max(start, int(first)), min(stop, int(end))
            if low < high:
                self.reading = part
                pieces.append(_taken(part[low - int(first) : high - int(first)], columns))
        return self._stack(pieces)

    def _stack(self, pieces: list[Any]) -> Any:
        if self.is_dense:
            return np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), dtype=self.dtype)
        found = [sparse.csr_matrix(piece) for piece in pieces]
        return sparse.vstack(found, format="csr") if found else sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)


def _taken(values: Any, columns: NDArray[np.intp]) -> Any:
    if sparse.issparse(values):
        # What scipy would read beyond its memory: of a damaged file.
        if values.nnz and not 0 <= values.indices.min() <= values.indices.max() < values.shape[1]:
            raise IndexError(f"feature numbers outside 0 to {values.shape[1] - 1}")
        values = sparse.csr_matrix(values)
    if np.array_equal(columns, np.arange(values.shape[1])):
        return values
    return values[:, columns]


def joined(cells: Mapping[str, MuData], file_key: str) -> MuData:
    """Cells of several files as one MuData, with the names of the files in ``.obs``.

    Parameters
    ----------
    cells
        Opened files by their names, two or more.
    file_key
        Column for the names.

    Raises
    ------
    ValueError
        If modalities differ, names of features repeat, no feature is in all files, or the column is there already.
    """
    _check_modalities(cells)
    names = list(next(iter(cells.values())).mod)
    prefixes = _prefixes(cells, names)
    with mudata.set_options(pull_on_update=False):
        mdata = MuData({name: _modality(name, {f: m[name] for f, m in cells.items()}, prefixes) for name in names})
        tables = {}
        for file, each in cells.items():
            if file_key in each.obs:
                raise ValueError(
                    f"expected no column {file_key!r} in .obs, which is to hold the names of the files, got one in "
                    f"{file}; name another with file_key."
                )
            tables[file] = each.obs.assign(**{file_key: file}).set_axis(prefixes[file] + each.obs_names.astype(str))
        obs = _stacked(tables).loc[mdata.obs_names]
        obs[file_key] = pd.Categorical(obs[file_key], categories=list(cells))
        mdata.obs = obs
    return mdata


def _check_modalities(cells: Mapping[str, MuData]) -> None:
    every = list(dict.fromkeys(name for mdata in cells.values() for name in mdata.mod))
    for file, mdata in cells.items():
        missing = [name for name in every if name not in mdata.mod]
        if missing:
            raise ValueError(
                f"expected modalities {every} in every file, got none called {missing} in {file}, which has "
                f"{list(mdata.mod)}; leave this file out, or rename its modalities."
            )


def _prefixes(cells: Mapping[str, MuData], names: Sequence[str]) -> dict[str, str]:
    """What is put before the names of the cells of each file: nothing, or the file's name where cells would repeat."""
    found = pd.Index(np.concatenate([mdata.obs_names.astype(str) for mdata in cells.values()]))
    if found.is_unique:
        return dict.fromkeys(cells, "")
    for file, mdata in cells.items():
        if any(not mdata[name].obs_names.is_unique for name in names):
            raise ValueError(
                f"expected each name of a cell once in a file, got names twice in {file}; make them unique there, "
                "with obs_names_make_unique() of each modality, and write the file again."
            )
    repeated = found[found.duplicated()].unique()
    warnings.warn(
        f"{len(repeated)} names of cells are in several files, such as {repeated[0]!r}: the names of the files are put "
        "before the names of all cells.",
        stacklevel=4,
    )
    return {file: f"{file}:" for file in cells}


def _modality(name: str, parts: Mapping[str, AnnData], prefixes: Mapping[str, str]) -> AnnData:
    features = _features(name, parts)
    columns = [part.var_names.get_indexer(features) for part in parts.values()]
    first = next(iter(parts.values()))
    obs = _stacked({f: part.obs.set_axis(prefixes[f] + part.obs_names.astype(str)) for f, part in parts.items()})
    values = [part.X for part in parts.values()]
    layers = [layer for layer in first.layers if all(layer in part.layers for part in parts.values())]
    joined = AnnData(
        X=None if any(each is None for each in values) else _rows(values, columns),
        obs=obs,
        var=first.var.loc[features],
        layers={layer: _rows([part.layers[layer] for part in parts.values()], columns) for layer in layers},
    )
    for key, value in first.obsm.items():
        others = [part.obsm.get(key) for part in parts.values()]
        if all(isinstance(each, np.ndarray) and each.shape[1:] == value.shape[1:] for each in others):
            joined.obsm[key] = np.concatenate(others)
    return joined


def _rows(values: Sequence[Any], columns: Sequence[NDArray[np.intp]]) -> JoinedRows:
    csc = [each for each in values if isinstance(each, anndata.abc.CSCDataset)]
    if csc:
        raise TypeError(
            "expected CSR or dense values in every file, got CSC, of which no cell can be read without reading all; "
            "write each such file again with indiseek convert."
        )
    return JoinedRows(values, columns)


def _features(name: str, parts: Mapping[str, AnnData]) -> pd.Index:
    """Names that all files have, in the order of the first."""
    for file, part in parts.items():
        if not part.var_names.is_unique:
            twice = part.var_names[part.var_names.duplicated()].unique()
            raise ValueError(
                f"expected each feature of {name!r} once, got {len(twice)} names twice in {file}, such as "
                f"{twice[0]!r}: features of several files are matched by name; make them unique there, with "
                "var_names_make_unique() in the same way for all files."
            )
    found = next(iter(parts.values())).var_names
    for part in parts.values():
        found = found[found.isin(part.var_names)]
    sizes = {file: part.n_vars for file, part in parts.items()}
    if not len(found):
        shown = {file: list(part.var_names[:_NAMES_SHOWN]) for file, part in list(parts.items())[:3]}
        raise ValueError(
            f"expected features of {name!r} that all files have, got none: the first of each are {shown}; write them "
            "in one way, for example all as symbols, or leave a file out."
        )
    if max(sizes.values()) > len(found):
        most = max(sizes, key=lambda file: sizes[file])
        warnings.warn(
            f"{len(found)} features of {name!r} are in all files and are kept; {most} has {sizes[most]}.",
            stacklevel=5,
        )
    return found


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables one after another; a column that is categorical in all that have it stays so."""
    frames = list(tables.values())
    found = pd.concat(frames)
    for column in found:
        parts = [frame[column] for frame in frames if column in frame]
        if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
            known = list(dict.fromkeys(category for part in parts for category in part.cat.categories))
            found[column] = pd.Categorical(found[column], categories=known)
    return found
