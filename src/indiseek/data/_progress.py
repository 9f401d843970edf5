"""Progress that is drawn in a terminal or notebook and written line by line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from tqdm import tqdm

# Lines of a file or of a log of continuous integration, of which every one stays.
_N_LINES = 10
# What is done sooner needs no bar.
_SOON_SECONDS = 2.0
Item = TypeVar("Item")


class _Lines:
    """What these commands need of a progress bar, as one line for each tenth of the work.

    Parameters
    ----------
    total
        How much work there is; None where that is not known yet.
    initial
        How much of it is done.
    desc
        What it is.
    unit
        Of the numbers.
    delay
        Seconds in which nothing is written.
    """

    def __init__(self, total: int | None, initial: int, desc: str, unit: str, delay: float) -> None:
        self.total, self.n = total, initial
        self._desc, self._unit = desc, unit
        self._postfix = ""
        self._silent_until = time.monotonic() + delay
        self._said = self._tenth()
        if initial:
            self._say()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def reset(self, total: int | None = None) -> None:
        """Begin again, with so much work."""
        self.total, self.n, self._said = total, 0, 0

    def set_postfix_str(self, text: str) -> None:
        """What stands behind the numbers."""
        self._postfix = text

    def update(self, n: int = 1) -> None:
        """So much more is done."""
        self.n += n
        if self._tenth() > self._said:
            self._say()

    def refresh(self) -> None:
        """Nothing: what was written stays."""

    def close(self) -> None:
        """Say where it ended, if that is not said."""
        if self.total is not None and self.n and self._said < self._tenth():
            self._say()

    def _tenth(self) -> int:
        return 0 if not self.total else _N_LINES * self.n // self.total

    def _say(self) -> None:
        self._said = self._tenth()
        if time.monotonic() < self._silent_until:
            return
        behind = f", {self._postfix}" if self._postfix else ""
        print(f"{self._desc}: {self.n}/{self.total} {self._unit}s{behind}", file=sys.stderr, flush=True)


def progress(
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    most: int | None = None,
    initial: int = 0,
    disable: bool = False,
    delay: float = 0.0,
) -> tqdm:
    """A progress bar; where no one looks at it move, in a file or a log, a line for each tenth of the work.

    Parameters
    ----------
    desc, unit, total, initial, disable, delay
        As in :class:`tqdm.tqdm`.
    most
        Where the total is not known, what it is at most: by it the tenths are counted.
    """
    if disable or sys.stderr.isatty() or _is_notebook():
        return tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=disable, delay=delay)
    return cast(tqdm, _Lines(most if total is None else total, initial, desc, unit, delay))


def watched(items: Collection[Item], *, desc: str, unit: str, disable: bool = False) -> Iterator[Item]:
    """The items, with a progress bar where they take longer than two seconds.

    Parameters
    ----------
    items
        What is gone through.
    desc, unit, disable
        As in :func:`progress`.
    """
    with progress(total=len(items), desc=desc, unit=unit, disable=disable, delay=_SOON_SECONDS) as bar:
        for item in items:
            yield item
            bar.update()


def _is_notebook() -> bool:
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")
