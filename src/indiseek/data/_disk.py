"""Values of a modality in memory or on disk, read in pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias, final

import anndata
import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import sparse

from indiseek.data._joined import JoinedRows
from indiseek.data._summary import Summary, summarise

Matrix: TypeAlias = sparse.csr_matrix | NDArray[np.float32]
"""Values of one modality in memory, ``(n_cells, n_features)``: CSR or dense, float32."""

CHUNK_CELLS = 4096
# Most values are zero: kept sparse.
_SPARSE_BELOW_DENSITY = 0.3
# What zarr, its codecs and HDF5 raise where bytes are missing or wrong.
READ_ERRORS = (OSError, RuntimeError, ValueError, IndexError, KeyError, EOFError, zlib.error)


@final
class DiskMatrix:
    """Values of one modality that stay on disk and are read as canonical float32 CSR or dense pieces.

    Cells are read in contiguous runs of at most 4096, so that memory does not grow with the file. Indexing by a slice,
    positions or a boolean mask gives a matrix in memory: ask for pieces, as :func:`row_chunks` does.

    Parameters
    ----------
    source
        CSR dataset of anndata, or dense HDF5 dataset or zarr array, ``(n_cells, n_features)``.
    where
        Name of the modality, for messages.
    as_sparse
        Form of the pieces; None decides by the values, in one pass.
    order
        Positions in the file of the features wanted, in their order; None for all as they are.
    whole
        Whether values are brought to the nearest whole number.
    cells
        Positions in the file of the cells wanted, in their order; None for all as they are.

    Attributes
    ----------
    shape
        ``(n_cells, n_features)``.
    as_sparse
        Form of the pieces.
    """

    def __init__(
        self,
        source: Any,
        where: str,
        *,
        as_sparse: bool | None = None,
        order: NDArray[np.intp] | None = None,
        whole: bool = False,
        cells: NDArray[np.intp] | None = None,
    ) -> None:
        self._source = source
        self._where = where
        self._order = order
        self._whole = whole
        self._cells = cells
        n_cells = int(source.shape[0]) if cells is None else len(cells)
        self.shape = (n_cells, int(source.shape[1]) if order is None else len(order))
        self.as_sparse = isinstance(source, anndata.abc.CSRDataset) and not getattr(source, "is_dense", False)
        if as_sparse is None:
            as_sparse = mostly_zero(self.summary.n_nonzero, self.shape)
        self.as_sparse = as_sparse

    @cached_property
    def summary(self) -> Summary:
        """What the checks need to know, from one pass over the file."""
        return summarise(row_chunks(self), self.shape[1])

    def __getitem__(self, rows: Any) -> Matrix:
        positions = np.arange(self.shape[0])[rows]
        positions = positions if self._cells is None else self._cells[positions]
        order = np.argsort(positions, kind="stable")
        wanted = positions[order]
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted // CHUNK_CELLS)) + 1)
        pieces = [self._read(run[0], run[-1] + 1)[run - run[0]] if len(run) else self._read(0, 0) for run in runs]
        joined = pieces[0] if len(pieces) == 1 else _stack(pieces)
        if np.array_equal(order, np.arange(len(order))):
            return joined
        return joined[np.argsort(order)]

    def ordered(self, order: NDArray[np.intp]) -> DiskMatrix:
        """The same values with features `order` of these, in that order."""
        order = order if self._order is None else self._order[order]
        return self._with(order=order)

    def picked(self, cells: NDArray[np.intp]) -> DiskMatrix:
        """The same values of cells `cells` of these, in that order."""
        return self._with(cells=cells if self._cells is None else self._cells[cells])

    def rounded(self, as_sparse: bool | None = None) -> DiskMatrix:
        """The same values, each brought to the nearest whole number."""
        return self._with(as_sparse=as_sparse, whole=True)

    def _with(self, **changes: Any) -> DiskMatrix:
        said = {"as_sparse": self.as_sparse, "order": self._order, "whole": self._whole, "cells": self._cells}
        return DiskMatrix(self._source, self._where, **(said | changes))

    @property
    def identity(self) -> tuple[Any, ...] | None:
        """What tells the file from another one at its place; None where there is none to look at."""
        return identity_of(self._source)

    def sample(self) -> list[Matrix]:
        """The first, the middle and the last cell: a few, because each may cost the reading of a chunk."""
        n = self.shape[0]
        return [self[i : i + 1] for i in sorted({0, n // 2, max(0, n - 1)})]

    def _read(self, start: int, stop: int) -> Matrix:
        try:
            values = self._source[int(start) : int(stop)]
        except READ_ERRORS as error:
            raise OSError(self._damage(f"{type(error).__name__}: {error}")) from error
        if sparse.issparse(values):
            if values.nnz and not 0 <= values.indices.min() <= values.indices.max() < values.shape[1]:
                raise OSError(self._damage(f"feature numbers outside 0 to {values.shape[1] - 1}"))
            values = sparse.csr_matrix(values, dtype=np.float32)
            values.sum_duplicates()
            if self._whole:
                np.rint(values.data, out=values.data)
            values.eliminate_zeros()
        elif self._whole:
            values = rounded(np.asarray(values, dtype=np.float32))
        values = values if self._order is None else values[:, self._order]
        if not self.as_sparse:
            return np.ascontiguousarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)
        values = sparse.csr_matrix(values, dtype=np.float32)
        # Sums over a cell run in this order: sorted, they are to the last bit those of values in memory.
        values.sort_indices()
        return values

    def _damage(self, cause: str) -> str:
        return (
            f"expected readable values of modality {self._where!r}, got damage in {_damaged_part(self._source)} "
            f"({cause}); restore the file, or write it again from its source, for example with "
            "indiseek convert --overwrite."
        )


Values: TypeAlias = Matrix | DiskMatrix
"""Values of one modality, ``(n_cells, n_features)``: in memory, or on disk."""


def rounded(values: Matrix) -> Matrix:
    """The same values, each brought to the nearest whole number."""
    whole = values.copy()
    data = whole if isinstance(whole, np.ndarray) else whole.data
    # There is no count of minus nothing.
    np.add(np.rint(data, out=data), 0.0, out=data)
    return whole


def identity_of(source: Any) -> tuple[Any, ...] | None:
    """What tells the file of a dataset or array from another one at its place; None where there is none to look at."""
    if isinstance(source, JoinedRows):
        return tuple(identity_of(part) for part in source.parts)
    handle = source.group if isinstance(source, anndata.abc.CSRDataset) else source
    if isinstance(handle, h5py.HLObject):
        path = Path(handle.file.filename) if handle else None
    else:
        root = getattr(handle.store, "root", None)
        path = None if root is None else Path(root) / handle.path / "zarr.json"
    if path is None or not path.exists():
        return None
    found = path.stat()
    return (str(path), tuple(map(int, source.shape)), found.st_ino, found.st_size, found.st_mtime_ns)


def mostly_zero(n_nonzero: int, shape: tuple[int, int]) -> bool:
    """Whether values are kept as CSR; depends on the values alone, not on how they are stored."""
    return n_nonzero < _SPARSE_BELOW_DENSITY * max(1, shape[0] * shape[1])


def is_sparse(values: Values) -> bool:
    """Whether values are CSR, in memory or in the pieces read from disk."""
    return values.as_sparse if isinstance(values, DiskMatrix) else bool(sparse.issparse(values))


def picked_cells(values: Values, cells: NDArray[np.intp]) -> Values:
    """Values of some cells: of a file another view, of memory a copy."""
    return values.picked(cells) if isinstance(values, DiskMatrix) else values[cells]


def row_chunks(values: Values, rows: NDArray[np.intp] | None = None, size: int = CHUNK_CELLS) -> Iterator[Matrix]:
    """Yield values (or some of their rows) in pieces of at most `size` cells.

    Parameters
    ----------
    values
        ``(n_cells, n_features)``.
    rows
        Positions of the cells wanted; None for all.
    size
        Most cells in a piece.
    """
    n = values.shape[0] if rows is None else len(rows)
    for start in range(0, n, size):
        wanted = np.arange(start, min(start + size, n)) if rows is None else rows[start : start + size]
        yield _csr_rows(values, wanted) if isinstance(values, sparse.csr_matrix) else values[wanted]


def _csr_rows(values: sparse.csr_matrix, rows: NDArray[np.intp]) -> sparse.csr_matrix:
    """Rows of a CSR matrix, out of the piece of it where they lie.

    Where the two index arrays differ in type, as anndata leaves them, scipy converts all of one for each piece.
    """
    low, high = int(rows.min()), int(rows.max()) + 1
    start, stop = values.indptr[low], values.indptr[high]
    parts = (values.data[start:stop], values.indices[start:stop], values.indptr[low : high + 1] - start)
    return sparse.csr_matrix(parts, shape=(high - low, values.shape[1]))[rows - low]


def _stack(pieces: list[Matrix]) -> Matrix:
    return np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else sparse.vstack(pieces, format="csr")


def _damaged_part(source: Any) -> str:
    """File, and in a zarr array the chunk, that cannot be read."""
    if isinstance(source, JoinedRows):
        return _damaged_part(source.reading)
    group = source.group if isinstance(source, anndata.abc.CSRDataset) else None
    handle = source if group is None else group
    # HDF5 objects are false once their file is closed.
    if isinstance(handle, h5py.HLObject) and not handle:
        return "a file that has been closed"
    arrays = [source] if group is None else [group[key] for key in ("indptr", "indices", "data")]
    if isinstance(arrays[0], h5py.Dataset):
        return f"{handle.file.filename}: {handle.name}"
    for array in arrays:
        outer = array.shards or array.chunks
        for place in product(*(range(-(-n // step)) for n, step in zip(array.shape, outer, strict=True))):
            region = tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, outer, strict=True))
            try:
                array[region]
            except READ_ERRORS:
                return _chunk_file(array, place)
    return str(_chunk_file(arrays[0], ()))


def _chunk_file(array: zarr.Array, place: tuple[int, ...]) -> str:
    key = array.metadata.encode_chunk_key(place) if place else ""
    return str(Path(str(getattr(array.store, "root", array.store))) / array.path / key)
