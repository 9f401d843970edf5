"""Write a zarr whole or not at all, with checksums."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from indiseek._checks import check_flag, check_path
from indiseek.data._files import is_full_disk, replaced_folder
from indiseek.data._locks import only_writer
from indiseek.data._ours import check_replaceable, mark
from indiseek.data._workspace import make_folder, settle


@contextmanager
def new_zarr(target: str | Path, *, overwrite: bool, sources: Iterable[Path] = ()) -> Iterator[Path]:
    """Give a path to write a zarr at; it takes the place of `target` only when all has gone well.

    What was at `target` stays until then, and stays if anything fails. A lock file beside `target` keeps other
    processes from writing the same. Where `target` is a link, what it points to is written.

    Parameters
    ----------
    target
        Directory wanted, ``.zarr``.
    overwrite
        Whether a zarr that is there may be replaced. Only one that this package has written is.
    sources
        Files and zarrs that are read meanwhile, which are never replaced.

    Raises
    ------
    FileExistsError
        If `target` exists and may not be replaced, is read from, or another process writes it.
    OSError
        If the disk is too full.
    """
    check_flag("overwrite", overwrite)
    target = Path(os.path.realpath(check_path("target", target)))
    if not target.name:
        raise FileExistsError(f"expected a new path, got {target}, which exists; choose another.")
    try:
        make_folder(target.parent)
        with only_writer(target):
            settle(target.parent)
            _check_target(target, overwrite, sources)
            with replaced_folder(target) as path:
                yield path
                zarr.open_group(path, mode="r+").attrs["indiseek"] = mark()
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"expected room for {target}, got a full disk ({error.strerror}); nothing new is left there and what "
            "was there is untouched: make room or choose another disk, and start again",
        ) from error


def check_room(directory: Path, n_bytes: int) -> None:
    """Raise OSError if `n_bytes`, which are surely needed, are not free."""
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise OSError(
            errno.ENOSPC, f"at least {n_bytes / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free"
        )


def _check_target(target: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"expected a new path, got {target}, which exists; choose another, or overwrite it.")
    if target.exists() and not any((target / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise FileExistsError(
            f"expected a zarr directory to overwrite, got {target}, which is something else; choose another path."
        )
    check_replaceable([target], sources)


def checked_array(
    group: zarr.Group, key: str, shape: tuple[int, ...], dtype: Any, *, n_chunk: int, chunks_in_shard: int = 1
) -> zarr.Array:
    """Create an array of which every chunk is written, compressed and with a checksum.

    Parameters
    ----------
    group, key
        Where.
    shape, dtype
        Of the array.
    n_chunk
        Rows in a chunk, which is what is read and checked at once.
    chunks_in_shard
        Chunks in a file.
    """
    return group.create_array(
        key,
        shape=shape,
        dtype=dtype,
        chunks=(n_chunk, *shape[1:]),
        shards=(n_chunk * chunks_in_shard, *shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
        # A chunk of zeros that is not written could not be told from a lost one.
        config={"write_empty_chunks": True},
    )
