"""Saved models: one file of tensors and plain values, never code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

FILE_NAME = "model.pt"
MDATA_NAME = "mdata.h5mu"
FORMAT = 1


def plain(value: Any) -> Any:
    """Copy of a nested structure with arrays, indices and subclasses of dict as lists and dicts."""
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | pd.Index):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | range):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def write_payload(payload: dict[str, Any], directory: Path, name: str = FILE_NAME) -> None:
    """Write a saved model so that an earlier one survives a failure half way.

    Parameters
    ----------
    payload
        Tensors and plain values.
    directory
        Existing directory.
    name
        Name of the file.
    """
    # Not tempfile, whose files only their owner may read.
    temporary = directory / f"{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            # Else a machine that goes down may keep the new name and lose what it stands for.
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_archive(path: Path) -> bool:
    """Whether this is a file of today's torch. What is not is an old pickle at best: not even looked into."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_payload(directory: Path, model: str) -> dict[str, Any]:
    """Read a saved model without running anything that it may carry.

    Parameters
    ----------
    directory
        Directory given to ``save``.
    model
        Name of the class that reads.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If the file is damaged, carries code, was written by another class or a newer format.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"expected a saved model at {path}, got no such file; give the directory of save().")
    if not is_archive(path):
        raise ValueError(f"expected a complete file at {path}, got a damaged one or something else; save again.")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected only tensors and plain values in {path}, got a file that carries code or is no saved model; "
            "load only files that indiseek has written."
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected a complete file at {path}, got a damaged one; save the model again.") from error
    if not isinstance(payload, dict) or "format" not in payload:
        raise ValueError(f"expected a model saved by indiseek at {path}, got something else; give save()'s directory.")
    if payload["format"] > FORMAT:
        raise ValueError(
            f"expected a file of format {FORMAT} or older, got {payload['format']} written by indiseek "
            f"{payload['version']}; update indiseek."
        )
    if payload["model"] != model:
        raise ValueError(f"expected a saved {model}, got a {payload['model']}; call {payload['model']}.load().")
    return payload
