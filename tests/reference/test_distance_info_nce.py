"""The contrastive loss on distances against a loop written from its equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import DistanceInfoNCEObjective, distance_info_nce_loss


def loop(a: np.ndarray, b: np.ndarray, tau: float) -> float:
    """Daunhawer et al. (2023): both directions of -log of the pair's share among all K candidates, averaged."""
    n = len(a)
    total = 0.0
    for i in range(n):
        own = math.exp(-sum((a[i] - b[i]) ** 2) / tau)
        over_b = sum(math.exp(-sum((a[i] - b[k]) ** 2) / tau) for k in range(n))
        over_a = sum(math.exp(-sum((a[k] - b[i]) ** 2) / tau) for k in range(n))
        total -= math.log(own / over_b) + math.log(own / over_a)
    return total / (2 * n)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 3), (13, 4)])
@pytest.mark.parametrize("tau", [0.5, 1.0, 7.0])
def test_loss_equals_its_loop(n, d, tau):
    a, b = np.random.default_rng(n).normal(size=(2, n, d))
    loss = distance_info_nce_loss(torch.from_numpy(a), torch.from_numpy(b), tau).item()
    assert loss == pytest.approx(loop(a, b, tau), abs=1e-10)


@torch.no_grad()
def test_objective_is_the_mean_over_pairs_of_modalities():
    torch.manual_seed(0)
    objective = DistanceInfoNCEObjective(
        {"a": 5, "b": 3, "c": 4}, 2, encoder=Encoder(hidden=(7,), layer_norm=False), temperature=2.0
    ).double()
    batch = CellTensors(tuple(torch.randn(6, n).double() for n in (5, 3, 4)))
    a, b, c = (code.numpy() for code in objective.latents(batch))
    expected = (loop(a, b, 2.0) + loop(a, c, 2.0) + loop(b, c, 2.0)) / 3
    assert objective.loss(batch).loss.item() == pytest.approx(expected)
