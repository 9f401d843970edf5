"""Time and memory against the number of cells, from disk and in memory: ``python benchmarks/scale.py``.

Cells are real ones, resampled with fresh Poisson noise and written block by block, never all in memory. Converting,
and fitting from disk and in memory, run in processes of their own, so that each peak memory is its own.
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
from pathlib import Path
from tempfile import TemporaryDirectory

import mudata
import numpy as np
import pandas as pd
import torch
from _resampled import DESCRIPTION, write_resampled
from _table import write

from indiseek import CoMMModel, DisentangledSSLModel, IndiSeekModel
from indiseek.data import convert, open_mudata
from indiseek.models import embed

MODELS = {model.__name__: model for model in (IndiSeekModel, DisentangledSSLModel, CoMMModel)}


def fit(model_name: str, path: Path, out: Path) -> dict[str, float]:
    """Default fit from disk (a zarr) or in memory (an h5mu), then all codes written."""
    seconds = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - sum(seconds.values()) - began

    began = time.perf_counter()
    with mudata.set_options(pull_on_update=False):
        mdata = open_mudata(path) if path.suffix == ".zarr" else mudata.read_h5mu(path)
    lap("open or read, s")
    model = MODELS[model_name](mdata)
    lap("check, s")
    model.train(show_progress=False, write_latents=False)
    lap("fit, s")
    embed(model, None, out, overwrite=True, show_progress=False)
    lap("latents, s")
    total = sum(seconds.values())
    trained = {f"{stage}, s": value for stage, value in model.stage_seconds.items()}
    seconds["of which not training, s"] = seconds["fit, s"] - sum(trained.values())
    # Stages in closed form have no epochs.
    losses = (model.history.get(f"{stage}/train_loss", ()) for stage in model.stage_seconds)
    n_seen = sum(len(loss) for loss in losses) * len(model.train_indices)
    seconds["training, cells/s"] = n_seen / sum(trained.values())
    return seconds | trained | {"total, s": total, "cells/s": mdata.n_obs / total}


def run_one(model: str, task: str, source: Path, target: Path, n_cells: int) -> None:
    """Child process: do one thing and print its figures."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    started, cpu_started = time.perf_counter(), time.process_time()
    result = {}
    if task == "make":
        write_resampled(target, n_cells)
    elif task == "convert":
        convert(source, target, overwrite=True, show_progress=False)
    else:
        result = fit(model, source, target)
    result |= {"wall, s": time.perf_counter() - started, "CPU, s": time.process_time() - cpu_started}
    result |= {"threads": torch.get_num_threads()}
    print(json.dumps(result | {"peak RSS, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def spawn(model: str, task: str, source: Path, target: Path, n_cells: int) -> dict[str, float]:
    """Run one thing in a process of its own."""
    command = [sys.executable, __file__, "--one", task, str(source), str(target), "--sizes", str(n_cells)]
    command += ["--model", model]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return json.loads(output.strip().splitlines()[-1])


def gib(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**30


def measure(model: str, n_cells: int, directory: Path, in_memory: bool) -> dict[str, dict[str, float]]:
    """All figures of one size."""
    h5mu, cells, codes = directory / "cells.h5mu", directory / "cells.zarr", directory / "codes.zarr"
    found = {"make": spawn(model, "make", h5mu, h5mu, n_cells)}
    found["convert"] = spawn(model, "convert", h5mu, cells, n_cells)
    found["files"] = {"h5mu, GiB": gib(h5mu), "zarr, GiB": gib(cells)}
    found["disk"] = spawn(model, "fit", cells, codes, n_cells)
    if in_memory:
        found["memory"] = spawn(model, "fit", h5mu, codes, n_cells)
    return found


def slope(results: dict[int, dict[str, dict[str, float]]], *, but_training: bool) -> float:
    """Slope of log time on log cells, from disk."""
    seconds = []
    for found in results.values():
        disk = found["disk"]
        training = disk["fit, s"] - disk["of which not training, s"]
        seconds.append(disk["total, s"] - (training if but_training else 0.0))
    return float(np.polyfit(np.log(list(results)), np.log(seconds), 1)[0])


COLUMNS = (
    "check, s",
    "of which not training, s",
    "fit, s",
    "latents, s",
    "total, s",
    "CPU, s",
    "cells/s",
    "training, cells/s",
    "peak RSS, GiB",
)


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 1_000_000], help="numbers of cells")
    parser.add_argument(
        "--most-in-memory", type=int, default=1_000_000, help="largest size that is also fitted in memory"
    )
    parser.add_argument("--model", choices=list(MODELS), default=next(iter(MODELS)))
    parser.add_argument("--directory", type=Path, help="where the cells are written; by default a temporary one")
    parser.add_argument("--one", nargs=3, help="task, source and target of one step, in this process")
    options = parser.parse_args()
    if options.one:
        task, source, target = options.one
        run_one(options.model, task, Path(source), Path(target), options.sizes[0])
        return
    results = {}
    for n_cells in options.sizes:
        with TemporaryDirectory(dir=options.directory) as directory:
            results[n_cells] = measure(options.model, n_cells, Path(directory), n_cells <= options.most_in_memory)
        print(json.dumps({n_cells: results[n_cells]}), file=sys.stderr)
    rows = []
    for n_cells, found in results.items():
        for where in ("disk", "memory"):
            if where in found:
                convert_s = f"{found['convert']['wall, s']:.1f}" if where == "disk" else ""
                rows.append([f"{n_cells:,}", where, convert_s, *(f"{found[where][key]:,.1f}" for key in COLUMNS)])
    table = pd.DataFrame(rows, columns=["cells", "from", "convert, s", *COLUMNS])
    threads = results[options.sizes[0]]["disk"]["threads"]
    notes = (
        f"{DESCRIPTION} Default {options.model}; opening, checking, fitting and writing all codes are in the total, "
        f"converting is not. {threads} thread(s)."
    )
    if len(results) > 1:
        every, rest = (slope(results, but_training=but) for but in (False, True))
        notes += (
            f" Slope of log time on log cells, from disk: {every:.2f}, and {rest:.2f} without training, whose steps "
            "grow in number only once an epoch is longer than they are."
        )
    ratios = [
        f"{n:,}: {r['disk']['cells/s'] / r['memory']['cells/s']:.2f}" for n, r in results.items() if "memory" in r
    ]
    if ratios:
        notes += f" Throughput from disk over that in memory, by cells: {', '.join(ratios)}."
    name = "scale" if options.model == IndiSeekModel.__name__ else f"scale-{options.model}"
    write(name, f"Cells on disk, {options.model}", table, results, notes)


if __name__ == "__main__":
    main()
