"""The fault run runs, finds nothing, and would find something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def _tables(page: str) -> dict[str, dict[str, list[int]]]:
    """Whole numbers of each line, by heading and first column."""
    found = {}
    for part in page.split("## ")[1:]:
        heading, *lines = part.splitlines()
        cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        found[heading] = {name: [int(x) for x in numbers if x.isdecimal()] for name, *numbers in cells}
    return found


def test_a_quick_run_finds_no_problem(tmp_path):
    command = [sys.executable, BENCHMARKS / "faults.py", "--quick", "--only", "save"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout
    tables = _tables(done.stdout)
    n_kills, _, earlier, new, problems = tables["Killed"]["save"]
    assert n_kills == 2 == earlier + new and problems == 0
    assert tables["Flipped bits"].keys() >= {"model.pt", "mdata.h5mu"}
    for name, n_flips in (("model.pt", 6), ("mdata.h5mu", 2)):
        n_bytes, n, refused, same, problems = tables["Flipped bits"][name]
        assert n_bytes > 5e4 and n == n_flips == refused + same and problems == 0
    # torch leaves an empty folder of its own.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torch")] == []


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import faults

    return faults


def test_damage_that_is_not_noticed_or_not_explained_is_a_problem(faults, monkeypatch, tmp_path):
    given = tmp_path / "given"
    (given / "model1").mkdir(parents=True)
    (given / "model1" / "model.pt").write_bytes(bytes(100))
    np.savez(given / "codes1.npz", np.ones(3))

    def refuse(error):
        raise error

    cases = {
        "same codes": (lambda model: [np.ones(3)], 0),
        "OTHER CODES": (lambda model: [np.zeros(3)], 5),
        "one clear error": (lambda model: refuse(ValueError("expected model.pt to be whole, got less.")), 0),
        "names no file": (lambda model: refuse(ValueError("expected it names no file")), 5),
        "KeyError": (lambda model: refuse(KeyError("state")), 5),
    }
    monkeypatch.setattr(faults, "load_model", lambda *_, **__: None)
    for number, (said, (codes, n_problems)) in enumerate(cases.items()):
        monkeypatch.setattr(faults, "codes", codes)
        work = tmp_path / str(number)
        work.mkdir()
        found = faults.flip(given, work, "model.pt", 5, np.random.default_rng(0))
        assert sum(n for state, n in found["states"].items() if said in state) == 5 and len(found["states"]) == 1
        assert len(found["problems"]) == n_problems
        damaged = np.unpackbits(np.frombuffer((work / "model" / "model.pt").read_bytes(), dtype=np.uint8))
        assert damaged.sum() == 1


def test_whatever_a_second_try_leaves_undone_or_behind_is_a_problem(faults, monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt.tmp").touch()
    (tmp_path / "other").touch()
    monkeypatch.setattr(faults, "finished", lambda *_: (3, 0.1))
    found = faults.problems_after("save", tmp_path, tmp_path)
    assert [problem.removeprefix("second try: ") for problem in found[:1] + found[2:]] == [
        "exit status 3",
        "('model', 'other')",
        "model/model.pt.tmp",
    ]
    # There is no model: whatever loading it raises is the state.
    assert found[1].startswith("second try: ") and "Error" in found[1]


@pytest.mark.parametrize("where", ["kill", "fill", "flip"])
def test_one_problem_anywhere_is_the_exit_status(faults, monkeypatch, capsys, where):
    n = {"kill": "seconds", "fill": "room needed, KiB", "flip": "bytes"}
    for name, number in n.items():
        found = {number: 1.0, "n": 1, "states": {"old": 1}, "problems": ["lost"] if name == where else []}
        monkeypatch.setattr(faults, name, lambda *_, found=found: found)
    for name in ("make_inputs", "quiet"):
        monkeypatch.setattr(faults, name, lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "argv", ["faults.py", "--quick", "--only", "save"])
    with pytest.raises(SystemExit) as end:
        faults.main()
    assert end.value.code == 1
    assert "'problems': ['lost']" in capsys.readouterr().out
