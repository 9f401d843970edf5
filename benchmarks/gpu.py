"""Tells of a GPU all that can be told in eight minutes: ``python benchmarks/gpu.py``, or ``make gpu-check``.

Needs torch, Lightning, anndata, mudata, scanpy, scvi-tools and scikit-learn, this checkout on ``PYTHONPATH``, and no
network. Where mudata or scvi-tools are missing, objectives and training loop run all the same, on plain tensors. Says
first what is there, then one line of JSON for each check as soon as that is done; at the end a table. The same lines,
with figures so far and tracebacks, are in ``benchmarks/results/gpu.json`` and ``gpu.md`` after every check
(``gpu-quick`` with ``--quick``, which takes small sizes; without a GPU that is what runs in any case).

The checks run in a process of their own, in the order of ``_gpu_plan.py``. One that raises, dies or hangs is recorded,
and the next ones run, where need be in a new process. Exit status 0 if all passed, were skipped with a reason, and met
their targets; else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _gpu_page import Page, Record
from _gpu_plan import CHECKS, LIMIT, QUICK_LIMIT
from _gpu_run import without_paths

_HERE = Path(__file__).parent
# Beyond its limit a check that does not look at its clock is killed.
_GRACE = 8.0
# Until the first check begins: imports, which take a minute where nothing has been read before, and the device's start.
_START_SECONDS = 150.0
_MOST_BARREN = 2
QUICK_NAME = "gpu-quick"
_GOOD = ("passed", "skipped")


class Worker:
    """A process that makes checks, and what it says.

    Parameters
    ----------
    names
        Checks to make.
    options
        Of the command line.
    scratch
        Where it may write.
    end
        Monotonic time at which all must be over.
    """

    def __init__(self, names: list[str], options: argparse.Namespace, scratch: Path, end: float) -> None:
        command = [sys.executable, str(_HERE / "_gpu_worker.py"), *names, "--scratch", str(scratch)]
        command += ["--seconds", f"{end - time.monotonic():.1f}", *(["--quick"] if options.quick else [])]
        for fault in options.emulate_failure:
            command += ["--fault", fault]
        self._log = (scratch / "stderr").open("w+b")
        # A session of its own: its children go with it.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True)
        self._events: queue.Queue[Record | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._events.put(json.loads(line))
        self._events.put(None)

    def event(self, until: float) -> Record | None:
        """Next event, or None if the process has ended; raises queue.Empty at `until`."""
        return self._events.get(timeout=max(0.0, until - time.monotonic()))

    def stop(self) -> str:
        """End it with all its children; returns how it ended, and the last lines that it wrote."""
        if self._log.closed:
            return ""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        self._log.close()
        return without_paths("\n".join([f"exit status {status}; last lines of its standard error:", *lines[-40:]]))


def supervise(options: argparse.Namespace, page: Page) -> None:
    """Make all checks, in as many processes as they break."""
    remaining = [name for name in CHECKS if not options.only or name in options.only]
    end = time.monotonic() + options.limit
    why, n_barren = f"the {options.limit:.0f} s of the whole run were over", 0
    with TemporaryDirectory() as scratch:
        while remaining and time.monotonic() < end:
            worker = Worker(remaining, options, Path(scratch), end)
            try:
                n_barren = 0 if _follow(worker, remaining, page, end) else n_barren + 1
            finally:
                worker.stop()
            if n_barren == _MOST_BARREN:
                why = f"{n_barren} processes in a row died before their first check"
                break
    for name in remaining:
        page.add(_record(name, "not run", error=why))


def _follow(worker: Worker, remaining: list[str], page: Page, end: float) -> bool:
    """Take a process's events until it ends or is stopped; checks that are done leave `remaining`.

    Returns
    -------
    Whether it began any check.
    """
    current: Record | None = None
    began, started = False, time.monotonic()
    until = min(started + _START_SECONDS, end + _GRACE)
    while True:
        try:
            event = worker.event(until)
        except queue.Empty:
            event = None
        if event is None:
            overdue = time.monotonic() >= until
            told = worker.stop()
            # One that ends between two checks is wanted: the device's state was lost. One that makes none is broken.
            if remaining and (current is not None or overdue or not began):
                name = remaining.pop(0)
                record = current or _record(name, "")
                record |= {"status": "out of time" if overdue else "failed", "traceback": told}
                record["error"] = "killed: over its time" if overdue else "the process died"
                page.add(record | {"seconds": round(time.monotonic() - started, 2)})
            return began
        kind = event.pop("event")
        if kind == "header":
            if not page.header:
                if event["quick"] and page.name != QUICK_NAME:
                    print("no GPU here: small sizes, as with --quick", file=sys.stderr, flush=True)
                    page.name = QUICK_NAME
                page.add(event)
        elif kind == "begin":
            began, current, started = True, _record(event["check"], ""), time.monotonic()
            until = min(started + event["limit"], end) + _GRACE
        elif kind == "figure" and current is not None:
            current["figures"][event["figure"]] = event["value"]
            if "target" in event:
                current["targets"].append({key: event.get(key) for key in ("figure", "target", "met", "required")})
        elif kind == "end" and current is not None:
            remaining.remove(event["check"])
            page.add(current | event)
            current, started = None, time.monotonic()
            # The next one begins at once, or the process ends.
            until = min(started + _START_SECONDS, end + _GRACE)


def _record(name: str, status: str, *, error: str = "") -> Record:
    empty: dict[str, Any] = {"figures": {}, "targets": [], "error": error, "traceback": ""}
    return {"check": name, "status": status, "seconds": 0.0, **empty}


def main() -> int:
    """Run, print and write the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, on a CPU too; targets are not judged there")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CHECKS),
        metavar="CHECK",
        help=f"make these alone, and keep what the file says of the others; of {', '.join(CHECKS)}",
    )
    parser.add_argument(
        "--limit", type=float, help=f"most seconds in all (default {LIMIT:.0f}, quick {QUICK_LIMIT:.0f})"
    )
    parser.add_argument("--out", type=Path, default=_HERE / "results", help="directory of the files")
    parser.add_argument(
        "--emulate-failure",
        action="append",
        default=[],
        metavar="CHECK[:die|:hang]",
        help="raise inside this check ('all': in each), let its process die or hang: proves that the others run",
    )
    options = parser.parse_args()
    for fault in options.emulate_failure:
        name, _, how = fault.partition(":")
        if name not in (*CHECKS, "all") or how not in ("", "die", "hang"):
            parser.error(
                f"expected --emulate-failure of a check or 'all', as it is or with :die or :hang, got {fault!r}"
            )
    options.limit = options.limit or (QUICK_LIMIT if options.quick else LIMIT)
    questions = {name: check.question for name, check in CHECKS.items()}
    page = Page(options.out, QUICK_NAME if options.quick else "gpu", questions, options.only or ())
    # Told to end, it must not leave a process on the device.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        supervise(options, page)
    except KeyboardInterrupt:
        print("stopped before all checks were made", file=sys.stderr)
    page.write()
    print(f"\n{page.table()}")
    done = [record["status"] in _GOOD for record in page.made]
    return 0 if all(done) and len(done) == len(options.only or CHECKS) else 1


if __name__ == "__main__":
    sys.exit(main())
