"""The one way in which files and folders are written: whole or not at all, and nothing of the user's is replaced."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

import mudata
from mudata import MuData

from indiseek.data._joined import JoinedRows
from indiseek.data._ours import mark
from indiseek.data._size import most_bytes
from indiseek.data._workspace import Workspace, sync

# An h5mu begins with a block of 512 bytes that HDF5 leaves alone, of which mudata fills the first hundred.
_MARK_AT, _USER_BLOCK = 256, 512
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Less than this is free where a write of HDF5 or torch has failed for want of room.
_NO_ROOM = 2**20


def replace_files(directory: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files, and only when all are written put them in the place of earlier ones.

    They are written one after the other in a folder that only this process knows. A name that is a link stays one:
    what it points to is replaced. Of a process that is killed, :func:`settle` completes what was written whole and
    removes the rest.

    Parameters
    ----------
    directory
        Existing directory.
    writers
        By name of a file: what writes it at the path that it is given.

    Raises
    ------
    OSError
        If the disk is full, or the file cannot be written otherwise; what was there before stays.
    KeyboardInterrupt
        After Ctrl-C, whatever the libraries make of it; what was there before stays, unless all was written.
    """
    targets = {name: Path(os.path.realpath(directory / name)) for name in writers}
    with _interruptible() as state, _full_disk_named(writers, directory), ExitStack() as stack:
        spaces: dict[Path, Workspace] = {}
        for target in targets.values():
            if target.parent not in spaces:
                spaces[target.parent] = stack.enter_context(Workspace(target.parent))
        for name, write in writers.items():
            path = spaces[targets[name].parent].new / targets[name].name
            try:
                write(path)
            except RuntimeError as error:
                # Before the half file is removed, and with it the sign that the disk is full.
                raise _of_hdf5(error, path.parent) from error
            sync(path)
        state.hold()
        for space in spaces.values():
            space.commit()


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Give a path to write a folder at; it takes the place of `target` only when all has gone well.

    Parameters
    ----------
    target
        Folder wanted, no link, in an existing directory.
    """
    with _interruptible() as state, Workspace(target.parent) as space:
        yield space.new / target.name
        state.hold()
        space.commit()


class _Interrupts:
    """Ctrl-C while a file is written."""

    def __init__(self) -> None:
        self.seen = self.held = False

    def hold(self) -> None:
        """From now on wait with it for the end; raise KeyboardInterrupt where a library has swallowed one."""
        self.held = True
        if self.seen:
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Interrupts]:
    """Raise KeyboardInterrupt for Ctrl-C, also where a library turns it into an error of its own or swallows it."""
    state = _Interrupts()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield state
        return

    def handle(number: int, frame: FrameType | None) -> None:
        state.seen = True
        if not state.held:
            before(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield state
    except Exception as error:
        if state.seen:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if state.seen:
        raise KeyboardInterrupt


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk or the user's share of it is full."""
    while error is not None:
        # HDF5 gives the number in its text only.
        if getattr(error, "errno", None) in _FULL or any(f"errno = {number}," in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_hdf5(error: RuntimeError, directory: Path) -> OSError:
    """HDF5 and torch raise RuntimeError, and need not say why."""
    full = is_full_disk(error) or shutil.disk_usage(directory).free < _NO_ROOM
    return OSError(errno.ENOSPC if full else errno.EIO, str(error))


@contextmanager
def _full_disk_named(names: Iterable[str], directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        begin = f"expected to write {', '.join(names)} to {directory}, got {error}; what was there before stays: see "
        if is_full_disk(error):
            raise OSError(
                errno.ENOSPC, f"{begin}whether the disk is full, make room or give another directory."
            ) from error
        if error.errno == errno.EIO:
            raise OSError(errno.EIO, f"{begin}to its cause, and write again.") from error
        raise


def write_mudata(mdata: MuData, path: Path) -> None:
    """Write an h5mu file so that an earlier one survives a failure half way.

    Parameters
    ----------
    mdata
        Cells. Backed ones stay backed by their own file.
    path
        File in an existing directory.
    """
    replace_files(path.parent, {path.name: mudata_writer(mdata)})


def mudata_writer(mdata: MuData) -> Callable[[Path], None]:
    """What writes `mdata` at a path, for :func:`replace_files`."""
    # Those of a backed one are not to be touched: its file may be closed.
    parts = [] if mdata.isbacked else [adata for adata in mdata.mod.values() if adata.filename is None]
    stored = [each for adata in parts for each in (adata.X, *adata.layers.values())]
    if any(isinstance(each, JoinedRows) for each in stored):
        raise TypeError(
            "expected cells of one file or in memory, got some that lie in several files, of which an h5mu would take "
            "a copy in memory; write them as one with indiseek.data.convert([...], 'all.zarr') and open that."
        )
    return partial(_write_h5mu, mdata)


def _write_h5mu(mdata: MuData, path: Path) -> None:
    # HDF5 leaves a process behind that crashes later where the disk fills up under it.
    need, free = most_bytes(mdata), shutil.disk_usage(path.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 2**20:.1f} MiB are needed and {free / 2**20:.1f} MiB are free")
    # Not MuData.write, after which a backed one would go by this temporary name.
    with mudata.set_options(pull_on_update=False):
        mudata.write_h5mu(path, mdata)
    with path.open("rb+") as file:
        _mark_h5mu(file)


def _mark_h5mu(file: IO[bytes]) -> None:
    block = file.read(_USER_BLOCK)
    # Another mudata may need the room, or leave none.
    if block.startswith(b"MuData") and not block[_MARK_AT:].strip(b"\0"):
        file.seek(_MARK_AT)
        file.write(mark().encode())
