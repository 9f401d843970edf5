"""Checks of whole runs: counts to codes, zarr, and the tests of devices."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import torch
from _gpu_contract import Clocked
from _gpu_run import ROOT, Report, Skipped, without_paths
from _gpu_session import Session, n_cores
from _gpu_trace import peak_gib, reset_peak

# The target of an H100, for a million cells.
_FIT_SECONDS = 300.0


def _lap(report: Report, what: str, started: float) -> float:
    now = time.perf_counter()
    report(what, now - started)
    report.step()
    return now


def whole_fit(session: Session, report: Report) -> None:
    """Counts made here, then registered, checked, transformed, trained and encoded."""
    from _resampled import resampled

    n_cells, n_genes, n_proteins = session.size((1_000_000, 2000, 100), (1500, 150, 20))
    started = time.perf_counter()
    mdata = resampled(n_cells, n_genes, n_proteins, n_threads=n_cores())
    now = _lap(report, f"making {n_cells:,} cells x ({n_genes:,} + {n_proteins}), s", started)
    session.values["counts"] = mdata
    reset_peak(session.device)
    began = now
    model = session.new(mdata)
    now = _lap(report, "check, s", now)
    clocked = Clocked(report)
    model.train(seed=0, callbacks=[clocked], **session.train_options(write_latents=False))
    fitted = time.perf_counter()
    report("training by stage, s", model.stage_seconds)
    report("transforms and all else of train(), s", fitted - now - sum(model.stage_seconds.values()))
    trained = [stage for stage in model.stage_seconds if f"{stage}/train_loss" in model.history]
    n_epochs = {stage: len(model.history[f"{stage}/train_loss"]) for stage in trained}
    report("epochs by stage", n_epochs)
    cells = {s: n_epochs[s] * len(model.train_indices) / max(model.stage_seconds[s], 1e-9) for s in trained}
    report("training cells/s by stage", cells)
    session.values["fitted"] = model
    report.step()
    model.write_latents()
    now = _lap(report, "codes, s", fitted)
    report("peak memory there, GiB", peak_gib(session.device))
    report("peak memory of the process, GiB", peak_gib(torch.device("cpu")))
    code = mdata.obsm["X_indiseek_shared"]
    report.require("finite share of the codes", float(np.isfinite(code).mean()), at_least=1)
    report.target("check, transforms, training and codes, s", now - began, at_most=_FIT_SECONDS)


def zarr(session: Session, report: Report) -> None:
    """Cells written to zarr, converted, opened, checked and encoded from there."""
    import mudata
    from _resampled import resampled

    from indiseek.data import convert, open_mudata
    from indiseek.models import embed

    n_cells = session.size(1_000_000, 1500)
    mdata, model = session.values.get("counts"), session.values.get("fitted")
    if mdata is None or model is None or (report.left < 120 and not session.quick):
        # Fewer cells tell the rates as well.
        n_cells = min(n_cells, 100_000)
        mdata, model = resampled(n_cells, *session.size((2000, 100), (150, 20)), n_threads=4), None
    report("cells", n_cells)
    first, target = session.scratch / "written.zarr", session.scratch / "converted.zarr"
    now = time.perf_counter()
    with mudata.set_options(pull_on_update=False):
        mudata.write_zarr(first, mdata)
    now = _lap(report, "written by mudata, s", now)
    convert(first, target, overwrite=True, show_progress=False)
    now = _lap(report, "converted, s", now)
    n_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    report("converted, GiB", n_bytes / 2**30)
    opened = open_mudata(target)
    now = _lap(report, "opened, s", now)
    fresh = session.new(opened)
    now = _lap(report, "read and checked, s", now)
    if model is None:
        fresh.train(seed=0, **session.train_options(max_epochs=1, write_latents=False))
        model, now = fresh, _lap(report, "transforms from disk and one epoch, s", now)
    embed(model, opened, session.scratch / "codes.zarr", overwrite=True, show_progress=False)
    _lap(report, "encoded from there, s", now)
    import anndata

    disk = anndata.read_zarr(session.scratch / "codes.zarr").obsm["X_indiseek_shared"]
    memory = model.get_latent_representation(mdata)
    report.require(
        "codes from disk and from memory, largest difference", float(np.abs(disk - memory).max()), at_most=1e-3
    )


def tests(session: Session, report: Report) -> None:
    """``tests/devices`` by pytest in a process of its own."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed here")
    out = session.scratch / "tests.xml"
    report("tests of", "tests/devices")
    paths = [path for path in sys.path if path]
    command = [sys.executable, "-m", "pytest", "tests/devices", "-q", "-p", "no:cacheprovider", f"--junit-xml={out}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=max(1.0, report.left),
        check=False,
    )
    found: dict[str, Any] = {}
    if out.exists():
        suite = next(ElementTree.parse(out).iter("testsuite")).attrib
        found = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
        report("tests", found)
    if done.returncode:
        report("last lines", without_paths(done.stdout).splitlines()[-15:])
    report.require("exit status of pytest", done.returncode, at_most=0)
    report.require("tests that ran", found.get("tests", 0) - found.get("skipped", 0), at_least=1)
