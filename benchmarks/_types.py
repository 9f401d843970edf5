"""Columns of ``.obs``, and how well neighbours in a space tell what stands in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

Rows = NDArray[np.intp]
Labels = NDArray[np.str_]

_N_NEIGHBORS = 15
# Types of which so few training cells are there cannot be found by 15 neighbours.
_LEAST_OF_A_TYPE = 8


def column(mdata: MuData, name: str) -> Labels:
    """Column of the MuData or of a modality, whatever modality stands before its name."""
    frames = [mdata.obs, *(adata.obs for adata in mdata.mod.values())]
    return next(f[c] for f in frames for c in f.columns if c.split(":")[-1] == name).astype(str).to_numpy()


def predicted(code: NDArray[Any], labels: Labels, train: Rows, test: Rows) -> Labels:
    """Labels of test cells by 15 neighbours among the training cells."""
    found: Labels = KNeighborsClassifier(_N_NEIGHBORS).fit(code[train], labels[train]).predict(code[test])
    return found


def frequent(types: Labels) -> Labels:
    """Types of which enough cells are there to be found by neighbours."""
    names, counts = np.unique(types, return_counts=True)
    return names[counts >= _LEAST_OF_A_TYPE]


def macro_f1(code: NDArray[Any], types: Labels, train: Rows, test: Rows) -> float:
    """Macro-F1 of types that enough of the training cells have."""
    return macro_f1_of(predicted(code, types, train, test), types, train, test)


def macro_f1_of(labels: Labels, types: Labels, train: Rows, test: Rows) -> float:
    """The same of labels of the test cells, however they were found."""
    known = np.isin(types[test], frequent(types[train]))
    return float(f1_score(types[test][known], labels[known], average="macro"))
