"""Checks of speed, on plain tensors made on the device and through the package's own training loop."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import _gpu_parts as parts
import torch
from _gpu_contract import Deadline
from _gpu_run import Report
from _gpu_session import Session
from _gpu_trace import Clock, Window, peak_gib, profiled, reset_peak, seconds_of, trace_figures, waiting_places

Point = dict[str, float]

# The targets of an H100.
_CELLS_PER_SECOND = 1e6
_CORES = (10.0, 100.0)
_ALL_STAGES = (*parts.STAGES, "nce-club", "disentangled-shared", "disentangled-specific", "fused")
_LOW = {"bf16": "bf16-mixed", "tf32": "32"}


def _batches(session: Session) -> tuple[int, int]:
    sizes: tuple[int, int] = session.size((512, 8192), (64, 256))
    return sizes


def _measure(
    stage: str,
    device: torch.device,
    report: Report,
    *,
    n_features: tuple[int, int],
    n_cells: int,
    batch_size: int,
    n_steps: int,
    precision: str | None = None,
) -> Point:
    """Cells a second in whole epochs, from the time of some steps and that of an epoch beside its steps."""
    clock = Clock(device, report)
    reset_peak(device)
    options: dict[str, Any] = {"n_cells": n_cells, "batch_size": batch_size, "n_steps": n_steps}
    options["n_features"] = n_features
    parts.fit(stage, device, callbacks=[clock], precision=precision, **options)
    step, around = clock.figures()
    n_in_epoch = max(1, n_cells // batch_size)
    return {
        "cells/s": n_in_epoch * batch_size / (n_in_epoch * step + around),
        "ms a step": 1e3 * step,
        "ms an epoch beside its steps": 1e3 * around,
        "peak memory, GiB": peak_gib(device),
    }


def _n_middle(session: Session) -> int:
    """The middle one of the numbers of cells: enough for many steps of the larger batch."""
    return int(session.size(200_000, 1200))


def _points(session: Session) -> list[tuple[int, str, int]]:
    """Small steps first: number of the batch size, stage, batch size."""
    return [(i, stage, size) for i, size in enumerate(_batches(session)) for stage in parts.STAGES]


def speed(session: Session, report: Report) -> None:
    """Training cells a second by stage, number of cells and batch."""
    best: dict[str, float] = dict.fromkeys(parts.STAGES, 0.0)
    for n_cells in (session.size(20_000, 600), _n_middle(session), session.size(1_000_000, 2400)):
        for _, stage, batch_size in _points(session):
            with report.part(f"{stage}, {n_cells:,} cells, batch {batch_size:,}"):
                sizes = {"n_cells": n_cells, "batch_size": batch_size, "n_steps": session.size(150, 4)}
                point = _measure(stage, session.device, report, n_features=session.n_features, **sizes)
                report(f"{stage}, {n_cells:,} cells, batch {batch_size:,}", point)
                session.values[stage, n_cells, batch_size] = point
                best[stage] = max(best[stage], point["cells/s"])
    report.target("most cells/s in stage shared", best["shared"], at_least=_CELLS_PER_SECOND)
    report("most cells/s in stage specific", best["specific"])


def ratio(session: Session, report: Report) -> None:
    """The same on this machine's CPU with one thread, as ratio."""
    n_cells, n_threads = _n_middle(session), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, stage, batch_size in _points(session):
            with report.part(f"{stage}, batch {batch_size:,}"):
                # A step of the flow at the larger batch takes a core about a second.
                n_steps = session.size((30, 3)[number], 3)
                sizes: dict[str, Any] = {"n_cells": n_cells, "batch_size": batch_size, "n_features": session.n_features}
                # The time of a step does not depend on how many cells there are.
                cpu = _measure(stage, torch.device("cpu"), report, **sizes, n_steps=n_steps)
                there = session.values.get((stage, n_cells, batch_size)) or _measure(
                    stage, session.device, report, **sizes, n_steps=session.size(100, 4)
                )
                report(f"{stage}, batch {batch_size:,}: one core, cells/s", cpu["cells/s"])
                value, name = cpu["ms a step"] / there["ms a step"], f"{stage}, batch {batch_size:,}: in cores"
                if stage == "specific":
                    report.target(name, value, at_least=_CORES[number])
                else:
                    report(name, value)
    finally:
        torch.set_num_threads(n_threads)


def profile(session: Session, report: Report) -> None:
    """Kernels, launches and copies of 20 steps within an epoch."""
    n_steps, n_copies = session.size(20, 3), 0
    for _, stage, batch_size in _points(session):
        name = f"{stage}, batch {batch_size:,}"
        with report.part(name):
            window = _watched(session, stage, batch_size, n_steps, lambda: profiled(session.device))
            found = trace_figures(window.found, n_steps, window.seconds, session.device)
            report(name, {key: value for key, value in found.items() if isinstance(value, float | int)})
            for key in ("copies by kind", "waits of the host by kind", "longest kernels, share of all"):
                report(f"{name}: {key}", found[key])
            unprofiled = session.values.get((stage, _n_middle(session), batch_size))
            if unprofiled:
                share = 1e3 * found["seconds in kernels"] / unprofiled["ms a step"]
                report(f"{name}: share of an unprofiled step in kernels", share)
            report.require(f"{name}: kernels seen in a step", found["kernels"], at_least=1)
            n_copies += found["copies from the host"]
    report.require("copies from the host inside an epoch", n_copies, at_most=0)


def _watched(session: Session, stage: str, batch_size: int, n_steps: int, watch: Callable[[], Any]) -> Window:
    """Train two epochs and watch some steps in the midst of the second."""
    window = Window(session.device, 2, n_steps, watch)
    n_in_epoch = n_steps + 6
    parts.fit(
        stage,
        session.device,
        n_cells=batch_size * n_in_epoch,
        batch_size=batch_size,
        n_steps=n_in_epoch,
        n_features=session.n_features,
        callbacks=[window],
    )
    return window


def synchronisations(session: Session, report: Report) -> None:
    """Places where the host waits for the device, in steps within an epoch."""
    n_steps = session.size(20, 3)
    if not session.on_gpu:
        report("on a CPU", "nothing waits; counted are operations that would, of which some run on CPUs alone")
    for stage in _ALL_STAGES:
        with report.part(stage):
            window = _watched(session, stage, session.size(512, 64), n_steps, lambda: waiting_places(session.device))
            report(f"{stage}: places in {n_steps} steps", dict(window.found.most_common(8)))
            a_step = sum(window.found.values()) / n_steps
            if stage in parts.STAGES:
                report.target(f"{stage}: waits a step", a_step, at_most=0)
            else:
                report(f"{stage}: waits a step", a_step)


def low_precision(session: Session, report: Report) -> None:
    """Speed in bf16 and TF32 beside float32; and, where cells can be read, trainings for their certificates."""
    sizes: dict[str, Any] = {"n_cells": _n_middle(session), "n_steps": session.size(60, 3)}
    sizes["n_features"] = session.n_features
    for _, stage, batch_size in _points(session):
        with report.part(f"{stage}, batch {batch_size:,}"):
            step = {}
            for name, precision in {"32": "32", **_LOW}.items():
                with tf32(name == "tf32"):
                    options = {"batch_size": batch_size, "precision": precision, **sizes}
                    step[name] = _measure(stage, session.device, report, **options)["ms a step"]
            report(f"{stage}, batch {batch_size:,}: ms a step", step)
    for name, precision in _LOW.items():
        if session.missing:
            report(f"certificate of {name}", "not made: cells cannot be read here")
            continue
        with report.part(f"certificate of {name}"):
            model = session.new(session.sample())
            with tf32(name == "tf32"):
                model.train(
                    seed=0,
                    precision=precision,
                    callbacks=[Deadline(report)],
                    **session.train_options(write_latents=False),
                )
            report(f"{name}: training of the shipped cells, s", sum(model.stage_seconds.values()))
            model.save(session.scratch / name, overwrite=True)
            session.in_background(name, session.scratch / name, precision)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of single precision by TF32, or in full; as before at the end."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def suspects(session: Session, report: Report) -> None:
    """What may be slow, inexact or not deterministic on a GPU, one by one."""
    for suspect in (_linear_algebra, _autocast, _deterministic, _permutation, _wide_flow):
        with report.part(suspect.__name__.strip("_")):
            suspect(session, report)


def _linear_algebra(session: Session, report: Report) -> None:
    """float64 eigh in fit_scales, and solve_triangular in the inverse."""
    n_cells, n_features = session.size(20_000, 600), session.size(100, 12)
    on_cpu = parts.make_cells("shared", n_cells, (22, n_features), torch.device("cpu")).features
    codes, backs = [], []
    for device in (torch.device("cpu"), session.device):
        flow = parts.make_flow(n_features, 22).to(device).eval()
        c, x = (tensor.to(device) for tensor in on_cpu)
        with torch.no_grad():
            flow.fit_scales(x, c)
            z = flow(x, c)
            backs.append(float((flow.inverse(z, c) - x).abs().max()))
        codes.append(z.cpu())
    report.require("flow's code, CPU against there, largest difference", _apart(codes), at_most=1e-2)
    report.require("flow's inverse there, largest difference to the features", backs[1], at_most=1e-2)


def _apart(pair: list[torch.Tensor]) -> float:
    return float((pair[0] - pair[1]).abs().max())


def _autocast(session: Session, report: Report) -> None:
    """Log-density under bf16 autocast, beside single and double precision."""
    n_features = session.n_features[0]
    c, x = parts.make_cells("shared", 1024, (22, n_features), session.device).features
    flow = parts.make_flow(n_features, 22).to(session.device).eval()
    with torch.no_grad():
        flow.fit_scales(x, c)
        with torch.autocast(session.device.type, dtype=torch.bfloat16):
            low = flow.log_prob(x, c).double()
        single = flow.log_prob(x, c).double()
        double = flow.double().log_prob(x.double(), c.double())
    report("log-density of a cell, bf16 autocast: nats off at most", float((low - double).abs().max()))
    report("log-density of a cell, bf16 autocast: nats off on average", float((low - double).mean()))
    report.require(
        "log-density of a cell, float32: nats off at most", float((single - double).abs().max()), at_most=1e-2
    )


def _deterministic(session: Session, report: Report) -> None:
    """Operations without a deterministic form, by torch's own warnings."""
    found: Counter[str] = Counter()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    for stage in _ALL_STAGES:
        cells = parts.make_cells(stage, 128, session.n_features, session.device)
        objective = parts.start(parts.make_objective(stage, session.n_features), cells).train()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.use_deterministic_algorithms(True, warn_only=True)
            try:
                parts.loss_of(objective, cells).backward()
            finally:
                torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        found.update(f"{stage}: {str(w.message)[:110]}" for w in caught if "determinis" in str(w.message))
    report("operations that are not deterministic", dict(found))


def _permutation(session: Session, report: Report) -> None:
    """Order of an epoch's rows, made on the host."""
    for n_rows in session.size((20_000, 1_000_000), (600, 2400)):
        rows = parts.row_batches(n_rows, 512, session.device)

        def draw(rows: Any = rows) -> None:
            next(iter(rows))

        draw()
        report(f"order of {n_rows:,} rows, ms", 1e3 * seconds_of(draw, session.device))


def _wide_flow(session: Session, report: Report) -> None:
    """Memory of one training step and of encoding with 200 proteins."""
    n_features, stage = (50, session.size(200, 40)), "specific"
    for batch_size in _batches(session):
        cells = parts.make_cells(stage, batch_size, n_features, session.device)
        objective = parts.start(parts.make_objective(stage, n_features), cells).train()
        reset_peak(session.device)
        loss = parts.loss_of(objective, cells)
        loss.backward()
        report(f"step of {batch_size:,} cells x {n_features}: peak memory, GiB", peak_gib(session.device))
        reset_peak(session.device)
        with torch.no_grad():
            objective.eval().latents(cells)
        report(f"encoding {batch_size:,} cells x {n_features}: peak memory, GiB", peak_gib(session.device))
        report.require(
            f"loss of {batch_size:,} cells is finite", float(math.isfinite(float(loss.detach()))), at_least=1
        )
