"""What contrastive learning finds of content, style and private factors: ``python benchmarks/identifiability.py``.

Process and loss are those of Daunhawer et al. (2023), arXiv 2303.09166. ``--quick`` (the default) is a small, well
conditioned process with codes of three sizes, on one processor. ``--small`` is the published process, 5 + 5 + 5 factors
as the authors' program draws them, with smaller networks and fewer steps; ``--paper-size --device cuda`` has the
program's networks and steps as well and wants a GPU. Each finished run is kept in ``benchmarks/.cache``: what was
stopped goes on, and more seeds add to the table.

Printed is the R2 of fresh probes from the codes to each kind of factor on cells that training has not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

# One thread: the arrays of the quick size are too small to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import _identifiability_paper as published
import numpy as np
import pandas as pd
import torch
from _cache import CACHE
from _table import spread, write

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.metrics import feature_r2
from indiseek.objectives import DistanceInfoNCEObjective
from indiseek.simulation import ContentStyleProcess

N_PROBE = 2000
DEPENDENCE: dict[str, dict[str, bool]] = {
    "independent": {},
    "statistical": {"statistical": True},
    "causal": {"causal": True},
}
PROBES = {"linear": "ridge", "kernel": "nonlinear"}

# R2 of content and style by a nonlinear probe, in a process of 5 + 5 factors without those of each modality, by (p,
# dependence). The program of the multimodal paper and its README print no R2.
_SOURCE = "von Kuegelgen et al. (2021), arXiv 2106.04619"
PUBLISHED = {
    (1.0, "independent"): ("1.00", "0.07"),
    (0.75, "independent"): ("1.00", "0.06"),
    (0.75, "statistical"): ("0.98", "0.37"),
    (0.75, "both"): ("0.99", "0.80"),
}


@dataclass(frozen=True)
class Size:
    """Process, networks and training of one size of the benchmark."""

    n_factors: int
    n_layers: int
    slope: float
    max_condition: float
    hidden: tuple[int, ...]
    temperature: float
    # At a high temperature content comes first, but dimensions beyond it are often left idle.
    spare_temperature: float
    batch: int
    steps: int
    learning_rate: float
    anneal: bool

    @property
    def dims(self) -> tuple[int, int, int]:
        """Dimensions of the code: too small, right, and enough for content and style."""
        return (self.n_factors + 1) // 2, self.n_factors, 2 * self.n_factors


QUICK = Size(2, 2, 0.5, 3.0, (64, 64), 5.0, 1.0, 256, 800, 2e-2, anneal=True)


def features(cells: Mapping[str, np.ndarray], device: str) -> CellTensors:
    """Features of all modalities on the device."""
    return CellTensors(tuple(torch.from_numpy(x).to(device) for x in cells.values()))


def run(size: Size, dim: int, p: float, dependence: str, seed: int, device: str) -> dict[str, object]:
    """Train on fresh cells in every step, and probe both modalities' codes of other cells."""
    n = size.n_factors
    process = ContentStyleProcess(
        n,
        n,
        (n, n),
        change_probability=p,
        n_layers=size.n_layers,
        slope=size.slope,
        max_condition=size.max_condition,
        seed=seed,
        **DEPENDENCE[dependence],
    )
    started = time.process_time()
    torch.manual_seed(seed)
    objective = DistanceInfoNCEObjective(
        dict.fromkeys(process.n_specific, 3 * n),
        dim,
        temperature=size.spare_temperature if dim > n else size.temperature,
        encoder=Encoder(hidden=size.hidden, activation="relu", layer_norm=False),
    ).to(device)
    optimizer = torch.optim.Adam(objective.parameters(), lr=size.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.steps) if size.anneal else None
    for step in range(size.steps):
        batch = features(process.sample(size.batch, seed=step + 1).features, device)
        optimizer.zero_grad()
        objective.loss(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 2.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()

    # Step k draws with seed k + 1, so that seed 0 is nobody's.
    cells = process.sample(N_PROBE, seed=0)
    with torch.no_grad():
        codes = [code.cpu().numpy() for code in objective.latents(features(cells.features, device))]
        held_out = [
            objective.loss(features(process.sample(size.batch, seed=size.steps + k).features, device)).loss.item()
            for k in range(1, 11)
        ]
    found: dict[str, object] = {"dim": dim, "p": p, "dependence": dependence, "seed": seed}
    found["loss"] = float(np.mean(held_out))
    for probe, kind in PROBES.items():
        rows = []
        for code, name in zip(codes, cells.features, strict=True):
            factors = np.hstack([cells.shared, cells.style[name], cells.specific[name]])
            rows.append(feature_r2(code, factors, probe=kind).reshape(3, n).mean(axis=1))
        for factor, values in zip(("content", "style", "specific"), np.transpose(rows), strict=True):
            found[f"{factor}_{probe}"] = float(np.mean(values))
    found["oracle"] = float(np.mean([feature_r2(cells.shared, s, probe="nonlinear") for s in cells.style.values()]))
    found["seconds"] = time.process_time() - started
    return found


def in_bands(rows: list[dict[str, object]], n_factors: int) -> str:
    """How many runs are within the bands that the theorem, and counting dimensions, ask for."""
    # Of correlated content one dimension tells something of the others: there is no band for it.
    is_free = rows[0]["dependence"] == "statistical" and rows[0]["dim"] < n_factors
    return "no band" if is_free else f"{sum(holds(row, n_factors) for row in rows)} of {len(rows)}"


def holds(row: Mapping[str, object], n_factors: int) -> bool:
    """Whether a run is."""
    dim, content, style = row["dim"], row["content_kernel"], row["style_kernel"]
    if row["specific_kernel"] > 0.03:
        return False
    if dim < n_factors:
        return abs(content - dim / n_factors) <= 0.1
    if dim == n_factors:
        return content >= 0.95 and abs(style - max(row["oracle"], 0.0)) <= 0.05
    return content >= 0.95 and style >= 0.9


def finished(path: Path) -> list[dict[str, object]]:
    """Runs of a cache file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(path: Path, keys: tuple[str, ...], wanted: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Those of the wanted runs that a cache file lacks."""
    done = {tuple(row[key] for key in keys) for row in finished(path)}
    return [run_of for run_of in wanted if run_of not in done]


def keep(path: Path, row: dict[str, object]) -> None:
    """Add a run to a cache file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)


def run_quick(n_seeds: int, device: str, path: Path) -> None:
    """Run what is missing of the small, well conditioned process, print and write its table."""
    name, size, keys = "identifiability-quick", QUICK, ("dependence", "p", "dim", "seed")
    settings = list(product(DEPENDENCE, (1.0, 0.75), size.dims))
    wanted = [(*setting, seed) for seed in range(n_seeds) for setting in settings]
    for dependence, p, dim, seed in missing(path, keys, wanted):
        keep(path, run(size, dim, p, dependence, seed, device))

    runs = [row for row in finished(path) if row["seed"] < n_seeds]
    table = []
    for setting in settings:
        rows = [row for row in runs if tuple(row[key] for key in keys[:3]) == setting]
        shown = {key: spread([row[key] for row in rows], 2) for key in rows[0] if key.endswith(("_linear", "_kernel"))}
        table.append(
            {"style": setting[0], "p": setting[1], "dim": setting[2]}
            | {key.replace("_", ", "): value for key, value in shown.items()}
            | {"content to style": spread([row["oracle"] for row in rows], 2)}
            | {"loss": spread([row["loss"] for row in rows], 2)}
            | {"in the bands": in_bands(rows, size.n_factors)}
        )
    seconds = sum(float(row["seconds"]) for row in runs)
    write(
        name,
        f"Identifiability, {n_seeds} seeds: mean [lowest, highest]",
        pd.DataFrame(table),
        {"size": asdict(size), "runs": runs},
        f"R2 of fresh probes from the code of one modality to its factors, mean over both modalities, {N_PROBE} cells, "
        f"5 folds; {size.n_factors} dimensions each of content, style and factors of each modality. dim: dimension of "
        "the code. p: probability that a style dimension changes between the modalities. content to style: the same "
        "probe from the true content. loss: held-out InfoNCE in nats. Bands: specific at most 0.03; content within 0.1 "
        "of dim / n_content when the code is too small and content's dimensions are independent, else at least 0.95; "
        "style within 0.05 of the probe from content at the right size, at least 0.9 when there is room for it. "
        f"{seconds:.0f} s of processor time.",
    )


def run_published(name: str, training: published.Training, n_seeds: int, form: str, device: str, path: Path) -> None:
    """Run what is missing of the published process, print and write its table, published figures beside it."""
    keys = ("form", "p", "dependence", "seed")
    wanted = [(form, *setting, seed) for seed in range(n_seeds) for setting in published.SETTINGS]
    for _, p, dependence, seed in missing(path, keys, wanted):
        keep(path, published.run(training, p, dependence, seed, device, form=form))
    runs = [row for row in finished(path) if row["seed"] < n_seeds and row["form"] == form]
    table = []
    for p, dependence in published.SETTINGS:
        rows = [row for row in runs if (row["p"], row["dependence"]) == (p, dependence)]
        content, style = PUBLISHED.get((p, dependence), ("", ""))
        shown = {f"{f}, kernel": spread([row[f"{f}_kernel"] for row in rows], 2) for f in published.FACTORS}
        table.append(
            {"p": p, "dependence": dependence, "published content": content, "published style": style}
            | shown
            | {"content, linear": spread([row["content_linear"] for row in rows], 2)}
            | {"loss": spread([row["loss"] for row in rows], 2)}
        )
    seconds = sum(float(row["seconds"]) for row in runs)
    write(
        name,
        f"Identifiability, the published process ({form}), {n_seeds} seeds: mean [lowest, highest]",
        pd.DataFrame(table),
        {"form": form, "training": asdict(training), "device": device, "runs": runs},
        "5 dimensions each of content, style and factors of each modality, codes of 5 dimensions. R2 of probes fitted "
        f"on {training.n_probe:,} cells and scored on as many others, mean over the codes of both modalities; kernel "
        "ridge with its settings chosen by three folds, and linear regression. style: of the own modality. loss: "
        f"held-out, in nats, log({training.batch + 1}) at chance. {training.steps:,} steps of {training.batch:,} "
        f"pairs and as many others, networks {training.hidden}, learning rate {training.learning_rate}. Published: "
        f"{_SOURCE}, the process from which this one comes, without factors of the modalities and with one mixing; the "
        f"program of Daunhawer et al. prints no R2. {seconds:.0f} s of training.",
    )


def main() -> None:
    """Run what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="2 + 2 + 2 factors, codes of three sizes (default)")
    which.add_argument("--small", action="store_true", help="the published process, small networks")
    which.add_argument("--paper-size", action="store_true", help="the published process, 300,001 steps; for a GPU")
    parser.add_argument("--form", default="code", choices=("code", "paper"), help="of the published process")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--device", default="cpu", help="of torch (default cpu)")
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = "paper" if options.paper_size else "small" if options.small else "quick"
    name = f"identifiability-{size}"
    CACHE.mkdir(exist_ok=True)
    path = CACHE / f"{name}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    if size == "quick":
        run_quick(options.seeds, options.device, path)
        return
    training = published.PAPER if options.paper_size else published.SMALL
    run_published(name, training, options.seeds, options.form, options.device, path)


if __name__ == "__main__":
    main()
