"""Write a zarr whole or not at all, with checksums."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec


@contextmanager
def new_zarr(target: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a path to write a zarr at; it takes the place of `target` only when all has gone well.

    What was at `target` stays until then, and stays if anything fails. A lock file beside `target` keeps other
    processes from writing the same.

    Parameters
    ----------
    target
        Directory wanted, ``.zarr``.
    overwrite
        Whether a zarr that is there may be replaced.

    Raises
    ------
    FileExistsError
        If `target` exists and may not be replaced, or another process writes it.
    OSError
        If the disk is too full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = (target.with_name(f".{target.name}.{word}") for word in ("new", "earlier"))
    with _locked(target):
        # What a process that was killed has left; the lock is ours.
        if earlier.exists() and not target.exists():
            earlier.replace(target)
        shutil.rmtree(earlier, ignore_errors=True)
        _check_target(target, overwrite)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            yield temporary
            _swap(temporary, target, earlier)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"expected room for {target}, got a full disk ({error.strerror}); nothing new is left there and what "
                "was there is untouched: make room or choose another disk, and start again",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_room(directory: Path, n_bytes: int) -> None:
    """Raise OSError if `n_bytes`, which are surely needed, are not free."""
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise OSError(
            errno.ENOSPC, f"at least {n_bytes / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free"
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = target.with_name(f"{target.name}.lock")
    try:
        with lock.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError as error:
        raise FileExistsError(
            f"expected no other process to write {target}, got the lock {lock} of process {lock.read_text()}; wait for "
            "it, or if it is gone delete the lock."
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"expected a new path, got {target}, which exists; choose another, or overwrite it.")
    if target.exists() and not any((target / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise FileExistsError(
            f"expected a zarr directory to overwrite, got {target}, which is something else; choose another path."
        )


def _swap(new: Path, target: Path, earlier: Path) -> None:
    if target.exists():
        target.replace(earlier)
    try:
        new.replace(target)
    except OSError:
        if earlier.exists():
            earlier.replace(target)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


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
