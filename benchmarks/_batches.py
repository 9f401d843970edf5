"""What is left of the batch in a space, and what of types and condition."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from _study import Study
from _types import Labels, Rows, frequent, macro_f1, predicted
from numpy.typing import NDArray
from sklearn.metrics import f1_score

_MOST_DRAWN, _LEAST_DRAWN = 200, 10
MEASURES = ("bCB", "F1", "across", "accT", "condition", "iLISI")


def measures(study: Study, code: NDArray[Any], seed: int) -> dict[str, float]:
    """Figures of a space that holds all cells of a study.

    Returns
    -------
    bCB
        Accuracy of the batch by 15 neighbours, on cells drawn equally per type and batch.
    F1, accT, condition
        Macro-F1 and accuracy of types, and accuracy of the condition, by 15 neighbours among the training cells.
    across
        Macro-F1 of types by 15 neighbours among the training cells of the other batches, those with 8 or more of it.
    iLISI
        Median local inverse Simpson index of the batch among test cells, 0 one batch only, 1 all alike.
    """
    batch, types = study.column("batch"), study.column("type")
    train, test = study.train, study.test
    found = {"across": f1_across(code, types, batch, train, test)}
    if importlib.util.find_spec("harmonypy") is not None:
        found["iLISI"] = ilisi(code[test], batch[test])
    if study.whole:
        return found
    rng = np.random.default_rng(seed)
    few, probed = (drawn(rows, types, batch, rng) for rows in (train, test))
    condition = study.column("condition")
    return found | {
        "bCB": float((predicted(code, batch, few, probed) == batch[probed]).mean()),
        "F1": macro_f1(code, types, train, test),
        "accT": float((predicted(code, types, train, test) == types[test]).mean()),
        "condition": float((predicted(code, condition, train, test) == condition[test]).mean()),
    }


def f1_across(code: NDArray[Any], types: Labels, batch: Labels, train: Rows, test: Rows) -> float:
    """Macro-F1 of types by neighbours in other batches, over the cells of all batches at once."""
    true, told = [], []
    for b in np.unique(batch[test]):
        others = train[batch[train] != b]
        own = test[(batch[test] == b) & np.isin(types[test], frequent(types[others]))]
        true.append(types[own])
        told.append(predicted(code, types, others, own))
    labels = np.concatenate(true)
    return float(f1_score(labels, np.concatenate(told), average="macro", labels=np.unique(labels)))


def drawn(rows: Rows, types: Labels, batch: Labels, rng: np.random.Generator) -> Rows:
    """Cells drawn equally from each type and batch, of types that all batches have."""
    parts: list[Rows] = []
    for kind in np.unique(types):
        cells = [rows[(types[rows] == kind) & (batch[rows] == b)] for b in np.unique(batch)]
        n = min(_MOST_DRAWN, *map(len, cells))
        if n >= _LEAST_DRAWN:
            parts += [rng.choice(part, n, replace=False) for part in cells]
    return np.concatenate(parts)


def ilisi(code: NDArray[Any], batch: Labels) -> float:
    """Median of harmonypy's index at its default perplexity, brought to 0 .. 1."""
    from harmonypy import compute_lisi

    index = compute_lisi(code, {"batch": batch}, ["batch"])
    return float((np.median(index) - 1) / (len(np.unique(batch)) - 1))
