"""Saved models: one file of tensors and plain values, never code, and their cells beside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mudata
import torch
from mudata import MuData

from indiseek.data import Cells, Schema, Setup, mudata_writer
from indiseek.train import read_archive, to_plain, write_archive

FILE_NAME = "model.pt"
MDATA_NAME = "mdata.h5mu"
FORMAT = 2


def write_saved(payload: dict[str, Any], schema: Schema, directory: Path, mdata: MuData | None) -> None:
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
        Cells to write beside it as ``mdata.h5mu``; neither file is replaced before both are written. Without them none
        is left there, because :func:`read_beside` must not take an earlier model's cells for this one's.
    """
    saved = {
        "format": FORMAT,
        "version": version("indiseek"),
        "setup": schema.setup.record(),
        "features": schema.features,
        "sparse": schema.sparse,
        "registry": schema.registry,
        **payload,
    }
    beside = {} if mdata is None else {MDATA_NAME: mudata_writer(mdata)}
    write_archive(to_plain(saved), directory / FILE_NAME, beside=beside)
    if mdata is None:
        (directory / MDATA_NAME).unlink(missing_ok=True)


def read_beside(directory: Path) -> MuData | None:
    """The MuData saved beside a model; None where there is none."""
    if not (directory / MDATA_NAME).is_file():
        return None
    with mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(directory / MDATA_NAME)


def reopened(mdata: MuData, directory: Path, schema: Schema) -> Cells | None:
    """Cells of a backed MuData whose own file has just been written anew; None for one that has another file."""
    if Path(mdata.filename).resolve() != (directory / MDATA_NAME).resolve():
        return None
    mdata.file.open(mdata.filename)
    return schema.read(mdata)


def read_saved(directory: Path, model: str | None = None) -> dict[str, Any]:
    """Read a saved model without running anything that it may carry.

    Parameters
    ----------
    directory
        Directory given to ``save``.
    model
        Name of the class that reads; None for any.

    Returns
    -------
    What :func:`write_saved` was given, with the schema as ``"schema"``.

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
    payload = read_archive(
        path,
        damaged=f"expected a complete file at {path}, got a damaged one or something else; save the model again.",
        code=f"expected only tensors and plain values in {path}, got a file that carries code or is no saved model; "
        "load only files that indiseek has written.",
    )
    if not isinstance(payload, dict) or "format" not in payload:
        raise ValueError(f"expected a model saved by indiseek at {path}, got something else; give save()'s directory.")
    if payload["format"] > FORMAT:
        raise ValueError(
            f"expected a file of format {FORMAT} or older, got {payload['format']} written by indiseek "
            f"{payload['version']}; update indiseek."
        )
    if model is not None and payload["model"] != model:
        raise ValueError(f"expected a saved {model}, got a {payload['model']}; call {payload['model']}.load().")
    if payload["format"] < FORMAT:
        payload = _from_format_1(payload)
    parts = {key: payload[key] for key in ("features", "sparse", "registry")}
    return payload | {"schema": Schema(setup=Setup.from_record(payload["setup"]), **parts)}


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
