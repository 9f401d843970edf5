"""What happens in some steps of a training: times, kernels, copies, and where the host waits."""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as lightning
import torch
from _gpu_run import ROOT, Report
from torch.utils._python_dispatch import TorchDispatchMode

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
# What makes the host wait for its result, by the names that torch gives operations.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2")


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Highest memory allocated there since :func:`reset_peak`; on a CPU that of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Wall time of a call, all that it gave the device included."""
    wait(device)
    started = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - started


class Clock(lightning.Callback):
    """Seconds of the steps of each epoch and of all around them, the device waited for at both ends of the steps.

    Parameters
    ----------
    device
        Of training.
    report
        Stops the training when the check's time is up.
    """

    def __init__(self, device: torch.device, report: Report) -> None:
        self.device, self.report = device, report
        self.epochs: list[dict[str, float]] = []

    def _now(self) -> float:
        wait(self.device)
        return time.perf_counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin an epoch."""
        self.epochs.append({"began": self._now(), "steps": 0})

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Begin the steps."""
        if batch_idx == 0:
            self.epochs[-1]["first"] = self._now()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        """End the steps."""
        self.report.step()
        self.epochs[-1]["steps"] += 1
        if batch_idx + 1 == trainer.num_training_batches:
            self.epochs[-1]["last"] = self._now()

    def on_train_epoch_end(self, *_: Any) -> None:
        """End the epoch."""
        self.epochs[-1]["ended"] = self._now()

    def figures(self) -> tuple[float, float]:
        """Seconds of a step, and of an epoch beside its steps, in the last epoch."""
        last = self.epochs[-1]
        steps = last["last"] - last["first"]
        return steps / last["steps"], last["ended"] - last["began"] - steps


class Window(lightning.Callback):
    """Watch some steps of the second epoch.

    Parameters
    ----------
    device
        Of training.
    first, n_steps
        Which steps.
    watch
        Gives a context in which they run.
    """

    def __init__(
        self, device: torch.device, first: int, n_steps: int, watch: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self.device, self.first, self.n_steps, self.watch = device, first, n_steps, watch
        self.found: Any = None
        self.seconds = 0.0
        self._context: AbstractContextManager[Any] | None = None

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to watch."""
        if trainer.current_epoch == 1 and batch_idx == self.first:
            wait(self.device)
            self._context = self.watch()
            self.found = self._context.__enter__()
            self.seconds = -time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        """Stop watching."""
        if self._context is not None and batch_idx + 1 == self.first + self.n_steps:
            # Before the wait, which would be seen.
            if not isinstance(self.found, torch.profiler.profile):
                self._end()
            wait(self.device)
            self.seconds += time.perf_counter()
            self._end()

    def on_exception(self, *_: Any) -> None:
        """Leave no context open."""
        self._end()

    def _end(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.__exit__(None, None, None)


def profiled(device: torch.device) -> AbstractContextManager[Any]:
    """Torch's profiler of the host and, if there is one, the device."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds)


def trace_figures(profile: Any, n_steps: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """What a profile of some steps says.

    On a GPU kernels are the device's; on a CPU the outermost operations of torch take their place.

    Returns
    -------
    Numbers a step, and under ``"copies from the host"`` all of them.
    """
    with TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event.get("cat", ""), []).append(event)
    on_gpu = device.type == "cuda"
    kernels = by_kind.get("kernel", []) if on_gpu else _outermost(by_kind.get("cpu_op", []))
    runtime = by_kind.get("cuda_runtime", []) + by_kind.get("cuda_driver", [])
    launches = [e for e in runtime if e["name"].startswith(_LAUNCHES)] if on_gpu else kernels
    copies = Counter(e["name"] for e in by_kind.get("gpu_memcpy", []))
    waits = Counter(e["name"] for e in runtime if "Synchronize" in e["name"])
    busy = _union(kernels + by_kind.get("gpu_memcpy", []) + by_kind.get("gpu_memset", [])) / 1e6
    spent: Counter[str] = Counter()
    for event in kernels:
        spent[event["name"][:80]] += event["dur"]
    total = sum(spent.values()) or 1.0
    return {
        "kernels": len(kernels) / n_steps,
        "launches": len(launches) / n_steps,
        "seconds in kernels": busy / n_steps,
        "share of the profiled time in kernels": busy / seconds,
        "copies by kind": dict(copies),
        "copies from the host": sum(n for name, n in copies.items() if "HtoD" in name),
        "waits of the host by kind": dict(waits),
        "longest kernels, share of all": {name: n / total for name, n in spent.most_common(6)},
    }


def _outermost(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that run inside no other of the same thread."""
    kept, ends = [], {}
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        thread = (event.get("pid"), event.get("tid"))
        if event["ts"] >= ends.get(thread, float("-inf")):
            kept.append(event)
            ends[thread] = event["ts"] + event["dur"]
    return kept


def _union(events: list[dict[str, Any]]) -> float:
    """Microseconds in which any of them ran."""
    total, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda e: e["ts"]):
        stop = event["ts"] + event["dur"]
        total += max(0.0, stop - max(end, event["ts"]))
        end = max(end, stop)
    return total


@contextmanager
def waiting_places(device: torch.device) -> Iterator[Counter[str]]:
    """Places at which the host waits for the device, with how often.

    On a GPU by torch's own warnings. On a CPU nothing waits: there it is the operations that would, as far as they
    can be told by their names.
    """
    places: Counter[str] = Counter()
    if device.type != "cuda":
        with _Waiting(places):
            yield places
        return

    def collect(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        del category, file, line
        # Torch says once that the mode is a prototype.
        if "synchroniz" in str(message) and "prototype" not in str(message):
            places[_place(f"{filename}:{lineno}")] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown, warnings.showwarning = warnings.showwarning, collect
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            warnings.showwarning = shown


class _Waiting(TorchDispatchMode):
    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what would wait."""
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1] if i is not None
        )
        if by_mask or name in _WAITING:
            self.places[_place(name)] += 1
        return func(*args, **(kwargs or {}))


def _place(what: str) -> str:
    """The innermost line of the package that led here, or else the last one that is not torch's."""
    stack = [f for f in traceback.extract_stack() if "_gpu_" not in f.filename]
    ours = [f for f in stack if f.filename.startswith(str(ROOT / "src"))]
    others = [f for f in stack if "lightning" in f.filename]
    for frame in [*ours[-1:], *others[-1:], *stack[-1:]]:
        name = frame.filename.replace(f"{ROOT}/", "").rpartition("site-packages/")[2]
        return f"{name}:{frame.lineno} {frame.name} ({what.rpartition('site-packages/')[2].replace(f'{ROOT}/', '')})"
    return what
