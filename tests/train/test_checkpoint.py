"""The file of an unfinished fit: whole or not there, and one fit's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from indiseek.train import Checkpoint

SETTINGS = {"seed": 0, "stages": {"shared": {"lr": 0.1}}, "split": {"external_indexing": None}, "names": ("a", "b")}
STATE = {"stage": "shared", "state": {"weights": torch.arange(3.0)}}


def _checkpoint(directory: Path | None, **changes: object) -> Checkpoint:
    return Checkpoint(directory, SETTINGS | changes, writes=True)


def _write(directory: Path) -> bytes:
    with _checkpoint(directory) as checkpoint:
        checkpoint.write(STATE)
    return (directory / "checkpoint.pt").read_bytes()


def test_what_was_written_is_read_until_it_is_removed(tmp_path):
    with _checkpoint(tmp_path) as checkpoint:
        assert checkpoint.read() is None
        checkpoint.write(STATE)
    with _checkpoint(tmp_path) as checkpoint:
        found = checkpoint.read()
        assert found["stage"] == "shared"
        assert torch.equal(found["state"]["weights"], STATE["state"]["weights"])
        checkpoint.remove()
        assert checkpoint.read() is None


def test_no_directory_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with _checkpoint(None) as checkpoint:
        checkpoint.write(STATE)
        assert checkpoint.read() is None
        checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes(tmp_path):
    before = _write(tmp_path)
    with _checkpoint(tmp_path), Checkpoint(tmp_path, SETTINGS, writes=False) as other:
        assert other.read()["stage"] == "shared"
        other.remove()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_write_that_fails_leaves_the_earlier_state(tmp_path, monkeypatch):
    before = _write(tmp_path)

    def half(payload, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"), _checkpoint(tmp_path) as checkpoint:
        checkpoint.write(STATE)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.lock", "checkpoint.pt"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"something else"])
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(_write(tmp_path)))
    message = (
        "expected a complete checkpoint at .*checkpoint.pt, got a damaged one or something else; delete it to train"
    )
    with _checkpoint(tmp_path) as checkpoint, pytest.raises(ValueError, match=message):
        checkpoint.read()


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    good = _write(tmp_path)
    path = tmp_path / "checkpoint.pt"
    n_noticed = 0
    for bit in range(0, 8 * len(good), 8 * len(good) // 150):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with _checkpoint(tmp_path) as checkpoint:
            try:
                assert torch.equal(checkpoint.read()["state"]["weights"], STATE["state"]["weights"])
            except ValueError as error:
                n_noticed += 1
                assert str(error).startswith(f"expected a complete checkpoint at {path}, got a damaged one")
    assert n_noticed > 50


def test_ctrl_c_while_the_state_is_written_is_ctrl_c_and_leaves_the_earlier_one(tmp_path, monkeypatch):
    before, save = _write(tmp_path), torch.save

    def stopped(payload, file):
        os.kill(os.getpid(), signal.SIGINT)
        save(payload, file)

    monkeypatch.setattr(torch, "save", stopped)
    with pytest.raises(KeyboardInterrupt), _checkpoint(tmp_path) as checkpoint:
        checkpoint.write(STATE)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.lock", "checkpoint.pt"]


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"settings": print}, tmp_path / "checkpoint.pt")
    with _checkpoint(tmp_path) as checkpoint, pytest.raises(ValueError, match="damaged one or something else"):
        checkpoint.read()


def test_all_that_differs_is_named(tmp_path):
    _write(tmp_path)
    changed = _checkpoint(tmp_path, stages={"shared": {"lr": 0.2}}, names=("a", "b"), seed=3)
    message = "belongs to, seed=0, stages/shared/lr=0.1, got seed=3, stages/shared/lr=0.2; repeat that call .*or delete"
    with changed as checkpoint, pytest.raises(ValueError, match=message):
        checkpoint.read()
    with _checkpoint(tmp_path, more=1) as checkpoint, pytest.raises(ValueError, match="more=None, got more=1"):
        checkpoint.read()


def test_a_directory_in_use_is_refused_and_free_afterwards(tmp_path, log):
    with _checkpoint(tmp_path):
        with pytest.raises(ValueError, match=r"in use by process \d+ on .*; wait for it, end it, or give another"):
            _checkpoint(tmp_path).__enter__()
    with _checkpoint(tmp_path):
        pass
    assert "takes over" not in log.text


HOLD = """
import os, signal, sys, torch
from indiseek.train import Checkpoint
checkpoint = Checkpoint(sys.argv[1], {"seed": 0}, writes=True).__enter__()
checkpoint.write({"stage": "shared"})
def half(payload, file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
checkpoint.write({"stage": "specific"})
"""


def test_of_a_process_killed_while_it_writes_the_earlier_state_is_left_and_the_directory_taken_over(tmp_path, log):
    done = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], check=False, timeout=120)
    assert done.returncode == -9
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    with Checkpoint(tmp_path, {"seed": 0}, writes=True) as checkpoint:
        assert checkpoint.read()["stage"] == "shared"
        assert not list(tmp_path.glob("*.tmp"))
        assert "did not finish its fit in" in log.text and "this one takes over" in log.text
    log.clear()
    with _checkpoint(tmp_path):
        assert "takes over" not in log.text


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, log, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert _write(tmp_path)
    assert "cannot be locked" in log.text and "no other fit uses this directory" in log.text
