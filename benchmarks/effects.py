"""Does the condition act on what both layers share, or on one alone? How often the answer is right.

``python benchmarks/effects.py --shared FOLDER``, with ``--draws`` for the simulations and ``--shuffles`` for the null.

Calibration: labels of the COVID donors shuffled within batch. Power: effects of which it is known on what they act, put
into the counts of severe donors whose labels are drawn. Then the COVID cells themselves. Each part is kept in
``benchmarks/.cache``: a run that was stopped goes on; ``--fresh`` does it again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _simulated_effects import SCENARIOS, Source, TypeCells, confounded, two_groups
from _table import markdown, write_text
from _types import column
from numpy.typing import NDArray

from indiseek import datasets
from indiseek.effects import MIN_SHARE, Effects, Labels, Profiles, compare, compare_profiles

TYPES = ("B_Mem", "CD4_Mem", "CD8_Mem", "CD8_Va7.2", "Mono_Classical", "Mono_Nonclassical", "NK")
SIMULATED = ("CD4_Mem", "CD8_Mem", "Mono_Classical", "NK")
SPACES = ("shared", "rna", "prot")
_ALPHA = 0.05

_NOTES = """\
Called: p at most .05 in one type alone, and of a layer a private share of its effect above .1, of the shared space two
shifts that agree. S / R / P: shared, RNA alone, protein alone. Simulations: {draws} draws of each of {types}, at most six
severe donors of a batch, 7 to 9 a side, labels drawn; effects on counts of whole cells; genes are among those that .4 of
the cells have; {permutations} permutations. Redrawn: cells of cases drawn again with weights exp(1.5 z) along the first
pair. Null: {shuffles} shuffles of the donors' labels (9 healthy, 21 severe) within batch, in each of seven types. The
canonical pairs are of 30 + 30 components fitted once on all cells. Confounded: two batches, 6 cases to 2 controls and 2 to 6;
free: the batch left out, as a comparison that ignores it would be."""


def called(table: pd.DataFrame) -> dict[str, bool]:
    """Which spaces are called in one type."""
    limit = np.where(table["space"] == "shared", 0.0, MIN_SHARE)
    found = (table["pvalue"] <= _ALPHA) & (table["share"] > limit)
    return {str(space): bool(call) for space, call in zip(table["space"], found, strict=True)}


def rates(results: list[dict[str, bool]]) -> dict[str, float]:
    """Percentage of the results in which each space is called."""
    return {space: 100 * float(np.mean([each[space] for each in results])) for space in SPACES}


def simulated(source: Source, name: str, draws: int, n_permutations: int) -> dict[str, Any]:
    """Rates of one kind of effect, in all and by type."""
    by_type: dict[str, Any] = {}
    every = []
    for cell_type in SIMULATED:
        cells = source.cells(cell_type, of="Severe")
        results = []
        for draw in range(draws):
            rng = np.random.default_rng([draw, 7])
            changed = SCENARIOS[name][0](source, two_groups(cells, rng), rng)
            table = compare_profiles(source.profiles(changed), changed.labels, n_permutations=n_permutations, seed=draw)
            results.append(called(table))
        by_type[cell_type] = rates(results)
        every += results
    return {"all": rates(every), "types": by_type}


def batches(source: Source, draws: int, n_permutations: int) -> dict[str, Any]:
    """Rates where nothing happens and batch and condition go together, with the batch and without."""
    results: dict[str, list[dict[str, bool]]] = {"within batch": [], "free": []}
    for cell_type in SIMULATED:
        cells = source.cells(cell_type, of="Severe")
        for draw in range(draws):
            chosen = confounded(cells, np.random.default_rng([draw, 9]))
            found = source.profiles(chosen)
            for how, batch in (("within batch", chosen.batch), ("free", np.zeros_like(chosen.batch))):
                labels = Labels(chosen.case, batch)
                results[how].append(called(compare_profiles(found, labels, n_permutations=n_permutations, seed=draw)))
    return {how: rates(found) for how, found in results.items()}


def shuffled(source: Source, cell_type: str, shuffles: int, n_permutations: int) -> dict[str, Any]:
    """Calls, and p values of the single tests, when labels are shuffled within batch."""
    cells = source.cells(cell_type)
    found = source.profiles(cells)
    results, pvalues = [], []
    for shuffle in range(shuffles):
        labels = Labels(_shuffled(cells, np.random.default_rng([shuffle, 11])), cells.batch)
        table = compare_profiles(found, labels, n_permutations=n_permutations, seed=shuffle)
        results.append(called(table))
        pvalues.append(table.filter(regex="^p_").to_numpy().ravel().tolist())
    return {"calls": rates(results), "pvalues": pvalues}


def _shuffled(cells: TypeCells, rng: np.random.Generator) -> NDArray[np.bool_]:
    case = cells.case.copy()
    for batch in np.unique(cells.batch):
        here = cells.batch == batch
        case[here] = rng.permutation(case[here])
    return case
