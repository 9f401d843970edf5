"""Batches brought together, and cells of new donors: ``python benchmarks/studies.py --shared FOLDER``.

COVID blood of 30 donors in 3 batches, with cells held out at random and with whole donors held out; two small sets of
two batches; and labels transferred to the donors held out. Each fit is kept in ``benchmarks/.cache``: a run that was
stopped goes on, and runs with other ``--tables`` or ``--methods`` add to the same page; ``--fresh`` fits again.
Peers that are not installed are said to be so; ``make peers`` brings them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _batches import measures
from _cache import CACHE, kept
from _integration import METHODS, peak_memory
from _peers import NotInstalledError
from _query import harmony_neighbours, neighbours, transferred, withheld
from _studies_page import NOTES, Entries, page
from _study import SPLITS, WHOLE, Study, covid, types_of_all_batches, whole
from _table import write_text

_TABLES = ("batches", "small", "query")
_QUERY = {"indiseek": transferred, "pca": neighbours, "harmony": harmony_neighbours}
# Minutes to an hour a fit: after all others.
_SLOW = ("totalvi", "mofa")


@dataclass(frozen=True)
class Job:
    """A fit: of which table, set or split, number of training cells, method and seed."""

    table: str
    cells: str
    n_train: int
    method: str
    seed: int
    compute: Callable[[], dict[str, Any]]
    epochs: int | None = None

    @property
    def path(self) -> Path:
        """Where it is kept."""
        method = self.method if self.epochs is None else f"{self.method}-{self.epochs}"
        name = f"{self.table}.{self.cells.replace(' ', '-')}.{self.n_train}.{method}.{self.seed}.json"
        return CACHE / "studies" / name


def _spaces(cells: Callable[[], Study], method: str, seed: int, epochs: int | None) -> dict[str, Any]:
    study = cells()
    with peak_memory() as memory:
        found = METHODS[method].encode(study, seed, epochs)
    spaces = {name: measures(study, code, seed) for name, code in found.spaces.items()}
    return {"spaces": spaces, "specific": found.specific, "s": found.seconds} | memory


def _withheld(shared: Path, split: str, n_train: int, seed: int) -> dict[str, Any]:
    kinds = types_of_all_batches(covid(shared, split, n_train, seed))
    kind = str(np.random.default_rng(seed).choice(kinds))
    return withheld(covid(shared, split, n_train, seed, without=kind), seed, kind)


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All fits of all tables."""
    shared = options.shared
    for n_train in options.sizes:
        for split in SPLITS:
            yield from _jobs_of_methods(
                options, "batches", split, n_train, lambda seed, n=n_train, of=split: covid(shared, of, n, seed)
            )
    for name in WHOLE:
        yield from _jobs_of_methods(options, "small", name, 0, lambda seed, of=name: whole(shared, of))
    for n_train in options.sizes:
        for split in SPLITS[1:]:
            for seed in options.seeds:
                for method, figures in _QUERY.items():
                    yield Job(
                        "query",
                        split,
                        n_train,
                        method,
                        seed,
                        lambda of=figures, n=n_train, on=split, s=seed: of(covid(shared, on, n, s), s),
                    )
                yield Job(
                    "withheld",
                    split,
                    n_train,
                    "indiseek",
                    seed,
                    lambda n=n_train, on=split, s=seed: _withheld(shared, on, n, s),
                )


def _jobs_of_methods(
    options: argparse.Namespace, table: str, cells: str, n_train: int, study: Callable[[int], Study]
) -> Iterator[Job]:
    n_seeds = {"totalvi": options.totalvi_seeds, "mofa": options.mofa_seeds}
    for method in METHODS:
        epochs = {"totalvi": options.totalvi_epochs, "mofa": options.mofa_iterations}.get(method)
        for seed in options.seeds[: n_seeds.get(method)]:
            yield Job(
                table,
                cells,
                n_train,
                method,
                seed,
                lambda m=method, s=seed, e=epochs: _spaces(lambda: study(s), m, s, e),
                epochs,
            )


def run(plan: list[Job], options: argparse.Namespace) -> Entries:
    """Do what is wanted and missing; everything that is there, by table, cells, size and method."""
    missing = set()
    found: Entries = {}
    for job in plan:
        wanted = job.method in options.methods and ("query" if job.table == "withheld" else job.table) in options.tables
        if job.method in missing or not (wanted or job.path.exists()):
            continue
        try:
            entry = kept(job.path, job.compute, fresh=options.fresh and wanted)
        except NotInstalledError as error:
            print(f"{METHODS[job.method].label}: {error} is not installed; make peers brings it", flush=True)
            missing.add(job.method)
            continue
        found.setdefault((job.table, job.cells, job.n_train, job.method), []).append(entry)
    return found


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the files of cells")
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=list(_TABLES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[5500], help="numbers of training cells of COVID")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--totalvi-epochs", type=int, help="most epochs of totalVI; its own default without")
    parser.add_argument("--totalvi-seeds", type=int, default=1, help="how many of the seeds totalVI gets")
    parser.add_argument("--mofa-iterations", type=int, help="most iterations of MOFA+; its own default without")
    parser.add_argument("--mofa-seeds", type=int, default=1, help="how many of the seeds MOFA+ gets")
    parser.add_argument("--fresh", action="store_true", help="fit again what is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = sorted(jobs(options), key=lambda job: job.method in _SLOW)
    entries = run(plan, options)
    cut = {"totalVI epochs": options.totalvi_epochs, "MOFA+ iterations": options.mofa_iterations}
    notes = NOTES + "".join(f"\n\nCut short: {n} {what}." for what, n in cut.items() if n is not None)
    record = {"seeds": options.seeds, **cut, "fits": {" | ".join(map(str, key)): fits for key, fits in entries.items()}}
    write_text("studies", f"Batches and new donors, {len(options.seeds)} seeds", page(entries), record, notes)


if __name__ == "__main__":
    main()
