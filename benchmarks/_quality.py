"""Fits of the quality table one by one into a cache, and the table from what is there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from _cache import CACHE, store
from _cells import DATA, FILES
from _figures import BARS, figures
from _methods import METHODS
from _peers import NotApplicableError, NotInstalledError
from _table import markdown, spread, write_text
from pandas import DataFrame

import indiseek

_PEERS = ("mofapy2", "cca-zoo", "scvi-tools")
_SMOKE_EPOCHS = 2
_SECONDS = "s"

_TITLES = {
    "pbmc": "PBMC10k: 6,855 blood cells, RNA + 14 proteins; 4,500 / 500 / 1,855 for training, validation, test",
    "clusters": (
        "Simulation with private states of 3 clusters: 5 shared factors, 3 private ones a modality; 5,000 / 500 / 6,500"
    ),
    "factors": "Simulation no. 3: 5 shared factors, 5 private ones a modality; 5,000 / 500 / 6,500",
    "atac": "RNA + ATAC: 10,309 cells of mouse cortex (SNARE-seq); 7,216 / 1,031 / 2,062",
    "bmmc": "BMMC starter: 600 bone marrow cells, RNA + 134 proteins; 400 / 50 / 150",
}
# Tables of certified data: which figures stand side by side.
_GROUPS = {
    "Specific spaces": ("leak of", "private in Z", "CD45"),
    "Completeness, R2": ("X_",),
    "Shared space": ("excess", "C to", "FOSCTTM"),
}
# Neither method nor peer: nothing to be proud of.
_REFERENCES = ("itself", "permuted")
# The same for all methods, so shown once, beside the ceiling.
_OF_THE_CELLS = "CD45RA, CD45RO"
_NOTES = """\
Cells, split and features are the same for all methods of a seed, and all codes go through the same certificate
(`indiseek.metrics.certify`) on the test cells; mean [lowest, highest] over the seeds; bold where the mean reaches the
bar. What is not there does not apply to the method.

- leak: share of variance that Z_i explains, map and products (`metrics.explained`), of the worse of two targets: the
  method's own C_j, and E[X_i given X_j].
- private: R2 from Z_i to X_i - E[X_i given X_j]; in the simulations to the true private factors.
- X_i from Z_i, C_j: R2 by a probe, C_j being what Z_i was made with (for the flow shared and wide code). By inverse:
  R2 of the flow's exact inverse.
- C: the joint shared code. Excess: share that it explains of what the other modality cannot know. FOSCTTM: between the
  shared codes of the two modalities, 0 perfect, 0.5 chance.
- CD45RA, CD45RO: their correlation in X_prot - E[X_prot given X_rna], a property of the cells; "from Z_prot" their
  covariance in what Z_prot predicts of that part, over the standard deviations of the whole part, so that a code which
  holds all of it gives the same number and one which holds nothing 0.
- Simulations, on 15 principal components: means over the modalities with a specific code of a fresh multilayer
  perceptron's R2, of 15-neighbour accuracy (5 folds) and of k-means on Z as it is.
- The paper's own settings have a table of their own (`paper.py`). CLIP: 16 dimensions, no alignment term, early
  stopping; what the regression on its codes misses is learned from other test cells. CCA: 10 variables. MOFA+: 20
  factors, slow convergence, fitted on training cells, test cells by the posterior mean; a factor counts as specific if
  four fifths of the variance that it explains lie in one view. VCCA-private: 10 + 10 + 10 dimensions, 256 wide, early
  stopping; its shared code sees RNA only. totalVI: defaults, raw counts, no specific code.
- s: fit and codes of the test cells, this machine, {threads} thread(s) of torch."""


class Run:
    """One run of the benchmark.

    Parameters
    ----------
    shared
        Folder with the files that do not ship with the package.
    n_seeds
        Seeds are ``0 .. n_seeds - 1``.
    smoke
        Few cells and epochs, kept apart and only printed.
    """

    def __init__(self, shared: Path, *, n_seeds: int, smoke: bool) -> None:
        self._shared = shared
        self._seeds = range(n_seeds)
        self._smoke = smoke
        self._cache = CACHE / ("quality-smoke" if smoke else "quality")

    def fit(self, data: Sequence[str], methods: Sequence[str], *, fresh: bool) -> None:
        """Fit and measure what is not in the cache."""
        started = time.perf_counter()
        for seed in self._seeds:
            for name in data:
                if not self._at_hand(name):
                    print(f"{name}: {FILES[name]} is not in {self._shared}, skipped", flush=True)
                    continue
                missing = [method for method in methods if fresh or not self._path(name, method, seed).exists()]
                cells = DATA[name](seed, self._shared, self._smoke) if missing else None
                for method in missing:
                    entry = self._measure(name, method, seed, cells)
                    elapsed = time.perf_counter() - started
                    print(f"seed {seed} {name} {method}: {entry['status']}, {elapsed:.0f} s so far", flush=True)

    def _at_hand(self, data: str) -> bool:
        return data not in FILES or (self._shared / FILES[data]).is_file()

    def _path(self, data: str, method: str, seed: int) -> Path:
        return self._cache / f"{data}.{method}.{seed}.json"

    def _measure(self, data: str, method: str, seed: int, cells: Any) -> dict[str, Any]:
        entry: dict[str, Any] = {"code": _code(), "versions": _versions()}
        started = time.perf_counter()
        try:
            codes = METHODS[method].encode(cells, seed, _SMOKE_EPOCHS if self._smoke else None)
            seconds = time.perf_counter() - started if codes.seconds is None else codes.seconds
            entry |= {"status": "done", "seconds": seconds, "figures": figures(data, cells, codes, seed)}
        except NotApplicableError:
            entry["status"] = "not applicable"
        except NotInstalledError:
            # Not kept: it may be there next time.
            return entry | {"status": "not installed"}
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Nor this: the hours of the other methods are not to be lost for it.
            traceback.print_exc()
            return entry | {"status": f"failed: {type(error).__name__}: {error}"}
        store(self._path(data, method, seed), entry)
        return entry

    def write(self) -> None:
        """Print the table of all that is in the cache and write it beside the others."""
        sections, record, codes = [], {}, set()
        for data, title in _TITLES.items():
            entries = {method: self._entries(data, method) for method in METHODS}
            codes |= {entry["code"] for found in entries.values() for entry in found.values()}
            if not any(entries.values()):
                reason = "not run" if self._at_hand(data) else f"skipped, {FILES[data]} is not at hand"
                sections.append(f"## {title}\n\n{reason}")
                continue
            record[data] = entries
            sections.append(f"## {title}\n\n" + "\n\n".join(_tables(data, entries, len(self._seeds))))
        notes = _NOTES.format(threads=torch.get_num_threads())
        if len(codes) > 1:
            notes += f"\n\nThe fits come from {len(codes)} different states of the package's code."
        details = {"seeds": list(self._seeds), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
        details |= {"bars": BARS, "results": record, "peers": _versions()}
        body = "\n\n".join(sections)
        if self._smoke:
            print(f"{body}\n\n{notes}")
            return
        write_text("quality", f"Quality on held-out cells, {len(self._seeds)} seeds", body, details, notes)

    def _entries(self, data: str, method: str) -> dict[int, dict[str, Any]]:
        paths = {seed: self._path(data, method, seed) for seed in self._seeds}
        return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.exists()}


def _tables(data: str, entries: dict[str, dict[int, dict[str, Any]]], n_seeds: int) -> list[str]:
    names = list(BARS.get(data, {}))
    for found in entries.values():
        for entry in found.values():
            names += [name for name in entry.get("figures", {}) if name not in names]
    groups = {"": names}
    if any(name == "FOSCTTM" for name in names):
        groups = {group: [name for name in names if name.startswith(starts)] for group, starts in _GROUPS.items()}
    tables = []
    for number, (group, chosen) in enumerate(groups.items()):
        rows = [{"method": "bar"} | {name: _bar(data, name) for name in chosen}]
        rows += [_row(data, method, found, chosen, n_seeds) for method, found in entries.items()]
        columns = ["method", *chosen, *([_SECONDS] if number == 0 else [])]
        heading = f"### {group}\n\n" if group else ""
        tables.append(heading + markdown(DataFrame(rows, columns=columns).fillna("")))
    return tables


def _bar(data: str, name: str) -> str:
    sign, bound = BARS.get(data, {}).get(name, ("", ""))
    return f"{sign} {bound}".strip()


def _row(data: str, method: str, found: dict[int, dict[str, Any]], names: list[str], n_seeds: int) -> dict[str, str]:
    label, _, package = METHODS[method]
    done = [entry for entry in found.values() if entry["status"] == "done"]
    if not done:
        missing = package is not None and importlib.util.find_spec(package) is None
        reason = next((entry["status"] for entry in found.values()), "not installed" if missing else "not run")
        return {"method": label, names[0]: reason}
    row = {"method": label if len(done) == n_seeds else f"{label}; {len(done)} of {n_seeds} seeds"}
    for name in names:
        values = [entry["figures"][name] for entry in done if name in entry["figures"]]
        if values and (name != _OF_THE_CELLS or method == "itself"):
            row[name] = _cell(values, BARS.get(data, {}).get(name) if method not in _REFERENCES else None)
    return row | {_SECONDS: spread([entry["seconds"] for entry in done], 0)}


def _cell(values: list[float], bar: tuple[str, float] | None) -> str:
    text = spread(values)
    if bar is None:
        return text
    mean = sum(values) / len(values)
    return f"**{text}**" if (mean <= bar[1] if bar[0] == "<=" else mean >= bar[1]) else text


def _code() -> str:
    """Digest of the package's code, so that the table can say if its rows come from different states."""
    digest = hashlib.sha256()
    for path in sorted(Path(indiseek.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    found = {}
    for name in _PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
