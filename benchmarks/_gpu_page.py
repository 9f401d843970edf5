"""The record of a run: one line of JSON for each check, and a page for people; standard library only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# Names of this length get a line of their own.
_LONG = 40


class Page:
    """What is known so far, written anew after every check, so that a run that is cut off still tells.

    Parameters
    ----------
    directory
        Where ``name.json`` and ``name.md`` are written.
    name
        File name without ending.
    questions
        What each check answers.
    again
        Checks that are made, where not all are: of the others the file's records stay if they are of the same device
        and packages.
    """

    def __init__(self, directory: Path, name: str, questions: dict[str, str], again: Sequence[str] = ()) -> None:
        self.directory, self.name, self.questions, self.again = directory, name, questions, again
        self.header: Record = {}
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        """Print the line of a check and write all lines; the header is a record without a check."""
        if "check" in record:
            self.records.append(record)
        else:
            self.header = record
            self.records = self._kept() + self.records
        print(json.dumps({key: value for key, value in record.items() if key != "traceback"}), flush=True)
        self.write()

    @property
    def made(self) -> list[Record]:
        """Records of this run."""
        return [record for record in self.records if not self.again or record["check"] in self.again]

    def _kept(self) -> list[Record]:
        path = self.directory / f"{self.name}.json"
        if not self.again or not path.exists():
            return []
        header, *records = json.loads(path.read_text())
        return [record for record in records if record["check"] not in self.again] if header == self.header else []

    def write(self) -> None:
        """Write both files, each whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.records.sort(key=lambda record: list(self.questions).index(record["check"]))
        lines = ",\n".join(json.dumps(record) for record in [self.header, *self.records])
        for ending, text in {"json": f"[\n{lines}\n]\n", "md": self.text()}.items():
            temporary = self.directory / f".{self.name}.{ending}.tmp"
            temporary.write_text(text)
            temporary.replace(self.directory / f"{self.name}.{ending}")

    def table(self) -> str:
        """One row for each check."""
        rows = [["check", "status", "s", "targets met", "what went wrong, or why not"]]
        for record in self.records:
            targets = [t for t in record["targets"] if t["met"] is not None]
            met = f"{sum(t['met'] for t in targets)} of {len(targets)}" if targets else ""
            rows.append([record["check"], record["status"], f"{record['seconds']:.1f}", met, _cell(record["error"])])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])

    def text(self) -> str:
        """The whole page."""
        header = self.header
        device = header.get("device", "unknown device")
        parts = [f"# Checks of a device: {device}"]
        if header.get("kind") != "cuda":
            parts.append(
                "**Run on a CPU, with small sizes: it shows that every check runs, and says nothing about a GPU.** "
                "Targets are those of an H100 and are not judged here; requirements are."
            )
        parts += [self.table(), "Targets met: of those that were judged, requirements included."]
        for record in self.records:
            parts.append(f"## {record['check']}: {record['status']}\n\n{self.questions.get(record['check'], '')}")
            targets = {t["figure"]: t for t in record["targets"]}
            if record["figures"]:
                parts.append(
                    "\n".join(_line(name, value, targets.get(name)) for name, value in record["figures"].items())
                )
            if record["traceback"]:
                parts.append(f"```text\n{record['traceback'].strip()}\n```")
        parts.append(
            "What is there: " + ", ".join(f"{key} {_short(value)}" for key, value in header.items() if value) + "."
        )
        return "\n\n".join(parts) + "\n"


def _line(name: str, value: Any, target: Record | None) -> str:
    numbers = isinstance(value, dict) and all(isinstance(item, float | int) for item in value.values())
    if isinstance(value, list | dict) and len(value) > 1 and not (numbers and max(map(len, value)) < _LONG):
        items = value if isinstance(value, list) else [f"{key}: {_short(item)}" for key, item in value.items()]
        text = "".join(f"\n  - {_short(item)}" for item in items)
    else:
        text = f" {_short(value[0] if isinstance(value, list) and value else value)}"
    verdict = ""
    if target:
        words = {True: "met", False: "**not met**", None: "not judged"}
        verdict = f" ({target['target']}: {words[target['met']]})"
    return f"- {name}:{text}{verdict}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:160]
