"""What a check may report, and how one runs without harm to the others."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Event = dict[str, Any]
ROOT = Path(__file__).parents[1]


class Skipped(Exception):
    """The check cannot be made here; says why."""


class Unmet(Exception):
    """A requirement does not hold."""


class OutOfTime(Exception):
    """The check has used up its time."""


class EmulatedFailure(Exception):
    """Asked for, to prove that the other checks run."""


class Report:
    """What a check says, sent on at once, so that a run that is cut off has said it.

    Parameters
    ----------
    send
        Takes each event.
    seconds
        Most seconds of the check.
    judged
        Whether targets, which hold for a GPU, are judged.
    fault
        What goes wrong at the first figure or part: None, ``"raise"``, ``"die"`` or ``"hang"``.
    """

    def __init__(
        self, send: Callable[[Event], None], seconds: float, *, judged: bool, fault: str | None = None
    ) -> None:
        self._send, self._judged, self._fault = send, judged, fault
        self._end = time.monotonic() + seconds
        self._unmet: list[str] = []
        self.missed = False
        self.traces: list[str] = []

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def step(self) -> None:
        """To be called between steps: raises when the time is up."""
        if self.left < 0:
            raise OutOfTime("the check's time was up between two steps.")

    def __call__(self, figure: str, value: Any) -> None:
        """Tell a figure."""
        self._fail()
        self._send({"event": "figure", "figure": figure, "value": plain(value)})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the check: raises nothing but what ends the whole, and makes the check fail at its end."""
        self.step()
        self._fail()
        try:
            yield
        except (EmulatedFailure, OutOfTime, Skipped):
            raise
        except Exception as error:  # noqa: BLE001
            self._unmet.append(f"{name}: {type(error).__name__}: {error}"[:400])
            self.traces.append(traceback.format_exc())

    def require(
        self, figure: str, value: float, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Tell a figure that must hold on every device: the check fails at its end where it does not."""
        wanted, met = _judged(value, at_least, at_most)
        self._fail()
        self._send(
            {"event": "figure", "figure": figure, "value": plain(value), "target": wanted, "met": met, "required": True}
        )
        if not met:
            self._unmet.append(f"{figure}: expected {wanted}, got {plain(value)}")

    def target(self, figure: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Tell a figure that was aimed at on a GPU; on a CPU it is told without a verdict."""
        wanted, met = _judged(value, at_least, at_most)
        self._fail()
        met = met if self._judged else None
        self._send({"event": "figure", "figure": figure, "value": plain(value), "target": wanted, "met": met})
        self.missed = self.missed or met is False

    def close(self) -> None:
        """End of the check; raises if a requirement does not hold."""
        self._fail()
        if self._unmet:
            raise Unmet("; ".join(self._unmet))

    def _fail(self) -> None:
        fault, self._fault = self._fault, None
        if fault == "raise":
            raise EmulatedFailure("emulated failure")
        if fault == "die":
            os._exit(9)
        while fault == "hang":
            time.sleep(1)


def run(
    name: str, function: Callable[[Report], None], send: Callable[[Event], None], report: Report, limit: float
) -> BaseException | None:
    """Make one check; whatever it raises becomes its result, and is returned."""
    started = time.monotonic()
    send({"event": "begin", "check": name, "limit": limit})
    error: BaseException | None = None
    status, said, trace = "passed", "", ""
    try:
        function(report)
        report.close()
    except Skipped as skipped:
        status, said = "skipped", str(skipped)
    except (Exception, KeyboardInterrupt, SystemExit) as raised:  # noqa: BLE001
        # A check of Ctrl-C that goes wrong must not end the run either.
        error, status = raised, "out of time" if isinstance(raised, OutOfTime) else "failed"
        said, trace = f"{type(raised).__name__}: {raised}", traceback.format_exc()
    trace = "\n".join([*report.traces, trace])
    if status == "passed" and report.missed:
        status = "missed"
    end = {"event": "end", "check": name, "status": status, "seconds": round(time.monotonic() - started, 2)}
    send(end | {"error": without_paths(said)[:600], "traceback": without_paths(trace)})
    return error


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return float(f"{number:.4g}") if math.isfinite(number) else str(number)


def without_paths(text: str) -> str:
    """A traceback without the paths of this machine."""
    text = text.replace(f"{ROOT}{os.sep}", "")
    lines = []
    for line in text.splitlines():
        head, found, tail = line.partition("site-packages" + os.sep)
        if found:
            before = head[: head.rfind('"') + 1] if '"' in head else ""
            line = f"{before}{tail}"
        lines.append(line)
    return "\n".join(lines)


def _judged(value: float, at_least: float | None, at_most: float | None) -> tuple[str, bool]:
    """The target in words, and whether it is met; what is no number meets none."""
    parts, met = [], True
    if at_least is not None:
        parts.append(f">= {at_least:g}")
        met = met and bool(value >= at_least)
    if at_most is not None:
        parts.append(f"<= {at_most:g}")
        met = met and bool(value <= at_most)
    return " and ".join(parts), met
