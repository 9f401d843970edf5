"""Does it hold on other people's data? The default fit on every set, at many numbers of cells.

``python benchmarks/robustness.py --shared FOLDER``, or some of it with ``--data pbmc covid --sizes 400 800 --seeds 3``.

A fit sees so many training cells, a ninth of them more for validation, and is judged on up to 2,000 of the others. Each
is kept in ``benchmarks/.cache``: a run that was stopped goes on, and runs add to one table; ``--fresh`` fits again.
Defaults were chosen on PBMC10k, and on COVID at 5,700 and 17,618 training cells, with seeds 0 and 1; the other sets and
sizes, and the seeds from 10 on, are only reported. One exception: that the shared code has at most one dimension more
than the poorest modality was chosen on SNARE-seq with seeds 10 and 11, the only set here that it changes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _components import components, standardised
from _table import RESULTS, markdown, spread, write_text
from _types import column, macro_f1
from mudata import MuData
from numpy.typing import NDArray

from indiseek import IndiSeekModel
from indiseek.data import CellTensors
from indiseek.objectives import ClosedFormFlowObjective

_N_TEST = 2000


@dataclass(frozen=True)
class Data:
    """A set: its file, its second modality, the numbers of training cells, and its column of cell types."""

    file: str
    second: str
    sizes: tuple[int, ...]
    types: str | None = None


DATA = {
    "pbmc": Data("pbmc10k_cite.h5mu", "prot", (400, 800, 1600, 3200, 4500)),
    "covid": Data("covid_cite_donors.h5mu", "prot", (1000, 3000, 10_000, 18_000), "mergedcelltype"),
    "bmmc": Data("bmmc_cite_starter.h5mu", "prot", (400,), "cell_type"),
    "midas": Data("midas_pbmc_paired.h5mu", "prot", (520,), "cell_type"),
    "snare": Data("mop_snareseq_multiome.h5mu", "atac", (7500,), "cell_type"),
}

_NOTES = """\
The default `IndiSeekModel(mdata).train()`, mean [lowest, highest] over the seeds, one thread. told: share of the other
modality's shared code that kernel ridge regression predicts of validation cells from the specific code in closed form:
above .05 a flow is trained on top. leak: share of that code, or of what the other modality predicts, that the specific
code explains on the test cells, map and products, of the worse of the two. se: standard error of one fit's reading.
verdict: on independence, of each fit. in codes: share of the variance of the components that hold signal which the
exact inverse gives back from shared and specific codes. left out: share of it that another draw of the cell would
repeat and that is not in the codes. excess: share that the joint shared code explains of what only one modality knows,
of the worse. FOSCTTM: 0 perfect, .5 chance. nll: held-out negative log-likelihood of the specific stage at the weights
kept, above its lowest of all epochs, nats per axis. F1: macro-F1 of the cell types of test cells by 15 neighbours among
the training cells, in `X_indiseek`, in the joint shared code, in 30 + 30 standardised principal components, and in
those of one modality, the poorer."""


def cells(data: Data, shared: Path) -> MuData:
    with mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(shared / data.file)


def fit(data: Data, n_train: int, seed: int, shared: Path) -> dict[str, Any]:
    """Figures of one fit."""
    mdata = cells(data, shared)
    order = np.random.default_rng(5000 + seed).permutation(mdata.n_obs)
    n_validation = max(40, n_train // 9)
    n_test = min(_N_TEST, mdata.n_obs - n_train - n_validation)
    split = np.split(order[: n_train + n_validation + n_test], [n_train, n_train + n_validation])
    model = IndiSeekModel(mdata)
    started = time.perf_counter()
    model.train(seed=seed, external_indexing=split, accelerator="cpu", show_progress=False)
    seconds = time.perf_counter() - started
    certificate = model.certify(n_permutations=0, seed=seed)
    found: dict[str, Any] = {"cells": f"{n_train:,} / {n_test:,}", "s": seconds}
    independence, completeness = certificate.table("independence"), certificate.table("completeness")
    for name in model.modalities:
        rows = independence[independence["modality"] == name]
        worst = rows.loc[rows["total"].idxmax()]
        found[f"leak {name}"], found[f"se {name}"] = float(worst["total"]), float(worst["se"])
        order_of_verdicts = ["FAIL", "too few cells", "pass"]
        found[f"verdict {name}"] = min(rows["verdict"], key=order_of_verdicts.index)
        row = completeness[completeness["modality"] == name].iloc[0]
        found[f"in codes {name}"] = float(row["in_codes"])
        found[f"left out {name}"] = float(row["reproducible_left_out"])
        found[f"dims {name}"] = int(mdata.obsm[f"X_indiseek_{name}"].shape[1])
    excess = certificate.table("excess")
    found["excess"] = float(excess[excess["judged"]]["total"].max())
    found["FOSCTTM"] = float(certificate.table("retrieval")["foscttm"].iloc[0])
    found["nll"] = _above_lowest(model)
    found |= {f"told {name}": value for name, value in _told(model).items()}
    if data.types is not None:
        found |= _types(mdata, data, np.sort(split[0]), np.sort(split[2]))
    return found


def _above_lowest(model: IndiSeekModel) -> float:
    """Held-out negative log-likelihood at the weights kept, less its lowest value in any epoch."""
    history = [table for key, table in model.history.items() if key == "specific/validation_nll"]
    objective = model.module.objective("specific")
    with torch.no_grad():
        now = float(objective.validate(_seen(model, model.validation_indices))["nll"])
    return max(0.0, now - min(float(table.min().iloc[0]) for table in history)) if history else 0.0


def _told(model: IndiSeekModel) -> dict[str, float]:
    """What decides whether a flow is trained on top of the closed form."""
    objective = cast(ClosedFormFlowObjective, model.module.objective("specific"))
    with torch.no_grad():
        train, validation = (_seen(model, rows) for rows in (model.train_indices, model.validation_indices))
    return {name: objective.told(i, train, validation) for i, name in enumerate(model.modalities)}


def _seen(model: IndiSeekModel, rows: NDArray[np.intp]) -> CellTensors:
    """Cells as the specific stage is given them."""
    return model.module.inputs("specific", model.module.tensors(model._training_cells(), rows))


def _types(mdata: MuData, data: Data, train: NDArray[np.intp], test: NDArray[np.intp]) -> dict[str, float]:
    types = column(mdata, cast(str, data.types))

    def f1(code: NDArray[Any]) -> float:
        return macro_f1(code, types, train, test)

    parts = [standardised(x, train) for x in components(mdata, train, second=data.second).values()]
    return {
        "F1 everything": f1(mdata.obsm["X_indiseek"]),
        "F1 shared": f1(mdata.obsm["X_indiseek_shared"]),
        "F1 PCA": f1(np.hstack(parts)),
        "F1 poorer": min(f1(part) for part in parts),
    }


def table(found: dict[tuple[str, int], list[dict[str, Any]]]) -> pd.DataFrame:
    """One row for each set and number of cells."""
    rows = []
    for (name, _), fits in found.items():
        row = {"set": name, "training / test cells": fits[0]["cells"], "fits": str(len(fits))}
        second = DATA[name].second
        for key in ("dims", "told", "leak", "se", "verdict", "in codes", "left out"):
            for modality, shown in (("rna", "rna"), (second, "other")):
                values = [each[f"{key} {modality}"] for each in fits if f"{key} {modality}" in each]
                row[f"{key} {shown}"] = _words(values) if key == "verdict" else _shown(values, key)
        for key in ("excess", "FOSCTTM", "nll", "F1 everything", "F1 shared", "F1 PCA", "F1 poorer", "s"):
            row[key] = _shown([each[key] for each in fits if key in each], key)
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(values: list[float], key: str) -> str:
    if not values:
        return ""
    if key == "se":
        return f"{np.mean(values):.3f}"
    return spread([float(v) for v in values], 0 if key in ("s", "dims") else 3)


def _words(values: list[str]) -> str:
    return ", ".join(f"{values.count(word)} {word}" for word in ("pass", "too few cells", "FAIL") if word in values)


def draw(found: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    """Leak and completeness against the number of training cells."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for i, name in enumerate(dict.fromkeys(name for name, _ in found)):
        for modality, style, face in (("rna", "-", f"C{i}"), (DATA[name].second, "--", "white")):
            sizes = [n for other, n in found if other == name]
            for axis, key in zip(axes, ("leak", "in codes"), strict=True):
                means = [np.mean([fit.get(f"{key} {modality}", np.nan) for fit in found[name, n]]) for n in sizes]
                line = {"color": f"C{i}", "marker": "o", "ms": 5, "mfc": face}
                axis.plot(sizes, means, style, **line, label=f"{name}, {modality}")
    axes[0].axhline(0.05, color="0.6", lw=0.8)
    axes[0].set_ylabel("leak of the specific code")
    axes[1].set_ylabel("variance given back by the codes")
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("training cells")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of training cells; those of each set by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = CACHE / "robustness"
    for name in arguments.data:
        for n_train in arguments.sizes or DATA[name].sizes:
            for seed in arguments.seeds:
                path = folder / f"{name}.{n_train}.{seed}.json"
                kept(
                    path,
                    lambda name=name, n=n_train, seed=seed: fit(DATA[name], n, seed, arguments.shared),
                    fresh=arguments.fresh,
                )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for name in DATA:
        for n_train in sorted({int(path.name.split(".")[1]) for path in folder.glob(f"{name}.*.json")}):
            paths = sorted(folder.glob(f"{name}.{n_train}.*.json"))
            found[name, n_train] = [kept(path, dict) for path in paths]
    rows = table(found).set_index("set").T.reset_index(names="")
    RESULTS.mkdir(exist_ok=True)
    draw(found, RESULTS / "robustness.png")
    record = {"fits": {f"{name} {n}": fits for (name, n), fits in found.items()}}
    write_text("robustness", "The default fit on every set", markdown(rows), record, _NOTES)


if __name__ == "__main__":
    main()
