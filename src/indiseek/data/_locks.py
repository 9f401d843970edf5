"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

# Far behind the text, because Windows lets nobody read what is locked.
_LOCK_BYTE = 1 << 20
_MOST_TEXT = 1000
# What we write into a lock; nothing is left in one where a kill or a full disk came before the text.
_HOLDER = re.compile(r"process (\d+) on .*|")


class FileLock:
    """Lock file that one process holds at a time. The system frees it when that process ends, also by a kill.

    Parameters
    ----------
    path
        The file, in an existing directory.
    keep
        Whether it stays, empty, when the lock is given back.

    Attributes
    ----------
    sure
        Whether the file system has locks. Where it has none, only a process that lives on this machine is respected.
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path, self.keep, self.sure = path, keep, True
        self._file: IO[bytes] | None = None

    def acquire(self) -> str:
        """Take the lock, also one whose process is dead.

        Returns
        -------
        The process that ended without giving it back; empty for none.

        Raises
        ------
        BlockingIOError
            If another process holds it; names the process.
        FileExistsError
            If the file is something else than a lock.
        """
        while self._file is None:
            file = _opened(self.path)
            try:
                locked = _try_lock(file)
                holder = _holder(file, self.path)
                if locked is False or (locked is None and _lives_here(holder)):
                    raise BlockingIOError(holder or "another process")
                # Whoever held it may have deleted the file since it was opened.
                if _is_still(file, self.path):
                    self._file, self.sure = file, locked is not None
            finally:
                if self._file is None:
                    file.close()
        _write_text(self._file, f"process {os.getpid()} on {socket.gethostname()}")
        return holder

    def release(self) -> None:
        """Give the lock back."""
        if self._file is None:
            return
        file, self._file = self._file, None
        _write_text(file, "")
        if not self.keep and sys.platform != "win32":
            # Before it is free: afterwards it may be another process's.
            self.path.unlink(missing_ok=True)
        # Closing gives the lock back, as the end of the process does.
        file.close()


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


def lock_of_the_dead(path: Path) -> FileLock | None:
    """The lock at `path`, taken, if the process that held it is certainly dead; None if it lives or nobody can tell."""
    lock = FileLock(path, keep=True)
    try:
        with path.open("rb") as file:
            here = _is_here(_holder(file, path))
        lock.acquire()
    except OSError:
        return None
    if not lock.sure and not here:
        lock.release()
        return None
    return lock


def _opened(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise _not_a_lock(path) from error
        raise


def _not_a_lock(path: Path) -> FileExistsError:
    return FileExistsError(f"expected a lock of indiseek or nothing at {path}, got something else; move it elsewhere.")


def _holder(file: IO[bytes], path: Path) -> str:
    file.seek(0)
    text = file.read(_MOST_TEXT).decode(errors="replace").strip()
    if not _HOLDER.fullmatch(text):
        raise _not_a_lock(path)
    return text


def _is_here(holder: str) -> bool:
    return holder.endswith(f" on {socket.gethostname()}")


def _lives_here(holder: str) -> bool:
    found = _HOLDER.fullmatch(holder)
    if not _is_here(holder) or found is None:
        return False
    if sys.platform == "win32":
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _try_lock(file: IO[bytes]) -> bool | None:
    """Whether the lock is ours now; None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            file.seek(_LOCK_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _write_text(file: IO[bytes], text: str) -> None:
    # For people and for file systems without locks: a full disk does not make the lock less of one.
    with suppress(OSError):
        file.seek(0)
        file.truncate(0)
        file.write(text.encode())
