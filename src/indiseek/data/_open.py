"""Open a MuData without reading its values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import mudata
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from mudata import MuData

from indiseek.data._disk import READ_ERRORS

# Mark of a zarr that convert() has written: every chunk was written, so one that is missing is lost.
COMPLETE = "indiseek-complete"
# Slots that are read; .raw is not.
SLOTS = ("obsm", "varm", "obsp", "varp", "uns")


def open_mudata(path: str | Path) -> MuData:
    """Open an h5mu file or a zarr directory; ``X`` and layers stay on disk, all else is read.

    What it returns behaves as a MuData in memory, and changes to it are not written back. Models take it: see
    :class:`DiskMatrix`. The raw slot is not read.

    Parameters
    ----------
    path
        Written by :func:`convert`, mudata or muon.

    Returns
    -------
    Its matrices are CSR datasets of anndata, HDF5 datasets or zarr arrays.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    OSError
        If the file is truncated or damaged, or chunks of a converted zarr are missing.
    ValueError
        If it holds no MuData.
    """
    path = Path(path)
    return _read(_root(path), path)


@contextmanager
def opened(path: str | Path) -> Iterator[MuData]:
    """Open as :func:`open_mudata` does, and close the file at the end."""
    path = Path(path)
    root = _root(path)
    try:
        yield _read(root, path)
    finally:
        if isinstance(root, h5py.File):
            root.close()


def _read(root: Any, path: Path) -> MuData:
    if "mod" not in root:
        raise ValueError(
            f"expected a MuData in {path}, got {sorted(root)}; build one from its parts with mudata.MuData "
            "and write that."
        )
    groups = root["mod"]
    names = [str(name) for name in groups.attrs.get("mod-order", list(groups))]
    if root.attrs.get(COMPLETE):
        _check_complete(root, path)
    with mudata.set_options(pull_on_update=False):
        mdata = MuData({name: _open_modality(groups[name], path) for name in names})
        obs = _annotation(root, "obs", path)
        # Cells that are not paired are refused later, with a message of their own.
        if obs.index.equals(mdata.obs_names):
            mdata.obs = obs
            for slot in ("obsm", "obsp", "uns"):
                # Masks of the modalities are mudata's own.
                stored = _annotation(root, slot, path)
                found = {k: v for k, v in stored.items() if slot == "uns" or k not in names}
                getattr(mdata, slot).update(found)
    return mdata


def _root(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"expected an h5mu file or a zarr directory at {path}, got nothing; check the path.")
    try:
        return zarr.open_group(path, mode="r") if path.is_dir() else h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise OSError(
            f"expected a complete h5mu file or zarr directory at {path}, got what cannot be opened ({error}); "
            "restore it, or write it again from its source."
        ) from error


def _open_modality(group: Any, path: Path) -> AnnData:
    read = {slot: _annotation(group, slot, path) for slot in ("obs", "var", *SLOTS) if slot in group}
    if "X" in group:
        read["X"] = _matrix(group["X"])
    layers = group["layers"] if "layers" in group else {}
    return AnnData(**read, layers={name: _matrix(layers[name]) for name in layers})


def _annotation(group: Any, slot: str, path: Path) -> Any:
    try:
        return read_elem(group[slot])
    except READ_ERRORS as error:
        where = f"{group.name}/{slot}".strip("/")
        raise OSError(
            f"expected readable annotations in {path}, got damage in {where} ({type(error).__name__}: {error}); "
            "restore the file, or write it again from its source, for example with indiseek convert --overwrite."
        ) from error


def _matrix(stored: Any) -> Any:
    return sparse_dataset(stored) if isinstance(stored, h5py.Group | zarr.Group) else stored


def _check_complete(root: zarr.Group, path: Path) -> None:
    """Raise OSError where a file of values or names is gone or empty: zarr would take it for zeros or empty names."""
    members = dict(root.members(max_depth=None))
    names = {f"{key}/{part.attrs['_index']}" for key, part in members.items() if "_index" in part.attrs}
    for key, part in members.items():
        of_values = key.startswith("mod/") and key.split("/")[2:3] in (["X"], ["layers"])
        if isinstance(part, zarr.Array) and (of_values or key in names):
            n_files = prod(-(-n // step) for n, step in zip(part.shape, part.shards or part.chunks, strict=True))
            directory = path / part.path / "c"
            n_found = sum(file.is_file() and file.stat().st_size > 0 for file in directory.rglob("*"))
            if n_found < n_files:
                raise OSError(
                    f"expected {n_files} chunk files in {directory}, got {n_found}; restore the missing ones, or "
                    "write the zarr again from its source, for example with indiseek convert --overwrite."
                )
