"""Finished fits, kept on disk so that a run which was stopped goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parent / ".cache"


def kept(path: Path, compute: Callable[[], dict[str, Any]], *, fresh: bool = False) -> dict[str, Any]:
    """What `path` holds, or the result of `compute`, then stored there.

    Parameters
    ----------
    path
        Under :data:`CACHE`. Names the fit, not the code behind it: after a change of the package say `fresh`.
    compute
        Makes plain values.
    fresh
        Compute in any case.
    """
    if fresh or not path.exists():
        started = time.perf_counter()
        store(path, compute())
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", flush=True)
    entry: dict[str, Any] = json.loads(path.read_text())
    return entry


def store(path: Path, entry: dict[str, Any]) -> None:
    """Write all of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(entry, indent=1) + "\n")
    temporary.replace(path)
