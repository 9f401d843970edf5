"""Half of the training cells unpaired, beside the paired half alone: ``python benchmarks/mosaic.py --shared FOLDER``.

Of the training cells a quarter keep their RNA only and a quarter their protein only. IndiSeekModel is trained with all
of them, with the paired half alone, and with all of them paired. ``--data covid --seeds 0`` takes some of it. Each fit
is kept in ``benchmarks/.cache``; ``--fresh`` fits again.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _certified import worst_leak
from _study import Study, covid, whole
from _table import markdown, spread, write_text
from _types import Rows, macro_f1, macro_f1_of, predicted

from indiseek import IndiSeekModel, datasets
from indiseek.data import Cells, make_setup
from indiseek.metrics import certify, conditional_mean, feature_r2
from indiseek.objectives import BatchCorrectedObjective

_SIZES = {"pbmc": (4500, 500), "bmmc": (400, 50), "midas": (560, 80)}
_N_TRAIN = 5500
# Part of the test cells of which what is private is farthest out.
_OUTER = 0.01
# Too few test cells to tell what is private.
_FEW = ("bmmc", "midas")
ARMS = {
    "paired half": "the paired half alone",
    "mosaic": "and the unpaired half",
    "mosaic, transforms": "and the unpaired half, in transforms alone",
    "all paired": "all of them paired",
}
MEASURES = {
    "components": "components",
    "FOSCTTM": "FOSCTTM",
    "leak rna": "leak of Z_rna",
    "leak prot": "leak of Z_prot",
    "private rna": "private in Z_rna",
    "private prot": "private in Z_prot",
    "inner rna": "private in Z_rna, inner cells",
    "inner prot": "private in Z_prot, inner cells",
    "F1 rna": "F1 of RNA-only cells, shared",
    "F1 rna all": "X_indiseek",
    "F1 prot": "F1 of protein-only cells, shared",
    "F1 test": "F1 of test cells, RNA code",
}
_NOTES = """\
Mean [lowest, highest] over the seeds, one thread. All rows of a set and seed have the same split, and the paired test
cells are judged on the same features, those of a transform that is fitted to all training cells: FOSCTTM between the
shared codes of RNA and protein; leak: share of variance that a specific code explains of the other modality's shared
code, or of what the other predicts, whichever is more; private: R2 from a specific code to what only its modality
knows; inner cells: without the hundredth of the cells of which that lies farthest out, on which the R2 of RNA hangs.
bmmc and midas have 150 and 160 test cells, too few to tell what is private. F1: macro-F1 of types, 15 neighbours among
the paired half's training cells in their joint code. RNA-only and protein-only cells are the same cells in all rows; of
"all paired" they have a code of both modalities in X_indiseek, and where they were not trained with they are read as
new cells are. F1 of test cells: by their RNA's shared code alone. Types of pbmc are gated on the proteins themselves.
components: of RNA + protein. covid, bmmc and midas have a batch."""


def study_of(name: str, shared: Path, seed: int) -> Study:
    """Paired cells with types, and where there is one a batch."""
    if name == "covid":
        return covid(shared, "random", _N_TRAIN, seed)
    if name == "pbmc":
        mdata = datasets.pbmc10k_cite()
        mdata.obs = pd.DataFrame({"type": datasets.gate_pbmc(mdata).astype(str).to_numpy()}, index=mdata.obs_names)
    else:
        mdata = whole(shared, name).mdata
    order = np.random.default_rng(5000 + seed).permutation(mdata.n_obs)
    parts = np.split(order, np.cumsum(_SIZES[name]))
    return Study(mdata, *(np.sort(part) for part in parts))


def fit(name: str, arm: str, seed: int, shared: Path) -> dict[str, float]:
    """Figures of one model."""
    study = study_of(name, shared, seed)
    mdata, train = study.mdata, study.train
    order = np.random.default_rng(seed).permutation(train)
    rna_only, prot_only, half = (np.sort(part) for part in np.split(order, [len(train) // 4, len(train) // 2]))
    for modality, without in (("rna", prot_only), ("prot", rna_only)):
        mdata.obs[f"has_{modality}"] = ~np.isin(np.arange(mdata.n_obs), without)
    is_mosaic = arm.startswith("mosaic")
    IndiSeekModel.setup_mudata(
        mdata,
        batch_key="batch" if "batch" in mdata.obs else None,
        present={modality: f"has_{modality}" for modality in ("rna", "prot")} if is_mosaic else None,
    )
    BatchCorrectedObjective.uses_unpaired = arm == "mosaic"
    model = IndiSeekModel(mdata)
    rows = half if arm == "paired half" else train
    model.train(
        seed=seed,
        external_indexing=[rows, study.validation, study.test],
        accelerator="cpu",
        show_progress=False,
        write_latents=False,
    )
    found: dict[str, float] = _judged(model, study, seed)
    found |= _types(model, study, half, rna_only, prot_only)
    return found | {"components": float(sum(each.n_output for each in model.fitted.transforms.values()))}


def _judged(model: IndiSeekModel, study: Study, seed: int) -> dict[str, float]:
    """Retrieval, leak and private on the test cells, on the features of all training cells."""
    cells, transforms = Cells.to_train_on(study.mdata, make_setup(study.mdata), {})
    features = {}
    for name, values in cells.values.items():
        transforms[name].fit(values, study.train)
        features[name] = transforms[name].apply_to(values).numpy()
    code = partial(model.get_latent_representation, indices=study.test)
    certificate = certify(
        {name: x[study.test] for name, x in features.items()},
        {name: code(modality=name) for name in features},
        {name: code(modality=name, kind="specific") for name in features},
        joint=code(),
        reference={name: x[study.train] for name, x in features.items()},
        n_permutations=0,
        seed=seed,
    )
    content = certificate.content.set_index(["modality", "code"])
    found = {"FOSCTTM": certificate.table("retrieval")["foscttm"].item()}
    for name, other in zip(features, reversed(features), strict=True):
        found[f"leak {name}"] = worst_leak(certificate, name)
        found[f"private {name}"] = content.loc[(name, "specific"), "private"]
        x, y = features[name], features[other]
        private = x[study.test] - conditional_mean(
            x[study.test], y[study.test], reference=(x[study.train], y[study.train]), seed=seed
        )
        far = np.square(private - private.mean(axis=0)).sum(axis=1)
        inner = far < np.quantile(far, 1 - _OUTER)
        r2 = feature_r2(code(modality=name, kind="specific")[inner], private[inner], probe="nonlinear", seed=seed)
        found[f"inner {name}"] = np.average(r2, weights=private[inner].var(axis=0))
    return {name: float(value) for name, value in found.items()}


def _types(model: IndiSeekModel, study: Study, half: Rows, rna_only: Rows, prot_only: Rows) -> dict[str, float]:
    """Macro-F1 of types by neighbours among the paired half."""
    types = study.column("type")
    joint = model.get_latent_representation()

    def f1(modality: str, rows: Rows) -> float:
        code = joint.copy()
        code[rows] = model.get_latent_representation(modality=modality, indices=rows)
        return macro_f1(code, types, half, rows)

    found = {"F1 rna": f1("rna", rna_only), "F1 prot": f1("prot", prot_only), "F1 test": f1("rna", study.test)}
    everything = _everything(model, study, rna_only)
    labels = predicted(everything, types, half, rna_only)
    return found | {"F1 rna all": macro_f1_of(labels, types, half, rna_only)}


def _everything(model: IndiSeekModel, study: Study, rna_only: Rows) -> Any:
    """``X_indiseek`` of all cells, of RNA-only ones as they are, or as a query of a model that has not seen them."""
    if model.adata is None or model._training_cells().presence is not None:
        return model.get_latent_representation(kind="everything")
    code = model.get_latent_representation(kind="everything")
    if len(model.train_indices) < len(study.train):
        query = study.take(rna_only)
        del query.mod["prot"]
        model.map_query(query)
        code[rna_only] = query.obsm["X_indiseek"]
    return code


def table(found: dict[tuple[str, str], list[dict[str, float]]]) -> pd.DataFrame:
    """One row for each set and way of training."""
    rows = []
    for (name, arm), fits in found.items():
        row = {"set": name, "trained with": ARMS[arm]}
        for key, title in MEASURES.items():
            values = [each[key] for each in fits if key in each]
            is_told = name not in _FEW or not key.startswith(("private", "inner"))
            row[title] = spread(values, 0 if key == "components" else 3) if values and is_told else ""
        row["seeds"] = str(len(fits))
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--data", nargs="+", default=["covid", *_SIZES], choices=["covid", *_SIZES])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[20, 21, 22])
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # A gene and a protein may have one name.
    warnings.filterwarnings("ignore", message="var_names are not unique")
    folder = CACHE / "mosaic"
    for seed in arguments.seeds:
        for name in arguments.data:
            for arm in arguments.arms:
                compute: Callable[[], dict[str, Any]] = partial(fit, name, arm, seed, arguments.shared)
                kept(folder / f"{name}.{arm}.{seed}.json", compute, fresh=arguments.fresh)
    found = {
        (name, arm): [kept(path, dict) for path in sorted(folder.glob(f"{name}.{arm}.*.json"))]
        for name in ("covid", *_SIZES)
        for arm in ARMS
    }
    found = {key: fits for key, fits in found.items() if fits}
    record = {"fits": {f"{name}, {arm}": fits for (name, arm), fits in found.items()}}
    write_text("mosaic", "Half of the cells unpaired", markdown(table(found)), record, _NOTES)


if __name__ == "__main__":
    main()
