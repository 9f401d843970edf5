"""Saved models: one file of tensors and plain values, never code, and their cells beside it."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from mudata import MuData

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


def write_payload(
    payload: dict[str, Any], directory: Path, name: str = FILE_NAME, *, mdata: MuData | None = None
) -> None:
    """Write a saved model so that an earlier one survives a failure half way.

    Parameters
    ----------
    payload
        Tensors and plain values.
    directory
        Existing directory.
    name
        Name of the file.
    mdata
        Cells to write beside it as ``mdata.h5mu``; neither file is replaced before both are written.
    """

    def write(path: Path) -> None:
        with path.open("wb") as file:
            torch.save(payload, file)

    cells = {} if mdata is None else {MDATA_NAME: partial(_write_h5mu, mdata)}
    _replace(directory, {**cells, name: write})


def write_mudata(mdata: MuData, path: Path) -> None:
    """Write an h5mu file so that an earlier one survives a failure half way.

    Parameters
    ----------
    mdata
        Cells. Backed ones stay backed by their own file.
    path
        File in an existing directory.
    """
    _replace(path.parent, {path.name: partial(_write_h5mu, mdata)})


def _write_h5mu(mdata: MuData, path: Path) -> None:
    # Not MuData.write, after which a backed one would go by this temporary name.
    with mudata.set_options(pull_on_update=False):
        mudata.write_h5mu(path, mdata)


def _replace(directory: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files, each by what `writers` has for its name, and only then put them in the place of earlier ones."""
    # Not tempfile, whose files only their owner may read.
    temporaries = {name: directory / f"{name}.{os.getpid()}.tmp" for name in writers}
    try:
        for name, write in writers.items():
            write(temporaries[name])
            # Else a machine that goes down may keep the new name and lose what it stands for.
            with temporaries[name].open("rb+") as file:
                os.fsync(file.fileno())
        for name, temporary in temporaries.items():
            temporary.replace(directory / name)
    except BaseException as error:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        # On a full disk h5py and torch raise RuntimeError, and say nothing of it.
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"expected to write {', '.join(writers)} to {directory}, got {error}; what was there before stays: see "
                "whether the disk is full, make room or give another directory.",
            ) from error
        raise


def is_archive(path: Path) -> bool:
    """Whether this is a file of today's torch. What is not is an old pickle at best: not even looked into."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_payload(directory: Path, model: str | None = None) -> dict[str, Any]:
    """Read a saved model without running anything that it may carry.

    Parameters
    ----------
    directory
        Directory given to ``save``.
    model
        Name of the class that reads; None for any.

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
    if model is not None and payload["model"] != model:
        raise ValueError(f"expected a saved {model}, got a {payload['model']}; call {payload['model']}.load().")
    return payload
