"""Speed and memory beside other methods on the same cells and threads: ``python benchmarks/speed.py``.

Each method runs in a process of its own, one after the other, so that its peak memory and the machine are its own, and
with its own defaults. ``make peers`` installs them. Each result is kept in ``benchmarks/.cache``: a run that was
stopped goes on, and ``--fresh`` measures all again. ``--quick`` is the sample, or ``--sizes``, beside five epochs of
TOTALVI only. ``--profile`` says instead in which operations a default fit spends its time, stage by stage.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _resampled import DESCRIPTION, write_resampled
from _table import RESULTS, markdown, write_text
from lightning.pytorch import Callback, Trainer
from matplotlib.axes import Axes
from mudata import MuData

from indiseek import IndiSeekModel, datasets

Figures = dict[str, float]

N_SAMPLE = 6855
QUICK_EPOCHS = 5
STAGES = {"shared": "shared codes", "specific": "specific codes"}
_CLUE = Path(__file__).parents[1] / ".venv-clue" / "bin" / "python"
_TOTALVI_TRAIN_SHARE = 0.9
_STOPPED = "stopped after, s"
# The first is what the others are compared with.
OURS, *PEERS = ("IndiSeek", "TOTALVI", "MOFA+", "CLUE")
_COLUMNS = {
    "fit, s": 0,
    "epochs": 0,
    "cells/s": 0,
    "peak RSS, GiB": 2,
    "of which data and imports, GiB": 2,
    "peak GPU, GiB": 2,
}
_RATIOS = {"fit, s": "time, in fits of IndiSeek", "cells/s": "cells/s of IndiSeek over these"}


def indiseek_fit(mdata: MuData, accelerator: str) -> Figures:
    """Default fit with all codes, and the throughput of each stage in its training epochs, where it takes any."""
    started = time.perf_counter()
    model = IndiSeekModel(mdata)
    model.train(accelerator=accelerator, show_progress=False)
    found = {"fit, s": time.perf_counter() - started}
    n_epochs = {stage: len(model.history.get(f"{stage}/train_loss", ())) for stage in STAGES}
    found["epochs"] = sum(n_epochs.values())
    for stage in STAGES:
        seconds = model.stage_seconds[stage]
        found |= {f"{stage}: epochs": n_epochs[stage], f"{stage}: s": seconds}
        if n_epochs[stage]:
            found[f"{stage}: cells/s"] = n_epochs[stage] * len(model.train_indices) / seconds
    # What is computed has no epochs.
    trained = sum(model.stage_seconds[stage] for stage, n in n_epochs.items() if n)
    found["cells/s"] = found["epochs"] * len(model.train_indices) / trained
    return found


def totalvi(mdata: MuData) -> Any:
    """TOTALVI on raw counts, untrained."""
    from scvi.model import TOTALVI

    TOTALVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "protein_layer": "prot"})
    return TOTALVI(mdata)


def totalvi_fit(mdata: MuData, accelerator: str) -> Figures:
    """Default fit of TOTALVI on raw counts, with early stopping, and its codes."""
    import scvi.model  # noqa: F401

    started = time.perf_counter()
    model = totalvi(mdata)
    before = time.perf_counter()
    model.train(accelerator=accelerator, enable_progress_bar=False)
    trained = time.perf_counter() - before
    model.get_latent_representation()
    wall = time.perf_counter() - started
    n_epochs = len(model.history["elbo_train"])
    return {"fit, s": wall, "epochs": n_epochs, "cells/s": n_epochs * _TOTALVI_TRAIN_SHARE * mdata.n_obs / trained}


def totalvi_epochs(mdata: MuData, accelerator: str) -> Figures:
    """A few epochs of TOTALVI after a first one, which carries set-up that a long run does not feel."""
    model = totalvi(mdata)
    model.train(max_epochs=1, accelerator=accelerator, enable_progress_bar=False)
    # It is left in eval mode, and Lightning leaves that as it is.
    model.module.train()
    started = time.perf_counter()
    model.train(max_epochs=QUICK_EPOCHS, accelerator=accelerator, enable_progress_bar=False)
    wall = time.perf_counter() - started
    n_epochs = len(model.history["elbo_train"]) - 1
    return {"epochs": n_epochs, "cells/s": n_epochs * _TOTALVI_TRAIN_SHARE * mdata.n_obs / wall}


def mofa_fit(mdata: MuData, accelerator: str) -> Figures:
    """MOFA+ (mofapy2) with its defaults on log-normalised genes and log-ratios of proteins."""
    import scanpy as sc
    from mofapy2.run.entry_point import entry_point

    started = time.perf_counter()
    rna = mdata["rna"].copy()
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    prot = np.log1p(mdata["prot"].X)
    prot -= prot.mean(axis=1, keepdims=True)
    with contextlib.redirect_stdout(io.StringIO()):
        run = entry_point()
        run.set_data_options()
        run.set_data_matrix([[rna.X.toarray()], [prot]], views_names=["rna", "prot"])
        run.set_model_options()
        run.set_train_options(seed=0, quiet=True, gpu_mode=accelerator == "cuda")
        run.build()
        run.run()
    return {"fit, s": time.perf_counter() - started}


METHODS = {
    OURS: indiseek_fit,
    "TOTALVI": totalvi_fit,
    "TOTALVI, few epochs": totalvi_epochs,
    "MOFA+": mofa_fit,
}


def run_one(method: str, path: Path, accelerator: str) -> None:
    """Child process: fit one method and print its figures."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = METHODS[method](mdata, accelerator)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found |= {"peak RSS, GiB": peak / 2**20, "of which data and imports, GiB": before / 2**20}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["peak GPU, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(found | {"cells": mdata.n_obs, "threads": torch.get_num_threads()}))


def installed(method: str) -> bool:
    """Whether a peer is at hand."""
    if method == "CLUE":
        return _CLUE.exists()
    return method != "MOFA+" or find_spec("mofapy2") is not None


def spawn(method: str, path: Path, accelerator: str, limit: int) -> Figures:
    """Run a method in a process of its own, for at most `limit` seconds, and raise if it takes longer."""
    if method == "CLUE":
        command = [str(_CLUE), str(Path(__file__).with_name("_clue.py")), str(path)]
    else:
        command = [sys.executable, __file__, "--one", method, "--file", str(path), "--device", accelerator]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ, timeout=limit)
    return json.loads(process.stdout.strip().splitlines()[-1])


def import_seconds(package: str, n_times: int = 5) -> float:
    """Median time of an import in a fresh process."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {package}"], check=True)
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(n_times))


def profile(path: Path, accelerator: str) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """By stage the operations that take most of the device's time in two epochs; and weights, with those of TOTALVI."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mdata = mudata.read_h5mu(path)
    tables, n_weights = {}, {}
    for stage in ("shared", "specific"):
        epochs = {"shared": 1, "specific": 1} | {stage: 3}
        model = IndiSeekModel(mdata)
        recorder = _Recorder(stage)
        model.train(
            epochs,
            early_stopping=False,
            accelerator=accelerator,
            show_progress=False,
            write_latents=False,
            callbacks=[recorder],
        )
        averages = recorder.profiler.key_averages()
        clock = "self_cpu_time_total" if accelerator == "cpu" else "self_device_time_total"
        total = sum(getattr(event, clock) for event in averages)
        table = pd.DataFrame(
            [(event.key, getattr(event, clock) / total, event.count) for event in averages],
            columns=["operation", "share", "calls"],
        )
        tables[stage] = table.nlargest(8, "share")
        n_weights[STAGES[stage]] = _n_weights(model.module.objective(stage))
    return tables, n_weights | {"TOTALVI": _n_weights(totalvi(mdata).module)}


def _n_weights(module: torch.nn.Module) -> int:
    """Entries of the matrices: each is a multiplication and an addition for a cell that passes."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


class _Recorder(Callback):
    """Profiles the last two epochs of one stage; the first warms up."""

    def __init__(self, stage: str) -> None:
        self.number = list(STAGES).index(stage)
        self.n_fits = -1
        self.profiler = torch.profiler.profile()

    def on_fit_start(self, *_: object) -> None:
        self.n_fits += 1

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        if self.n_fits == self.number and trainer.current_epoch == 1:
            self.profiler.start()

    def on_fit_end(self, *_: object) -> None:
        if self.n_fits == self.number:
            self.profiler.stop()


@contextlib.contextmanager
def cells_on_disk(n_cells: int) -> Iterator[Path]:
    """A file of so many cells: the sample itself, or resampled ones."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "cells.h5mu"
        if n_cells == N_SAMPLE:
            datasets.pbmc10k_cite().write(path)
        else:
            write_resampled(path, n_cells)
        yield path


def rows_of(n_cells: int, found: dict[str, Figures | None]) -> list[dict[str, str]]:
    """Rows of the table: each method, and the stages of IndiSeek."""
    ours, rows = found[OURS], []
    for method, figures in found.items():
        row = {"cells": f"{n_cells:,}", "method": method}
        if figures is None:
            rows.append(row | {"fit, s": "not installed"})
            continue
        if _STOPPED in figures:
            rows.append(row | {"fit, s": f"over {figures[_STOPPED]:,.0f}, stopped"})
            continue
        row |= {key: f"{figures[key]:,.{digits}f}" for key, digits in _COLUMNS.items() if key in figures}
        if figures is not ours:
            for key, (above, below) in {"fit, s": (figures, ours), "cells/s": (ours, figures)}.items():
                if key in figures:
                    row[_RATIOS[key]] = f"{above[key] / below[key]:.1f}"
        rows.append(row)
        if figures is ours:
            rows += [_stage_row(stage, row, ours, found) for stage in STAGES if f"{stage}: s" in ours]
    return rows


def _stage_row(stage: str, row: dict[str, str], ours: Figures, found: dict[str, Figures | None]) -> dict[str, str]:
    figures = {key: ours[f"{stage}: {key}"] for key in ("s", "epochs")}
    label = f"- its {STAGES[stage]}"
    rate = ours.get(f"{stage}: cells/s")
    totalvi = next((f for name, f in found.items() if name.startswith("TOTALVI") and f), None)
    # A fit that was stopped has no throughput.
    if totalvi and "cells/s" in totalvi and rate is not None:
        label += f" ({rate / totalvi['cells/s']:.1f} times TOTALVI's cells/s)"
    return {
        "cells": row["cells"],
        "method": label,
        "fit, s": f"{figures['s']:,.0f}",
        "epochs": f"{figures['epochs']:,.0f}",
        "cells/s": "" if rate is None else f"{rate:,.0f}",
    }


def plot(path: Path, results: dict[int, dict[str, Figures | None]]) -> None:
    """Time, throughput and memory of each method against the number of cells; of one number, as bars."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    methods = list(dict.fromkeys(name for found in results.values() for name in found))
    for axis, key in zip(axes, ("fit, s", "cells/s", "peak RSS, GiB"), strict=True):
        lines = {m: [(n, f[key]) for n, found in results.items() if (f := found.get(m)) and key in f] for m in methods}
        if len(results) == 1:
            _bars(axis, {method: points[0][1] for method, points in lines.items() if points})
            axis.set_title(f"{key}, {next(iter(results)):,} cells")
            continue
        for method, points in lines.items():
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=method)
        axis.set(xscale="log", yscale="log", xlabel="cells", title=key)
        axis.set_xticks(list(results), [f"{n:,}" for n in results])
        axis.minorticks_off()
        axis.margins(0.15)
    if len(results) > 1:
        axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(axis: Axes, values: dict[str, float]) -> None:
    bars = axis.barh(list(values), list(values.values()), color=["C0" if name == OURS else "0.7" for name in values])
    axis.bar_label(bars, [f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in values.values()], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_xticks([])
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help=f"20,000; {N_SAMPLE} is the sample, that of --quick")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--methods", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--limit", type=int, default=7200, help="most seconds of one fit (default 7,200)")
    parser.add_argument("--quick", action="store_true", help="beside a few epochs of TOTALVI only")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the cache")
    parser.add_argument("--profile", action="store_true", help="where the time of a fit goes, on the first size")
    parser.add_argument("--one", choices=sorted(METHODS), help="run one method in this process, on --file")
    parser.add_argument("--file", type=Path, help="cells of --one")
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.file, options.device)
        return
    sizes = options.sizes or [N_SAMPLE if options.quick else 20_000]
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    if options.profile:
        with cells_on_disk(sizes[0]) as path:
            tables, n_weights = profile(path, options.device)
        shown = [
            f"## Stage {k}\n\n{markdown(t.assign(share=t['share'].map('{:.0%}'.format)))}" for k, t in tables.items()
        ]
        notes = f"{options.device}, {torch.get_num_threads()} thread(s), {sizes[0]:,} cells. {DESCRIPTION} "
        notes += "Entries of weight matrices, each a multiplication and an addition for a cell that passes: "
        notes += ", ".join(f"{name} {n:,}" for name, n in n_weights.items()) + "."
        record = {stage: table.to_dict("records") for stage, table in tables.items()} | {"weights": n_weights}
        write_text(f"speed-profile{suffix}", "Where the time of a training goes", "\n\n".join(shown), record, notes)
        return
    methods = [OURS, *(["TOTALVI, few epochs"] if options.quick else options.methods)]
    results: dict[int, dict[str, Figures | None]] = {n: {} for n in sizes}
    kind = f"{options.device}-{torch.get_num_threads()}"
    for n_cells in sizes:
        with cells_on_disk(n_cells) as path:
            for method in methods:
                name = CACHE / "speed" / f"{kind}-{n_cells}-{method.replace(' ', '_')}.json"

                def measure(method: str = method, path: Path = path) -> Figures:
                    return spawn(method, path, options.device, options.limit)

                try:
                    found = kept(name, measure, fresh=options.fresh) if installed(method) else None
                except subprocess.TimeoutExpired:
                    # Not kept: a later run may give it more time.
                    found = {_STOPPED: options.limit}
                results[n_cells][method] = found
                print(f"{n_cells} {method}: {found}", file=sys.stderr, flush=True)
    imports = {package: import_seconds(package) for package in ("indiseek", "scvi")}
    name = f"speed{suffix}" + ("-quick" if options.quick else "")
    rows = [row for n_cells, found in results.items() for row in rows_of(n_cells, found)]
    columns = ["cells", "method", "fit, s", *_RATIOS.values(), *list(_COLUMNS)[1:]]
    table = pd.DataFrame(rows).reindex(columns=columns).dropna(axis="columns", how="all").fillna("")
    notes = _NOTES.format(
        description=DESCRIPTION,
        device=torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
        threads=results[sizes[0]][OURS]["threads"],
        ours=imports["indiseek"],
        theirs=imports["scvi"],
        ratio=imports["indiseek"] / imports["scvi"],
        n_sample=N_SAMPLE,
        n_epochs=QUICK_EPOCHS,
    )
    write_text(name, "Speed and memory", markdown(table), {"results": results, "imports, s": imports}, notes)
    if not options.quick:
        plot(RESULTS / f"{name}.png", results)


_NOTES = """\
{device}, {threads} thread(s); each method in a process of its own, with its own defaults, one after the other.
{n_sample:,} cells are the sample (4,000 genes, 14 proteins). Other sizes: {description}
Fit: transforms, training and codes of all cells. cells/s counts training cells in whole epochs with their validation;
specific codes that are computed, without a flow on top, have no epochs.
TOTALVI and CLUE stop early, as by their defaults; "few epochs" are {n_epochs} after a first one that is not counted.
CLUE: counts, encoded from principal components. MOFA+: log-normalised genes, log-ratios of proteins.

Import, median of 5: `import indiseek` {ours:.2f} s, `import scvi` {theirs:.2f} s, ratio {ratio:.2f}."""


if __name__ == "__main__":
    main()
