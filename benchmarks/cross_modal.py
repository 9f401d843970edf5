"""Proteins from RNA, beside kernel ridge in the same run: ``python benchmarks/cross_modal.py --shared FOLDER``.

What :meth:`indiseek.IndiSeekModel.predict` fits, :class:`indiseek.prediction.Predictor`, on random cells and on whole
donors that it has not seen. ``--data covid --sizes 5500 --seeds 0`` takes some of it. ``--totalvi`` fits totalVI too,
which takes a quarter of an hour and more a fit. Each fit is kept in ``benchmarks/.cache``; ``--fresh`` fits again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _table import markdown, spread, write_text
from _types import Labels, Rows, column
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import solve

from indiseek.data import CLR, LogNormalizePCA
from indiseek.metrics import predictability, thin_counts
from indiseek.prediction import Predictor

Array = NDArray[np.float32]

_N_TEST = 3000
_N_COMPONENTS = 50
_LEVEL = 0.9
_NEW_DONORS_OF_EACH_BATCH = 2
# Penalties and widths of the peer's kernel, chosen on a fifth of few cells; of many those that were best before.
_FEW_CELLS = 6000
_GAMMAS, _ALPHAS = (0.4, 0.8, 1.6), (0.3, 1.0, 3.0)
_GAMMA, _ALPHA = 0.8, 1.0
_BATCH = 3.0
_NOTES = """\
Mean [lowest, highest] over the seeds, one thread. r: correlation of log1p less the cell's mean over the test cells,
mean of the proteins; per cell: over the proteins of a cell, mean of the cells; RMSE: on that scale. within: r within
types and, where the methods see it, the batch. ceiling: the highest r that counting noise allows, mean of the proteins.
totalVI: fewer seeds; counts and default settings, the test cells in the fit as batches without proteins, and the log of
its expected counts with background, mean of 25 draws.
kernel ridge: Gaussian kernel on the same 50 components and, times 3, the batch, all training cells; width and penalty
chosen on a fifth of up to 6,000 training cells, .8 / median squared distance and 1 of more. ridge: linear, on the same.
types: means of each type and batch, told the true type. coverage: share of test values in their 90 % interval; share of
the proteins of which that is between .88 and .92 (of 200 test cells, chance alone leaves a third outside). cells/s:
from components. Test cells are 3,000 or what is left; new donors are two of each batch, whole."""


@dataclass(frozen=True)
class Data:
    """A set: its file, numbers of training cells, columns of batch, types and donors."""

    file: str
    sizes: tuple[int, ...]
    batch: str | None = None
    types: str | None = None
    donor: str | None = None


DATA = {
    "covid": Data("covid_cite_donors.h5mu", (5500, 17_000), "Batch", "mergedcelltype"),
    "covid, new donors": Data("covid_cite_donors.h5mu", (5500, 17_000), "Batch", "mergedcelltype", "Donor"),
    "bmmc": Data("bmmc_cite_starter.h5mu", (400,), None, "cell_type"),
    "bmmc, batch": Data("bmmc_cite_starter.h5mu", (400,), "batch", "cell_type"),
    "pbmc": Data("pbmc10k_cite.h5mu", (4500,)),
}


@dataclass(frozen=True, eq=False)
class Cells:
    """Counts of both modalities, what is predicted of the proteins, and labels and split of the cells."""

    rna: sparse.csr_matrix
    prot: Array
    y: Array
    batch: NDArray[np.intp] | None
    types: Labels | None
    donor: Labels | None
    train: Rows
    test: Rows

    @classmethod
    def read(cls, data: Data, n_train: int, seed: int, shared: Path) -> Cells:
        """Those of one split."""
        with mudata.set_options(pull_on_update=False):
            mdata = mudata.read_h5mu(shared / data.file)
        prot = mdata["prot"].X
        prot = np.asarray(prot.toarray() if sparse.issparse(prot) else prot, dtype=np.float32)
        prot = np.ascontiguousarray(prot[:, prot.var(axis=0) > 0])
        batch = None if data.batch is None else np.unique(column(mdata, data.batch), return_inverse=True)[1]
        donor = None if data.donor is None else column(mdata, data.donor)
        return cls(
            sparse.csr_matrix(mdata["rna"].X, dtype=np.float32),
            prot,
            _logs(prot),
            batch,
            None if data.types is None else column(mdata, data.types),
            donor,
            *_split(len(prot), n_train, seed, donor, batch),
        )

    @property
    def in_words(self) -> str:
        """Numbers of training and test cells."""
        return f"{len(self.train):,} / {len(self.test):,}"

    def figures(self, predictions: dict[str, Array], seed: int) -> dict[str, dict[str, float]]:
        """By method, of its prediction for the test cells."""
        first, second = (_logs(half) for half in thin_counts(self.prot[self.test], seed=seed))
        observed, found = self.y[self.test], {}
        for name, predicted in predictions.items():
            table = predictability(
                predicted,
                observed,
                batch=None if self.batch is None else self.batch[self.test],
                groups=None if self.types is None else self.types[self.test],
                halves=(first, second),
            )
            found[name] = {key: float(table[key].mean()) for key in table} | {
                "per cell": _per_cell(predicted, observed),
                "RMSE": float(np.sqrt(np.square(predicted - observed).mean())),
            }
        return found


def fit_totalvi(data: Data, n_train: int, seed: int, shared: Path) -> dict[str, Any]:
    """Figures of totalVI on one split, the test cells in the fit as cells without proteins."""
    # Takes seconds to import, which the other methods need not wait for.
    from _peers import imputed_by_totalvi

    cells = Cells.read(data, n_train, seed, shared)
    started = time.perf_counter()
    value = _logs(imputed_by_totalvi(cells.rna, cells.prot, cells.batch, cells.train, cells.test, seed))
    seconds = time.perf_counter() - started
    return {"cells": cells.in_words, "totalVI": {"s": seconds} | cells.figures({"totalVI": value}, seed)["totalVI"]}


def _logs(counts: Array) -> Array:
    logs = np.log1p(counts)
    return logs - logs.mean(axis=1, keepdims=True)


def fit(data: Data, n_train: int, seed: int, shared: Path) -> dict[str, Any]:
    """Figures of every method but totalVI on one split."""
    cells = Cells.read(data, n_train, seed, shared)
    rna, prot, y, batch, donor, types = cells.rna, cells.prot, cells.y, cells.batch, cells.donor, cells.types
    train, test = cells.train, cells.test
    codes = None if batch is None else torch.from_numpy(batch)

    def of(rows: Rows) -> torch.Tensor | None:
        return None if codes is None else codes[rows]

    started = time.perf_counter()
    groups = None if donor is None else np.unique(donor[train], return_inverse=True)[1]
    predictor = Predictor(LogNormalizePCA(), CLR(), 0 if batch is None else int(batch.max()) + 1)
    predictor.fit(rna, prot, train, of(train), groups, seed=seed)
    found: dict[str, Any] = {"cells": cells.in_words}
    seconds = time.perf_counter() - started
    x = predictor.inputs.apply_to(rna, test)
    value, half = (each.numpy() for each in predictor(x, of(test), _LEVEL))
    covered = (np.abs(y[test] - value) <= half).mean(axis=0)
    many = np.resize(np.arange(len(test)), 20_000)
    inputs, its_batches = x[many], of(test[many])
    started = time.perf_counter()
    predictor(inputs, its_batches)
    found["indiseek"] = {
        "s": seconds,
        "cells/s": len(many) / (time.perf_counter() - started),
        "coverage": float(covered.mean()),
        "covered": float(((covered >= 0.88) & (covered <= 0.92)).mean()),
        "network": predictor.network is not None,
    }
    predictions = {"indiseek": value}
    components = predictor.inputs.apply_to(rna).numpy()
    for name, method in (("kernel ridge", _kernel_ridge), ("ridge", _ridge)):
        started = time.perf_counter()
        predictions[name] = method(_inputs(components, batch, train), y, train, test, seed)
        found[name] = {"s": time.perf_counter() - started}
    if types is not None:
        predictions["types"] = _means(y, types if batch is None else np.char.add(types, batch.astype(str)), train, test)
        found["types"] = {}
    for name, figures in cells.figures(predictions, seed).items():
        found[name] |= figures
    return found


def _split(n: int, n_train: int, seed: int, donor: Any, batch: Any) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(5000 + seed)
    order = rng.permutation(n)
    if donor is None:
        n_train = min(n_train, n - 200)
        return np.sort(order[:n_train]), np.sort(order[n_train:][:_N_TEST])
    parts = [np.unique(donor[batch == b]) for b in np.unique(batch)]
    new = np.concatenate([rng.choice(part, _NEW_DONORS_OF_EACH_BATCH, replace=False) for part in parts])
    is_new = np.isin(donor, new)
    return np.sort(order[~is_new[order]][:n_train]), np.flatnonzero(is_new)


def _inputs(components: Array, batch: Any, train: Rows) -> Array:
    scaled = components * np.sqrt(_N_COMPONENTS / components[train].var(axis=0).sum())
    return scaled if batch is None else np.hstack([scaled, _BATCH * np.eye(batch.max() + 1, dtype=np.float32)[batch]])


def _kernel_ridge(c: Array, y: Array, train: Rows, test: Rows, seed: int) -> Array:
    few = np.random.default_rng(seed).permutation(train)[:1000]
    median = np.median(_distances(c[few], c[few])[np.triu_indices(len(few), 1)])

    def predicted(rows: Rows, queries: Rows, gamma: float, alpha: float) -> Array:
        gram = _kernel(c[rows], c[rows], gamma / median)
        gram[np.diag_indices_from(gram)] += alpha
        mean = y[rows].mean(axis=0)
        dual = solve(gram, y[rows] - mean, assume_a="pos", overwrite_a=True)
        pieces = np.array_split(queries, 8)
        return np.vstack([_kernel(c[piece], c[rows], gamma / median) @ dual for piece in pieces]) + mean

    if len(train) > _FEW_CELLS:
        return predicted(train, test, _GAMMA, _ALPHA)
    own, left = np.split(np.random.default_rng(seed).permutation(train), [4 * len(train) // 5])
    grid = [(gamma, alpha) for gamma in _GAMMAS for alpha in _ALPHAS]
    errors = [np.square(predicted(own, left, *pair) - y[left]).mean() for pair in grid]
    return predicted(train, test, *grid[int(np.argmin(errors))])


def _ridge(c: Array, y: Array, train: Rows, test: Rows, seed: int) -> Array:
    x, mean = c[train] - c[train].mean(axis=0), y[train].mean(axis=0)
    weight = solve(x.T @ x + np.eye(x.shape[1], dtype=x.dtype), x.T @ (y[train] - mean), assume_a="pos")
    return (c[test] - c[train].mean(axis=0)) @ weight + mean


def _means(y: Array, groups: Any, train: Rows, test: Rows) -> Array:
    means = pd.DataFrame(y[train]).groupby(groups[train]).mean()
    return means.reindex(groups[test]).fillna(pd.Series(y[train].mean(axis=0))).to_numpy(dtype=np.float32)


def _distances(a: Array, b: Array) -> Array:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2.0 * a @ b.T
    return np.maximum(squares, 0.0, out=squares)


def _kernel(a: Array, b: Array, gamma: float) -> Array:
    found = _distances(a, b)
    found *= -np.float32(gamma)
    return np.exp(found, out=found)


def _per_cell(predicted: Array, observed: Array) -> float:
    """Mean correlation over proteins within a cell."""
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (predicted, observed))
    return float(np.mean((a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))))


def table(found: dict[tuple[str, int], list[dict[str, Any]]]) -> pd.DataFrame:
    """One row for each set, number of cells and method."""
    rows = []
    shown = {"r": "r", "per cell": "per cell", "RMSE": "RMSE", "r_within_groups": "within", "ceiling": "ceiling"}
    for (name, _), fits in found.items():
        for method in ("indiseek", "totalVI", "kernel ridge", "ridge", "types"):
            own = [each[method] for each in fits if method in each]
            if not own:
                continue
            row = {"set": name, "training / test cells": fits[0]["cells"], "method": method}
            for key, title in shown.items():
                row[title] = spread([each[key] for each in own]) if np.isfinite(own[0].get(key, np.nan)) else ""
            if "coverage" in own[0]:
                covered = spread([each["covered"] for each in own], 2)
                row["coverage"] = f"{spread([each['coverage'] for each in own])}; {covered}"
                row["cells/s"] = spread([each["cells/s"] for each in own], 0)
            row["s"] = spread([each["s"] for each in own], 1) if "s" in own[0] else ""
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of training cells; those of each set by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--totalvi", type=int, default=0, metavar="N", help="how many of the seeds totalVI gets (none)")
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = CACHE / "cross_modal"
    for name in arguments.data:
        for n_train in arguments.sizes or DATA[name].sizes:
            for number, seed in enumerate(arguments.seeds):
                methods = {folder: fit} | ({folder / "totalvi": fit_totalvi} if number < arguments.totalvi else {})
                for own, method in methods.items():
                    kept(
                        own / f"{name}.{n_train}.{seed}.json",
                        lambda name=name, n=n_train, seed=seed, method=method: method(
                            DATA[name], n, seed, arguments.shared
                        ),
                        fresh=arguments.fresh,
                    )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for name in DATA:
        for n_train in sorted({int(path.name.split(".")[1]) for path in folder.rglob(f"{name}.*.json")}):
            paths = [sorted(own.glob(f"{name}.{n_train}.*.json")) for own in (folder, folder / "totalvi")]
            found[name, n_train] = [kept(path, dict) for path in sum(paths, [])]
    record = {"fits": {f"{name} {n}": fits for (name, n), fits in found.items()}}
    write_text("cross_modal", "Proteins from RNA", markdown(table(found)), record, _NOTES)


if __name__ == "__main__":
    main()
