"""Independence and time of specific codes: closed form, closed form and a short flow, flow from scratch.

``python benchmarks/closed_form.py --shared FOLDER --data pbmc,4500 covid,19000 --seeds 2``

Each set is given as its name and its number of training cells; components are as many as hold signal and as the cells
can whiten. Shared codes are trained once and kept in ``benchmarks/.cache``. Leakage is read on test cells, to the
other modality's shared code and to its components, as map + products (`indiseek.metrics.explained`). Seconds are
those of the specific stage alone, one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE
from _figures import mlp_r2
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score

from indiseek import metrics, simulation
from indiseek.data import CLRPCA, CellTensors, LogNormalizePCA, count_components
from indiseek.nn import NystromRidge, whitenable_axes
from indiseek.objectives import CLIPObjective, ClosedFormFlowObjective, ConditionalFlowObjective, Objective
from indiseek.train import StageSettings, fit_in_closed_form, fit_stage

NAMES = ("rna", "prot")
FILES = {
    "pbmc": "pbmc10k_cite.h5mu",
    "covid": "covid_cite_donors.h5mu",
    "bmmc": "bmmc_cite_starter.h5mu",
    "midas": "midas_pbmc_paired.h5mu",
}
SIMULATED = {"clusters": (3, 3), "factors": (5, 5)}
METHODS = ("closed", "closed + flow", "flow from scratch")
_N_SHARED = 6
_MAX_COMPONENTS = 60
_N_SIMULATED = 12_000
_BATCH_SIZE = 512
_FLOW_STEPS = 2000
# Steps without a better held-out likelihood.
_PATIENCE_STEPS = 200


@dataclass(frozen=True, eq=False)
class Paired:
    """Cells of one set: components, shared codes, split, batch, and what is kept beyond the components that are used.

    Attributes
    ----------
    components, wide
        By modality: the components used, and all that hold signal, ``(n_cells, ...)``.
    train, validation, test
        Positions.
    batch
        Code of each cell; all 0 where there is one.
    private, shared
        True factors of simulated cells.
    codes
        Shared codes by modality.
    """

    components: list[NDArray[np.float32]]
    wide: list[NDArray[np.float32]]
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    batch: NDArray[np.intp]
    private: list[NDArray[np.float64]] | None = None
    shared: NDArray[np.float64] | None = None
    codes: tuple[NDArray[np.float32], ...] = ()

    def given(self, rows: NDArray[np.intp], *, covariate: bool = False, same_width: bool = False) -> CellTensors:
        """Cells as the specific stage takes them: condition of components and codes, and the batch."""
        widest = max(x.shape[1] for x in self.components)
        shared = []
        for x, code in zip(self.components, self.codes, strict=True):
            blank = np.zeros((len(rows), widest - x.shape[1] if same_width else 0), dtype=np.float32)
            shared.append(torch.from_numpy(np.hstack([x[rows], blank, code[rows]])))
        covariates = (torch.from_numpy(self.batch[rows].astype(np.int64)),) if covariate else ()
        features = tuple(torch.from_numpy(x[rows]) for x in self.components)
        return CellTensors(features, tuple(shared), covariates=covariates)


def real(name: str, n_train: int, seed: int, shared: Path) -> Paired:
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(shared / FILES[name])
    order = np.random.default_rng(1000 + seed).permutation(mdata.n_obs)
    n_test = min(2000, mdata.n_obs // 4)
    n_validation = min(1000, max(n_train // 9, 40))
    test, validation, train = np.split(order[: n_test + n_validation + n_train], [n_test, n_test + n_validation])
    components, wide = [], []
    for modality in NAMES:
        counts = sparse.csr_matrix(mdata[modality].X, dtype=np.float32)
        counts = counts[:, np.asarray(counts.sum(axis=0)).ravel() > 0]
        values = counts.toarray() if modality == "prot" else counts
        transform = (CLRPCA if modality == "prot" else LogNormalizePCA)(n_components=_MAX_COMPONENTS)
        rows = np.sort(train)
        n = count_components(values, rows, transform, seed=seed).n_components
        transform.fit(values, rows)
        x = transform.apply_to(values).numpy()
        wide.append(x[:, :n])
        components.append(_unit(x[:, : min(n, whitenable_axes(n_train))], train))
    frames = [mdata.obs, mdata["rna"].obs]
    column = next((f[c] for f in frames for c in f.columns if c.split(":")[-1] == "Batch"), None)
    batch = np.zeros(mdata.n_obs, dtype=int) if column is None else pd.Categorical(column).codes.astype(int)
    return Paired(components, wide, train, validation, test, batch)


def simulated(name: str, n_train: int, seed: int) -> Paired:
    clusters = 3 if name == "clusters" else None
    truth = simulation.simulate_factors(_N_SIMULATED, 5, SIMULATED[name], n_clusters=clusters, seed=seed)
    order = np.random.default_rng(1000 + seed).permutation(_N_SIMULATED)
    train, validation, test = order[:n_train], order[n_train : n_train + 500], order[-6000:]
    components = [
        _unit(PCA(15, random_state=0).fit(x[train]).transform(x).astype(np.float32), train)
        for x in truth.features.values()
    ]
    batch = np.zeros(_N_SIMULATED, dtype=int)
    private = list(truth.specific.values())
    return Paired(components, components, train, validation, test, batch, private, truth.shared)


def _unit(x: NDArray[np.float32], train: NDArray[np.intp]) -> NDArray[np.float32]:
    return x / np.sqrt(x[train].var(axis=0).mean())


def with_codes(paired: Paired, path: Path, seed: int) -> Paired:
    """Train the shared stage, or take its codes from `path`."""
    if not path.exists():
        torch.manual_seed(seed)
        widths = {name: x.shape[1] for name, x in zip(NAMES, paired.components, strict=True)}
        objective = CLIPObjective(widths, _N_SHARED, alignment=10.0)
        cells = [
            CellTensors(tuple(torch.from_numpy(x[rows]) for x in paired.components))
            for rows in (paired.train, paired.validation, np.arange(len(paired.batch)))
        ]
        epochs = max(1, round(4000 * _BATCH_SIZE / len(paired.train)))
        _fit(objective, (cells[0], cells[1]), StageSettings(max_epochs=epochs, patience=10), seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            np.savez(path, *(code.numpy() for code in objective.latents(cells[2])))
    with np.load(path) as found:
        codes = tuple(found[key] for key in sorted(found))
    return Paired(**{**vars(paired), "codes": codes})


def _fit(objective: Objective, cells: tuple[CellTensors, CellTensors], settings: StageSettings, seed: int) -> float:
    options = {"accelerator": "cpu", "seed": seed, "show_progress": False}
    history = fit_stage(objective, cells, settings, name="stage", **options).history
    return float(history[f"validation_{objective.monitor}"].min())


def fit(method: str, paired: Paired, seed: int, *, covariate: bool) -> tuple[list[NDArray[np.float32]], float, str]:
    """Specific codes of the test cells by modality, seconds, and what was chosen."""
    torch.manual_seed(seed)
    scratch = method == "flow from scratch"
    cells = [
        paired.given(rows, covariate=covariate and not scratch, same_width=scratch)
        for rows in (paired.train, paired.validation, paired.test)
    ]
    widths = {name: x.shape[1] for name, x in zip(NAMES, paired.components, strict=True)}
    # The log-ratios' components have full rank, as have all that are used here.
    start = time.perf_counter()
    steps_per_epoch = max(1, len(paired.train) // _BATCH_SIZE)
    if scratch:
        objective: Objective = ConditionalFlowObjective(widths, widths, cells[0].condition[0].shape[1], widths)
        settings = StageSettings(
            max_epochs=max(1, 600 // steps_per_epoch), cosine=True, lr=2e-2, weight_decay=1.0, max_gradient_norm=5.0
        )
        _fit(objective, (cells[0], cells[1]), settings, seed)
        note = "600 steps"
    else:
        condition = {name: code.shape[1] for name, code in zip(NAMES, cells[0].condition, strict=True)}
        n_categories = [int(paired.batch.max()) + 1] if covariate else []
        objective = closed = ClosedFormFlowObjective(
            widths, widths, condition, _N_SHARED, widths, n_categories=n_categories, seed=seed
        )
        note = _closed_form(closed, (cells[0], cells[1]), steps_per_epoch if "flow" in method else 0, seed)
    objective.eval()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return [code.numpy() for code in objective.latents(cells[2])], seconds, note


def _closed_form(
    objective: ClosedFormFlowObjective, cells: tuple[CellTensors, CellTensors], steps_per_epoch: int, seed: int
) -> str:
    """Closed form, then as much of the flow as the validation cells like; the closed form is the first to beat."""
    if not steps_per_epoch:
        fit_in_closed_form(objective, cells[0])
        told = (f"{objective.told(i, *cells):.3f}" for i in range(len(NAMES)))
        return f"of the other's C {', '.join(told)} told; a flow from {objective.most_told:g} on"
    # Whether it is needed is the question here.
    objective.most_told = -math.inf
    patience = max(8, -(-_PATIENCE_STEPS // steps_per_epoch))
    epochs = max(1, _FLOW_STEPS // steps_per_epoch)
    settings = StageSettings(max_epochs=epochs, patience=patience, lr=2e-3, weight_decay=1.0, max_gradient_norm=5.0)
    options = {"accelerator": "cpu", "seed": seed, "show_progress": False}
    result = fit_stage(objective, cells, settings, name="stage", **options)
    if result.best_epoch < 0:
        return "closed form kept"
    return f"nll {result.history['validation_nll'].min():.3f} in epoch {result.best_epoch}"


def figures(paired: Paired, codes: list[NDArray[np.float32]], seed: int) -> list[dict[str, str | float]]:
    """Figures of each modality's code."""
    rows = []
    test = paired.test
    for i, name in enumerate(NAMES):
        z, other = codes[i], paired.codes[1 - i][test]
        row: dict[str, str | float] = {"code": f"Z_{name}"}
        worst = 0.0
        for target, values in {"C": other, "X": paired.components[1 - i][test]}.items():
            found = metrics.explained(z, values, max_cells=2000, seed=seed)
            row[target] = f"{found.map:.3f} + {found.products:.3f}"
            worst = max(worst, found.total)
        row |= {"worst": round(worst, 3), "se": round(found.se, 3)}
        target = other if paired.shared is None else paired.shared[test]
        row |= {"MLP": round(mlp_r2(z, target, seed), 3), "trees": round(_trees(z, target, seed), 3)}
        row["private"] = round(mlp_r2(z, _private(paired, i), seed), 3)
        if paired.batch.max() > 0:
            row |= _batches(paired, z, i, seed)
        rows.append(row)
    return rows


def _trees(z: NDArray[np.float32], target: NDArray[np.floating], seed: int) -> float:
    half, score = len(z) // 2, []
    for column in target.T[:3]:
        probe = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.05, random_state=seed)
        score.append(r2_score(column[half:], probe.fit(z[:half], column[:half]).predict(z[half:])))
    return float(np.mean(score))


def _private(paired: Paired, modality: int) -> NDArray[np.floating]:
    """True private factors, or what the other modality does not tell of all components that hold signal."""
    if paired.private is not None:
        return paired.private[modality][paired.test]
    x, c = (torch.from_numpy(paired.wide[k]) for k in (modality, 1 - modality))
    train, test = paired.train, paired.test
    none = torch.zeros(len(x), 0)
    folds = torch.arange(len(train)) % 5
    ridge = NystromRidge(c.shape[1], 0, x.shape[1])
    ridge.fit(x[train], c[train], none[train], folds, n_landmarks=600, seed=0)
    return (x[test] - ridge(c[test], none[test])).numpy()


def _batches(paired: Paired, z: NDArray[np.float32], modality: int, seed: int) -> dict[str, str]:
    batch = paired.batch[paired.test]
    other = paired.codes[1 - modality][paired.test]
    within = [metrics.explained(z[batch == b], other[batch == b], seed=seed) for b in np.unique(batch)]
    itself = metrics.explained(z, np.eye(batch.max() + 1)[batch], seed=seed)
    inside = f"{np.mean([f.map for f in within]):.3f} + {np.mean([f.products for f in within]):.3f}"
    return {"C within batch": inside, "batch": f"{itself.map:.3f} + {itself.products:.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--data", nargs="+", default=["pbmc,4500"], help="name,number of training cells")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for entry in arguments.data:
        name, size = entry.split(",")
        for seed in arguments.seeds:
            n_train = int(size)
            if name in SIMULATED:
                paired = simulated(name, n_train, seed)
            else:
                paired = real(name, n_train, seed, arguments.shared)
            widths = "+".join(str(x.shape[1]) for x in paired.components)
            wide = "+".join(str(x.shape[1]) for x in paired.wide)
            paired = with_codes(paired, CACHE / "closed_form" / f"{name}.{n_train}.{seed}.{widths}.npz", seed)
            print(f"{name}, {n_train} training cells, {widths} of {wide} components, seed {seed}", flush=True)
            for covariate in (False, True) if paired.batch.max() > 0 else (False,):
                for method in arguments.methods:
                    if covariate and method == "flow from scratch":
                        continue
                    codes, seconds, note = fit(method, paired, seed, covariate=covariate)
                    label = method + (", batch" if covariate else "")
                    for row in figures(paired, codes, seed):
                        shown = " | ".join(f"{key} {value}" for key, value in row.items())
                        print(f"  {label:26s} {shown} | {seconds:.1f} s | {note}", flush=True)


if __name__ == "__main__":
    main()
