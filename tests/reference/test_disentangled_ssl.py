"""Both steps of DisentangledSSL against loops written from the paper's equations."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import infonce, of_unit_length
from scipy import special

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import DisentangledSharedObjective, DisentangledSpecificObjective, augmented_view

N = 7
FEATURES = {"a": 6, "b": 4, "c": 3}
SPECIFIC = {"a": 3, "b": 2, "c": 5}
N_SHARED = 4
TAU, KAPPA = 0.3, 20.0


def _batch(k: int) -> CellTensors:
    torch.manual_seed(0)
    return CellTensors(
        tuple(torch.randn(N, n).double() for n in list(FEATURES.values())[:k]),
        tuple(F.normalize(torch.randn(N, N_SHARED).double(), dim=-1) for _ in range(k)),
    )


@pytest.mark.parametrize("bottleneck", ["kl", "cosine"])
@pytest.mark.parametrize("k", [2, 3])
def test_step_1_equals_its_loop(k, bottleneck):
    names = list(FEATURES)[:k]
    torch.manual_seed(1)
    objective = DisentangledSharedObjective(
        {name: FEATURES[name] for name in names},
        N_SHARED,
        beta=0.4,
        bottleneck=bottleneck,
        kappa=KAPPA,
        temperature=TAU,
        encoder=Encoder(hidden=(8,)),
    )
    objective.double().eval()
    batch = _batch(k)
    means = [mean.detach().numpy() for mean in objective.latents(batch)]
    ratio = special.ive(N_SHARED / 2, KAPPA) / special.ive(N_SHARED / 2 - 1, KAPPA)
    expected = 0.0
    pairs = list(itertools.combinations(means, 2))
    for a, b in pairs:
        gap = np.mean([1 - a[n] @ b[n] for n in range(N)])
        weight = 0.4 * (KAPPA * ratio if bottleneck == "kl" else 1.0)
        expected += (infonce(list(a), list(b), TAU) + weight * gap) / len(pairs)
    assert objective.loss(batch).loss.item() == pytest.approx(expected)


def _penalty(z: np.ndarray, c: np.ndarray, form: str) -> float:
    total = 0.0
    for k in range(z.shape[1]):
        for l in range(c.shape[1]):
            if form == "published":
                total += sum(z[n, k] * c[n, l] for n in range(N)) ** 2
            else:
                total += np.corrcoef(z[:, k], c[:, l])[0, 1] ** 2 / z.shape[1]
    return math.sqrt(total) if form == "published" else total


def _steps(form: str, k: int, orthogonality: str) -> tuple[DisentangledSpecificObjective, DisentangledSharedObjective]:
    """The objective of step 2, and that of step 1 which it follows."""
    names = list(FEATURES)[:k]
    torch.manual_seed(1)
    first = DisentangledSharedObjective(
        {name: FEATURES[name] for name in names}, N_SHARED, encoder=Encoder(hidden=(8,))
    ).double()
    objective = DisentangledSpecificObjective(
        {name: FEATURES[name] for name in names},
        N_SHARED,
        {name: SPECIFIC[name] for name in names},
        form=form,
        lam=0.7,
        orthogonality=orthogonality,
        noise=0.5,
        masked=0.4,
        temperature=TAU,
        encoder=Encoder(hidden=(8,)),
    ).double()
    objective.follow([first])
    return objective.eval(), first.eval()


def _step_2(form, orthogonality, objective, first, cells, views) -> float:
    """The loss written from the description of each form, cell by cell."""
    k = len(cells)

    def shared(i: int, x: torch.Tensor) -> np.ndarray:
        raw = first.encoders[i](x).detach().numpy()
        return raw if form == "code" else of_unit_length(raw)

    def specific(i: int, x: torch.Tensor, own: np.ndarray) -> np.ndarray:
        raw = objective.encoders[i](torch.cat([x, torch.from_numpy(own)], dim=-1)).detach().numpy()
        return raw if form == "code" else of_unit_length(raw)

    of_cell = [shared(i, cells[i]) for i in range(k)]
    of_view = of_cell if form == "fixed" else [shared(i, views[i]) for i in range(k)]
    expected = 0.0
    for i in range(k):
        z_cell, z_view = specific(i, cells[i], of_cell[i]), specific(i, views[i], of_view[i])
        sides = []
        for z, codes in ((z_cell, of_cell), (z_view, of_view)):
            known = sum(codes[j] for j in range(k) if j != i) / (k - 1)
            known = known if form == "code" else of_unit_length(known)
            sides.append(list(of_unit_length(np.concatenate([z, known], axis=1))))
        expected += infonce(*sides, TAU)
        penalty = _penalty(of_unit_length(z_cell), of_unit_length(of_cell[i]), orthogonality)
        if form == "code":
            penalty = 0.5 * (penalty + _penalty(of_unit_length(z_view), of_unit_length(of_view[i]), orthogonality))
        expected += 0.7 * penalty
    return expected


@pytest.mark.parametrize("orthogonality", ["correlation", "published"])
@pytest.mark.parametrize("form", ["paper", "code", "fixed"])
@pytest.mark.parametrize("k", [2, 3])
def test_step_2_equals_its_loop(k, form, orthogonality):
    objective, first = _steps(form, k, orthogonality)
    batch = _batch(k)
    batch = batch._replace(condition=first.latents(batch))
    # Held-out views are drawn from this seed, modality by modality; the program's cells are augmented before that.
    generator = torch.Generator().manual_seed(0)
    augment = partial(augmented_view, noise=0.5, masked=0.4, generator=generator)
    cells = [augment(x) for x in batch.features] if form == "code" else list(batch.features)
    views = [augment(x) for x in cells]
    with torch.no_grad():
        found = objective.validate(batch)["loss"].item()
        alone = objective.loss(batch).loss.item()
    assert found == pytest.approx(_step_2(form, orthogonality, objective, first, cells, views), rel=1e-6)
    # In evaluation a cell is its own view.
    clean = list(batch.features)
    assert alone == pytest.approx(_step_2(form, orthogonality, objective, first, clean, clean), rel=1e-6)
    assert abs(found - alone) > 1e-3


@pytest.mark.parametrize("bottleneck", ["kl", "cosine"])
def test_step_1_of_the_program_is_the_loss_of_augmented_cells(bottleneck):
    torch.manual_seed(1)
    objective = DisentangledSharedObjective(
        dict(list(FEATURES.items())[:2]),
        N_SHARED,
        beta=0.4,
        bottleneck=bottleneck,
        kappa=1e12,
        temperature=TAU,
        augment=True,
        noise=0.5,
        masked=0.4,
        encoder=Encoder(hidden=(8,)),
    ).double()
    batch = _batch(2)
    torch.manual_seed(5)
    augmented = [augmented_view(x, noise=0.5, masked=0.4) for x in batch.features]
    torch.manual_seed(5)
    found = objective.train().loss(batch).terms
    objective.eval()
    expected = objective.loss(batch._replace(features=tuple(augmented))).terms
    clean = objective.loss(batch).terms
    for name in ("infonce", "misalignment"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4)
        assert abs(found[name].item() - clean[name].item()) > 1e-3
