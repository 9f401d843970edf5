"""Checks of CUDA graphs and torch.compile: one whole training step, captured or compiled."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import _gpu_parts as parts
import torch
from _gpu_run import Report
from _gpu_session import Session
from _gpu_trace import seconds_of, wait
from torch import Tensor


class Step:
    """One step on fixed memory: rows into a buffer, loss, gradients, AdamW.

    Parameters
    ----------
    objective
        What is trained; changed.
    cells
        All of them.
    batch_size
        Cells in a step.
    loss
        Loss from objective and cells; may be compiled.
    """

    def __init__(
        self, objective: Any, cells: Any, batch_size: int, loss: Callable[[Any, Any], Tensor] = parts.loss_of
    ) -> None:
        self.objective, self.cells, self.loss_of = objective, cells, loss
        device = cells.features[0].device
        self.rows = torch.arange(batch_size, device=device)
        self.parameters = list(objective.encoder_parameters())
        # Capturable counts its steps on the device, on a CPU there is no such thing.
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1e-3, fused=True, capturable=device.type == "cuda", weight_decay=0.0
        )

    def run(self) -> None:
        """All of a step but the rows; nothing in it waits."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_of(self.objective, parts.take(self.cells, self.rows)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 5.0, foreach=True)
        self.optimizer.step()

    def __call__(self, rows: Tensor) -> None:
        """A step on these rows."""
        self.rows.copy_(rows)
        self.run()


class Captured:
    """A :class:`Step` captured in a CUDA graph after three steps that warm it up; on a CPU the step as it is.

    Parameters
    ----------
    step
        Its rows must be set; changed by the three steps.
    """

    N_WARM = 3

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graph: Any = None
        if step.rows.device.type != "cuda":
            for _ in range(self.N_WARM):
                step.run()
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.N_WARM):
                step.run()
        torch.cuda.current_stream().wait_stream(side)
        step.optimizer.zero_grad(set_to_none=True)
        self.graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph):
                step.run()
        finally:
            # A capture that fails leaves its own stream as the current one.
            torch.cuda.set_stream(before)

    def __call__(self, rows: Tensor) -> None:
        """A step on these rows."""
        self.step.rows.copy_(rows)
        if self.graph is None:
            self.step.run()
        else:
            self.graph.replay()


class _Case:
    """One stage and batch, made on the device."""

    def __init__(self, stage: str, batch_size: int, session: Session) -> None:
        self.batch_size, self.device = batch_size, session.device
        self.cells = parts.make_cells(stage, batch_size * 4, session.n_features, session.device)
        self.objective = parts.start(parts.make_objective(stage, session.n_features), self.cells)
        generator = torch.Generator().manual_seed(0)
        self.rows = [
            torch.randperm(batch_size * 4, generator=generator)[:batch_size].to(session.device) for _ in range(8)
        ]

    def step(self, *, train: bool = True, loss: Callable[[Any, Any], Tensor] = parts.loss_of) -> Step:
        objective = copy.deepcopy(self.objective).train(train)
        return Step(objective, self.cells, self.batch_size, loss)

    def ms(self, step: Callable[[Tensor], None], n_steps: int, report: Report) -> float:
        """Milliseconds of a step, of the faster of two runs."""
        times = []
        for _ in range(2):
            for rows in self.rows[:3]:
                step(rows)
            wait(self.device)
            started = time.perf_counter()
            for number in range(n_steps):
                step(self.rows[number % len(self.rows)])
            wait(self.device)
            times.append((time.perf_counter() - started) / n_steps)
            report.step()
        return 1e3 * min(times)


def _cases(session: Session) -> list[tuple[str, int]]:
    """Small steps first, which a device's launches hold up most."""
    return [(stage, size) for size in session.size((512, 8192), (64, 256)) for stage in parts.STAGES]


def graphs(session: Session, report: Report) -> None:
    """The whole step in one CUDA graph: same weights as without, and how much faster."""
    if not session.on_gpu:
        report("on a CPU", "there are no graphs; the same code runs with plain steps in their place")
    for stage, batch_size in _cases(session):
        name = f"{stage}, batch {batch_size:,}"
        with report.part(name):
            case = _Case(stage, batch_size, session)
            report.require(f"{name}: weights, largest difference", _apart(case), at_most=2e-2)
            n_steps = session.size(100, 3)
            plain = case.ms(case.step(), n_steps, report)
            step = case.step()
            step.rows.copy_(case.rows[0])
            fast = case.ms(Captured(step), n_steps, report)
            report(f"{name}: ms a step", {"as it is": plain, "graph": fast})
            report(f"{name}: cells/s by graph", batch_size / fast * 1e3)
            report(f"{name}: times as fast by graph", plain / fast)


def _apart(case: _Case) -> float:
    """Largest difference of a weight after the same steps with and without a graph, both without noise.

    AdamW moves a weight by its learning rate, 1e-3, whatever the size of its gradient: rounding alone may part weights
    by the few steps that are made here.
    """
    eager, other = case.step(train=False), case.step(train=False)
    other.rows.copy_(case.rows[0])
    captured = Captured(other)
    for rows in [case.rows[0]] * Captured.N_WARM + case.rows:
        eager(rows)
    for rows in case.rows:
        captured(rows)
    wait(case.device)
    pairs = zip(eager.objective.parameters(), other.objective.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def compile_(session: Session, report: Report) -> None:
    """torch.compile of loss and gradients, alone and in a CUDA graph."""
    backend = session.size("inductor", "aot_eager")
    report("compiler", backend)
    for stage, batch_size in _cases(session)[: session.size(4, 2)]:
        name = f"{stage}, batch {batch_size:,}"
        with report.part(name):
            case = _Case(stage, batch_size, session)
            torch.compiler.reset()
            compiled = torch.compile(parts.loss_of, backend=backend, dynamic=False)
            n_steps = session.size(60, 2)
            plain = case.ms(case.step(), n_steps, report)
            step = case.step(loss=compiled)
            report(f"{name}: compiling, s", seconds_of(lambda step=step, case=case: step(case.rows[0]), case.device))
            fast = case.ms(step, n_steps, report)
            report(f"{name}: ms a step", {"as it is": plain, "compiled": fast})
            faster = case.ms(Captured(step), n_steps, report)
            report(f"{name}: ms a step, compiled and in a graph", faster)
            report(f"{name}: times as fast", {"compiled": plain / fast, "compiled, in a graph": plain / faster})
    torch.compiler.reset()
