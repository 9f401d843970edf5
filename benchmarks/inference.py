"""What a fitted model takes to answer, at any number of cells on disk: ``python benchmarks/inference.py``.

The cells of ``scale.py``, a default fit from disk, then each question in a process of its own, so that each time and
peak memory, loading included, is its own. Cells, fit and answers stay in ``--directory`` if that is given, and runs
with ``--only`` add to one table.
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
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mudata
import pandas as pd
import torch
from _resampled import DESCRIPTION, write_resampled
from _table import write

from indiseek import IndiSeekModel
from indiseek.data import convert, open_mudata

_LIMIT_GIB = 4.0
_MIB = 2**20


def _codes(model: IndiSeekModel, directory: Path) -> None:
    model.get_latent_representation()


def _report(model: IndiSeekModel, directory: Path) -> None:
    model.report(directory / "report.html")


def _feature_table(model: IndiSeekModel, directory: Path) -> None:
    model.feature_table()


def _predict(model: IndiSeekModel, directory: Path) -> None:
    model.predict(interval=0.9)


def _certify(model: IndiSeekModel, directory: Path) -> None:
    model.certify()


def _map_query(model: IndiSeekModel, directory: Path) -> None:
    with mudata.set_options(pull_on_update=False):
        model.map_query(open_mudata(directory / "cells.zarr"))


QUESTIONS: dict[str, Callable[[IndiSeekModel, Path], None]] = {
    "get_latent_representation": _codes,
    "certify": _certify,
    "feature_table": _feature_table,
    "predict": _predict,
    "map_query": _map_query,
    "report": _report,
}


def _prepare(directory: Path, n_cells: int) -> None:
    """Cells on disk and a saved model."""
    h5mu, cells = directory / "cells.h5mu", directory / "cells.zarr"
    if not cells.exists():
        write_resampled(h5mu, n_cells)
        convert(h5mu, cells, overwrite=True, show_progress=False)
    with mudata.set_options(pull_on_update=False):
        model = IndiSeekModel(open_mudata(cells))
        model.train(show_progress=False, write_latents=False)
    model.save(directory / "model", overwrite=True)


def _ask(name: str, directory: Path) -> dict[str, float]:
    """Load the model beside its cells, put the question to it."""
    began, cpu_began = time.perf_counter(), time.process_time()
    with mudata.set_options(pull_on_update=False):
        model = IndiSeekModel.load(directory / "model", open_mudata(directory / "cells.zarr"))
    loaded = time.perf_counter()
    QUESTIONS[name](model, directory)
    return {
        "loading, s": loaded - began,
        "answer, s": time.perf_counter() - loaded,
        "CPU, s": time.process_time() - cpu_began,
    }


def _child(task: str, directory: Path, n_cells: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    result: dict[str, float] = {}
    if task == "prepare":
        _prepare(directory, n_cells)
    else:
        result = _ask(task, directory)
    print(json.dumps(result | {"peak RSS, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB}))


def _spawn(task: str, directory: Path, n_cells: int) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--one", task, "--cells", str(n_cells), "--directory", str(directory)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=os.environ)
    # One that runs out of memory is killed, which the others survive.
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def _measure(directory: Path, n_cells: int, names: list[str]) -> dict[str, dict[str, Any] | None]:
    if not (directory / "model").exists() and _spawn("prepare", directory, n_cells) is None:
        raise RuntimeError("expected a fit of these cells, got none: its process ended with an error.")
    answers = directory / "answers.json"
    found = json.loads(answers.read_text()) if answers.exists() else {}
    for name in names:
        found[name] = _spawn(name, directory, n_cells)
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
        if name == "report" and found[name] is not None:
            found[name]["page, MB"] = (directory / "report.html").stat().st_size / 1e6
        answers.write_text(json.dumps(found))
    return {name: found[name] for name in QUESTIONS if name in found}


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000, help="number of cells")
    parser.add_argument("--directory", type=Path, help="where cells and model are kept; by default nowhere")
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS), metavar="QUESTION")
    parser.add_argument("--one", help="one step, in this process")
    options = parser.parse_args()
    if options.one:
        _child(options.one, options.directory, options.cells)
        return
    with TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        found = _measure(directory, options.cells, options.only)
    columns = ("loading, s", "answer, s", "CPU, s", "peak RSS, GiB")
    rows = [
        [f"`{name}`", *("its process died" if each is None else f"{each[key]:,.1f}" for key in columns)]
        for name, each in found.items()
    ]
    threads = os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()
    notes = (
        f"{DESCRIPTION} {options.cells:,} cells on disk, default fit, each question in a process that loads the model; "
        f"{threads} thread(s). Aim: each below {_LIMIT_GIB:.0f} GiB."
    )
    if found.get("report") is not None:
        notes += f" The report's page has {found['report']['page, MB']:.1f} MB."
    write(
        "inference",
        "Answers of a fitted model, cells on disk",
        pd.DataFrame(rows, columns=["", *columns]),
        found,
        notes,
    )


if __name__ == "__main__":
    main()
