"""Write a benchmark's result: JSON for machines, markdown for people, both beside the script."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("indiseek", "torch", "scvi-tools", "scanpy", "numpy", "scikit-learn")


def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write(name: str, title: str, table: pd.DataFrame, details: dict[str, Any], notes: str) -> None:
    """Print a table and commit it to ``results/name.{json,md}``.

    Parameters
    ----------
    name
        File name without ending.
    title
        Heading.
    table
        What is shown; written as it is.
    details
        Seeds, sizes and raw values.
    notes
        How it was measured.
    """
    write_text(name, title, markdown(table), {"table": table.to_dict("records"), "details": details}, notes)


def write_text(name: str, title: str, text: str, record: dict[str, Any], notes: str) -> None:
    """Print a result that has more than one table, and commit it likewise.

    Parameters
    ----------
    name
        File name without ending.
    title
        Heading.
    text
        Markdown under it.
    record
        Seeds, sizes and raw values.
    notes
        How it was measured.
    """
    RESULTS.mkdir(exist_ok=True)
    versions = environment()
    page = f"# {title}\n\n{text}\n\n{notes}\n\nVersions: " + ", ".join(
        f"{key} {value}" for key, value in versions.items()
    )
    record = {"title": title, **record, "versions": versions}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, default=float) + "\n")
    (RESULTS / f"{name}.md").write_text(page + "\n")
    print(page)


def markdown(table: pd.DataFrame) -> str:
    """GitHub-flavoured table."""
    rows = [list(map(str, table.columns)), *table.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and, of more than one value, the lowest and highest in brackets."""
    low, high, mean = min(values), max(values), sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
