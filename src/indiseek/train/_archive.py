"""Files of tensors and plain values, never of code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from indiseek.data import replace_files


def to_plain(value: Any) -> Any:
    """Copy of a nested structure with arrays, indices and subclasses of dict as lists and dicts."""
    if isinstance(value, dict):
        return {to_plain(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | pd.Index):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple | set | range):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def write_archive(
    payload: dict[str, Any],
    path: Path,
    *,
    beside: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write tensors and plain values so that an earlier file survives a failure half way.

    Parameters
    ----------
    payload
        Tensors and plain values.
    path
        File in an existing directory.
    beside
        Further files of that directory, as in :func:`indiseek.data.replace_files`; none is replaced before all are
        written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(payload, file)

    replace_files(path.parent, {**(beside or {}), path.name: write})


def read_archive(path: Path, *, damaged: str, code: str) -> Any:
    """Read tensors and plain values without running anything that the file may carry.

    Parameters
    ----------
    path
        Existing file.
    damaged, code
        Messages for a file that is damaged or something else, and for one that carries code.

    Raises
    ------
    ValueError
        If the file is one of these.
    """
    with path.open("rb") as file:
        # What is no file of today's torch is an old pickle at best: not even looked into.
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(damaged)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(code) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(damaged) from error
