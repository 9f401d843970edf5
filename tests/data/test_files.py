"""Files and folders are written whole or not at all, and nothing of the user's is replaced."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import mudata
import numpy as np
import pytest

from indiseek.data import (
    FileLock,
    _files,
    check_replaceable,
    is_ours,
    mark,
    only_writer,
    open_mudata,
    replace_files,
    settle,
    write_mudata,
)
from indiseek.data._size import most_bytes


def _text(text: str):
    return lambda path: path.write_text(text)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("form", ["memory", "strings", "opened", "backed"])
def test_the_room_that_an_h5mu_takes_is_known_before(make_mdata, tmp_path, form):
    cells = make_mdata()
    if form == "strings":
        for part in (cells, *cells.mod.values()):
            part.obs["word"] = [f"long words {'x' * (number % 90)} é" for number in range(cells.n_obs)]
            part.obs["kind"] = np.arange(cells.n_obs) % 3 == 0
            part.uns["more"] = {"table": part.obs.copy(), "text": "y" * 1000, "numbers": np.arange(5000)}
        cells["rna"].raw = cells["rna"]
        cells["prot"].layers["again"] = cells["prot"].X.copy()
    with mudata.set_options(pull_on_update=False):
        write_mudata(cells, tmp_path / "cells.h5mu")
        if form == "opened":
            cells = open_mudata(tmp_path / "cells.h5mu")
        elif form == "backed":
            cells = mudata.read_h5mu(tmp_path / "cells.h5mu", backed="r")
        write_mudata(cells, tmp_path / "again.h5mu")
    size = (tmp_path / "again.h5mu").stat().st_size
    assert size <= most_bytes(cells) <= 1.3 * size + 2**19


def _in_another_process(code: str, *arguments: object) -> int:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False, timeout=120).returncode


def test_all_files_are_written_or_none(tmp_path):
    replace_files(tmp_path, {"a": _text("1"), "b": _text("1")})

    def half(path: Path) -> None:
        path.write_text("ha")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        replace_files(tmp_path, {"a": _text("2"), "b": half})
    assert _names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "1"


def test_permissions_are_those_that_the_user_gives_to_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        replace_files(tmp_path, {"a": _text("1")})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_stays_one_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("1")
    for name, pointed in (("a", "far/file"), ("b", "far/none")):
        (tmp_path / name).symlink_to(pointed)
    replace_files(tmp_path, {"a": _text("2"), "b": _text("3"), "c": _text("4")})
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "2"
    assert (tmp_path / "far" / "none").read_text() == "3"
    assert _names(tmp_path) == ["a", "b", "c", "far"] and _names(tmp_path / "far") == ["file", "none"]


def test_nobody_can_guess_or_enter_the_place_where_is_written(tmp_path):
    seen = []

    def write(path: Path) -> None:
        seen.append(path)
        private = next(part for part in path.parents if part.parent == tmp_path)
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        path.write_text("1")

    for _ in range(2):
        replace_files(tmp_path, {"a": write})
    assert seen[0] != seen[1]
    assert all(str(os.getpid()) not in str(path.relative_to(tmp_path)) for path in seen)


def test_a_folder_of_the_users_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("mine")
    with pytest.raises(IsADirectoryError):
        replace_files(tmp_path, {"a": _text("1")})
    assert (tmp_path / "a" / "mine").read_text() == "mine"
    assert _names(tmp_path) == ["a"]


# --- what is ours -----------------------------------------------------------------------------------------------


def test_ours_are_files_with_our_mark_and_only_those_are_replaced(tmp_path, mdata):
    ours, mine = tmp_path / "ours.h5mu", tmp_path / "mine.h5mu"
    write_mudata(mdata, ours)
    with mudata.set_options(pull_on_update=False):
        mdata.write(mine)
    assert is_ours(ours) and not is_ours(mine)
    check_replaceable([ours, tmp_path / "none"])
    with pytest.raises(FileExistsError, match="expected nothing at .*mine.h5mu, or what indiseek has written, got"):
        check_replaceable([ours, mine])
    (tmp_path / "folder").mkdir()
    assert not is_ours(tmp_path / "folder")
    # A named pipe is not opened, which would wait for ever.
    os.mkfifo(tmp_path / "pipe")
    assert not is_ours(tmp_path / "pipe")


def test_a_target_that_is_read_from_is_refused_by_whatever_name(tmp_path):
    (tmp_path / "cells").write_text(mark())
    (tmp_path / "link").symlink_to("cells")
    (tmp_path / "all").mkdir()
    for target, source in (
        ("cells", "cells"),
        ("link", "cells"),
        ("cells", "link"),
        ("all", "all/x"),
        ("all/x", "all"),
    ):
        with pytest.raises(FileExistsError, match="expected another place to write than .*, which is read from, got"):
            check_replaceable([tmp_path / target], [tmp_path / source])


# --- locks ------------------------------------------------------------------------------------------------------


def test_one_process_holds_a_lock(tmp_path):
    message = rf"no other process to write .*/a, got the lock .*a.lock of process {os.getpid()}; wait for it, or if it"
    with only_writer(tmp_path / "a"):
        with pytest.raises(FileExistsError, match=message), only_writer(tmp_path / "a"):
            pass
    assert _names(tmp_path) == []
    with only_writer(tmp_path / "a"):
        pass


@pytest.mark.parametrize("text", ["", "process 1 on elsewhere", f"process 1 on {socket.gethostname()}"])
def test_a_lock_that_nobody_holds_is_taken_over(tmp_path, text):
    # What a kill or a full disk leaves; another process may have the number by now.
    (tmp_path / "a.lock").write_text(text)
    with only_writer(tmp_path / "a"):
        pass
    assert _names(tmp_path) == []


@pytest.mark.parametrize("what", ["a file", "a link", "a folder"])
def test_a_users_file_that_is_called_like_a_lock_is_left_alone(tmp_path, what):
    (tmp_path / "mine").write_text("my notes")
    lock = tmp_path / "a.lock"
    if what == "a file":
        lock.write_text("my notes")
    elif what == "a link":
        lock.symlink_to("mine")
    else:
        lock.mkdir()
    with pytest.raises(FileExistsError, match="expected a lock of indiseek or nothing at .*a.lock, got something else"):
        FileLock(lock).acquire()
    assert (tmp_path / "mine").read_text() == "my notes"
    assert lock.exists()


def test_without_locks_of_the_file_system_a_living_process_is_respected(tmp_path, monkeypatch, log):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    lock, here = tmp_path / "a.lock", socket.gethostname()
    lock.write_text(f"process {os.getpid()} on {here}")
    with pytest.raises(FileExistsError, match="no other process to write"), only_writer(tmp_path / "a"):
        pass
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    lock.write_text(f"process {done.pid} on {here}")
    with only_writer(tmp_path / "a"):
        assert "cannot be locked: see to it that no other process writes" in log.text
    replace_files(tmp_path, {"b": _text("1")})
    assert _names(tmp_path) == ["b"]


# --- kills ------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from indiseek.data import _files
directory, when = Path(sys.argv[1]), int(sys.argv[2])
replace = Path.replace
def killed(path, target):
    global when
    if not when:
        os.kill(os.getpid(), signal.SIGKILL)
    when -= 1
    return replace(path, target)
def write(path):
    path.write_text("2")
    if when < 0:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = killed
_files.replace_files(directory, {"a": write, "b": write})
"""


@pytest.mark.parametrize(("when", "left"), [(-1, "1"), (0, "2"), (1, "2")])
def test_killed_at_any_moment_all_files_are_the_old_ones_or_all_are_the_new_ones(tmp_path, when, left):
    replace_files(tmp_path, {"a": _text("1"), "b": _text("1")})
    assert _in_another_process(KILLED, tmp_path, when) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".indiseek-*.tmp"))) == 1
    settle(tmp_path)
    assert _names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == left


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    assert _in_another_process(KILLED, tmp_path, -1) == -signal.SIGKILL
    (tmp_path / ".indiseek-mine.tmp").mkdir()
    (tmp_path / ".indiseek-mine.tmp" / "notes").write_text("mine")

    def write(path: Path) -> None:
        path.write_text("1")
        settle(tmp_path)
        replace_files(tmp_path, {"b": _text("1")})
        assert path.read_text() == "1"

    replace_files(tmp_path, {"a": write})
    assert _names(tmp_path) == [".indiseek-mine.tmp", "a", "b"]


# --- full disks and Ctrl-C --------------------------------------------------------------------------------------


def _raise(error: BaseException):
    def write(path: Path) -> None:
        path.write_text("half")
        raise error

    return write


FULL = "expected to write a to .*, got .*; what was there before stays: see whether the disk is full, make room"


def test_an_error_is_called_a_full_disk_only_if_it_is_one(tmp_path, monkeypatch):
    free = namedtuple("usage", "free")
    hdf5 = "Can't write data (file write failed: time = now, errno = 28, error message = 'No space left on device')"
    chained = RuntimeError("unexpected pos 64 vs 0")
    chained.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "quota"), RuntimeError(hdf5), chained):
        with pytest.raises(OSError, match=FULL) as caught:
            replace_files(tmp_path, {"a": _raise(error)})
        assert caught.value.errno == errno.ENOSPC
    vague = RuntimeError("Can't decrement id ref count")
    with pytest.raises(OSError, match="expected to write a to .*; what was there before stays: see to its") as caught:
        replace_files(tmp_path, {"a": _raise(vague)})
    assert caught.value.errno == errno.EIO and "disk" not in str(caught.value)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=FULL):
        patch.setattr(_files.shutil, "disk_usage", lambda _: free(100))
        replace_files(tmp_path, {"a": _raise(vague)})
    for error in (PermissionError(errno.EACCES, "no"), OSError(errno.EFBIG, "File too large")):
        with pytest.raises(OSError) as caught:
            replace_files(tmp_path, {"a": _raise(error)})
        assert caught.value is error
    assert _names(tmp_path) == []


def test_ctrl_c_is_ctrl_c_whatever_a_library_makes_of_it(tmp_path):
    replace_files(tmp_path, {"a": _text("1")})

    def as_hdf5_does(path: Path) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            path.write_text("2")
        except KeyboardInterrupt:
            raise RuntimeError("Can't decrement id ref count") from None

    def swallowed(path: Path) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            path.write_text("half")
        except KeyboardInterrupt:
            path.write_text("half")

    before = signal.getsignal(signal.SIGINT)
    for write in (as_hdf5_does, swallowed):
        with pytest.raises(KeyboardInterrupt):
            replace_files(tmp_path, {"a": write})
        assert (tmp_path / "a").read_text() == "1"
        assert _names(tmp_path) == ["a"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("mount"), reason="mounts a small file system")
def test_on_a_disk_that_is_really_full_the_earlier_files_stay(tmp_path, mdata):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("may not mount")
    try:
        replace_files(disk, {"a": _text("1")})
        with pytest.raises(OSError, match="see whether the disk is full") as caught:
            replace_files(disk, {"b": _text("2"), "a": lambda path: path.write_bytes(bytes(2**21))})
        assert caught.value.errno == errno.ENOSPC
        (disk / "filling").write_bytes(bytes(2**20 - 2**17))
        # HDF5 does not come to see that the disk is full: a process in which it does crashes later.
        with pytest.raises(OSError, match=r"MiB are needed and 0.1 MiB are free; .* see whether the disk is full"):
            write_mudata(mdata, disk / "a")
        assert (disk / "a").read_text() == "1"
        assert _names(disk) == ["a", "filling"]
    finally:
        subprocess.run(["umount", disk], check=True)
