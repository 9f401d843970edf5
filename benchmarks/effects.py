"""Does the condition act on what both layers share, or on one alone? How often the answer is right.

``python benchmarks/effects.py --shared FOLDER``, with ``--draws`` for the simulations and ``--shuffles`` for the null.

Calibration: labels of the COVID donors shuffled within batch. Power: effects of which it is known on what they act, put
into the counts of severe donors whose labels are drawn. Then the COVID cells themselves. Each part is kept in
``benchmarks/.cache``: a run that was stopped goes on; ``--fresh`` does it again.
"""

from __future__ import annotations

import argparse
import time
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
from indiseek.effects import (
    MIN_COORDINATION,
    MIN_SHARE,
    Effects,
    Labels,
    Profiles,
    compare,
    compare_profiles,
    coordination,
)

TYPES = ("B_Mem", "CD4_Mem", "CD8_Mem", "CD8_Va7.2", "Mono_Classical", "Mono_Nonclassical", "NK")
SIMULATED = ("CD4_Mem", "CD8_Mem", "Mono_Classical", "NK")
SPACES = ("shared", "rna", "prot")
NEW = "coordinated"
_ALPHA = 0.05
# Those of the coordination, which takes a score of every cell for each.
_FEW_PERMUTATIONS = 199
_FEW_DRAWS, _FEW_SHUFFLES = 6, 20
# On earlier ones the statistics and the sizes of the effects were chosen.
_FIRST_DRAW = 100

_NOTES = """\
Called: p at most .05 in one type alone, and of a layer a private share of its effect above .1, of the shared space two
shifts that agree, of a new state a rank correlation above .1. S / R / P / N: shared, RNA alone, protein alone, new
coordinated state ({few} permutations; of the null the first {shuffles_few} shuffles). Simulations: {draws} draws of
each of {types}, at most six severe donors of a
batch, 7 to 9 a side, labels drawn; effects on counts; genes are among those that .4 of
the cells have; {permutations} permutations. Redrawn: cells of cases drawn again with weights exp(1.5 z) along the first
pair. Null: {shuffles} shuffles of the donors' labels (9 healthy, 21 severe) within batch, in each of seven types. The
statistics and the sizes of the effects were chosen on other draws of the same cells. The canonical pairs are of 30 + 30
components fitted once on all cells. Confounded: two batches, 6 cases to 2 controls and 2 to 6; free: the batch left
out, as a comparison that ignores it would be."""


def called(table: pd.DataFrame) -> dict[str, bool]:
    """Which spaces are called in one type."""
    limit = np.where(table["space"] == "shared", 0.0, MIN_SHARE)
    found = (table["pvalue"] <= _ALPHA) & (table["share"] > limit)
    return {str(space): bool(call) for space, call in zip(table["space"], found, strict=True)}


def called_new(source: Source, cells: TypeCells, found: Profiles, seed: int) -> dict[str, bool]:
    """Whether a new coordinated state is called in one type."""
    row: dict[str, Any] = coordination(
        cells.values,
        source.components(cells),
        cells.donor,
        found,
        cells.labels,
        n_permutations=_FEW_PERMUTATIONS,
        seed=seed,
    )
    return {NEW: row["pvalue"] <= _ALPHA and row["share"] > MIN_COORDINATION}


def rates(results: list[dict[str, bool]]) -> dict[str, float]:
    """Percentage of the results in which each space is called."""
    return {space: 100 * float(np.mean([each[space] for each in results if space in each])) for space in results[0]}


def simulated(source: Source, name: str, draws: int, n_permutations: int, *, new: bool = False) -> dict[str, Any]:
    """Rates of one kind of effect, in all and by type, with or without those of a new coordinated state."""
    by_type: dict[str, Any] = {}
    every = []
    for cell_type in SIMULATED:
        cells = source.cells(cell_type, of="Severe")
        results = []
        for draw in range(draws):
            rng = np.random.default_rng([_FIRST_DRAW + draw, 7])
            changed = SCENARIOS[name][0](source, two_groups(cells, rng), rng)
            found = source.profiles(changed)
            table = compare_profiles(found, changed.labels, n_permutations=n_permutations, seed=draw)
            results.append(called(table) | (called_new(source, changed, found, draw) if new else {}))
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
        other = cells.labelled(_shuffled(cells, np.random.default_rng([shuffle, 11])))
        table = compare_profiles(found, other.labels, n_permutations=n_permutations, seed=shuffle)
        results.append(called(table) | (called_new(source, other, found, shuffle) if shuffle < _FEW_SHUFFLES else {}))
        pvalues.append(table.filter(regex="^p_").to_numpy().ravel().tolist())
    return {"calls": rates(results), "pvalues": pvalues}


def _shuffled(cells: TypeCells, rng: np.random.Generator) -> NDArray[np.bool_]:
    case = cells.case.copy()
    for batch in np.unique(cells.batch):
        here = cells.batch == batch
        case[here] = rng.permutation(case[here])
    return case


def real(source: Source, mdata: Any, n_permutations: int) -> Effects:
    """The COVID cells themselves."""
    names = ("Donor", "Batch", "cond_group", "mergedcelltype")
    counts = {name: mdata[name].X for name in SPACES[1:]}
    return compare(
        counts,
        dict(zip(counts, source.components_of_all(), strict=True)),
        pd.DataFrame({name: column(mdata, name) for name in names}),
        groupby="cond_group",
        replicate="Donor",
        within="mergedcelltype",
        batch="Batch",
        features={name: list(map(str, mdata[name].var_names)) for name in counts},
        n_permutations=n_permutations,
    )


def shown(found: dict[str, float]) -> str:
    """Percentages S / R / P, and N where it was looked for, in one cell of a table."""
    return " / ".join(f"{found[space]:.0f}" for space in (*SPACES, NEW) if space in found)


def rate_table(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Rates of several kinds of effects, one row a kind."""
    rows = []
    for name, each in found.items():
        right = " + ".join(space for space in (*SPACES, NEW) if space in SCENARIOS[name][1]) or "none"
        title = f"{' / '.join('SRPN'[: len(each['all'])])}, % called"
        by_type = {cell_type: shown(rate) for cell_type, rate in each["types"].items()}
        rows.append({"effect": name, "right": right, title: shown(each["all"]), **by_type})
    return pd.DataFrame(rows)


def calibration(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Rates under shuffled labels, one row a type."""
    rows = []
    for cell_type, each in found.items():
        single = np.array(each["pvalues"])
        quantiles = ", ".join(f"{100 * np.mean(single <= p):.1f}" for p in (0.01, 0.05, 0.1, 0.5))
        rows.append(
            {"type": cell_type, "single tests at 1, 5, 10, 50 %": quantiles, "S / R / P / N": shown(each["calls"])}
        )
    return pd.DataFrame(rows)


def covid_table(effects: Effects) -> pd.DataFrame:
    """What is called in which type, with the features of least p value."""
    rows = []
    for group, table in effects.effects.groupby("group"):
        row: dict[str, Any] = {"type": group, "donors": f"{table['n_first'].iloc[0]} + {table['n_second'].iloc[0]}"}
        for space in (*SPACES, NEW):
            each = table[table["space"] == space].iloc[0]
            row[space] = f"{'**yes**' if each['call'] else 'no'}, q {each['qvalue']:.3f}, share {each['share']:.2f}"
        found = effects.features[effects.features["group"] == group]
        for name in SPACES[1:]:
            some = found[(found["modality"] == name) & (found["qvalue"] <= _ALPHA)].sort_values("pvalue")
            words = [f"{f} {e:+.2f}" for f, e in zip(some["feature"][:6], some["private"][:6], strict=True)]
            row[f"{name} alone, q <= .05"] = f"{len(some)}: {', '.join(words)}" if len(some) else "0"
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with covid_cite_donors.h5mu")
    parser.add_argument("--draws", type=int, default=50, help="draws of each effect in each of four types")
    parser.add_argument("--shuffles", type=int, default=200, help="shuffles of the labels in each of seven types")
    parser.add_argument("--permutations", type=int, default=499)
    parser.add_argument("--fresh", action="store_true", help="do again what is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draws, shuffles, n = arguments.draws, arguments.shuffles, arguments.permutations
    mdata = datasets.covid_cite(arguments.shared / "covid_cite_donors.h5mu")
    source = Source(mdata)
    folder, fresh = CACHE / "effects", arguments.fresh
    started = time.perf_counter()
    effects = real(source, mdata, 999)
    seconds = time.perf_counter() - started
    nulls = {
        name: kept(
            folder / f"null4.{name}.{shuffles}.{n}.json", lambda t=name: shuffled(source, t, shuffles, n), fresh=fresh
        )
        for name in TYPES
    }
    confused = kept(folder / f"batches.{draws}.{n}.json", lambda: batches(source, draws, n), fresh=fresh)
    powers = {
        name: kept(
            folder / f"power.{i}.{draws}.{n}.json", lambda name=name: simulated(source, name, draws, n), fresh=fresh
        )
        for i, name in enumerate(SCENARIOS)
        if NEW not in SCENARIOS[name][1]
    }
    few = {
        name: kept(
            folder / f"new.{i}.{_FEW_DRAWS}.{_FEW_PERMUTATIONS}.json",
            lambda name=name: simulated(source, name, _FEW_DRAWS, _FEW_PERMUTATIONS, new=True),
            fresh=fresh,
        )
        for i, name in enumerate(SCENARIOS)
    }
    power, new = (rate_table(found) for found in (powers, few))
    every = np.concatenate([np.array(each["pvalues"]).ravel() for each in nulls.values()])
    null = calibration(nulls)
    confounding = pd.DataFrame(
        [{"labels": how, "S / R / P, % called": shown(found)} for how, found in confused.items()]
    )
    parts = {
        "Effects put into the counts of real donors": power,
        f"New coordinated states (N): {_FEW_DRAWS} draws in each type": new,
        f"Labels shuffled within batch: single tests {100 * np.mean(every <= _ALPHA):.1f} % at 5 %": null,
        "Nothing happens, batch and condition go together": confounding,
        f"COVID: severe against healthy, {seconds:.0f} s, 999 permutations": covid_table(effects),
    }
    left = "\n".join(f"- {row.group}: left out, {row.reason}" for row in effects.left_out.itertuples())
    text = "\n\n".join(f"## {title}\n\n{markdown(table)}" for title, table in parts.items()) + f"\n\n{left}"
    notes = _NOTES.format(
        draws=draws,
        types=", ".join(SIMULATED),
        permutations=n,
        shuffles=shuffles,
        few=_FEW_PERMUTATIONS,
        shuffles_few=_FEW_SHUFFLES,
    )
    record = {
        "power": powers,
        "new": few,
        "null": {name: {**each, "pvalues": None} for name, each in nulls.items()},
        "batches": confused,
        "covid": effects.effects.to_dict("records"),
        "seconds": seconds,
    }
    write_text("effects", "Effects by space", text, record, notes)


if __name__ == "__main__":
    main()
