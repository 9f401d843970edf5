"""Working folders, in which one process writes beside its target, and what dead processes leave of them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from indiseek.data._locks import FileLock, lock_of_the_dead

_LOCK, _NEW, _COMPLETE, _EARLIER = "lock", "new", "complete", "earlier"


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


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises
    ------
    OSError
        If there is something else, or none can be made; of the class that tells why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"expected a folder at {path}, or a place to make one, got {(error.strerror or str(error)).lower()}"
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise type(error)(f"{reason}; give another place.") from error


class Workspace:
    """Folder of one process beside what it is to write, under a name that nobody can guess.

    Nobody else may write there, so that no planted link is followed; and one rename says that all is complete.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._n_made = 0

    def __enter__(self) -> Workspace:
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
            sync(file)
        # From here on a process that comes later completes what this one does not.
        self._n_made = sum(1 for _ in self.new.iterdir())
        self.new.rename(self.path / _COMPLETE)
        sync(self.path)
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
    sync(directory)


def _remove(workspace: Path) -> None:
    """Remove a workspace, its lock last: by that a later process knows it if this one does not get to the end."""
    with suppress(OSError):
        for path in workspace.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        if [path.name for path in workspace.iterdir()] == [_LOCK]:
            (workspace / _LOCK).unlink()
        workspace.rmdir()


def sync(path: Path) -> None:
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
