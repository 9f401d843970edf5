"""Time and memory against the number of cells, from disk and in memory: ``python benchmarks/scale.py --sizes 20000``.

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

import h5py
import mudata
import numpy as np
import pandas as pd
import torch
from _table import write
from anndata import AnnData
from anndata.io import sparse_dataset
from mudata import MuData
from scipy import sparse

from indiseek import IndiSeekModel, datasets
from indiseek.data import convert, open_mudata
from indiseek.models import embed

N_GENES, N_PROTEINS = 2000, 100
BLOCK_CELLS = 10_000


def make(path: Path, n_cells: int) -> None:
    """Write `n_cells` cells to an h5mu: 2,000 genes and 100 proteins, each with Poisson noise of its own.

    Genes are those of highest mean; proteins are drawn from the sample's 14 with replacement.
    """
    mdata = datasets.pbmc10k_cite()
    rna, prot = mdata["rna"].X, mdata["prot"].X
    genes = np.sort(np.argsort(-np.asarray(rna.mean(axis=0)).ravel(), kind="stable")[:N_GENES])
    rna, rng = rna[:, genes], np.random.default_rng(0)
    proteins = rng.integers(prot.shape[1], size=N_PROTEINS)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    var = {"rna": mdata["rna"].var_names[genes], "prot": [f"protein{j}" for j in range(N_PROTEINS)]}
    with mudata.set_options(pull_on_update=False):
        empty = {
            k: AnnData(sparse.csr_matrix((n_cells, len(v)), dtype=np.float32), obs, pd.DataFrame(index=v))
            for k, v in var.items()
        }
        MuData(empty).write(path)
    with h5py.File(path, "r+") as file:
        groups = {name: file[f"mod/{name}"] for name in var}
        del groups["prot"]["X"]
        dense = groups["prot"].create_dataset("X", (n_cells, N_PROTEINS), np.float32, chunks=(1000, N_PROTEINS))
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        del groups["rna"]["X"]
        group = groups["rna"].create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [0, N_GENES]})
        for key, dtype in {"data": np.float32, "indices": np.int32, "indptr": np.int64}.items():
            n = int(key == "indptr")
            group.create_dataset(key, data=np.zeros(n, dtype), maxshape=(None,), chunks=(2**17,), compression="lzf")
        for start in range(0, n_cells, BLOCK_CELLS):
            rows = rng.integers(rna.shape[0], size=min(BLOCK_CELLS, n_cells - start))
            counts = rna[rows]
            counts.data = rng.poisson(counts.data).astype(np.float32)
            counts.eliminate_zeros()
            sparse_dataset(group).append(counts)
            dense[start : start + len(rows)] = rng.poisson(prot[rows][:, proteins])


def fit(path: Path, out: Path) -> dict[str, float]:
    """Default fit from disk (a zarr) or in memory (an h5mu), then all codes written."""
    seconds = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - sum(seconds.values()) - began

    began = time.perf_counter()
    with mudata.set_options(pull_on_update=False):
        mdata = open_mudata(path) if path.suffix == ".zarr" else mudata.read_h5mu(path)
    lap("open or read, s")
    model = IndiSeekModel(mdata)
    lap("check, s")
    model.train(show_progress=False, write_latents=False)
    lap("fit, s")
    embed(model, None, out, overwrite=True, show_progress=False)
    lap("latents, s")
    total = sum(seconds.values())
    trained = {f"{stage}, s": value for stage, value in model.stage_seconds.items()}
    seconds["of which not training, s"] = seconds["fit, s"] - sum(trained.values())
    return seconds | trained | {"total, s": total, "cells/s": mdata.n_obs / total}


def run_one(task: str, source: Path, target: Path, n_cells: int) -> None:
    """Child process: do one thing and print its figures."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    started, cpu_started = time.perf_counter(), time.process_time()
    result = {}
    if task == "make":
        make(target, n_cells)
    elif task == "convert":
        convert(source, target, overwrite=True, show_progress=False)
    else:
        result = fit(source, target)
    result |= {"wall, s": time.perf_counter() - started, "CPU, s": time.process_time() - cpu_started}
    result |= {"threads": torch.get_num_threads()}
    print(json.dumps(result | {"peak RSS, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def spawn(task: str, source: Path, target: Path, n_cells: int) -> dict[str, float]:
    """Run one thing in a process of its own."""
    command = [sys.executable, __file__, "--one", task, str(source), str(target), "--sizes", str(n_cells)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return json.loads(output.strip().splitlines()[-1])


def gib(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**30


def measure(n_cells: int, directory: Path, in_memory: bool) -> dict[str, dict[str, float]]:
    """All figures of one size."""
    h5mu, cells, codes = directory / "cells.h5mu", directory / "cells.zarr", directory / "codes.zarr"
    found = {"make": spawn("make", h5mu, h5mu, n_cells)}
    found["convert"] = spawn("convert", h5mu, cells, n_cells)
    found["files"] = {"h5mu, GiB": gib(h5mu), "zarr, GiB": gib(cells)}
    found["disk"] = spawn("fit", cells, codes, n_cells)
    if in_memory:
        found["memory"] = spawn("fit", h5mu, codes, n_cells)
    return found


COLUMNS = (
    "check, s",
    "of which not training, s",
    "fit, s",
    "latents, s",
    "total, s",
    "CPU, s",
    "cells/s",
    "peak RSS, GiB",
)


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 50_000], help="numbers of cells")
    parser.add_argument(
        "--most-in-memory", type=int, default=200_000, help="largest size that is also fitted in memory"
    )
    parser.add_argument("--directory", type=Path, help="where the cells are written; by default a temporary one")
    parser.add_argument("--one", nargs=3, help="task, source and target of one step, in this process")
    options = parser.parse_args()
    if options.one:
        task, source, target = options.one
        run_one(task, Path(source), Path(target), options.sizes[0])
        return
    results = {}
    for n_cells in options.sizes:
        with TemporaryDirectory(dir=options.directory) as directory:
            results[n_cells] = measure(n_cells, Path(directory), n_cells <= options.most_in_memory)
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
        f"Real cells resampled with fresh Poisson noise: the {N_GENES:,} genes of highest mean and {N_PROTEINS} "
        "proteins drawn from the sample's 14, each with noise of its own. Default IndiSeekModel; opening, checking, "
        f"fitting and writing all codes are in the total, converting is not. {threads} thread(s)."
    )
    if len(results) > 1:
        totals = [found["disk"]["total, s"] for found in results.values()]
        slope = np.polyfit(np.log(list(results)), np.log(totals), 1)[0]
        notes += f" Slope of log time on log cells, from disk: {slope:.2f}."
    ratios = [
        f"{n:,}: {r['disk']['cells/s'] / r['memory']['cells/s']:.2f}" for n, r in results.items() if "memory" in r
    ]
    if ratios:
        notes += f" Throughput from disk over that in memory, by cells: {', '.join(ratios)}."
    write("scale", "Cells on disk", table, results, notes)


if __name__ == "__main__":
    main()
