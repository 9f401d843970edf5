"""Speed and memory beside TOTALVI on the same cells and threads: ``python benchmarks/speed.py --quick``.

Each method runs in a process of its own, so that its peak memory is its own. TOTALVI runs with its defaults.
``--profile`` says instead in which operations a default fit spends its time, stage by stage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
import warnings

import mudata
import numpy as np
import pandas as pd
import torch
from _table import markdown, write
from lightning.pytorch import Callback, Trainer
from mudata import MuData

from indiseek import IndiSeekModel, datasets


def cells(n_cells: int | None) -> MuData:
    """The sample, or real cells resampled to `n_cells` with fresh Poisson noise."""
    mdata = datasets.pbmc10k_cite()
    if n_cells is None:
        return mdata
    rng = np.random.default_rng(0)
    rows = rng.integers(mdata.n_obs, size=n_cells)
    with mudata.set_options(pull_on_update=False):
        sampled = mdata[rows].copy()
        for adata in sampled.mod.values():
            values = adata.X
            if isinstance(values, np.ndarray):
                adata.X = rng.poisson(values).astype(np.float32)
            else:
                values.data = rng.poisson(values.data).astype(np.float32)
                values.eliminate_zeros()
            adata.obs_names = [f"cell{i}" for i in range(n_cells)]
        return MuData(dict(sampled.mod))


def indiseek_fit(mdata: MuData, epochs: int | None) -> dict[str, float]:
    """Default fit, and the throughput of each stage in its training epochs."""
    model = IndiSeekModel(mdata)
    started = time.perf_counter()
    model.train(epochs, show_progress=False)
    wall = time.perf_counter() - started
    result = {"fit, s": wall}
    n_epochs_of_all = 0
    for stage, seconds in model.stage_seconds.items():
        n_epochs = len(model.history[f"{stage}/train_loss"])
        n_epochs_of_all += n_epochs
        result[f"{stage}: epochs"] = n_epochs
        result[f"{stage}: s"] = seconds
        result[f"{stage}: cells/s"] = n_epochs * len(model.train_indices) / seconds
    total = sum(model.stage_seconds.values())
    result["all stages: cells/s"] = n_epochs_of_all * len(model.train_indices) / total
    return result


def totalvi_fit(mdata: MuData, epochs: int | None) -> dict[str, float]:
    """TOTALVI with its defaults; `epochs` limits it where only the throughput is wanted."""
    from scvi.model import TOTALVI

    TOTALVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "protein_layer": "prot"})
    model = TOTALVI(mdata)
    # The first epoch carries set-up that a long run does not feel.
    model.train(max_epochs=1, enable_progress_bar=False)
    started = time.perf_counter()
    model.train(max_epochs=epochs, enable_progress_bar=False)
    wall = time.perf_counter() - started
    n_epochs = len(model.history["elbo_train"]) - 1
    return {"fit, s": wall, "epochs": n_epochs, "cells/s": n_epochs * 0.9 * mdata.n_obs / wall}


METHODS = {"indiseek": indiseek_fit, "totalvi": totalvi_fit}


def run_one(method: str, n_cells: int | None, epochs: int | None) -> None:
    """Child process: fit one method and print its figures."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mdata = cells(n_cells)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = METHODS[method](mdata, epochs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result |= {"peak RSS, GiB": peak / 2**20, "of which data and imports, GiB": before / 2**20}
    result |= {"cells": mdata.n_obs, "threads": torch.get_num_threads()}
    print(json.dumps(result))


def profile(n_cells: int | None) -> None:
    """Print by stage the operations that take most of the processor's time in two epochs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mdata = cells(n_cells)
    for stage in ("shared", "specific"):
        epochs = {"shared": 1, "context": 1, "specific": 1} | {stage: 3}
        model = IndiSeekModel(mdata)
        recorder = _Recorder(stage)
        model.train(epochs, show_progress=False, write_latents=False, callbacks=[recorder])
        averages = recorder.profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in averages)
        table = pd.DataFrame(
            [(event.key, event.self_cpu_time_total / total, event.count) for event in averages],
            columns=["operation", "share", "calls"],
        )
        table = table.nlargest(8, "share")
        table["share"] = table["share"].map("{:.0%}".format)
        print(f"## Stage {stage}\n\n{markdown(table)}\n")


class _Recorder(Callback):
    """Profiles the last two epochs of one stage; the first warms up."""

    def __init__(self, stage: str) -> None:
        self.number = {"shared": 0, "specific": 2}[stage]
        self.n_fits = -1
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    def on_fit_start(self, *_: object) -> None:
        self.n_fits += 1

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        if self.n_fits == self.number and trainer.current_epoch == 1:
            self.profiler.start()

    def on_fit_end(self, *_: object) -> None:
        if self.n_fits == self.number:
            self.profiler.stop()


def spawn(method: str, n_cells: int | None, epochs: int | None) -> dict[str, float]:
    """Run a method in a process of its own."""
    command = [sys.executable, __file__, "--one", method]
    command += ["--cells", str(n_cells)] if n_cells else []
    command += ["--epochs", str(epochs)] if epochs else []
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the sample; TOTALVI for a few epochs only")
    parser.add_argument("--cells", type=int, help="resample the sample to this many cells")
    parser.add_argument("--epochs", type=int, help="epochs of --one")
    parser.add_argument("--profile", action="store_true", help="where the time of a fit goes")
    parser.add_argument("--one", choices=sorted(METHODS), help="run one method in this process")
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.cells, options.epochs)
        return
    if options.profile:
        profile(options.cells)
        return
    ours = spawn("indiseek", options.cells, None)
    theirs = spawn("totalvi", options.cells, 5 if options.quick else None)
    rows = [("IndiSeek, default fit", key, value) for key, value in ours.items()]
    rows += [("TOTALVI", key, value) for key, value in theirs.items()]
    for stage in ("stage shared", "stage specific", "all stages"):
        ratio = ours[f"{stage.removeprefix('stage ')}: cells/s"] / theirs["cells/s"]
        rows.append(("ratio", f"cells/s, {stage} / TOTALVI", ratio))
    table = pd.DataFrame(rows, columns=["method", "figure", "value"])
    table["value"] = table["value"].map(lambda v: f"{v:,.2f}" if abs(v) < 100 else f"{v:,.0f}")
    name = "speed" + (f"-{options.cells}" if options.cells else "") + ("-quick" if options.quick else "")
    write(
        name,
        "Speed and memory on the same cells and threads",
        table,
        {"indiseek": ours, "totalvi": theirs},
        "Each method in a process of its own; cells/s counts training cells, in whole epochs with their validation. "
        "IndiSeek transforms the data inside the fit; TOTALVI reads raw counts."
        + (" TOTALVI ran 5 epochs after a first one that is not counted." if options.quick else ""),
    )


if __name__ == "__main__":
    main()
