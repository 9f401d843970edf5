"""Whole fits in two processes: against one process, and when one of the two is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import distributed_fit
import numpy as np
import pytest
import torch
from distributed_fit import fit

from indiseek.models import IndiSeekModel

SCRIPT = distributed_fit.__file__
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def _results(directory: Path) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(directory / f"{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A plain script that asks for two devices: Lightning starts the second process."""
    directory = tmp_path_factory.mktemp("two")
    done = _run(SCRIPT, str(directory), "2")
    assert done.returncode == 0, done.stderr
    return directory, _results(directory)


def test_two_processes_learn_what_one_learns_and_stop_at_the_same_epoch(two, tmp_path):
    directory, (first, second) = two
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    alone = fit(tmp_path, 1)
    epochs = len(alone.history["shared/validation_loss"])
    assert 2 <= epochs < distributed_fit.TRAIN["max_epochs"]["shared"]
    # Sums are rounded in another order, and the optimiser turns the sign of a gradient near zero into a whole step.
    for key, table in alone.history.items():
        np.testing.assert_allclose(first[key.replace("/", ":")], table.to_numpy(), rtol=0.03, atol=0.01, err_msg=key)
    np.testing.assert_allclose(first["shared"], alone.get_latent_representation(), atol=0.02)
    # One of them wrote the model, and nothing is left of the checkpoint.
    loaded = IndiSeekModel.load(directory / "model", distributed_fit.cells(), accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), first["shared"], atol=1e-6)
    assert [path.name for path in (directory / "checkpoint").iterdir()] == ["checkpoint.lock"]


def test_codes_are_written_by_the_first_process_while_the_other_waits(two):
    for found in two[1]:
        for name in ("shared", "rna", "prot"):
            np.testing.assert_allclose(found[f"X_indiseek_{name}"], found[name], rtol=0, atol=1e-6, err_msg=name)


def test_an_error_of_the_first_process_is_one_of_all(two):
    directory, _ = two
    first, second = ((directory / f"{rank}.txt").read_text() for rank in range(2))
    assert re.match(r"FileExistsError: expected a new path, got .*codes\.zarr, which exists; choose another", first)
    assert re.match(
        r"RuntimeError: expected the first process to write .*codes\.zarr, got an error there \(FileExistsError: "
        r"expected a new path, .*\); see to its cause, and call embed again in every process\.$",
        second,
    )


def test_a_killed_process_ends_the_job_and_the_next_one_goes_on_to_the_same_result(two, tmp_path):
    _, uninterrupted = two
    start = time.monotonic()
    killed = _run(*TORCHRUN, SCRIPT, str(tmp_path), "2", "kill")
    assert time.monotonic() - start < 200
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr or "-9" in killed.stderr
    assert not (tmp_path / "0.npz").exists()
    state = torch.load(tmp_path / "checkpoint" / "checkpoint.pt", weights_only=True)
    assert state["stage"] == "specific" and len(state["state"]["epochs"]) == 1
    assert not list((tmp_path / "checkpoint").glob("*.tmp"))
    resumed = _run(*TORCHRUN, SCRIPT, str(tmp_path), "2")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stderr
    for found, expected in zip(_results(tmp_path), uninterrupted, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
