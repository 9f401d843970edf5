"""New cells on a trained model: ``python benchmarks/query.py --shared FOLDER``.

COVID blood of 30 donors in 3 batches. Labels of donors that the model has not seen, from one modality or both; codes
where genes and proteins are missing at random; and cells of a batch that the model has not seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _table import markdown, spread, write_text
from _types import Labels, Rows, column, macro_f1, predicted
from mudata import MuData
from scipy import sparse
from sklearn.metrics import f1_score

from indiseek import IndiSeekModel

_FILE = "covid_cite_donors.h5mu"
_N_TRAIN, _N_VALIDATION, _N_DONORS, _N_NEW = 5500, 600, 3, 3000
_LEAST_OF_A_TYPE = 8
_MISSING = (0.1, 0.3, 0.5)
_BATCHES = ("B1", "B2", "B3")
_MOST_DRAWN, _LEAST_DRAWN = 200, 10
_MODALITIES = {"rna": ("rna",), "prot": ("prot",), "both": ("rna", "prot")}
_NOTES = """\
Macro-F1 of 17 cell types (those with 8 training cells), mean [lowest, highest] of the seeds, or of the three batches
left out. Each fit has batch_key, 5,500 training cells and 3 donors for testing; the query is 3 further donors.
components: 15 neighbours, weighted by distance likewise, in get_features of the same modalities. corrected: in
X_indiseek of the query and the reference. probability: its mean, to be compared with accuracy. told: accuracy of 15
neighbours that tell query from reference in X_indiseek, among as many of each type (chance .5). The distance that flags
cells was chosen with splits like seeds 0 and 1, and how fit_batch moves cells with these three batches."""


def _cells(shared: Path) -> MuData:
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(shared / _FILE)
    for name, source in {"batch": "Batch", "type": "mergedcelltype", "donor": "Donor"}.items():
        mdata.obs[name] = column(mdata, source)
    return mdata


def _part(mdata: MuData, rows: Rows, names: tuple[str, ...] = ("rna", "prot")) -> MuData:
    with _quietly():
        part = MuData({name: mdata[name][rows].copy() for name in names})
    for name in ("batch", "type"):
        part.obs[name] = mdata.obs[name].to_numpy()[rows]
    return part


def _quietly() -> Any:
    return mudata.set_options(pull_on_update=False)


def _f1(found: Labels, truth: Labels, known: Labels) -> float:
    names, counts = np.unique(known, return_counts=True)
    rows = np.isin(truth, names[counts >= _LEAST_OF_A_TYPE])
    return float(f1_score(truth[rows], found[rows], average="macro"))


def _fit(mdata: MuData, seed: int, **split: Any) -> IndiSeekModel:
    IndiSeekModel.setup_mudata(mdata, batch_key="batch")
    model = IndiSeekModel(mdata)
    model.train(seed=seed, accelerator="cpu", show_progress=False, **split)
    return model


def _codes(model: IndiSeekModel, query: MuData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes of training and new cells, one after the other."""
    return model.adata.obsm[key][model.train_indices], query.obsm[key]


def _among(model: IndiSeekModel, query: MuData, codes: tuple[np.ndarray, np.ndarray]) -> float:
    known = model.adata.obs["type"].to_numpy(dtype=str)[model.train_indices]
    types = np.concatenate([known, query.obs["type"].to_numpy(dtype=str)])
    rows = np.arange(len(types))
    return macro_f1(np.concatenate(codes), types, rows[: len(known)], rows[len(known) :])


def _zero_filled(part: MuData, whole: MuData) -> MuData:
    filled = {}
    for name, adata in whole.mod.items():
        is_there = adata.var_names.isin(part[name].var_names).astype(np.float32)
        filled[name] = adata.copy()
        filled[name].X = sparse.csr_matrix(sparse.csr_matrix(adata.X).multiply(is_there))
    with _quietly():
        new = MuData(filled)
    new.obs = whole.obs.copy()
    return new


def donors(shared: Path, seed: int) -> dict[str, Any]:
    """Labels and codes of donors that were left out."""
    mdata = _cells(shared)
    rng = np.random.default_rng(seed)
    names = rng.permutation(mdata.obs["donor"].unique())
    of_query, of_test = (mdata.obs["donor"].isin(part).to_numpy() for part in np.split(names[: 2 * _N_DONORS], 2))
    rest = rng.permutation(np.flatnonzero(~of_query & ~of_test))
    split = (rest[:_N_TRAIN], rest[_N_TRAIN : _N_TRAIN + _N_VALIDATION], np.flatnonzero(of_test))
    model = _fit(mdata, seed, external_indexing=split)
    rows = np.flatnonzero(of_query)
    known = mdata.obs["type"].to_numpy(dtype=str)[model.train_indices]
    truth = mdata.obs["type"].to_numpy(dtype=str)[rows]
    found: dict[str, Any] = {}
    for name, modalities in _MODALITIES.items():
        query = _part(mdata, rows, modalities)
        table = model.transfer_labels(query, "type")
        model.map_query(query)
        features = np.concatenate([model.get_features(modality=each) for each in modalities], axis=1)
        labels = table["label"].astype(str).to_numpy()
        found[name] = {
            "transfer_labels": _f1(labels, truth, known),
            "components": _among(model, query, (features[model.train_indices], features[rows])),
            "corrected": _among(model, query, _codes(model, query, "X_indiseek")),
            "accuracy": float((labels == truth).mean()),
            "probability": float(table["probability"].mean()),
            "unlike_reference": float(table["unlike_reference"].mean()),
        }
    whole = _part(mdata, rows)
    for part in (0.0, *_MISSING):
        kept_features = {
            each: np.sort(rng.permutation(adata.n_vars)[: round(adata.n_vars * (1 - part))])
            for each, adata in whole.mod.items()
        }
        with _quietly():
            query = MuData({each: whole[each][:, kept_features[each]].copy() for each in whole.mod})
        query.obs = whole.obs.copy()
        zeros = _zero_filled(query, whole)
        labels = model.transfer_labels(query, "type")["label"].astype(str).to_numpy()
        entry = {"transfer_labels": _f1(labels, truth, known)}
        for word, cells in (("estimated", query), ("zeros", zeros)):
            model.map_query(cells)
            for key in ("X_indiseek_shared", "X_indiseek"):
                entry[f"{key}, {word}"] = _among(model, cells, _codes(model, cells, key))
        found[f"missing {part}"] = entry
    return found


def new_batch(shared: Path, batch: str) -> dict[str, Any]:
    """Cells of a batch that was left out, read as the nearest, and moved."""
    mdata = _cells(shared)
    rng = np.random.default_rng(0)
    is_new = (mdata.obs["batch"] == batch).to_numpy()
    known, new = (np.sort(rng.permutation(np.flatnonzero(part))) for part in (~is_new, is_new))
    reference = _part(mdata, np.sort(rng.permutation(known)[: _N_TRAIN + 2000]))
    model = _fit(reference, 0, train_size=0.7, validation_size=0.1)
    rows = np.sort(rng.permutation(new)[:_N_NEW])
    labels = reference.obs["type"].to_numpy(dtype=str)[model.train_indices]
    truth = mdata.obs["type"].to_numpy(dtype=str)[rows]
    drawn: list[tuple[Rows, Rows]] = []
    for kind in np.unique(truth):
        there, here = np.flatnonzero(labels == kind), np.flatnonzero(truth == kind)
        n = min(len(there), len(here), _MOST_DRAWN)
        if n >= _LEAST_DRAWN:
            drawn.append((rng.choice(there, n, replace=False), rng.choice(here, n, replace=False)))
    found = {}
    for fit_batch in (False, True):
        query = _part(mdata, rows)
        table = model.transfer_labels(query, "type", fit_batch=fit_batch)
        model.map_query(query, fit_batch=fit_batch)
        codes = _codes(model, query, "X_indiseek")
        both = np.concatenate([np.concatenate([codes[0][a], codes[1][b]]) for a, b in drawn])
        side = np.concatenate([np.repeat(["reference", "query"], len(a)) for a, _ in drawn])
        first, second = np.array_split(np.random.default_rng(0).permutation(len(side)), 2)
        found["yes" if fit_batch else "no"] = {
            "transfer_labels": _f1(table["label"].astype(str).to_numpy(), truth, labels),
            "accuracy": float((table["label"].astype(str).to_numpy() == truth).mean()),
            "corrected": _among(model, query, codes),
            "told": float((predicted(both, side, first, second) == side[second]).mean()),
            "unlike_reference": float(table["unlike_reference"].mean()),
        }
    return found


def _table(what: str, names: list[str], fits: list[dict[str, Any]]) -> str:
    rows = [
        {what: name.removeprefix("missing ")} | {key: spread([fit[name][key] for fit in fits]) for key in fits[0][name]}
        for name in names
    ]
    return markdown(pd.DataFrame(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, shared = CACHE / "query", arguments.shared
    fits = [kept(folder / f"{s}.json", lambda s=s: donors(shared, s), fresh=arguments.fresh) for s in arguments.seeds]
    new = [kept(folder / f"{b}.json", lambda b=b: new_batch(shared, b), fresh=arguments.fresh) for b in _BATCHES]
    text = "\n\n".join(
        [
            "Labels of new donors:",
            _table("modalities", list(_MODALITIES), fits),
            "Features missing at random, of both modalities:",
            _table("missing", [f"missing {part}" for part in (0.0, *_MISSING)], fits),
            "A new batch, both modalities:",
            _table("fit_batch", ["no", "yes"], new),
        ]
    )
    record = {"seeds": arguments.seeds, "fits": fits, "new batches": dict(zip(_BATCHES, new, strict=True))}
    write_text("query", f"New cells, {len(fits)} seeds", text, record, _NOTES)


if __name__ == "__main__":
    main()
