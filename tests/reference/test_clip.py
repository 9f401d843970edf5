"""The symmetric contrastive loss against a loop written from its equation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, clip_loss


def clip_loop(a: np.ndarray, b: np.ndarray, s: float) -> float:
    """L = -1/(2N) sum_i [log e^{s a_i b_i} / sum_k e^{s a_i b_k} + log e^{s a_i b_i} / sum_k e^{s a_k b_i}]."""
    n = len(a)
    total = 0.0
    for i in range(n):
        over_b = over_a = 0.0
        for k in range(n):
            over_b += math.exp(s * float(np.dot(a[i], b[k])))
            over_a += math.exp(s * float(np.dot(a[k], b[i])))
        own = math.exp(s * float(np.dot(a[i], b[i])))
        total += math.log(own / over_b) + math.log(own / over_a)
    return -total / (2 * n)


def _codes(n: int, d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [2, 5, 13])
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_loss_equals_its_loop(n, scale):
    a, b = _codes(n, 3, 0), _codes(n, 3, 1)
    loss = clip_loss(torch.from_numpy(a), torch.from_numpy(b), scale).item()
    assert loss == pytest.approx(clip_loop(a, b, scale), abs=1e-10)


def test_objective_of_three_modalities_averages_the_loop_over_all_pairs():
    torch.manual_seed(0)
    objective = (
        CLIPObjective({"a": 6, "b": 4, "c": 3}, 5, encoder=Encoder(hidden=(8,)), alignment=2.0, temperature=0.2)
        .double()
        .eval()
    )
    batch = CellTensors(tuple(torch.randn(9, n).double() for n in (6, 4, 3)))
    output = objective.loss(batch)
    codes = [code.detach().numpy() for code in objective.latents(batch)]
    info = np.mean([clip_loop(a, b, 5.0) for a, b in itertools.combinations(codes, 2)])
    gap = np.mean([1 - np.dot(a[i], b[i]) for a, b in itertools.combinations(codes, 2) for i in range(9)])
    assert output.loss.item() == pytest.approx(info + 2.0 * gap)


def test_with_batches_each_cell_is_compared_with_those_of_its_own():
    a, b = _codes(12, 3, 0), _codes(12, 3, 1)
    batch = np.random.default_rng(2).permutation([0] * 5 + [1] * 4 + [2] * 3)
    found = clip_loss(torch.from_numpy(a), torch.from_numpy(b), 6.0, batch=torch.from_numpy(batch)).item()
    parts = [(batch == k).sum() * clip_loop(a[batch == k], b[batch == k], 6.0) for k in range(3)]
    assert found == pytest.approx(sum(parts) / 12, abs=1e-10)
    one = torch.zeros(12, dtype=torch.long)
    whole = clip_loss(torch.from_numpy(a), torch.from_numpy(b), 6.0)
    torch.testing.assert_close(clip_loss(torch.from_numpy(a), torch.from_numpy(b), 6.0, batch=one), whole)
    # A cell that is alone in its batch has nobody to be told from.
    each = torch.arange(12)
    assert clip_loss(torch.from_numpy(a), torch.from_numpy(b), 6.0, batch=each).item() == 0.0


def test_the_objective_takes_the_batch_from_its_covariate():
    torch.manual_seed(0)
    plain = CLIPObjective({"a": 6, "b": 4}, 5, encoder=Encoder(hidden=(8,))).eval()
    torch.manual_seed(0)
    within = CLIPObjective({"a": 6, "b": 4}, 5, encoder=Encoder(hidden=(8,)), batch=1).eval()
    batch = torch.arange(20) % 3
    cells = CellTensors((torch.randn(20, 6), torch.randn(20, 4)), covariates=(torch.randn(20), batch))
    rows = [torch.where(batch == k)[0] for k in range(3)]
    parts = sum(len(r) * plain.loss(cells.take(r)).loss for r in rows) / 20
    torch.testing.assert_close(within.loss(cells).loss, parts)
    assert not torch.isclose(within.loss(cells).loss, plain.loss(cells).loss)
    torch.testing.assert_close(within.infonce_of_cells(cells).mean(), within.loss(cells).terms["infonce"])
    within.loss(cells).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in within.encoder_parameters())
