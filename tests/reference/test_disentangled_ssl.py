"""Both steps of DisentangledSSL against loops written from the paper's equations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import DisentangledSharedObjective, DisentangledSpecificObjective

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


def _infonce(a: list[np.ndarray], b: list[np.ndarray], tau: float) -> float:
    """Mean of both directions, pair by pair."""
    total = 0.0
    for i in range(N):
        own = math.exp(float(a[i] @ b[i]) / tau)
        total -= math.log(own / sum(math.exp(float(a[i] @ b[k]) / tau) for k in range(N)))
        total -= math.log(own / sum(math.exp(float(a[k] @ b[i]) / tau) for k in range(N)))
    return total / (2 * N)


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
        expected += (_infonce(list(a), list(b), TAU) + weight * gap) / len(pairs)
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


@pytest.mark.parametrize("form", ["correlation", "published"])
@pytest.mark.parametrize("k", [2, 3])
def test_step_2_equals_its_loop(k, form):
    names = list(FEATURES)[:k]
    torch.manual_seed(1)
    objective = DisentangledSpecificObjective(
        {name: FEATURES[name] for name in names},
        N_SHARED,
        {name: SPECIFIC[name] for name in names},
        lam=0.7,
        orthogonality=form,
        temperature=TAU,
        encoder=Encoder(hidden=(8,)),
    )
    objective.double().eval()
    batch = _batch(k)
    shared = [c.numpy() for c in batch.condition]
    expected = 0.0
    for i in range(k):
        # In eval mode a cell is its own view; half of the cosine of the pairs is the mean of the two cosines.
        inputs = torch.cat([batch.features[i], batch.condition[i]], dim=-1)
        raw = objective.encoders[i](inputs).detach().numpy()
        z = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        known = sum(shared[j] for j in range(k) if j != i)
        known = known / np.linalg.norm(known, axis=1, keepdims=True)
        pairs = [np.concatenate([z[n], known[n]]) / math.sqrt(2) for n in range(N)]
        expected += _infonce(pairs, pairs, TAU) + 0.7 * _penalty(z, shared[i], form)
    assert objective.loss(batch).loss.item() == pytest.approx(expected, rel=1e-6)
