"""Both steps of DisentangledSSL on simulated cells, and what probes and linear baselines find there."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from _certified import Figures
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from indiseek import Encoder, metrics, simulation
from indiseek.data import CellTensors
from indiseek.objectives import (
    Bottleneck,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    Objective,
    Orthogonality,
    SpecificForm,
)
from indiseek.train import StageSettings, fit_stage, seeded

Array = NDArray[np.floating[Any]]

SHARED_COLUMNS, SPECIFIC_COLUMNS = ("C: Yc", "C: Y1", "C: Y2"), ("Z1: Y1", "Z1: Yc")

# 50 latents of each kind in 100 linear features, or 5 in 100 from which they can be had back, though not linearly.
DATA: dict[str, dict[str, Any]] = {
    "published": {"n_latent": 50},
    "nonlinear": {"n_latent": 5, "gain": 2.0, "noise": 0.2},
}
N_CELLS, TRAIN_SHARE = 90_000, 0.8


@dataclass(frozen=True, kw_only=True)
class FirstStep:
    """Settings of step 1, and of training; by default the published sizes, with beta in the published code's units.

    Attributes
    ----------
    as_published
        Whether features are as they are, cells are augmented, all training cells are trained on, and the probe is
        scikit-learn's with 200 iterations on codes of any length. Otherwise features are standardised,
        `n_validation` of the training cells left out, and the probe has converged, on standardised codes.
    """

    beta: float
    bottleneck: Bottleneck = "cosine"
    as_published: bool = False
    hidden: tuple[int, ...] = (512,)
    initial_sd: float | None = None
    n_code: int = 100
    epochs: tuple[int, int] = (50, 30)
    n_validation: int = 2000
    settings: StageSettings = StageSettings(max_epochs=1, batch_size=256, lr=1e-4, cosine=True)

    @property
    def encoder(self) -> Encoder:
        """Form of the encoders."""
        return Encoder(hidden=self.hidden, activation="relu", layer_norm=False, initial_sd=self.initial_sd)


@dataclass(frozen=True)
class Point:
    """Settings of both steps; without a weight `lam` there is no second one."""

    first: FirstStep
    lam: float | None = None
    orthogonality: Orthogonality = "published"
    form: SpecificForm = "paper"


@dataclass(frozen=True, eq=False)
class Cells:
    """Features of two modalities, labels, and which cells are for what."""

    simulated: simulation.Simulation
    train: Array
    test: Array

    @classmethod
    def draw(cls, data: str, seed: int, n_cells: int) -> Cells:
        """Cells of one data set; their order is random as it is."""
        simulated = simulation.simulate_disentangled(n_cells, seed=seed, **DATA[data])
        rows = np.arange(n_cells)
        n_train = round(TRAIN_SHARE * n_cells)
        return cls(simulated, rows[:n_train], rows[n_train:])

    @property
    def n_features(self) -> dict[str, int]:
        """By modality."""
        return {name: v.shape[1] for name, v in self.simulated.features.items()}

    def accuracy(self, code: Array, label: str, *, as_published: bool = False) -> float:
        """Test accuracy of a logistic probe fitted on training cells."""
        y = self.simulated.labels[label]
        if as_published:
            probe = LogisticRegression(max_iter=200)
        else:
            code = (code - code[self.train].mean(axis=0)) / (code[self.train].std(axis=0) + 1e-9)
            probe = LogisticRegression(solver="newton-cholesky")
        with warnings.catch_warnings():
            # The published number of iterations is what it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(code[self.train], y[self.train])
        return float(probe.score(code[self.test], y[self.test]))

    def of_shared(self, code: Array, *, as_published: bool = False) -> Figures:
        """Accuracies of the columns of shared codes."""
        found = [self.accuracy(code, label, as_published=as_published) for label in ("shared", "rna", "prot")]
        return dict(zip(SHARED_COLUMNS, found, strict=True))

    def of_specific(self, code: Array, *, as_published: bool = False) -> Figures:
        """Accuracies of the columns of the first modality's specific codes."""
        found = [self.accuracy(code, label, as_published=as_published) for label in ("rna", "shared")]
        return dict(zip(SPECIFIC_COLUMNS, found, strict=True))


def linear(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """CCA, and what is left of a modality after regression on the other's canonical variables."""
    a, b = cells.simulated.features.values()
    train = cells.train
    # The published mixtures are badly conditioned, and there is no noise to be regularised away.
    n_components = cells.simulated.shared.shape[1]
    codes = metrics.cca(a[train], b[train], a, b, n_components=n_components, regularisation=1e-12)
    design = np.column_stack([codes[1], np.ones(len(a))])
    residual = a - design @ np.linalg.lstsq(design[train], a[train], rcond=None)[0]
    return cells.of_shared(np.hstack(codes)) | cells.of_specific(residual)


def ceiling(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """The true latents."""
    return cells.of_shared(cells.simulated.shared) | cells.of_specific(cells.simulated.specific["rna"])


def features(cells: Cells, point: None = None, seed: int = 0, smoke: bool = False) -> Figures:
    """The features as they are."""
    a, b = cells.simulated.features.values()
    return cells.of_shared(np.hstack([a, b])) | cells.of_specific(a)


@lru_cache(maxsize=1)
def first_step(
    cells: Cells, step: FirstStep, seed: int, smoke: bool
) -> tuple[DisentangledSharedObjective, CellTensors]:
    """The trained objective of step 1, and the cells with its codes."""
    values = list(cells.simulated.features.values())
    if not step.as_published:
        values = [(v - v[cells.train].mean(0)) / v[cells.train].std(0) for v in values]
    batch = CellTensors(tuple(map(torch.from_numpy, values)))
    with seeded(seed):
        objective = DisentangledSharedObjective(
            cells.n_features,
            step.n_code,
            beta=step.beta,
            bottleneck=step.bottleneck,
            augment=step.as_published,
            encoder=step.encoder,
        )
    train(objective, batch, cells, step, 1 if smoke else step.epochs[0], seed)
    with torch.no_grad():
        return objective, batch._replace(condition=objective.latents(batch))


def fit(cells: Cells, point: Point, seed: int, smoke: bool) -> Figures:
    """Train one point, and probe the codes of its last step; step 1 is not repeated if the last point had the same."""
    step = point.first
    first, batch = first_step(cells, step, seed, smoke)
    with torch.no_grad():
        # The program probes codes as the networks give them, of any length.
        raw = [encoder(x) for encoder, x in zip(first.encoders, batch.features, strict=True)]
    shared = torch.cat(raw if step.as_published else list(batch.condition), dim=-1).numpy()
    if point.lam is None:
        return cells.of_shared(shared, as_published=step.as_published)
    with seeded(seed):
        objective = DisentangledSpecificObjective(
            cells.n_features,
            step.n_code,
            dict.fromkeys(cells.n_features, step.n_code),
            form=point.form,
            lam=point.lam,
            orthogonality=point.orthogonality,
            encoder=step.encoder,
        )
    objective.follow([first])
    train(objective, batch, cells, step, 1 if smoke else step.epochs[1], seed)
    with torch.no_grad():
        specific = objective.encode(0, batch).numpy()
    return cells.of_specific(specific, as_published=step.as_published)


def both(cells: Cells, point: Point, seed: int, smoke: bool) -> Figures:
    """Train one point, and probe the codes of both steps."""
    return fit(cells, replace(point, lam=None), seed, smoke) | fit(cells, point, seed, smoke)


def train(objective: Objective, batch: CellTensors, cells: Cells, step: FirstStep, epochs: int, seed: int) -> None:
    """Train an objective in place on the cells of `batch`."""
    n_held_out = min(step.n_validation, len(cells.train) // 5)
    # What is published trains on all cells and watches none: a few of them stand in for those that are watched.
    trained_on = cells.train if step.as_published else cells.train[:-n_held_out]
    parts = tuple(batch.take(torch.from_numpy(rows)) for rows in (trained_on, cells.train[-n_held_out:]))
    fit_stage(
        objective,
        parts,
        replace(step.settings, max_epochs=epochs),
        name="benchmark",
        accelerator="cpu",
        seed=seed,
        show_progress=False,
    )
