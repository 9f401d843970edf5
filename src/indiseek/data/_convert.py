"""Write a MuData once as sharded zarr, from which cells are read quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

import anndata
import mudata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from indiseek._checks import check_flag, check_seed
from indiseek.data._disk import DiskMatrix, Matrix, Values, is_sparse, row_chunks
from indiseek.data._open import COMPLETE, SLOTS, opened
from indiseek.data._progress import progress
from indiseek.data._values import canonical_values
from indiseek.data._zarr import check_room, checked_array, new_zarr

# Values in a chunk, which is what is read and checked at once, and in a shard, which is one file.
_CHUNK, _SHARD = 2**17, 2**22
# Cells that are put in order at once when shuffling.
_BUCKET_CELLS = 2**15
# Counts with their positions, 8 bytes before, never took less than a byte.
_LEAST_BYTES = 1


def convert(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    shuffle: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    show_progress: bool = True,
) -> None:
    """Write a MuData file as a sharded zarr v3 with checksums, without reading it whole.

    Values become canonical float32: CSR where most are zero, dense elsewhere. Names, annotations and layers are kept,
    ``.raw`` is not. mudata and anndata read the result too. A matrix stored as CSC is read whole.

    Parameters
    ----------
    source
        h5mu file or zarr directory, or several that become one as :func:`open_mudata` joins them.
    target
        Directory to write; of a link, what it points to.
    shuffle
        Whether the cells are put in random order, the same in every modality. Models of this package do not need it;
        readers that train on contiguous blocks do. Takes as much room again while it runs.
    seed
        Seed of that order.
    overwrite
        Whether a zarr at `target` is replaced, once the new one is complete; only one that this package has written is.
    show_progress
        Whether a progress bar is shown.

    Raises
    ------
    FileNotFoundError
        If there is no `source`.
    FileExistsError
        If `target` exists, is `source` or not written by this package, or another process writes it.
    OSError
        If the disk is full or `source` damaged; nothing new is left then, and an earlier `target` stays.
    """
    check_flag("shuffle", shuffle)
    check_flag("show_progress", show_progress)
    check_seed("seed", seed)
    with (
        opened(source) as mdata,
        new_zarr(target, overwrite=overwrite, sources=_paths(source)) as path,
        progress(desc="convert", unit="cell", disable=not show_progress) as bar,
    ):
        matrices = {
            f"mod/{name}/{key}": _values(adata, layer, name)
            for name, adata in mdata.mod.items()
            for key, layer in _stored(adata).items()
        }
        n_bytes = sum(_n_nonzero(values) for values in matrices.values()) * _LEAST_BYTES
        check_room(path.parent, 2 * n_bytes if shuffle else n_bytes)
        bar.reset(total=sum(values.shape[0] for values in matrices.values()))
        order = np.random.default_rng(seed).permutation(mdata.n_obs) if shuffle else None
        _write_annotations(mdata, order, path)
        root = zarr.open_group(path, mode="r+")
        for key, values in matrices.items():
            with TemporaryDirectory(dir=path) as scratch:
                chunks = row_chunks(values) if order is None else _shuffled(values, order, Path(scratch))
                _write_matrix(root, key, values, chunks, bar)
        root.attrs[COMPLETE] = True


def _paths(source: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(each) for each in ([source] if isinstance(source, str | Path) else source)]


def _stored(adata: AnnData) -> dict[str, str | None]:
    """Layer by the key under which it is stored; None for X."""
    return ({} if adata.X is None else {"X": None}) | {f"layers/{layer}": layer for layer in adata.layers}


def _values(adata: AnnData, layer: str | None, name: str) -> Values:
    values = adata.X if layer is None else adata.layers[layer]
    if isinstance(values, anndata.abc.CSCDataset):
        adata = AnnData(values.to_memory())
        layer = None
    return canonical_values(adata, layer, name)


def _n_nonzero(values: Values) -> int:
    if isinstance(values, DiskMatrix):
        return values.summary.n_nonzero
    return int(values.size if isinstance(values, np.ndarray) else values.nnz)


def _write_annotations(mdata: MuData, order: NDArray[np.intp] | None, path: Path) -> None:
    """Everything but the values, with empty matrices in their place."""
    rows = slice(None) if order is None else order
    with mudata.set_options(pull_on_update=False):
        parts = {}
        for name, adata in mdata.mod.items():
            slots = {slot: dict(getattr(adata, slot)) for slot in SLOTS}
            part = AnnData(sparse.csr_matrix(adata.shape, dtype=np.float32), obs=adata.obs, var=adata.var, **slots)
            parts[name] = part[rows].copy()
            for table in (parts[name].obs, parts[name].var):
                table.index = _as_one_array(table.index)
        whole = MuData(parts)
        whole.obs = mdata.obs.iloc[rows].set_axis(_as_one_array(mdata.obs_names[rows]))
        whole.obsm.update({key: value[rows] for key, value in mdata.obsm.items() if key not in parts})
        whole.obsp.update({key: value[rows][:, rows] for key, value in mdata.obsp.items()})
        whole.uns.update(mdata.uns)
        mudata.write_zarr(path, whole, zarr_format=3, shards=None)


def _as_one_array(names: pd.Index) -> pd.Index:
    """Names that are stored as one array, of which a lost chunk is noticed; categories take several."""
    return names.astype(str).astype(object)


def _write_matrix(root: zarr.Group, key: str, values: Values, chunks: Iterator[Matrix], bar: tqdm) -> None:
    if key in root:
        del root[key]
    n_cells, n_features = values.shape
    if not is_sparse(values):
        n_rows = max(1, _CHUNK // n_features)
        layout = {"n_chunk": n_rows, "chunks_in_shard": max(1, _SHARD // n_features // n_rows)}
        array = checked_array(root, key, (n_cells, n_features), np.float32, **layout)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        dense = _Appender(array)
        for chunk in chunks:
            dense.append(chunk)
            bar.update(len(chunk))
        dense.close()
        return
    group = root.create_group(key)
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, n_features]})
    layout = {"n_chunk": _CHUNK, "chunks_in_shard": _SHARD // _CHUNK}
    n_stored = _n_nonzero(values)
    data, indices = (
        _Appender(checked_array(group, name, (n_stored,), dtype, **layout))
        for name, dtype in (("data", np.float32), ("indices", np.int32))
    )
    n_in_cell = []
    for chunk in cast(Iterator[sparse.csr_matrix], chunks):
        data.append(chunk.data)
        indices.append(chunk.indices.astype(np.int32))
        n_in_cell.append(np.diff(chunk.indptr))
        bar.update(chunk.shape[0])
    data.close()
    indices.close()
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(n_in_cell), dtype=np.int64)])
    pointers = checked_array(group, "indptr", indptr.shape, np.int64, **layout)
    pointers[:] = indptr


class _Appender:
    """Fills a zarr array from front to back, whole shards at a time: a shard written in parts is written again."""

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self._n_shard = (array.shards or array.chunks)[0]
        self._pending: list[NDArray[Any]] = []
        self._n_pending = self._n_written = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add values; they are written when a shard is full."""
        self._pending.append(values)
        self._n_pending += len(values)
        if self._n_pending >= self._n_shard:
            self._write(self._n_pending // self._n_shard * self._n_shard)

    def close(self) -> None:
        """Write what is left."""
        if self._n_pending:
            self._write(self._n_pending)

    def _write(self, n: int) -> None:
        values = np.concatenate(self._pending)
        self._array[self._n_written : self._n_written + n] = values[:n]
        self._pending, self._n_pending = [values[n:].copy()], len(values) - n
        self._n_written += n


def _shuffled(values: Values, order: NDArray[np.intp], scratch: Path) -> Iterator[Matrix]:
    """Cells in another order, in two passes: scattered to buckets on disk, then sorted within each bucket."""
    place = np.argsort(order)
    n_buckets = -(-len(order) // _BUCKET_CELLS)
    start = 0
    with ExitStack() as stack:
        files = [stack.enter_context((scratch / str(bucket)).open("wb")) for bucket in range(n_buckets)]
        for chunk in row_chunks(values):
            places = place[start : start + chunk.shape[0]]
            start += chunk.shape[0]
            for bucket in np.unique(places // _BUCKET_CELLS):
                mine = np.flatnonzero(places // _BUCKET_CELLS == bucket)
                np.save(files[bucket], places[mine])
                _save(files[bucket], chunk[mine])
    for bucket in range(n_buckets):
        path = scratch / str(bucket)
        with path.open("rb") as file:
            found, pieces = [], []
            while file.peek(1):
                found.append(np.load(file))
                pieces.append(_load(file, values))
        path.unlink()
        rows = np.argsort(np.concatenate(found))
        yield (sparse.vstack(pieces, format="csr") if is_sparse(values) else np.concatenate(pieces))[rows]


def _save(file: IO[bytes], chunk: Matrix) -> None:
    for array in [chunk] if isinstance(chunk, np.ndarray) else [chunk.data, chunk.indices, chunk.indptr]:
        np.save(file, array)


def _load(file: IO[bytes], values: Values) -> Matrix:
    if not is_sparse(values):
        return np.load(file)
    data, indices, indptr = (np.load(file) for _ in range(3))
    return sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, values.shape[1]))
