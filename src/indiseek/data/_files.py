"""The one way in which files and folders are written: whole or not at all, and nothing of the user's is replaced."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import IO

import mudata
from mudata import MuData

from indiseek.data._locks import FileLock, lock_of_the_dead

logger = logging.getLogger(__name__)

# What tells our files from the user's: only those are ever replaced or deleted.
_MARK = "written by indiseek"
# The mark stands near the start of a file; of a zarr, in its small root file.
_HEAD_BYTES = 2**16
# An h5mu begins with a block of 512 bytes that HDF5 leaves alone, of which mudata fills the first hundred.
_MARK_AT, _USER_BLOCK = 256, 512
_LOCK, _NEW, _COMPLETE, _EARLIER = "lock", "new", "complete", "earlier"
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Less than this is free where a write of HDF5 or torch has failed for want of room.
_NO_ROOM = 2**20


def mark() -> str:
    """Words that every file carries which this package has written."""
    return f"{_MARK} {version('indiseek')}"


def is_ours(path: Path) -> bool:
    """Whether this package has written the file or the zarr at `path`."""
    if path.is_dir():
        path = path / "zarr.json"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _MARK.encode() in file.read(_HEAD_BYTES)


def check_replaceable(paths: Iterable[Path], sources: Iterable[Path] = ()) -> None:
    """Raise FileExistsError for a target that is read from, or that is there and not ours.

    Parameters
    ----------
    paths
        Files and zarrs that are to be written.
    sources
        What is read meanwhile.
    """
    read = [source.resolve() for source in sources]
    for path in paths:
        target = path.resolve()
        for source in read:
            if target == source or target in source.parents or source in target.parents:
                raise FileExistsError(
                    f"expected another place to write than {source}, which is read from, got {path}; choose another."
                )
        if target.exists() and not is_ours(target):
            raise FileExistsError(
                f"expected nothing at {path}, or what indiseek has written, got something else; move it, or choose "
                "another place."
            )


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
        spaces: dict[Path, _Workspace] = {}
        for target in targets.values():
            if target.parent not in spaces:
                spaces[target.parent] = stack.enter_context(_Workspace(target.parent))
        for name, write in writers.items():
            path = spaces[targets[name].parent].new / targets[name].name
            try:
                write(path)
            except RuntimeError as error:
                # Before the half file is removed, and with it the sign that the disk is full.
                raise _of_hdf5(error, path.parent) from error
            _sync(path)
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
    with _interruptible() as state, _Workspace(target.parent) as space:
        yield space.new / target.name
        state.hold()
        space.commit()


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Keep other processes from writing the same, by a lock beside it.

    Parameters
    ----------
    target
        File or folder, in an existing directory.

    Raises
    ------
    FileExistsError
        If another process writes it.
    """
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire()
    except BlockingIOError as error:
        raise FileExistsError(
            f"expected no other process to write {target}, got the lock {lock.path} of "
            f"{str(error).removesuffix(f' on {socket.gethostname()}')}; wait for it, or if it is gone delete the lock."
        ) from error
    if not lock.sure:
        logger.warning(f"{lock.path} cannot be locked: see to it that no other process writes {target}.")
    try:
        yield
    finally:
        lock.release()


def settle(directory: Path) -> None:
    """End what dead processes have begun in `directory`: complete what they wrote whole, and remove the rest."""
    if not directory.is_dir():
        return
    for path in sorted(directory.glob(".indiseek-*.tmp")):
        if path.is_symlink() or not path.is_dir():
            continue
        if (lock := lock_of_the_dead(path / _LOCK)) is None:
            # Killed before there was a lock; one that is not empty is not removed.
            with suppress(OSError):
                path.rmdir()
            continue
        try:
            with suppress(OSError):
                _move(path, directory)
            if not _complete(path):
                _remove(path)
        finally:
            lock.release()


class _Workspace:
    """Folder of one process beside what it is to write, under a name that nobody can guess.

    Nobody else may write there, so that no planted link is followed; and one rename says that all is complete.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._n_made = 0

    def __enter__(self) -> _Workspace:
        settle(self.directory)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=".indiseek-", suffix=".tmp", dir=self.directory))
            self._lock = FileLock(self.path / _LOCK, keep=True)
            try:
                self._lock.acquire()
                (self.path / _NEW).mkdir()
                break
            except (FileNotFoundError, BlockingIOError):
                # Another process has taken it for that of a dead one.
                continue
            except BaseException:
                self.__exit__()
                raise
        return self

    @property
    def new(self) -> Path:
        """Where to write."""
        return self.path / _NEW

    def commit(self) -> None:
        """Put what was written into its place."""
        for file in self.new.rglob("*"):
            _sync(file)
        # From here on a process that comes later completes what this one does not.
        self._n_made = sum(1 for _ in self.new.iterdir())
        self.new.rename(self.path / _COMPLETE)
        _sync(self.path)
        _move(self.path, self.directory)

    def __exit__(self, *_: object) -> None:
        try:
            # What has begun to take the earlier files' place is completed by whoever writes or loads there next.
            if not 0 < len(_complete(self.path)) < self._n_made:
                _remove(self.path)
        finally:
            self._lock.release()


def _complete(workspace: Path) -> list[Path]:
    """What is written whole and not yet in its place."""
    return sorted((workspace / _COMPLETE).iterdir()) if (workspace / _COMPLETE).is_dir() else []


def _move(workspace: Path, directory: Path) -> None:
    for made in _complete(workspace):
        target, earlier = directory / made.name, None
        if target.is_dir() and made.is_dir():
            earlier = Path(tempfile.mkdtemp(prefix=_EARLIER, dir=workspace)) / made.name
            target.rename(earlier)
        try:
            made.replace(target)
        except OSError:
            if earlier is not None:
                earlier.rename(target)
            raise
    _sync(directory)


def _remove(workspace: Path) -> None:
    """Remove a workspace, its lock last: by that a later process knows it if this one does not get to the end."""
    with suppress(OSError):
        for path in workspace.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        if [path.name for path in workspace.iterdir()] == [_LOCK]:
            (workspace / _LOCK).unlink()
        workspace.rmdir()


def _sync(path: Path) -> None:
    """See to it that a machine that goes down does not keep the name and lose what it stands for."""
    # A directory cannot be opened on Windows, and not every file system can do this.
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF):
                raise
        finally:
            os.close(descriptor)


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
    return partial(_write_h5mu, mdata)


def _write_h5mu(mdata: MuData, path: Path) -> None:
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
