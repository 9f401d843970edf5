"""Files of tensors and plain values, never of code."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from indiseek.data import mark, replace_files

_MARK, _DIGEST = "mark", "sha256"


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


def write_archive(payload: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values so that an earlier file survives a failure half way.

    Parameters
    ----------
    payload
        Tensors and plain values.
    path
        File in an existing directory.
    """
    replace_files(path.parent, {path.name: archive_writer(lambda: payload)})


def archive_writer(payload: Callable[[], dict[str, Any]]) -> Callable[[Path], None]:
    """What writes tensors and plain values at a path, for :func:`indiseek.data.replace_files`.

    Parameters
    ----------
    payload
        Gives them when it is their turn.
    """

    def write(path: Path) -> None:
        plain = payload()
        content = io.BytesIO()
        # Into memory first: of what fails in a file, torch says neither that the disk is full nor that it was Ctrl-C.
        with _with_crc():
            torch.save({_MARK: mark(), **plain, _DIGEST: digest(plain)}, content)
        path.write_bytes(content.getbuffer())

    return write


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
    content = path.read_bytes()
    # What is no file of today's torch is an old pickle at best: not even looked into.
    if not content.startswith(b"PK\x03\x04"):
        raise ValueError(damaged)
    try:
        # torch does not look at the checksums that it writes.
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            broken = parts.testzip()
        found = None if broken else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(code) from error
    except Exception as error:
        raise ValueError(damaged) from error
    if broken:
        raise ValueError(damaged)
    return found


def is_intact(payload: dict[str, Any]) -> bool:
    """Whether what was read has the checksum with which :func:`write_archive` has written it."""
    return payload.get(_DIGEST) == digest({key: x for key, x in payload.items() if key not in (_MARK, _DIGEST)})


def digest(value: Any) -> str:
    """SHA-256 of tensors and plain values, with their types, shapes and order.

    Parameters
    ----------
    value
        Nested dicts and lists, as :func:`to_plain` gives them.
    """
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}:".encode()
        if value.numel():
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, dict):
        yield f"dict {len(value)}:".encode()
        for key, each in value.items():
            yield from _parts(key)
            yield from _parts(each)
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}:".encode()
        for each in value:
            yield from _parts(each)
    else:
        text = repr(value).encode()
        yield f"{type(value).__name__} {len(text)}:".encode() + text


@contextmanager
def _with_crc() -> Iterator[None]:
    """Zip checksums for this file, also where the user has switched torch's off."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
