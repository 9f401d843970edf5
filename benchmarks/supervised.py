"""What a supervised head gives to specific codes, and what it costs.

``python benchmarks/supervised.py --shared FOLDER``: COVID blood of ``FOLDER``, cells of 24 donors to train on and cells
of six other donors to test on. Labels are the cell type or the condition, and only training and validation cells have
them. Each fit is kept in ``benchmarks/.cache``: a run that was stopped goes on. ``--full`` takes the networks and steps
of the model as it comes, some minutes a fit; without it they are smaller.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _study import Study, covid
from _table import markdown, spread, write_text
from _types import Labels
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indiseek import Encoder, IndiSeekModel, NCEClub, metrics

Array = NDArray[Any]

UNKNOWN = "Unknown"
TASKS = {"type": "cell type", "condition": "condition (severe or healthy)"}
# Cells of a type, of which fewer in training are left without a label and out of the test.
_LEAST = 20
_SPLIT = "donors A"


class Method(NamedTuple):
    """How specific codes are found.

    Attributes
    ----------
    label
        What it is called in the table.
    supervision
        Weight of the labels; 0 for none.
    labelled
        Share of the training cells whose label the model is given.
    """

    label: str
    supervision: float
    labelled: float = 1.0


METHODS = {
    "unsupervised": Method("none", 0.0),
    "supervised-1": Method("1", 1.0),
    "supervised-10": Method("10", 10.0),
    "supervised-1-tenth": Method("1, a tenth of the labels", 1.0, 0.1),
}
# Smaller than the defaults, so that a fit takes a minute on a busy core.
_SMALL: dict[str, Any] = {"encoder": Encoder(hidden=(128,))}
_FEWER_STEPS: dict[str, Any] = {"max_epochs": {"specific": 70}, "batch_size": 256}


def labels_of(study: Study, task: str, share: float, seed: int) -> tuple[Labels, Labels]:
    """Labels that a model may see, and the true ones, ``"Unknown"`` for those of too few training cells."""
    truth = study.column(task).astype(object)
    names, sizes = np.unique(truth[study.train].astype(str), return_counts=True)
    truth[~np.isin(truth.astype(str), names[sizes >= _LEAST])] = UNKNOWN
    seen = truth.copy()
    seen[study.test] = UNKNOWN
    hidden = np.random.default_rng(seed).permutation(study.train)[round(share * len(study.train)) :]
    seen[hidden] = UNKNOWN
    return seen.astype(str), truth.astype(str)


def scored(likely: Array, names: Array, truth: Labels) -> dict[str, float]:
    """How right probabilities of labels are, ``(n_cells, n_labels)``."""
    # Labels that no test cell has are no class of the balance.
    return {
        "balanced": balanced_accuracy_score(truth, names[likely.argmax(axis=1)]),
        "nats": log_loss(truth, likely, labels=list(names)),
    }


def probed(code: Array, labels: Labels, known: Array, test: Array) -> dict[str, float]:
    """Logistic regression on the labelled training cells, read on test cells."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(code[known], labels[known])
    return scored(probe.predict_proba(code[test]), probe.classes_, labels[test])


def figures(study: Study, method: Method, task: str, seed: int, *, full: bool) -> dict[str, Any]:
    """Fit, and measure on the test cells: of a fit without labels all tasks."""
    seen, _ = labels_of(study, task, method.labelled, seed)
    mdata = study.mdata
    mdata.obs["label"] = seen
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {"labels_key": "label", "unlabeled_category": UNKNOWN} if method.supervision else {}
        IndiSeekModel.setup_mudata(mdata, **wanted)
        specific = NCEClub(supervision=method.supervision)
        model = IndiSeekModel(mdata, specific=specific, **({} if full else _SMALL))
        model.train(
            seed=seed,
            external_indexing=[study.train, study.validation, study.test],
            accelerator="cpu",
            write_latents=False,
            show_progress=False,
            **({} if full else _FEWER_STEPS),
        )
    seconds = time.perf_counter() - started
    names = model.modalities
    shared = {name: model.get_latent_representation(modality=name, kind="shared") for name in names}
    codes = {name: model.get_latent_representation(modality=name, kind="specific") for name in names}
    spaces = {
        "C": np.hstack(list(shared.values())),
        "Z": np.hstack(list(codes.values())),
        "C, Z": np.hstack([*shared.values(), *codes.values()]),
        "X": np.hstack([model.get_features(modality=name) for name in names]),
    }
    found: dict[str, Any] = {"s": seconds, "tasks": {}}
    for other in TASKS if not method.supervision else [task]:
        given, truth = labels_of(study, other, method.labelled, seed)
        known = study.train[given[study.train] != UNKNOWN]
        test = study.test[truth[study.test] != UNKNOWN]
        probes: dict[str, Any] = {name: probed(code, truth, known, test) for name, code in spaces.items()}
        if method.supervision:
            soft = model.predict_labels(indices=test, soft=True)
            probes["head"] = scored(soft.to_numpy(), soft.columns.to_numpy().astype(str), truth[test])
        probes["sizes"] = {"train": len(known), "test": len(test), "labels": len(np.unique(truth[known]))}
        found["tasks"][other] = probes
    for name, other in (("rna", "prot"), ("prot", "rna")):
        reading = metrics.explained(codes[name][study.test], shared[other][study.test], seed=seed)
        found[f"leak {name}"] = {"total": reading.total, "se": reading.se}
        history = model.history[f"specific/validation_reconstruction_{name}"]
        found[f"reconstruction {name}"] = float(history.to_numpy()[-1, 0])
    if method.supervision:
        history = model.history["specific/validation_cross_entropy"].to_numpy()[:, 0]
        found["validation"] = {"least": float(history.min()), "last": float(history[-1])}
    return found


def page(fits: dict[str, list[dict[str, Any]]]) -> str:
    """One table for each task."""
    parts = []
    for task, what in TASKS.items():
        rows = []
        for key, found in fits.items():
            name, of = key.split(".")
            if of not in (task, "all"):
                continue
            tasks = [each["tasks"][task] for each in found]
            row = {"supervision": METHODS[name].label, "seeds": len(found)}
            for space in ("C", "Z", "C, Z", "X"):
                row[f"probe on {space}"] = spread([each[space]["balanced"] for each in tasks])
            heads = [each["head"] for each in tasks if "head" in each]
            row["head"] = spread([each["balanced"] for each in heads]) if heads else "-"
            row["nats of the probe on C, Z"] = spread([each["C, Z"]["nats"] for each in tasks])
            row["nats of the head"] = spread([each["nats"] for each in heads]) if heads else "-"
            for modality in ("rna", "prot"):
                row[f"leak of Z_{modality}"] = spread([each[f"leak {modality}"]["total"] for each in found])
            for modality in ("rna", "prot"):
                row[f"error of {modality}"] = spread([each[f"reconstruction {modality}"] for each in found])
            rows.append(row | {"s": spread([each["s"] for each in found], 0)})
            sizes = [each["sizes"] for each in tasks]
        if rows:
            n_train, n_test = (", ".join(str(each[part]) for each in sizes) for part in ("train", "test"))
            parts.append(
                f"Labels: {what}, {sizes[0]['labels']} of them. Tested on {n_test} cells (by seed).\n\n"
                + markdown(pd.DataFrame(rows))
            )
    return "\n\n".join(parts)


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the file of COVID cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS)[:3])
    parser.add_argument("--n-train", type=int, default=3000)
    parser.add_argument("--full", action="store_true", help="networks and steps of the model as it comes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = f"{options.n_train}{'-full' * options.full}"
    folder = CACHE / "supervised"
    for seed in options.seeds:
        study = covid(options.shared, _SPLIT, options.n_train, seed)
        for name in options.methods:
            for task in TASKS if METHODS[name].supervision else ["all"]:
                of = next(iter(TASKS)) if task == "all" else task
                kept(
                    folder / f"{name}.{task}.{size}.{seed}.json",
                    lambda m=METHODS[name], t=of, s=seed, c=study: figures(c, m, t, s, full=options.full),
                )
    fits: dict[str, list[dict[str, Any]]] = {}
    for name in METHODS:
        for task in ("all", *TASKS):
            found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.{task}.{size}.*.json"))]
            if found:
                fits[f"{name}.{task}"] = found
    how = (
        "Networks and steps of the model as it comes."
        if options.full
        else "One hidden layer of 128 units, batches of 256 cells, 70 epochs of the second stage: smaller than the "
        "defaults, `--full` takes these."
    )
    notes = (
        f"{options.n_train} training cells and {options.n_train // 9} for validation of 24 donors, test cells of six "
        f"others, NCE-CLUB. {how} Probes: logistic regression on the standardised codes of the labelled training "
        "cells; balanced accuracy on test cells, X is all features of both modalities. Types of fewer than "
        f"{_LEAST} training cells have no label. Nats: cross-entropy on test cells. Leak: share of the other "
        "modality's shared code that Z explains, map and products, as the certificate reads it; standard errors are "
        f"{_largest_se(fits):.3f} at most. Error: of the reconstruction of validation cells, relative. Mean [lowest, "
        "highest] over seeds, which draw cells, labels and weights but not donors. Seconds on a machine with other "
        "work to do."
    )
    write_text(f"supervised{'-full' * options.full}", "A supervised head", page(fits), {"fits": fits}, notes)


def _largest_se(fits: dict[str, list[dict[str, Any]]]) -> float:
    return max(each[f"leak {name}"]["se"] for found in fits.values() for each in found for name in ("rna", "prot"))


if __name__ == "__main__":
    main()
