"""Saved models: one file of tensors and plain values, never code, and their cells beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mudata import MuData

from indiseek.data import Setup, mudata_writer
from indiseek.train import read_archive, write_archive

FILE_NAME = "model.pt"
MDATA_NAME = "mdata.h5mu"
FORMAT = 2


def write_saved(payload: dict[str, Any], directory: Path, *, mdata: MuData | None = None) -> None:
    """Write a saved model so that an earlier one survives a failure half way.

    Parameters
    ----------
    payload
        Tensors and plain values.
    directory
        Existing directory.
    mdata
        Cells to write beside it as ``mdata.h5mu``; neither file is replaced before both are written.
    """
    beside = {} if mdata is None else {MDATA_NAME: mudata_writer(mdata)}
    write_archive({"format": FORMAT, **payload}, directory / FILE_NAME, beside=beside)


def read_saved(directory: Path, model: str | None = None) -> dict[str, Any]:
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
    return payload if payload["format"] == FORMAT else _from_format_1(payload)


def _from_format_1(payload: dict[str, Any]) -> dict[str, Any]:
    """Files of before options were objects: all of them were arguments side by side."""
    setup = Setup(modalities=tuple(payload["modalities"]), layers=payload["layers"])
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
