"""What a supervised head gives to specific codes, and what it costs: ``python benchmarks/supervised.py --shared FOLDER``.

COVID blood of ``FOLDER``: cells of 24 donors to train on, cells of six other donors to test on. Labels are the cell type
or the condition, and only training and validation cells have them. Each fit is kept in ``benchmarks/.cache``: a run that
was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
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
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indiseek import ClosedForm, IndiSeekModel, NCEClub

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
    specific
        The specific stage.
    labelled
        Share of the training cells whose label the model is given; 0 for none.
    """

    label: str
    specific: NCEClub | ClosedForm
    labelled: float = 0.0


METHODS = {
    "default": Method("closed form (default)", ClosedForm()),
    "unsupervised": Method("NCE-CLUB", NCEClub()),
    "supervised-1": Method("NCE-CLUB, supervision 1", NCEClub(supervision=1.0), 1.0),
    "supervised-10": Method("NCE-CLUB, supervision 10", NCEClub(supervision=10.0), 1.0),
    "supervised-1-tenth": Method("NCE-CLUB, supervision 1, a tenth labelled", NCEClub(supervision=1.0), 0.1),
}


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


def probed(code: Array, labels: Labels, known: Array, test: Array) -> dict[str, float]:
    """Logistic regression on the labelled training cells, read on test cells."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(code[known], labels[known])
    likely = probe.predict_proba(code[test])
    found = probe.classes_[likely.argmax(axis=1)]
    return {
        "balanced": balanced_accuracy_score(labels[test], found),
        "accuracy": accuracy_score(labels[test], found),
        "nats": log_loss(labels[test], likely, labels=probe.classes_),
    }


def figures(study: Study, method: Method, task: str, seed: int) -> dict[str, Any]:
    """Fit, and measure on the test cells."""
    seen, truth = labels_of(study, task, method.labelled, seed)
    mdata = study.mdata
    mdata.obs["label"] = seen
    wanted = {"labels_key": "label", "unlabeled_category": UNKNOWN} if method.labelled else {}
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IndiSeekModel.setup_mudata(mdata, **wanted)
        model = IndiSeekModel(mdata, specific=method.specific)
        split = [study.train, study.validation, study.test]
        model.train(
            seed=seed, external_indexing=split, accelerator="cpu", write_latents=False, show_progress=False
        )
    seconds = time.perf_counter() - started
    shared = {name: model.get_latent_representation(modality=name, kind="shared") for name in model.modalities}
    codes = {name: model.get_latent_representation(modality=name, kind="specific") for name in model.modalities}
    spaces = {
        "C": np.hstack(list(shared.values())),
        **{f"Z_{name}": code for name, code in codes.items()},
        "Z": np.hstack(list(codes.values())),
        "C, Z": np.hstack([*shared.values(), *codes.values()]),
        "X": np.hstack([model.get_features(modality=name) for name in model.modalities]),
    }
    known = study.train if not method.labelled else study.train[seen[study.train] != UNKNOWN]
    known, test = (rows[truth[rows] != UNKNOWN] for rows in (known, study.test))
    found: dict[str, Any] = {name: probed(code, truth, known, test) for name, code in spaces.items()}
    if method.labelled:
        likely = model.predict_labels(indices=test, soft=True)
        names = likely.columns.to_numpy().astype(str)
        best = names[likely.to_numpy().argmax(axis=1)]
        found["head"] = {
            "balanced": balanced_accuracy_score(truth[test], best),
            "accuracy": accuracy_score(truth[test], best),
            "nats": log_loss(truth[test], likely.to_numpy(), labels=list(names)),
        }
        history = model.history["specific/validation_cross_entropy"].iloc[:, 0]
        found["validation_nats"] = [float(history.min()), float(history.iloc[-1])]
    certificate = model.certify(n_permutations=0, seed=seed, show_progress=False)
    for name in model.modalities:
        independence = certificate.table("independence").query("modality == @name")
        content = certificate.content.set_index(["modality", "code"])
        found[f"leak {name}"] = float(independence["total"].max())
        found[f"private {name}"] = float(content.loc[(name, "specific"), "private"])
        found[f"in_codes {name}"] = float(certificate.table("completeness").set_index("modality")["in_codes"][name])
    sizes = {"train": len(known), "test": len(test), "labels": len(np.unique(truth[known]))}
    return found | {"sizes": sizes, "s": seconds}
