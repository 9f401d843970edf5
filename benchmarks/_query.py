"""Cells of donors that no fit has seen: their types from one modality or from both, and whether they are known."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _components import components
from _integration import SCALES, corrected, of_both, trained
from _study import Study, subset
from _types import Labels, macro_f1_of, predicted
from numpy.typing import NDArray

from indiseek import IndiSeekModel

_GIVEN = {"RNA": ("rna",), "protein": ("prot",), "both": ("rna", "prot")}

Figures = dict[str, Any]


def reference_of(study: Study) -> Study:
    """Training and validation cells alone."""
    seen = np.sort(np.concatenate([study.train, study.validation]))
    train, validation = (np.searchsorted(seen, rows) for rows in (study.train, study.validation))
    return Study(study.take(seen), train, validation, seen[:0])


def transferred(study: Study, seed: int) -> Figures:
    """Figures of labels that the model gives to the test cells, by what it is given of them."""
    model = trained(reference_of(study), seed)
    started = time.perf_counter()
    model.map_query(study.take(study.test))
    found: Figures = {"map, s": time.perf_counter() - started}
    for given, modalities in _GIVEN.items():
        labels, _, unlike = _labels(model, study, modalities)
        found[given] = {"transfer_labels": _figures(labels, study) | {"unlike": float(unlike.mean())}}
    return found


def withheld(study: Study, seed: int, kind: str) -> Figures:
    """Share of test cells flagged, of a type of which no cell was in the reference, and of the others."""
    model = trained(reference_of(study), seed)
    of_it = study.column("type")[study.test] == kind
    found: Figures = {"type": kind, "cells": int(of_it.sum())}
    for given, modalities in _GIVEN.items():
        _, probability, unlike = _labels(model, study, modalities)
        found[given] = {
            "unlike": float(unlike[of_it].mean()),
            "unlike, others": float(unlike[~of_it].mean()),
            "probability": float(probability[of_it].mean()),
        }
    return found


def _labels(
    model: IndiSeekModel, study: Study, modalities: tuple[str, ...]
) -> tuple[Labels, NDArray[Any], NDArray[np.bool_]]:
    query = subset(study.mdata, study.test, modalities)
    table = model.transfer_labels(query, labels="type").loc[query.obs_names]
    return (
        table["label"].astype(str).to_numpy(),
        table["probability"].to_numpy(dtype=float),
        table["unlike_reference"].to_numpy(dtype=bool),
    )


def neighbours(study: Study, seed: int) -> Figures:
    """Figures of labels by 15 neighbours among the training cells, in components of one modality or of both."""
    parts = components(study.mdata, study.train)
    found = {
        given: {scale: _by_neighbours(study, of(parts[name], study.train)) for scale, of in SCALES.items()}
        for given, name in (("RNA", "rna"), ("protein", "prot"))
    }
    return found | {"both": {scale: _by_neighbours(study, code) for scale, code in of_both(study).items()}}


def harmony_neighbours(study: Study, seed: int) -> Figures:
    """The same after Harmony on the cells of reference and query together."""
    batch = study.column("batch")
    return {
        "both": {scale: _by_neighbours(study, corrected(code, batch, seed)) for scale, code in of_both(study).items()}
    }


def _by_neighbours(study: Study, code: NDArray[Any]) -> dict[str, float]:
    return _figures(predicted(code, study.column("type"), study.train, study.test), study)


def _figures(labels: Labels, study: Study) -> dict[str, float]:
    types = study.column("type")
    return {
        "accuracy": float((labels == types[study.test]).mean()),
        "F1": macro_f1_of(labels, types, study.train, study.test),
    }
