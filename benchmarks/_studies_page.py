"""The tables of ``studies.py`` from the fits that there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from _batches import MEASURES
from _integration import METHODS
from _study import SPLITS, WHOLE
from _table import markdown, spread

# Fits by table, cells, number of training cells and method.
Entries = dict[tuple[str, str, int, str], list[dict[str, Any]]]

NOTES = """\
Mean [lowest, highest] of the fits, one thread. Every figure is of cells that took no part in the fit, but for Harmony
and MOFA+, which have no encoder for new cells and are fitted on the test cells too, as their users do, and but for the
two small sets, on which all methods are measured on all cells. Up to 4,000 test cells. Donors held out: two sets of
six, of every batch a patient and a healthy one, no cell of whom is among those of training.

- bCB: accuracy of the batch by 15 neighbours, on cells drawn equally from each type and batch that are in all batches;
  chance is one third, and donors differ too, so that a third is not to be reached; noise alone brings it down, so read
  it beside accT. F1: macro-F1 of 17 cell types by 15 neighbours among the training cells; across: among those of the
  other batches only; accT: accuracy. condition: accuracy of COVID-19 against healthy. iLISI: median of the local
  inverse Simpson index of the batch (harmonypy), brought to 0 one batch only, 1 all alike.
- shared + specific: shared and both specific codes side by side, each dimension with variance 1.
- Components: 30 of log-normalised RNA and 30 of CLR protein, axes from the training cells. Alike: each component with
  variance 1, or each modality with total variance 1. Harmony: defaults of harmonypy on them. totalVI: raw counts,
  batch_key, defaults, fitted on training and validation cells. MOFA+: 20 factors of log-normalised genes and CLR
  proteins, a group for each batch, fast convergence, the package's default. Genes are those of the files, already
  chosen as variable.
- Specific codes, on the test cells: share of variance that the code explains, map and products
  (`indiseek.metrics.explained`), of the other modality's shared code (leak, over all cells and as the mean within
  batches, limit of the certificate .05), of the batch and of the condition, as indicators.
- New donors: labels of their cells by `transfer_labels`, from one modality or from both; components and Harmony by 15
  neighbours among the training cells. unlike: share flagged as unlike the reference; of donors held out .05 is the aim.
  Withheld: no cell of one type was in the reference; the type is drawn by the seed from those of all batches.
- s: fit and codes of all cells; GiB: highest memory of the whole process in that time, cells and libraries included."""

_TITLES = {
    "random": "COVID blood, 3 batches: {} training cells, test cells at random",
    "donors": "COVID blood, 3 batches: {} training cells, test cells of donors held out",
    "bmmc": "BMMC, 600 cells in 2 batches, 41 types",
    "midas": "PBMC, 800 cells of 2 donors, 8 types",
}


def page(entries: Entries) -> str:
    """All tables of which there is a fit."""
    parts = []
    sizes = sorted({n_train for table, _, n_train, _ in entries if table != "small"})
    for n_train in sizes:
        for name, splits in {"random": SPLITS[:1], "donors": SPLITS[1:]}.items():
            fits = {method: _fits(entries, "batches", splits, n_train, method) for method in METHODS}
            title = _TITLES[name].format(f"{n_train:,}")
            parts.append((title, _of_spaces(fits, MEASURES)))
            parts.append((f"Specific codes; {title}", _of_specific(fits)))
    for name in WHOLE:
        fits = {method: _fits(entries, "small", (name,), 0, method) for method in METHODS}
        parts.append((_TITLES[name], _of_spaces(fits, ("across", "iLISI"))))
    for n_train in sizes:
        fits = {method: _fits(entries, "query", SPLITS[1:], n_train, method) for method in METHODS}
        parts.append((f"Labels of new donors' cells, {n_train:,} training cells", _of_query(fits)))
        withheld = _fits(entries, "withheld", SPLITS[1:], n_train, "indiseek")
        parts.append((f"A type withheld from the reference, {n_train:,} training cells", _of_withheld(withheld)))
    text = "\n\n".join(f"## {title}\n\n{markdown(table)}" for title, table in parts if len(table))
    absent = [label for method, (label, _) in METHODS.items() if not any(key[3] == method for key in entries)]
    return text + (f"\n\nNot run: {', '.join(absent)}." if absent else "")


def _fits(entries: Entries, table: str, cells: Iterable[str], n_train: int, method: str) -> list[dict[str, Any]]:
    return [fit for each in cells for fit in entries.get((table, each, n_train, method), [])]


def _of_spaces(fits: dict[str, list[dict[str, Any]]], columns: Iterable[str]) -> pd.DataFrame:
    rows = []
    for method, found in fits.items():
        for space in found[0]["spaces"] if found else ():
            row = {"method": METHODS[method].label, "space": space}
            row |= {key: _spread([fit["spaces"][space].get(key) for fit in found]) for key in columns}
            cost = {"s": _spread([fit["s"] for fit in found], 0)}
            cost |= {"GiB": _spread([fit.get("peak GiB") for fit in found], 1), "fits": str(len(found))}
            rows.append(row | cost)
    return pd.DataFrame(rows)


def _of_specific(fits: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    rows = []
    for method, found in fits.items():
        for modality in found[0]["specific"] if found else ():
            readings = [fit["specific"][modality] for fit in found]
            row = {"method": METHODS[method].label, "specific code": modality}
            rows.append(row | {key: _spread([reading[key] for reading in readings]) for key in readings[0]})
    return pd.DataFrame(rows)


def _of_query(fits: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    rows = []
    for given in ("RNA", "protein", "both"):
        for method, found in fits.items():
            for space in found[0].get(given, ()) if found else ():
                readings = [fit[given][space] for fit in found]
                row = {"given": given, "method": METHODS[method].label, "space": space}
                row |= {key: _spread([r.get(key) for r in readings]) for key in ("accuracy", "F1", "unlike")}
                rows.append(row | {"fits": str(len(found))})
    return pd.DataFrame(rows)


def _of_withheld(found: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for fit in sorted(found, key=lambda fit: str(fit["type"])):
        row = {"type": fit["type"], "its test cells": f"{fit['cells']:,}"}
        for given in ("both", "RNA", "protein"):
            row |= {f"{key}; {given}": f"{value:.3f}" for key, value in fit[given].items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _spread(values: list[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return spread(known, digits) if known else ""
