"""Saved models: one file of tensors and plain values, never code, and their cells beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import h5py
import mudata
import torch
from mudata import MuData
from torch import Tensor

from indiseek.data import (
    Schema,
    Setup,
    check_replaceable,
    is_ours,
    mudata_writer,
    only_writer,
    replace_files,
    settle,
)
from indiseek.train._archive import archive_writer, is_intact, read_archive, to_plain

FILE_NAME = "model.pt"
MDATA_NAME = "mdata.h5mu"
FORMAT = 2
# Where HDF5 notes in an h5mu, behind mudata's 512 bytes, that somebody has it open for writing.
_OPEN_FLAGS = slice(532, 536)
# From this format on a file without a checksum is a damaged one.
_CHECKED_SINCE = 2


def write_saved(
    payload: dict[str, Any], schema: Schema, directory: Path, mdata: MuData | None, *, read_from: Collection[Path]
) -> None:
    """Write a saved model so that an earlier one survives a failure half way.

    Parameters
    ----------
    payload
        Name of the class, options and trained state: tensors and plain values.
    schema
        What its cells must have.
    directory
        Existing directory.
    mdata
        Cells to write beside it as ``mdata.h5mu``; neither file is replaced before both are written. Without them
        those that were saved with the earlier model are removed, unless they are among `read_from`.
    read_from
        Files that hold the cells of the model.

    Raises
    ------
    FileExistsError
        If one of the two files is there and not ours, or another process writes them.
    ValueError
        If a weight is not finite.
    """
    path, cells = directory / FILE_NAME, directory / MDATA_NAME
    _check_finite(payload["state"], f"to save to {path}")
    saved = {
        "format": FORMAT,
        "version": version("indiseek"),
        "setup": schema.setup.record(),
        "features": schema.features,
        "sparse": schema.sparse,
        "registry": schema.registry,
        "dropped": schema.dropped,
        "labels": list(schema.labels),
        **payload,
    }
    digest_of_cells: str | None = None

    def write_cells(temporary: Path) -> None:
        nonlocal digest_of_cells
        mudata_writer(cast(MuData, mdata))(temporary)
        digest_of_cells = _digest_of_file(temporary)

    write_model = archive_writer(lambda: to_plain(saved | {"mdata": digest_of_cells}))
    with only_writer(path):
        _check_replaceable(path, None if mdata is None else cells)
        if mdata is not None and cells.resolve() in read_from:
            _check_raw_is_read(cells, mdata)
        replace_files(directory, ({} if mdata is None else {MDATA_NAME: write_cells}) | {FILE_NAME: write_model})
        # The new model does not take them for its own, so that a kill in between leaves nothing wrong.
        if mdata is None and cells.is_file() and is_ours(cells) and cells.resolve() not in read_from:
            cells.unlink()


def _check_replaceable(path: Path, cells: Path | None) -> None:
    # Files of format 1 have no mark of their own, but names that nobody else gives.
    signs = (b"trained_stages", b"var_names", b"stage_seconds")
    content = path.read_bytes() if path.is_file() and not is_ours(path) else b""
    if not all(sign in content for sign in signs):
        check_replaceable([path])
    if cells is not None:
        check_replaceable([cells])


def _check_raw_is_read(cells: Path, mdata: MuData) -> None:
    """Raise FileExistsError where cells would take the place of the file that they were read from without all of it."""
    with h5py.File(cells, "r") as file:
        lost = [name for name, adata in mdata.mod.items() if "raw" in file["mod"][name] and adata.raw is None]
    if lost:
        raise FileExistsError(
            f"expected another place to save than {cells}, from which the cells were read without the raw slot of "
            f"{lost}; choose another directory, or leave save_mdata out."
        )


def _digest_of_file(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        head = bytearray(file.read(_OPEN_FLAGS.stop))
        head[_OPEN_FLAGS] = bytes(len(head[_OPEN_FLAGS]))
        found.update(head)
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    broken = [key for key, x in state.items() if x.is_floating_point() and not bool(torch.isfinite(x).all())]
    if broken:
        raise ValueError(
            f"expected finite weights {where}, got NaN or infinity in {len(broken)} of {len(state)} tensors, the "
            f"first of them {broken[0]}; train the model again."
        )


def read_beside(directory: Path, saved: Mapping[str, Any]) -> MuData | None:
    """The MuData saved with a model; None where there is none.

    Parameters
    ----------
    directory
        Directory given to ``save``.
    saved
        What :func:`read_saved` gave for it.

    Raises
    ------
    ValueError
        If the file is damaged, or has been changed since.
    """
    path = directory / MDATA_NAME
    # Format 1 does not say whether there were cells.
    digest = saved.get("mdata", "")
    if digest is None or not path.is_file():
        return None
    if digest and digest != _digest_of_file(path):
        raise ValueError(
            f"expected the cells that were saved with the model in {path}, got a file that has changed since; restore "
            "it, or if it was you who changed it pass them: load(directory, mudata.read_h5mu(...))."
        )
    with mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(path)


def reopened(mdata: MuData, directory: Path) -> bool:
    """Open a backed MuData again whose own file has just been written anew; False for one that has another file."""
    if Path(mdata.filename).resolve() != (directory / MDATA_NAME).resolve():
        return False
    mdata.file.open(mdata.filename)
    return True


def saved_class(directory: Path) -> str:
    """Name of the class of a saved model.

    Parameters
    ----------
    directory
        Directory given to ``save``.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_saved`.
    """
    return str(_read(directory).get("model"))


def read_saved(directory: Path, model: str) -> dict[str, Any]:
    """Read a saved model without running anything that it may carry.

    Parameters
    ----------
    directory
        Directory given to ``save``.
    model
        Name of the class that reads.

    Returns
    -------
    What :func:`write_saved` was given, with the schema as ``"schema"``.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If the file is damaged, carries code, has weights that are not finite, was written by another class or a newer
        format.
    """
    path, payload = directory / FILE_NAME, _read(directory)
    if payload.get("model") != model:
        raise ValueError(f"expected a saved {model}, got a {payload.get('model')}; call {payload.get('model')}.load().")
    if payload["format"] >= _CHECKED_SINCE and not is_intact(payload):
        raise ValueError(_damaged(path))
    with malformed_named(directory):
        _check_finite(payload["state"], f"in {path}")
        if payload["format"] < FORMAT:
            payload = _from_format_1(payload)
        parts = {key: payload[key] for key in ("features", "sparse", "registry")}
        # Files of before features were left out have none.
        parts["dropped"] = payload.get("dropped", {})
        parts["labels"] = tuple(payload.get("labels", ()))
        return payload | {"schema": Schema(setup=Setup.from_record(payload["setup"]), **parts)}


@contextmanager
def malformed_named(directory: Path) -> Iterator[None]:
    """Raise ValueError where what was read turns out to lack something, or to have something else in its place."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        cause = f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        raise ValueError(_damaged(directory / FILE_NAME, cause)) from error


def _damaged(path: Path, cause: str = "") -> str:
    return f"expected a complete file at {path}, got a damaged one or something else{cause}; save the model again."


def _read(directory: Path) -> dict[str, Any]:
    """What the file of a saved model holds, of a format that is known."""
    settle(directory)
    path = directory / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"expected a saved model at {path}, got no such file; give the directory of save().")
    payload = read_archive(
        path,
        damaged=_damaged(path),
        code=f"expected only tensors and plain values in {path}, got a file that carries code or is no saved model; "
        "load only files that indiseek has written.",
    )
    if not isinstance(payload, dict) or not isinstance(payload.get("format"), int):
        raise ValueError(f"expected a model saved by indiseek at {path}, got something else; give save()'s directory.")
    if payload["format"] > FORMAT:
        raise ValueError(
            f"expected a file of format {FORMAT} or older, got {payload['format']} written by indiseek "
            f"{payload.get('version')}; update indiseek."
        )
    return payload


def _from_format_1(payload: dict[str, Any]) -> dict[str, Any]:
    """Files of before options were objects: all of them were arguments side by side."""
    setup = Setup(modalities=tuple(payload["modalities"]), layers=payload["layers"])
    init, state = payload["init"], payload["state"]
    # Codes had as many dimensions in each modality.
    widths = [n for n in (init.get("n_shared"), init.get("n_context")) if n] if payload["model"] != "CoMMModel" else []
    state["bridge.widths"] = torch.tensor([widths] * len(setup.modalities), dtype=torch.long)
    return payload | {
        "options": _options_from_format_1(payload["model"], payload["init"]),
        "setup": setup.record(),
        "features": payload["var_names"],
        "split_options": payload["split_arguments"],
    }


def _options_from_format_1(model: str, init: dict[str, Any]) -> dict[str, Any]:
    form = ("hidden", "activation", "layer_norm")
    encoder = {"options": "Encoder", **{key: init[key] for key in form}}
    rest = {key: value for key, value in init.items() if key not in form}
    if model == "IndiSeekModel":
        club = ("lam", "independence", "independent_of", "independence_weight", "critic_hidden")
        if init["specific"] == "flow":
            specific = {"options": "Flow", "n_context": init["n_context"]}
        else:
            specific = {"options": "NCEClub", **{key: init[key] for key in club}}
        rest = {key: init[key] for key in ("n_shared", "n_specific", "alignment")} | {"specific": specific}
    return {"options": f"{model.removesuffix('Model')}Options", **rest, "encoder": encoder}
