"""Open a MuData without reading its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

from indiseek._checks import check_path
from indiseek.data._disk import READ_ERRORS
from indiseek.data._joined import joined
from indiseek.data._workspace import settle

# Mark of a zarr that convert() has written: every chunk of values and names was, so one that is missing is lost.
COMPLETE = "indiseek-complete"
# Slots that are read; .raw is not.
SLOTS = ("obsm", "varm", "obsp", "varp", "uns")


def open_mudata(path: str | Path | Sequence[str | Path], *, file_key: str = "file") -> MuData:
    """Open an h5mu file or a zarr directory, or several as one; ``X`` and layers stay on disk, all else is read.

    What it returns behaves as a MuData in memory, and changes to it are not written back. Models take it: see
    :class:`DiskMatrix`. The raw slot is not read.

    Parameters
    ----------
    path
        Written by :func:`convert`, mudata or muon. Of several, such as one for each donor, the cells come one after
        another. Features are matched by name, and those are kept that all files have; of what else the files hold,
        ``.obs`` and what ``.obsm`` all modalities have is kept. Where names of cells repeat, the names of the files are
        put before them.
    file_key
        Column of ``.obs`` for the name of the file a cell comes from, where there are several: ready to be a
        ``batch_key``, or a donor.

    Returns
    -------
    Its matrices are CSR datasets of anndata, HDF5 datasets or zarr arrays, of several files what reads these.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    OSError
        If the file is truncated or damaged, or chunks of a converted zarr are missing.
    TypeError
        If `path` is no path, or one of several files holds CSC.
    ValueError
        If it holds no MuData. Of several: if a file is named twice, lacks a modality, has no feature in common with the
        others or names features twice, or a column `file_key` is there already.
    """
    if isinstance(path, Sequence) and not isinstance(path, str | bytes):
        return _open_several([check_path("each path", each) for each in path], file_key)
    path = check_path("path", path)
    return _read(_root(path), path)


def _open_several(paths: Sequence[Path], file_key: str) -> MuData:
    if not paths:
        raise ValueError("expected one or more files, got an empty list; name them.")
    real = [path.resolve() for path in paths]
    twice = sorted({str(path) for path, each in zip(paths, real, strict=True) if real.count(each) > 1})
    if twice:
        raise ValueError(f"expected each file once, got {twice} more than once; name each one time.")
    return joined(dict(zip(_short_names(real), (_read(_root(path), path) for path in paths), strict=True)), file_key)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Names of files without their ending, with as many folders before them as it takes to tell them apart."""
    parts = [(*path.parts[:-1], path.stem) for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-n:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return [path.name for path in paths] if len({path.name for path in paths}) == len(paths) else list(map(str, paths))


@contextmanager
def opened(path: str | Path | Sequence[str | Path]) -> Iterator[MuData]:
    """Open as :func:`open_mudata` does, and close the file at the end; several are closed when they are let go."""
    if isinstance(path, Sequence) and not isinstance(path, str | bytes):
        yield open_mudata(path)
        return
    path = check_path("source", path)
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
    with _readable(path, "mod"):
        groups = root["mod"]
        names = [str(name) for name in groups.attrs.get("mod-order", list(groups))]
    if root.attrs.get(COMPLETE):
        _check_complete(root, names, path)
    with mudata.set_options(pull_on_update=False):
        parts = {name: _open_modality(groups, name, path) for name in names}
        mdata = MuData(parts)
        obs = _annotation(root, "obs", path)
        if not obs.index.equals(mdata.obs_names) and set(obs.index) == set(mdata.obs_names):
            # Cells that lack a modality may stand in an order that no modality has.
            mdata = MuData(parts, obs=obs)
        # Cells that are not the modalities' own are refused later, with a message of their own.
        if obs.index.equals(mdata.obs_names):
            mdata.obs = obs
            for slot in ("obsm", "obsp", "uns"):
                stored = _annotation(root, slot, path) if slot in root else {}
                # Masks of the modalities are mudata's own.
                found = {k: v for k, v in stored.items() if slot == "uns" or k not in names}
                getattr(mdata, slot).update(found)
    return mdata


def _root(path: Path) -> Any:
    if not path.exists():
        # A process may have been killed just when a new zarr took an earlier one's place.
        settle(path.parent)
    if not path.exists():
        raise FileNotFoundError(f"expected an h5mu file or a zarr directory at {path}, got nothing; check the path.")
    try:
        return zarr.open_group(path, mode="r") if path.is_dir() else h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise OSError(
            f"expected a complete h5mu file or zarr directory at {path}, got what cannot be opened ({error}); "
            "restore it, or write it again from its source."
        ) from error


def _open_modality(groups: Any, name: str, path: Path) -> AnnData:
    with _readable(path, f"mod/{name}"):
        group = groups[name]
        stored = [slot for slot in SLOTS if slot in group]
    read = {slot: _annotation(group, slot, path) for slot in ("obs", "var", *stored)}
    with _readable(path, f"mod/{name}"):
        if "X" in group:
            read["X"] = _matrix(group["X"])
        layers = group["layers"] if "layers" in group else {}
        return AnnData(**read, layers={layer: _matrix(layers[layer]) for layer in layers})


def _annotation(group: Any, slot: str, path: Path) -> Any:
    with _readable(path, f"{group.name}/{slot}".strip("/")):
        return read_elem(group[slot])


@contextmanager
def _readable(path: Path, where: str) -> Iterator[None]:
    """Raise OSError that names the place where a file cannot be read."""
    try:
        yield
    except READ_ERRORS as error:
        raise OSError(
            f"expected a readable MuData in {path}, got damage in {where} ({type(error).__name__}: {error}); restore "
            "the file, or write it again from its source, for example with indiseek convert --overwrite."
        ) from error


def _matrix(stored: Any) -> Any:
    return sparse_dataset(stored) if isinstance(stored, h5py.Group | zarr.Group) else stored


def _check_complete(root: zarr.Group, names: Sequence[str], path: Path) -> None:
    """Raise OSError where a file of values or names is gone or empty: zarr would take it for zeros or empty names."""
    arrays: dict[str, zarr.Array] = {}
    for where in ("obs", *(f"mod/{name}/{slot}" for name in names for slot in ("obs", "var"))):
        with _readable(path, where):
            key = f"{where}/{root[where].attrs['_index']}"
            stored = root[key]
            # Names that are stored as a group have arrays that may well be all zero.
            if isinstance(stored, zarr.Array):
                arrays[key] = stored
    for name in names:
        for slot in ("X", "layers"):
            with _readable(path, f"mod/{name}/{slot}"):
                arrays |= _arrays(root, f"mod/{name}/{slot}")
    for key, array in arrays.items():
        n_files = prod(-(-n // step) for n, step in zip(array.shape, array.shards or array.chunks, strict=True))
        directory = path / key / "c"
        n_found = sum(file.is_file() and file.stat().st_size > 0 for file in directory.rglob("*"))
        if n_found < n_files:
            raise OSError(
                f"expected {n_files} chunk files in {directory}, got {n_found}; restore the missing ones, or "
                "write the zarr again from its source, for example with indiseek convert --overwrite."
            )


def _arrays(root: zarr.Group, key: str) -> dict[str, zarr.Array]:
    """The array at `key`, or all arrays of the group there."""
    part = root.get(key)
    if isinstance(part, zarr.Array):
        return {key: part}
    members = [] if part is None else part.members(max_depth=None)
    return {f"{key}/{name}": member for name, member in members if isinstance(member, zarr.Array)}
