"""What do genes and proteins mean in each space? How often the tables and axes are right, and what they say of blood.

``python benchmarks/attribution.py --shared FOLDER`` (the folder with the COVID file; without it that part is left out).

Simulated counts with known shares and loadings: how near the tables come, how often the intervals hold, how long it
takes with 2,000 genes and 200 proteins. Then the cells that come with the package and the COVID donors, with the
features that are most specific, over seeds of the training. Each fit is kept in ``benchmarks/.cache``: a run that was
stopped goes on; ``--fresh`` does it again.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _simulated_features import N_PRIVATE, simulate
from _study import covid
from _table import markdown, spread, write_text
from scipy.stats import spearmanr

import indiseek
from indiseek.attribution import short_names

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "features.png"
_PARTS = ("shared", "specific", "noise")
# On earlier seeds of the simulation the additions to the standard errors were chosen.
_SIMULATED, _REAL = (4, 5, 6), (0, 1, 2)
_N_CELLS, _N_TRAIN = 6000, 6000
_N_TOP, _LEAST_CELLS = 12, 50

_NOTES = """\
Simulation: 6,000 cells of 2,000 genes and 200 proteins (10 of them controls), 4 shared factors and 3 private ones of
each layer, weights of a Laplace distribution, Poisson counts; 3,900 training and 1,500 test cells; {seeds} seeds, on
none of which anything was chosen. Truth: 10,000 further cells drawn twice with all factors the same, and with the
shared factors alone the same. Error: estimate less truth, mean over features, and its mean size. Rank correlation of
loadings: of `attribution(space, direction=...)`, along the least squares direction of each true factor in the
specific code, with the correlation of each feature of the layer with the factor. Axis: correlation of a private
factor with the nearest of the axes. Seconds: of processor time in one thread, with the two predictions that the first
call fits. Real cells: mean [lowest, highest] over {seeds} seeds of split and training; features that {least} test
cells have. COVID: {n_train:,} training cells, drawn at random, batch set up."""


def simulated(seed: int) -> dict[str, Any]:
    """How near the tables come to the truth."""
    truth = simulate(_N_CELLS, seed=seed)
    model = indiseek.IndiSeekModel(truth.mdata)
    model.train(seed=seed, show_progress=False)
    started = time.process_time()
    table = model.feature_table(seed=seed)
    seconds = {"feature_table": time.process_time() - started}
    joined = table.merge(truth.features, on=["modality", "feature"], suffixes=("", "_true"))
    found: dict[str, Any] = {"shares": {}, "loadings": {}, "axes": {}, "noise_axes": {}}
    for name, of in joined.groupby("modality"):
        known = of.dropna(subset=["shared"])
        for part in _PARTS:
            error = known[part] - known[f"{part}_true"]
            inside = known[f"{part}_true"].clip(0, 1).between(known[f"{part}_low"], known[f"{part}_high"])
            found["shares"][f"{name} {part}"] = {
                "rank": float(spearmanr(known[part], known[f"{part}_true"])[0]),
                "bias": float(error.mean()),
                "error": float(error.abs().mean()),
                "coverage": float(inside.mean()),
            }
        controls = known[known["is_control"]]
        if len(controls):
            found["controls"] = {part: float(controls[part].mean()) for part in _PARTS}
    for name in model.modalities:
        started = time.process_time()
        axes = model.axes(name)
        seconds[f"axes {name}"] = time.process_time() - started
        code = model.get_latent_representation(modality=name, kind="specific").astype(np.float64)
        code, factors = code - code.mean(axis=0), truth.factors[name] - truth.factors[name].mean(axis=0)
        directions = np.linalg.lstsq(code, factors, rcond=None)[0]
        own = truth.features.loc[truth.features["modality"] == name, "feature"]
        ranks = []
        for k in range(N_PRIVATE):
            loadings = model.attribution(name, direction=directions[:, k]).query("modality == @name")
            loadings = loadings.set_index("feature")["loading"].reindex(own)
            ranks.append(float(spearmanr(loadings, truth.loadings[name][:, k], nan_policy="omit")[0]))
        found["loadings"][name] = ranks
        coordinates = axes.coordinates(code)
        between = np.abs(np.corrcoef(coordinates.T, factors.T)[: coordinates.shape[1], coordinates.shape[1] :])
        found["axes"][name] = between.max(axis=0).tolist()
        found["noise_axes"][name] = int(axes.table["is_noise"].sum())
    return found | {"seconds": seconds}


def described(model: indiseek.IndiSeekModel, seed: int) -> dict[str, Any]:
    """Table and axes of real cells."""
    started = time.process_time()
    table = model.feature_table(seed=seed)
    seconds = time.process_time() - started
    return {
        "table": table.to_dict("records"),
        "axes": {name: model.axes(name, seed=seed).table.to_dict("records") for name in model.modalities},
        "seconds": seconds,
    }


def pbmc(seed: int) -> dict[str, Any]:
    """The cells that come with the package."""
    model = indiseek.IndiSeekModel(indiseek.datasets.pbmc10k_cite())
    model.train(seed=seed, show_progress=False)
    return described(model, seed)


def covid_donors(shared: Path, seed: int) -> dict[str, Any]:
    """Blood of COVID patients and healthy donors."""
    study = covid(shared, "random", _N_TRAIN, seed)
    indiseek.IndiSeekModel.setup_mudata(study.mdata, batch_key="batch")
    model = indiseek.IndiSeekModel(study.mdata)
    model.train(seed=seed, external_indexing=[study.train, study.validation, study.test], show_progress=False)
    return described(model, seed)


def simulation_tables(entries: list[dict[str, Any]]) -> str:
    """Tables of the simulation."""
    rows = []
    for key in entries[0]["shares"]:
        of = [entry["shares"][key] for entry in entries]
        rows.append(
            {"share": key}
            | {
                title: spread([each[name] for each in of], digits)
                for name, title, digits in (
                    ("rank", "rank correlation", 3),
                    ("bias", "mean error", 3),
                    ("error", "mean size of the error", 3),
                    ("coverage", "95 % interval holds the truth", 2),
                )
            }
        )
    others = [
        {
            "layer": name,
            "rank correlation of loadings": spread([r for entry in entries for r in entry["loadings"][name]]),
            "factor and nearest axis": spread([r for entry in entries for r in entry["axes"][name]]),
            "seconds of axes": spread([entry["seconds"][f"axes {name}"] for entry in entries], 0),
        }
        for name in entries[0]["loadings"]
    ]
    controls = ", ".join(f"{part} {spread([entry['controls'][part] for entry in entries], 2)}" for part in _PARTS)
    seconds = spread([entry["seconds"]["feature_table"] for entry in entries], 0)
    return (
        f"{markdown(pd.DataFrame(rows))}\n\n{markdown(pd.DataFrame(others))}\n\n"
        f"Isotype controls: {controls}. `feature_table`: {seconds} s."
    )


def real_tables(title: str, entries: list[dict[str, Any]]) -> str:
    """The most specific features of real cells, and the axes."""
    tables = [pd.DataFrame(entry["table"]) for entry in entries]
    parts = [f"## {title}"]
    for name in tables[0]["modality"].unique():
        own = pd.concat(
            [table[(table["modality"] == name) & (table["detected"] >= _LEAST_CELLS)] for table in tables],
            keys=range(len(tables)),
        )
        counted = own.groupby("feature")["specific"].agg(["mean", "size"])
        best = counted[counted["size"] == len(tables)].sort_values("mean", ascending=False).head(_N_TOP).index
        rows = [
            {"feature": short_names([feature])[0]}
            | {
                part: spread(own.loc[own["feature"] == feature, part].tolist(), 2)
                for part in (*_PARTS, "in_code", "left_out")
            }
            for feature in best
        ]
        parts.append(f"The most specific of {name}:\n\n{markdown(pd.DataFrame(rows))}")
        every = own.groupby(level=0)[list(_PARTS)].mean()
        means = ", ".join(f"{part} {spread(every[part].tolist(), 2)}" for part in _PARTS)
        parts.append(f"Mean of all of {name}: {means}.")
    controls = [table[table["is_control"]] for table in tables]
    if len(controls[0]):
        means = ", ".join(f"{part} {spread([each[part].mean() for each in controls], 2)}" for part in _PARTS)
        most = spread([each["shared"].max() for each in controls], 2)
        parts.append(f"Isotype controls ({len(controls[0])}): {means}; the largest share that is shared {most}.")
    for name in entries[0]["axes"]:
        lines = [
            f"- seed {seed}: "
            + "; ".join(
                f"{row['name'].partition(': ')[2]} ({row['reliability']:.2f})" for row in entry["axes"][name][:8]
            )
            for seed, entry in zip(_REAL, entries, strict=False)
        ]
        parts.append(f"First axes of the {name}-specific space, with their reliability:\n\n" + "\n".join(lines))
    parts.append(f"`feature_table`: {spread([entry['seconds'] for entry in entries], 0)} s.")
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="folder with covid_cite_donors.h5mu")
    parser.add_argument("--seeds", type=int, default=3, choices=(1, 2, 3), help="number of seeds")
    parser.add_argument("--fresh", action="store_true", help="do not take up what was computed before")
    chosen = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    torch.set_num_threads(1)
    folder = CACHE / "attribution"
    runs, cells, donors = [], [], []
    # Seed by seed, so that a run that was stopped has something of all.
    for number in range(chosen.seeds):
        made, seed = _SIMULATED[number], _REAL[number]
        runs.append(kept(folder / f"sim-{made}.json", partial(simulated, made), fresh=chosen.fresh))
        cells.append(kept(folder / f"pbmc-{seed}.json", partial(pbmc, seed), fresh=chosen.fresh))
        if chosen.shared is not None:
            make = partial(covid_donors, chosen.shared, seed)
            donors.append(kept(folder / f"covid-{seed}.json", make, fresh=chosen.fresh))
    text = [simulation_tables(runs), real_tables("PBMC10k", cells)]
    record: dict[str, Any] = {"simulation": runs, "pbmc axes": [entry["axes"] for entry in cells]}
    indiseek.pl.features(pd.DataFrame(cells[0]["table"])).savefig(FIGURE, dpi=100)
    if donors:
        text.append(real_tables("COVID donors", donors))
        record["covid axes"] = [entry["axes"] for entry in donors]
    notes = _NOTES.format(least=_LEAST_CELLS, n_train=_N_TRAIN, seeds=chosen.seeds)
    write_text("attribution", "Features: what the tables and axes say", "\n\n".join(text), record, notes)


if __name__ == "__main__":
    main()
