"""What benchmarks/faults.py does to files: each task in a process that may be killed, and how to tell what is left."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import mudata
import numpy as np
import torch
from mudata import MuData
from scipy import sparse

from indiseek import IndiSeekModel, cli, datasets
from indiseek.data import convert, open_mudata
from indiseek.models import NCEClub, embed, load_model
from indiseek.nn import Encoder

SMALL = {"n_shared": 4, "n_specific": 3, "encoder": Encoder(hidden=(32,)), "specific": NCEClub(critic_hidden=(16,))}
FAST = {"batch_size": 64, "accelerator": "cpu", "show_progress": False, "write_latents": False}
EPOCHS = 12


def quiet() -> None:
    """One thread, and no words of libraries between the lines of the table."""
    warnings.simplefilter("ignore")
    mudata.set_options(pull_on_update=False)
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def cells(version: int, n_cells: int = 400, n_genes: int = 200) -> MuData:
    """Real cells, of which the two versions have none in common."""
    full = datasets.pbmc10k_cite()
    chosen = full[version * n_cells : (version + 1) * n_cells]
    genes = np.argsort(-full["rna"].X.getnnz(axis=0), kind="stable")[:n_genes]
    return MuData({"rna": chosen["rna"][:, genes].copy(), "prot": chosen["prot"].copy()})


def codes(model: Any, mdata: MuData | None = None) -> list[np.ndarray]:
    """All codes of a model."""
    found = [model.get_latent_representation(mdata)]
    return found + [model.get_latent_representation(mdata, modality=name, kind="specific") for name in model.modalities]


def same(a: list[np.ndarray] | None, b: list[np.ndarray]) -> bool:
    """Whether codes are the same to the last bit."""
    return a is not None and len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Task(NamedTuple):
    """Something that writes.

    Attributes
    ----------
    prepare
        Puts what an earlier run has left into a folder.
    act
        Writes; calls its last argument when the moment of the fault may come.
    left
        Reads the folder: which of the states that are right is there, "old" or "new"; anything else is a loss.
    names
        What the folder holds when all has been written.
    """

    prepare: Callable[[Path, Path], None]
    act: Callable[[Path, Path, Callable[[], None]], None]
    left: Callable[[Path, Path], str]
    names: tuple[str, ...]


def make_inputs(given: Path) -> None:
    """Cells in both forms, models of both versions, and the right results."""
    for version in (0, 1):
        mdata = cells(version)
        mdata.write(given / f"{version}.h5mu")
        convert(given / f"{version}.h5mu", given / f"{version}.zarr", show_progress=False)
        model = IndiSeekModel(mdata, **SMALL)
        model.train(EPOCHS, **FAST)
        model.save(given / f"model{version}", save_mdata=True)
        np.savez(given / f"codes{version}.npz", *codes(model))


def right(given: Path, version: int) -> list[np.ndarray]:
    """The codes of a version."""
    with np.load(given / f"codes{version}.npz") as found:
        return list(found.values())


def _which(given: Path, found: list[np.ndarray]) -> str:
    return "old" if same(found, right(given, 0)) else "new" if same(found, right(given, 1)) else "LOST"


def _train(given: Path, out: Path, ready: Callable[[], None]) -> None:
    model = IndiSeekModel(mudata.read_h5mu(given / "1.h5mu"), **SMALL)
    ready()
    model.train(EPOCHS, **FAST, checkpoint_dir=out / "fit", keep_checkpoint=True)
    np.savez(_trained(given), *codes(model))


def _trained(given: Path) -> Path:
    """Where the codes go for comparison, on no disk that is full."""
    return given.with_name("trained.npz")


def _train_before(given: Path, out: Path) -> None:
    _trained(given).unlink(missing_ok=True)


def _train_left(given: Path, out: Path) -> str:
    # The state is that of an epoch: the same call must go on from it to the same codes.
    if not _trained(given).exists():
        return "old"
    with np.load(_trained(given)) as found:
        return _which(given, list(found.values()))


def _save(given: Path, out: Path, ready: Callable[[], None]) -> None:
    model = load_model(given / "model1", accelerator="cpu")
    ready()
    model.save(out / "model", overwrite=True, save_mdata=True)


def _save_left(given: Path, out: Path) -> str:
    return _which(given, codes(load_model(out / "model", accelerator="cpu")))


def _convert(given: Path, out: Path, ready: Callable[[], None]) -> None:
    ready()
    convert(given / "1.h5mu", out / "cells.zarr", overwrite=True, show_progress=False)


def _convert_left(given: Path, out: Path) -> str:
    found = open_mudata(out / "cells.zarr")
    for version, state in enumerate(("old", "new")):
        expected = mudata.read_h5mu(given / f"{version}.h5mu")
        if found.obs_names.equals(expected.obs_names):
            values, wanted = ([_dense(each[name].X[:]) for name in ("rna", "prot")] for each in (found, expected))
            return state if same(values, wanted) else "LOST"
    return "LOST"


def _dense(values: Any) -> np.ndarray:
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def _embed(given: Path, out: Path, ready: Callable[[], None]) -> None:
    model = load_model(given / "model1", accelerator="cpu")
    ready()
    embed(model, open_mudata(given / "1.zarr"), out / "codes.zarr", overwrite=True, show_progress=False)


def _embed_before(given: Path, out: Path) -> None:
    model = load_model(given / "model0", accelerator="cpu")
    embed(model, open_mudata(given / "0.zarr"), out / "codes.zarr", show_progress=False)


def _embed_left(given: Path, out: Path) -> str:
    found = anndata.read_zarr(out / "codes.zarr").obsm
    return _which(given, [found[f"X_indiseek_{name}"] for name in ("shared", "rna", "prot")])


def _command_line(given: Path, out: Path, ready: Callable[[], None], version: int = 1) -> None:
    save = IndiSeekModel.save

    def saved(self: IndiSeekModel, *arguments: Any, **options: Any) -> None:
        ready()
        save(self, *arguments, **options)

    command = ["train", given / f"{version}.zarr", "--out", out, "--max-epochs", "3", "--accelerator", "cpu"]
    IndiSeekModel.save = saved
    try:
        with given.with_name("said").open("w") as said, redirect_stdout(said), redirect_stderr(said):
            status = cli.main([str(word) for word in command])
    finally:
        IndiSeekModel.save = save
    if status:
        said = given.with_name("said").read_text()
        raise OSError(errno.ENOSPC if "disk" in said else errno.EIO, said)


def _command_line_before(given: Path, out: Path) -> None:
    # The right results are those of a run that nothing disturbs.
    for version in (0, 1):
        done = given / f"command{version}"
        if not done.exists():
            _command_line(given, done, lambda: None, version)
    shutil.copytree(given / "command0", out, dirs_exist_ok=True)


def _command_line_left(given: Path, out: Path) -> str:
    states = set()
    for where in ("model", "latents"):
        results = []
        for folder in (out, given / "command0", given / "command1"):
            if where == "model":
                model = IndiSeekModel.load(folder / "model", accelerator="cpu")
                results.append(codes(model, open_mudata(given / "1.zarr")))
            else:
                obsm = anndata.read_zarr(folder / "latents.zarr").obsm
                results.append([obsm[key] for key in sorted(obsm)])
        states.add("old" if same(results[0], results[1]) else "new" if same(results[0], results[2]) else "LOST")
    # Each result is whole; a run that is stopped has not come to all of them.
    return "LOST" if "LOST" in states else "new" if states == {"new"} else "old"


TASKS = {
    "train": Task(_train_before, _train, _train_left, ("fit",)),
    "save": Task(lambda given, out: shutil.copytree(given / "model0", out / "model"), _save, _save_left, ("model",)),
    "convert": Task(
        lambda given, out: shutil.copytree(given / "0.zarr", out / "cells.zarr"),
        _convert,
        _convert_left,
        ("cells.zarr",),
    ),
    "embed": Task(_embed_before, _embed, _embed_left, ("codes.zarr",)),
    "command line": Task(
        _command_line_before,
        _command_line,
        _command_line_left,
        ("certificate.json", "certificate.png", "checkpoint", "latents.zarr", "model", "training.png"),
    ),
}


def child(task: str, given: Path, out: Path, ready: Event) -> None:
    """One task in a process of its own."""
    quiet()
    try:
        TASKS[task].act(given, out, ready.set)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(3)


def names(out: Path) -> tuple[str, ...]:
    """All that lies in a folder, and in the model's below it."""
    return tuple(sorted(path.name for path in out.iterdir()))


def leftovers(out: Path) -> list[str]:
    """Half files, locks and the like that lie anywhere below a folder."""
    found = [path for path in out.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    # That of a folder of checkpoints stays, empty.
    return [str(path.relative_to(out)) for path in found if path.name != "checkpoint.lock" or path.stat().st_size]
