"""One fit, to be run in one process or several: ``distributed_fit.py DIRECTORY DEVICES [kill]``.

Each process writes what it has in the end, and with ``kill`` the last one dies in the second stage.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anndata
import lightning.pytorch as lightning
import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from indiseek.models import IndiSeekModel, NCEClub, _embed, embed
from indiseek.nn import Encoder
from indiseek.objectives import rank

ARGUMENTS = {
    "specific": NCEClub(critic_hidden=(8,)),
    "n_shared": 4,
    "n_specific": 3,
    "encoder": Encoder(hidden=(16,)),
}
# Two held-out batches for two processes in one stage, and a single one in the other.
BATCH_SIZE = {"shared": 32, "specific": 64}
TRAIN = {"max_epochs": {"shared": 14, "specific": 3}, "batch_size": BATCH_SIZE, "patience": 1, "lr": 0.03}


class KillAt(lightning.Callback):
    """Kill the last process without warning."""

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if (
            len(trainer.optimizers) == 2
            and trainer.current_epoch == 1
            and trainer.global_rank == trainer.world_size - 1
        ):
            os.kill(os.getpid(), signal.SIGKILL)


def cells(n: int = 400) -> MuData:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, 3))
    parts = {}
    for name, width in {"rna": 12, "prot": 7}.items():
        x = common @ rng.normal(size=(3, width)) + 0.5 * rng.normal(size=(n, width))
        parts[name] = AnnData(x.astype(np.float32), var=pd.DataFrame(index=[f"{name}{i}" for i in range(width)]))
    with mudata.set_options(pull_on_update=False):
        return MuData(parts)


def fit(directory: Path, devices: int, *, kill: bool = False) -> IndiSeekModel:
    model = IndiSeekModel(cells(), **ARGUMENTS)
    options: dict[str, Any] = {"strategy": "ddp"} if devices > 1 else {}
    callbacks = [KillAt()] if kill else []
    model.train(
        **TRAIN,
        devices=devices,
        accelerator="cpu",
        checkpoint_dir=directory / "checkpoint",
        show_progress=False,
        callbacks=callbacks,
        **options,
    )
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    model = fit(directory, int(sys.argv[2]), kill="kill" in sys.argv)
    model.save(directory / "model", overwrite=True)
    found = {"shared": model.get_latent_representation()}
    found |= {name: model.get_latent_representation(modality=name, kind="specific") for name in model.modalities}
    found |= {key: table.to_numpy() for key, table in model.history.items()}
    # Four pieces, the last one short.
    _embed._CHUNK_CELLS = 128
    embed(model, None, directory / "codes.zarr", show_progress=False)
    found |= dict(anndata.read_zarr(directory / "codes.zarr").obsm)
    try:
        embed(model, None, directory / "codes.zarr", show_progress=False)
    except (FileExistsError, RuntimeError) as error:
        (directory / f"{rank()}.txt").write_text(f"{type(error).__name__}: {error}")
    np.savez(directory / f"{rank()}.npz", **{key.replace("/", ":"): value for key, value in found.items()})
