"""The fault run runs, finds nothing, and would find something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_finds_no_problem(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--quick", "--only", "save"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in done.stdout.splitlines() if line[:2] == "| "}
    assert int(rows["model.pt"][2]) + int(rows["model.pt"][3]) == int(rows["model.pt"][1])
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
