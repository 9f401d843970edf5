"""DisentangledSSL on the published benchmark and beyond it: ``python benchmarks/disentangled_ssl.py``.

Both steps are trained for each point of a grid over beta and lambda, and logistic probes on test cells look for the
three labels in the codes. Published figures, linear baselines and ceilings stand in the same table. Further data
(``--data``) are a variant of the generator that is not linear and has noise, and the blood cells that ship with the
package, by the certificate. Each has a table of its own. Each fit is kept in ``benchmarks/.cache``: a run that was
stopped goes on.

One point takes about four and a half minutes of one core. ``--quick`` does one of each kind, ``--smoke`` few cells and
epochs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _certified import Figures, certified, table_row, tall
from _table import markdown, write_text
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from indiseek import DisentangledSSLModel, Encoder, IndiSeekModel, datasets, metrics, simulation
from indiseek.data import CellTensors
from indiseek.objectives import (
    Bottleneck,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    Objective,
    Orthogonality,
)
from indiseek.train import StageSettings, fit_stage, seeded

Array = NDArray[np.floating[Any]]

COLUMNS = ("C: Yc", "C: Y1", "C: Y2", "Z1: Y1", "Z1: Yc")
_SOURCE = "Wang et al. (2025), arXiv 2410.23996, synthetic experiment"

# Accuracy of shared codes at each beta in the order Yc, Y1, Y2, and of Z1 at beta 0.01 at three weights lambda, in the
# order Y1, Yc. Which weights these are is not stated.
PUBLISHED_SHARED = {
    0.01: (0.783, 0.672, 0.680),
    1.0: (0.757, 0.641, 0.646),
    10.0: (0.709, 0.607, 0.610),
    100.0: (0.684, 0.587, 0.577),
    1000.0: (0.564, 0.503, 0.513),
}
PUBLISHED_SPECIFIC = {"low": (0.738, 0.574), "middle": (0.720, 0.570), "high": (0.688, 0.555)}

# 50 latents of each kind in 100 linear features, or 5 in 100 from which they can be had back, though not linearly.
DATA: dict[str, dict[str, Any]] = {
    "published": {"n_latent": 50},
    "nonlinear": {"n_latent": 5, "gain": 2.0, "noise": 0.2},
}
N_CELLS, TRAIN_SHARE, N_VALIDATION = 90_000, 0.8, 2000
LAMBDAS = (0.0, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class FirstStep:
    """Settings of step 1, and of training; by default the published ones, with beta in the published code's units."""

    beta: float
    bottleneck: Bottleneck = "cosine"
    hidden: tuple[int, ...] = (512,)
    n_code: int = 100
    epochs: tuple[int, int] = (50, 30)
    settings: StageSettings = StageSettings(max_epochs=1, batch_size=256, lr=1e-4, cosine=True)

    @property
    def encoder(self) -> Encoder:
        """Form of the encoders."""
        return Encoder(hidden=self.hidden, activation="relu", layer_norm=False)


@dataclass(frozen=True)
class Point:
    """Settings of both steps."""

    first: FirstStep
    lam: float
    orthogonality: Orthogonality = "published"


def _ours(beta: float) -> Point:
    """Our form of both penalties and of the networks, and early stopping."""
    first = FirstStep(
        beta=beta,
        bottleneck="kl",
        hidden=(256, 256),
        settings=StageSettings(max_epochs=1, batch_size=512, lr=1e-3, cosine=True, patience=10),
    )
    return Point(first, 1.0, "correlation")


_FIRST_POINT = "published settings, beta 0.01, lambda 1"
# Points that share their first step follow each other, so that it is fitted once.
_PUBLISHED_GRID = [(0.01, lam) for lam in LAMBDAS] + [(beta, 1.0) for beta in PUBLISHED_SHARED if beta != 0.01]
POINTS: dict[str, Point] = {
    **{
        f"published settings, beta {beta:g}, lambda {lam:g}": Point(FirstStep(beta=beta), lam)
        for beta, lam in _PUBLISHED_GRID
    },
    **{f"ours, beta {beta:g}, lambda 1": _ours(beta) for beta in (0.001, 0.01)},
}


@dataclass(frozen=True, eq=False)
class Cells:
    """Features of two modalities, labels, and which cells are for what."""

    simulated: simulation.Simulation
    train: Array
    validation: Array
    test: Array

    @classmethod
    def draw(cls, data: str, seed: int, n_cells: int) -> Cells:
        """Cells of one data set; their order is random as it is."""
        simulated = simulation.simulate_disentangled(n_cells, seed=seed, **DATA[data])
        n_train = round(TRAIN_SHARE * n_cells)
        n_fit = n_train - min(N_VALIDATION, n_train // 5)
        rows = np.arange(n_cells)
        return cls(simulated, rows[:n_fit], rows[n_fit:n_train], rows[n_train:])

    @property
    def n_features(self) -> dict[str, int]:
        """By modality."""
        return {name: v.shape[1] for name, v in self.simulated.features.items()}

    def accuracy(self, code: Array, label: str) -> float:
        """Test accuracy of a logistic probe fitted on training cells."""
        code = (code - code[self.train].mean(axis=0)) / (code[self.train].std(axis=0) + 1e-9)
        y = self.simulated.labels[label]
        probe = LogisticRegression(solver="newton-cholesky").fit(code[self.train], y[self.train])
        return float(probe.score(code[self.test], y[self.test]))

    def figures(self, shared: Array, specific: Array) -> Figures:
        """One accuracy for each of the columns."""
        probes = [(shared, "shared"), (shared, "rna"), (shared, "prot"), (specific, "rna"), (specific, "shared")]
        return {name: self.accuracy(code, label) for name, (code, label) in zip(COLUMNS, probes, strict=True)}


def linear(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """CCA, and what is left of a modality after regression on the other's canonical variables."""
    a, b = cells.simulated.features.values()
    train = cells.train
    # The published mixtures are badly conditioned, and there is no noise to be regularised away.
    n_components = cells.simulated.shared.shape[1]
    codes = metrics.cca(a[train], b[train], a, b, n_components=n_components, regularisation=1e-12)
    design = np.column_stack([codes[1], np.ones(len(a))])
    residual = a - design @ np.linalg.lstsq(design[train], a[train], rcond=None)[0]
    return cells.figures(np.hstack(codes), residual)


def ceiling(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """The true latents."""
    return cells.figures(cells.simulated.shared, cells.simulated.specific["rna"])


def features(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """The features as they are."""
    a, b = cells.simulated.features.values()
    return cells.figures(np.hstack([a, b]), a)


@lru_cache(maxsize=1)
def shared_codes(cells: Cells, step: FirstStep, seed: int, smoke: bool) -> CellTensors:
    """Standardised features, and the codes of step 1."""
    batch = CellTensors(
        tuple(torch.from_numpy((v - v[cells.train].mean(0)) / v[cells.train].std(0)) for v in _values(cells))
    )
    with seeded(seed):
        objective = DisentangledSharedObjective(
            cells.n_features, step.n_code, beta=step.beta, bottleneck=step.bottleneck, encoder=step.encoder
        )
    return batch._replace(condition=_train(objective, batch, cells, step, 1 if smoke else step.epochs[0], seed))


def fit(cells: Cells, point: Point, seed: int, smoke: bool) -> Figures:
    """Both steps of one point; the first one is not repeated if the last point had the same."""
    step = point.first
    batch = shared_codes(cells, step, seed, smoke)
    with seeded(seed):
        objective = DisentangledSpecificObjective(
            cells.n_features,
            step.n_code,
            dict.fromkeys(cells.n_features, step.n_code),
            lam=point.lam,
            orthogonality=point.orthogonality,
            encoder=step.encoder,
        )
    specific = _train(objective, batch, cells, step, 1 if smoke else step.epochs[1], seed)
    return cells.figures(torch.cat(batch.condition, dim=-1).numpy(), specific[0].numpy())


def _values(cells: Cells) -> list[Array]:
    return list(cells.simulated.features.values())


def _train(
    objective: Objective, batch: CellTensors, cells: Cells, step: FirstStep, epochs: int, seed: int
) -> tuple[torch.Tensor, ...]:
    parts = tuple(batch.take(torch.from_numpy(rows)) for rows in (cells.train, cells.validation))
    fit_stage(
        objective,
        parts,
        replace(step.settings, max_epochs=epochs),
        name="benchmark",
        accelerator="cpu",
        seed=seed,
        show_progress=False,
    )
    with torch.no_grad():
        return objective.latents(batch)


ROWS: dict[str, tuple[Callable[..., Figures], Point | None]] = {
    "true latents": (ceiling, None),
    "features": (features, None),
    "CCA, residual": (linear, None),
    **{label: (fit, point) for label, point in POINTS.items()},
}


def pbmc(seed: int, smoke: bool) -> dict[str, Figures]:
    """The certificate's numbers of both models at their defaults, and of the published settings."""
    step = FirstStep(beta=1.0)
    published = {
        "n_shared": 100,
        "n_specific": 100,
        "beta": step.beta,
        "bottleneck": step.bottleneck,
        "lam": 1.0,
        "orthogonality": "published",
        "encoder": step.encoder,
    }
    paper = {"max_epochs": {"shared": 50, "specific": 30}, "batch_size": 256, "lr": 1e-4, "early_stopping": False}
    runs: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
        "DisentangledSSL, defaults": (DisentangledSSLModel, {}, {}),
        "DisentangledSSL, published settings": (DisentangledSSLModel, published, paper),
        "IndiSeek, defaults": (IndiSeekModel, {}, {}),
    }
    mdata = datasets.pbmc10k_cite()
    return {
        label: certified(model(mdata, **arguments), seed, train | ({"max_epochs": 1} if smoke else {}))
        for label, (model, arguments, train) in runs.items()
    }


def certificates(n_seeds: int, *, fresh: bool, smoke: bool) -> tuple[str, dict[str, Any]]:
    """Fit what is not in the cache; the table, tall because there are more figures than models, and all values."""
    cache = CACHE / "disentangled_ssl" / ("smoke" if smoke else "pbmc")
    runs = [
        kept(cache / f"pbmc.{seed}.json", lambda seed=seed: pbmc(seed, smoke), fresh=fresh) for seed in range(n_seeds)
    ]
    found = {label: [run[label] for run in runs] for label in runs[0]}
    return tall(found), found


def simulated(data: str, labels: list[str], n_seeds: int, *, fresh: bool, smoke: bool) -> tuple[str, dict[str, Any]]:
    """Fit what is not in the cache; the table and all values."""
    cache = CACHE / "disentangled_ssl" / ("smoke" if smoke else data)
    found: dict[str, list[Figures]] = {label: [] for label in labels}
    for seed in range(n_seeds):
        cells = Cells.draw(data, seed, 4000 if smoke else N_CELLS)
        for label in labels:
            row, point = ROWS[label]

            def compute(row: Any = row, point: Point | None = point, seed: int = seed, cells: Cells = cells) -> Figures:
                started = time.perf_counter()
                figures = row(cells, point, seed, smoke)
                return figures | {"s": time.perf_counter() - started}

            path = cache / f"{data}.{label.replace(' ', '_').replace(',', '')}.{seed}.json"
            found[label].append(kept(path, compute, fresh=fresh))
            print(f"{data}, seed {seed}, {label}: {found[label][-1]}", flush=True)
    rows = [table_row(label, values) for label, values in found.items()]
    if data == "published":
        rows += [
            {"codes": f"published, beta {beta:g}"} | _numbers(COLUMNS[:3], values)
            for beta, values in PUBLISHED_SHARED.items()
        ]
        rows += [
            {"codes": f"published, beta 0.01, lambda {lam}"} | _numbers(COLUMNS[3:], values)
            for lam, values in PUBLISHED_SPECIFIC.items()
        ]
    return markdown(pd.DataFrame(rows).fillna("")), found


def _numbers(names: tuple[str, ...], values: tuple[float, ...]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in zip(names, values, strict=True)}


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds (2)")
    parser.add_argument("--data", choices=list(_TITLES), nargs="+", default=list(_TITLES))
    parser.add_argument("--points", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="references, and one point of each kind")
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs, printed only")
    options = parser.parse_args()
    for data in options.data:
        if data == "pbmc":
            text, record = certificates(options.seeds, fresh=options.fresh, smoke=options.smoke)
        else:
            wanted = _QUICK if options.quick else _LABELS[data]
            labels = [label for label in options.points if label in wanted]
            text, record = simulated(data, labels, options.seeds, fresh=options.fresh, smoke=options.smoke)
        if options.smoke:
            print(text)
            continue
        details = {"seeds": options.seeds, "threads": torch.get_num_threads(), "results": record}
        name = f"disentangled_ssl-{data}" + ("-quick" if options.quick else "")
        write_text(name, f"{_TITLES[data]}, {options.seeds} seed(s)", text, details, _NOTES[data])


# The published grid is of the published generator; on the other one its first point stands beside our form.
_LABELS = {
    "published": tuple(row for row in ROWS if not row.startswith("ours")),
    "nonlinear": tuple(row for row in ROWS if not row.startswith("published") or row == _FIRST_POINT),
}
_QUICK = (
    "true latents",
    "features",
    "CCA, residual",
    _FIRST_POINT,
    "ours, beta 0.01, lambda 1",
)
_TITLES = {
    "published": "DisentangledSSL, published generator: linear, no noise; 72,000 / 18,000 cells",
    "nonlinear": "DisentangledSSL, cosine generator, gain 2, noise 0.2, 5 latents of each kind; 72,000 / 18,000 cells",
    "pbmc": "DisentangledSSL, certificate on PBMC10k, test cells",
}
_PROBES = f"""\
Accuracy on test cells of a logistic probe on [C1, C2] and on Z1; 0.5 is chance, the true latents are the ceiling of
linear codes; one that is not linear in them can pass it. A shared code should reach it for Yc and stay at 0.5 for Y1
and Y2; a specific one should reach it for Y1 and stay at 0.5 for Yc. CCA is given the true number of shared latents.
Published figures: {_SOURCE}. Published settings: one hidden layer of 512, 100 dimensions, kappa 1000, Adam 1e-4 along a
cosine, batches of 256, 50 + 30 epochs, beta in the units of the published code (952 times those of the equation), the
published orthogonality. 2,000 of the training cells are for validation. s: both steps and probes; of a row that goes
on from the first step of the row above it, step 2 and probes."""
_NOTES = {
    "published": _PROBES,
    "nonlinear": f"""{_PROBES} Ours: beta of the equation, mean squared correlations, two hidden layers of 256, 1e-3,
batches of 512, early stopping.""",
    "pbmc": """\
Mean and, in brackets, lowest and highest; each seed has its own split, weights and probes. Leak: share of variance
explained, map and products, limit 0.05; otherwise R2 on test cells, but for FOSCTTM; private and predictable: what the
other modality cannot and can know. s: training.
The defaults of DisentangledSSL were chosen on test cells of seed 0.""",
}


if __name__ == "__main__":
    main()
