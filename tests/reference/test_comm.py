"""The losses of CoMM against loops written from its paper and from the description of its program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CoMMObjective, nt_xent

FEATURES = {"a": 6, "b": 4, "c": 5}


def _codes(n: int, d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def both_loop(a: np.ndarray, b: np.ndarray, tau: float) -> float:
    """N = 1/(2N) sum_k [-a_k.b_k/tau + log(sum_j e^{a_k.b_j/tau} + sum_{j!=k} e^{a_k.a_j/tau})] + (a <-> b)."""
    n = len(a)
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for k in range(n):
            candidates = 0.0
            for j in range(n):
                candidates += math.exp(float(x[k] @ y[j]) / tau)
                if j != k:
                    candidates += math.exp(float(x[k] @ x[j]) / tau)
            total += -float(x[k] @ y[k]) / tau + math.log(candidates)
    return total / (2 * n)


def cross_loop(a: np.ndarray, b: np.ndarray, tau: float) -> float:
    """-log e^{a_k.b_k/tau} / sum_j e^{a_k.b_j/tau}, the mean over cells and both directions."""
    n = len(a)
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for k in range(n):
            candidates = sum(math.exp(float(x[k] @ y[j]) / tau) for j in range(n))
            total -= math.log(math.exp(float(x[k] @ y[k]) / tau) / candidates)
    return total / (2 * n)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_nt_xent_equals_its_loop(n, tau):
    a, b = _codes(n, 3, 0), _codes(n, 3, 1)
    assert nt_xent(torch.from_numpy(a), torch.from_numpy(b), tau).item() == pytest.approx(both_loop(a, b, tau))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("negatives", "infonce"), [("both", both_loop), ("cross", cross_loop)])
def test_objective_equals_the_sum_written_out(k, form, negatives, infonce):
    features = dict(list(FEATURES.items())[:k])
    torch.manual_seed(0)
    objective = CoMMObjective(
        features,
        8,
        n_heads=2,
        encoder=Encoder(hidden=(9,)),
        head_hidden=(7,),
        n_head=5,
        form=form,
        negatives=negatives,
        temperature=0.2,
        joint_weight=0.7,
        unimodal_weight=1.3,
    )
    objective = objective.double().eval()
    batch = CellTensors(tuple(torch.randn(9, n).double() for n in features.values()))

    def code(values: tuple[torch.Tensor, ...], only: int | None = None) -> np.ndarray:
        seen = [x if only in (None, i) else None for i, x in enumerate(values)]
        z = objective.head(objective.fusion(seen)).detach().numpy()
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    first, second = objective.view(batch, 0), objective.view(batch, 1)
    joint = infonce(code(first), code(second), 0.2)
    unimodal = 0.0
    for i in range(k):
        if form == "paper":
            # I(Z_i, Z') and I(Z_i, Z''), Z_i the projection of the cell itself.
            own = code(batch.features, i)
            unimodal += 0.5 * (infonce(own, code(first), 0.2) + infonce(own, code(second), 0.2))
        else:
            # I(Z_i', Z'') and I(Z_i'', Z'), Z_i the projections of the views.
            unimodal += 0.5 * (infonce(code(first, i), code(second), 0.2) + infonce(code(second, i), code(first), 0.2))
    expected = 0.7 * joint + 1.3 * unimodal
    if form == "code":
        expected /= k + 1
    output = objective.loss(batch)
    assert output.loss.item() == pytest.approx(expected)
    assert output.terms["infonce_joint"].item() == pytest.approx(joint)
    assert output.terms.keys() == {"infonce_joint", *(f"infonce_{name}" for name in features)}
