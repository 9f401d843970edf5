"""The script that checks a GPU, on a CPU: every check runs, and no failure of one takes the others with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def check(out: Path, *options: str, before: Path | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, lines of JSON, and all that was printed."""
    path = [*([] if before is None else [str(before)]), str(ROOT / "src")]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--out", str(out), *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")], done.stdout


def test_every_check_runs_on_a_cpu_and_the_record_is_complete(on_path, tmp_path):
    from _gpu_plan import CHECKS

    # The machine of a test may be busy: more time than the script allows itself.
    status, (header, *records), printed = check(tmp_path, "--limit", "600")
    assert [record["check"] for record in records] == list(CHECKS)
    assert {record["check"]: record["error"] for record in records if record["status"] != "passed"} == {}
    assert status == 0
    assert header["kind"] == "cpu" and header["cores"] >= 1 and header["versions"]["torch"] == torch.__version__
    found = {record["check"]: record["figures"] for record in records}
    assert all(found.values())
    assert found["speed"]["most cells/s in stage shared"] > 0
    # Targets of a GPU are told and not judged; requirements are.
    for record in records:
        assert {bool(t["required"]) for t in record["targets"] if t["met"] is not None} <= {True}
    written = json.loads((tmp_path / "gpu-quick.json").read_text())
    assert written[0] == header and [record["check"] for record in written[1:]] == list(CHECKS)
    page = (tmp_path / "gpu-quick.md").read_text()
    assert "says nothing about a GPU" in page
    for name in CHECKS:
        assert f"| {name} | passed |" in printed and f"| {name} | passed |" in page


def test_failures_and_deaths_leave_the_other_checks_and_are_told(tmp_path):
    faults = ("--emulate-failure", "codes", "--emulate-failure", "save_load:die")
    status, (_, *records), printed = check(tmp_path, "--only", "codes", "save_load", "device_index", *faults)
    found = {record["check"]: record for record in records}
    assert status == 1
    assert {name: record["status"] for name, record in found.items()} == {
        "codes": "failed",
        "save_load": "failed",
        "device_index": "passed",
    }
    assert found["codes"]["error"] == "EmulatedFailure: emulated failure"
    assert found["save_load"]["error"] == "the process died"
    assert "| codes | failed |" in printed
    written = {record["check"]: record for record in json.loads((tmp_path / "gpu-quick.json").read_text())[1:]}
    assert "EmulatedFailure" in written["codes"]["traceback"] and "exit status 9" in written["save_load"]["traceback"]
    assert str(ROOT) not in (tmp_path / "gpu-quick.json").read_text()
    # Made again, one alone: what the file says of the others stays.
    status, (_, *records), _ = check(tmp_path, "--only", "codes")
    assert status == 0 and [record["check"] for record in records] == ["codes"]
    again = {record["check"]: record for record in json.loads((tmp_path / "gpu-quick.json").read_text())[1:]}
    assert {name: record["status"] for name, record in again.items()} == {
        "codes": "passed",
        "save_load": "failed",
        "device_index": "passed",
    }
    assert again["save_load"] == written["save_load"]


def test_every_check_is_reached_when_each_fails(on_path, tmp_path):
    from _gpu_plan import CHECKS

    status, (_, *records), _ = check(tmp_path, "--limit", "600", "--emulate-failure", "all")
    assert status == 1
    assert [(record["check"], record["status"]) for record in records] == [(name, "failed") for name in CHECKS]
    assert {record["error"] for record in records} == {"EmulatedFailure: emulated failure"}


def test_plain_tensors_are_checked_where_mudata_and_scvi_are_missing(tmp_path):
    for name in ("mudata", "scvi"):
        (tmp_path / "before" / name).mkdir(parents=True)
        (tmp_path / "before" / name / "__init__.py").write_text("raise ImportError('not here')\n")
    names = ("train", "ratio", "synchronisations", "suspects")
    status, (header, *records), _ = check(tmp_path, "--only", *names, before=tmp_path / "before")
    assert status == 0
    assert set(header["missing"]) == {"mudata", "scvi"}
    found = {record["check"]: record["status"] for record in records}
    assert found == {"train": "skipped", "ratio": "passed", "synchronisations": "passed", "suspects": "passed"}
    assert records[0]["error"] == "packages are missing: mudata, scvi"


def test_a_requirement_fails_a_check_and_a_missed_target_only_where_targets_are_judged(on_path):
    from _gpu_run import Report, run

    def outcome(value: float, *, judged: bool, required: bool) -> str:
        events: list[dict[str, Any]] = []
        report = Report(events.append, 10.0, judged=judged)

        def function(report: Report) -> None:
            (report.require if required else report.target)("figure", value, at_least=1.0)

        run("name", function, events.append, report, 10.0)
        return events[-1]["status"]

    assert outcome(1.0, judged=True, required=True) == outcome(1.0, judged=True, required=False) == "passed"
    assert outcome(0.5, judged=False, required=True) == "failed"
    assert outcome(float("nan"), judged=False, required=True) == "failed"
    assert outcome(0.5, judged=True, required=False) == "missed"
    assert outcome(0.5, judged=False, required=False) == "passed"


class _Profile:
    """What a profile of a GPU leaves: two kernels that overlap, one copy from the host and one to it."""

    def export_chrome_trace(self, path: str) -> None:
        events = [
            ("kernel", "gemm", 0, 30),
            ("kernel", "softmax", 20, 20),
            ("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 60, 5),
            ("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 70, 5),
            ("cuda_runtime", "cudaLaunchKernel", 0, 1),
            ("cuda_driver", "cuLaunchKernelEx", 1, 1),
            ("cuda_runtime", "cudaStreamSynchronize", 70, 9),
            ("cpu_op", "aten::linear", 0, 50),
        ]
        rows = [{"ph": "X", "cat": c, "name": n, "ts": t, "dur": d, "pid": 0, "tid": 0} for c, n, t, d in events]
        Path(path).write_text(json.dumps({"traceEvents": [*rows, {"ph": "M", "name": "process_name"}]}))


def test_a_profile_of_a_gpu_is_read(on_path):
    from _gpu_trace import trace_figures

    found = trace_figures(_Profile(), 2, 1e-4, torch.device("cuda"))
    assert found["kernels"] == found["launches"] == 1.0
    assert found["copies from the host"] == 1
    assert found["seconds in kernels"] == pytest.approx(25e-6)
    assert found["share of the profiled time in kernels"] == pytest.approx(0.5)
    assert found["waits of the host by kind"] == {"cudaStreamSynchronize": 1}
    assert found["longest kernels, share of all"] == {"gemm": 0.6, "softmax": 0.4}


def test_places_where_the_host_waits_are_collected_on_a_gpu(on_path, monkeypatch):
    from _gpu_trace import waiting_places

    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    shown = warnings.showwarning
    with waiting_places(torch.device("cuda")) as places:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype: not all synchronizing operations", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["default", "warn", "default"] and warnings.showwarning is shown
    assert sum(places.values()) == 3


def test_places_that_would_wait_are_found_on_a_cpu(on_path):
    from _gpu_trace import waiting_places

    x = torch.arange(4.0)
    with waiting_places(torch.device("cpu")) as places:
        (x * 2).sum()
        assert float(x.sum()) == 6.0
        assert len(x[x > 1]) == 2
    assert sum(places.values()) == 2


def test_a_checkout_that_is_not_installed_gets_its_version(on_path, monkeypatch, tmp_path):
    from importlib.metadata import PackageNotFoundError, distributions

    import _gpu_parts

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_gpu_parts, "version", missing)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    _gpu_parts._say_version(tmp_path)
    (found,) = distributions(name="indiseek", path=[str(tmp_path)])
    assert f'version = "{found.version}"' in (ROOT / "pyproject.toml").read_text()
    assert sys.path[-1] == str(tmp_path)
