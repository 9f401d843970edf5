"""What is left of the batch, and what of the cell types: ``python benchmarks/batches.py --shared FOLDER``.

COVID blood of 30 donors in 3 batches, with and without ``setup_mudata(batch_key=...)``. Types differ in their numbers
between batches, so that the batch is measured within types: accuracy of 15 neighbours among cells drawn equally from
each type and batch that are in all batches (chance one third, which donors, who differ too, keep out of reach).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _table import spread, write
from _types import Labels, Rows, column, macro_f1, predicted

from indiseek import IndiSeekModel

_FILE = "covid_cite_donors.h5mu"
_KEYS = {"X_indiseek_shared": "shared", "X_indiseek": "everything", "X_indiseek_rna": "rna", "X_indiseek_prot": "prot"}
_N_TEST = 4000
_MOST_DRAWN, _LEAST_DRAWN = 200, 10
_NOTES = """\
Test cells, mean [lowest, highest] of the seeds, one thread. batch: accuracy of the batch within types, chance .333. F1:
macro-F1 of 17 cell types by 15 neighbours among the training cells; across: among those of the other batches only.
condition: accuracy of COVID-19 against healthy. leak: of the specific code to the other modality's shared code, map and
products. No measure of this table chose a setting but the displacement's shrinking, with seeds 0 and 1."""


def _drawn(rows: Rows, types: Labels, batch: Labels, rng: np.random.Generator) -> Rows:
    """Cells drawn equally from each type and batch, of types that all batches have."""
    parts: list[Rows] = []
    for kind in np.unique(types):
        cells = [rows[(types[rows] == kind) & (batch[rows] == b)] for b in np.unique(batch)]
        n = min(_MOST_DRAWN, *map(len, cells))
        if n >= _LEAST_DRAWN:
            parts += [rng.choice(part, n, replace=False) for part in cells]
    return np.concatenate(parts)


def fit(shared: Path, n_train: int, seed: int, *, with_batch: bool) -> dict[str, Any]:
    """Figures of the four spaces of one fit."""
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(shared / _FILE)
    batch, types, condition = (column(mdata, name) for name in ("Batch", "mergedcelltype", "cond_group"))
    mdata.obs["batch"] = batch
    order = np.random.default_rng(5000 + seed).permutation(mdata.n_obs)
    n_validation = n_train // 9
    split = np.split(order[: n_train + n_validation + _N_TEST], [n_train, n_train + n_validation])
    IndiSeekModel.setup_mudata(mdata, batch_key="batch" if with_batch else None)
    model = IndiSeekModel(mdata)
    started = time.perf_counter()
    model.train(seed=seed, external_indexing=split, accelerator="cpu", show_progress=False)
    found: dict[str, Any] = {"s": time.perf_counter() - started}
    train, test = np.sort(split[0]), np.sort(split[2])
    rng = np.random.default_rng(seed)
    few, probed = (_drawn(rows, types, batch, rng) for rows in (train, test))
    for key, name in _KEYS.items():
        code = mdata.obsm[key]
        across = [macro_f1(code, types, train[batch[train] != b], test[batch[test] == b]) for b in np.unique(batch)]
        found[name] = {
            "batch": float((predicted(code, batch, few, probed) == batch[probed]).mean()),
            "F1": macro_f1(code, types, train, test),
            "across": float(np.mean(across)),
            "condition": float((predicted(code, condition, train, test) == condition[test]).mean()),
        }
    independence = model.certify(n_permutations=0, seed=seed).table("independence")
    for name in model.modalities:
        rows = independence[(independence["modality"] == name) & (independence["target"] == "shared")]
        found[name]["leak"] = float(rows["total"].iloc[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--sizes", nargs="+", type=int, default=[5500], help="numbers of training cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, details = [], {}
    for n_train in arguments.sizes:
        for with_batch in (False, True):
            fits = [
                kept(
                    CACHE / "batches" / f"{n_train}.{seed}.{with_batch}.json",
                    lambda n=n_train, s=seed, b=with_batch: fit(arguments.shared, n, s, with_batch=b),
                    fresh=arguments.fresh,
                )
                for seed in arguments.seeds
            ]
            details[f"{n_train} {'with' if with_batch else 'without'} batch"] = fits
            for name in _KEYS.values():
                row = {"training cells": f"{n_train:,}", "batch_key": "yes" if with_batch else "no", "space": name}
                for key in ("batch", "F1", "across", "condition", "leak"):
                    values = [each[name][key] for each in fits if key in each[name]]
                    row[key] = spread(values) if values else ""
                rows.append(row | {"s": spread([each["s"] for each in fits], 0)})
    title = f"The batch in the four spaces, {len(arguments.seeds)} seeds"
    write("batches", title, pd.DataFrame(rows), {"seeds": arguments.seeds, "fits": details}, _NOTES)


if __name__ == "__main__":
    main()
