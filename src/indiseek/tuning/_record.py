"""Finished candidates on disk, so that a search can be resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from indiseek.data import Split, Values, row_chunks

logger = logging.getLogger(__name__)

FILE_NAME = "tuning.jsonl"


def checksum(parts: Iterable[Any]) -> str:
    """Short checksum of strings, arrays and sparse matrices in CSR form.

    Parameters
    ----------
    parts
        What is summed up, in order.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode() + b"\0")
        else:
            arrays = [part] if isinstance(part, np.ndarray) else [part.data, part.indices, part.indptr]
            for array in arrays:
                digest.update(f"{array.shape}{array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


class Record:
    """Finished candidates: in memory, and with a directory in a file of one JSON object a line.

    The first line holds the fingerprint of data and settings, each further line one candidate. Lines are written
    whole, in one step; what a crash has left of a last one is not read.

    Parameters
    ----------
    directory
        Where the file is or will be; made if it does not exist. None keeps nothing.
    fingerprint
        Plain values on which a measurement depends.

    Raises
    ------
    ValueError
        If the file is of another fingerprint, or damaged elsewhere than at its end.
    """

    def __init__(self, directory: str | Path | None, fingerprint: Mapping[str, Any]) -> None:
        self._found: dict[str, dict[str, Any]] = {}
        self._path = None if directory is None else Path(directory) / FILE_NAME
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Through JSON, so that it compares as it will be read.
        header = json.loads(json.dumps({"fingerprint": fingerprint}))
        lines = self._read(self._path)
        if not lines:
            self._append(header)
            return
        self._check(lines[0].get("fingerprint"), header["fingerprint"])
        for line in lines[1:]:
            self._found[_key(line["candidate"])] = line["found"]

    def get(self, candidate: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found of a candidate, or None if it has not been tried."""
        return self._found.get(_key(candidate))

    def add(self, candidate: Mapping[str, Any], found: dict[str, Any]) -> None:
        """Keep what was found of a candidate."""
        self._found[_key(candidate)] = found
        self._append({"candidate": dict(candidate), "found": found})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        """Complete lines; what follows the last of them is cut off."""
        if not path.exists():
            return []
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            logger.warning(f"the last line of {path} is incomplete and ignored; its candidate is tried again.")
            os.truncate(path, len(complete))
        try:
            lines = [json.loads(line) for line in complete.splitlines()]
        except ValueError as error:
            raise ValueError(
                f"expected one JSON object on each line of {path}, got a damaged file; delete it to begin anew."
            ) from error
        return lines

    def _check(self, there: Any, wanted: Mapping[str, Any]) -> None:
        there = there if isinstance(there, dict) else {}
        differing = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
        if differing:
            raise ValueError(
                f"expected the results of the same data and settings in {self._path}, got others that differ in "
                f"{differing}; give another directory, or delete the file to begin anew."
            )


def fingerprint_of_data(
    values: Mapping[str, Values], var_names: Mapping[str, list[str]], split: Split
) -> dict[str, Any]:
    """What identifies the data of a search; the test cells' values are not read.

    Parameters
    ----------
    values
        Values of all cells by modality.
    var_names
        Names of the features by modality.
    split
        Positions of training, validation and test cells.
    """
    return {
        "n_cells": next(iter(values.values())).shape[0],
        "features": {name: [len(names), checksum(names)] for name, names in var_names.items()},
        "values": {
            name: checksum(chunk for rows in (split.train, split.validation) for chunk in row_chunks(matrix, rows))
            for name, matrix in values.items()
        },
        "split": [[len(part), checksum([part])] for part in split],
    }


def _key(candidate: Mapping[str, Any]) -> str:
    return json.dumps(dict(candidate), sort_keys=True)
