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


def program_loop(a: np.ndarray, b: np.ndarray, others_a: np.ndarray, others_b: np.ndarray, tau: float) -> float:
    """The authors' program: the pair against codes of the same modality, of other cells; row i has its own `others`."""
    total = 0.0
    for i in range(len(a)):
        own = math.exp(-sum((a[i] - b[i]) ** 2) / tau)
        over_a = own + sum(math.exp(-sum((a[i] - other) ** 2) / tau) for other in others_a[i])
        over_b = own + sum(math.exp(-sum((b[i] - other) ** 2) / tau) for other in others_b[i])
        total -= math.log(own / over_a) + math.log(own / over_b)
    return total / (2 * len(a))


def test_negatives_of_the_same_modality_are_ours_where_codes_agree_and_only_there():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3))
    b *= 2

    def others(codes: np.ndarray) -> np.ndarray:
        return np.stack([np.delete(codes, i, axis=0) for i in range(len(codes))])

    agreed = distance_info_nce_loss(torch.from_numpy(a), torch.from_numpy(a), 2.0).item()
    assert agreed == pytest.approx(program_loop(a, a, others(a), others(a), 2.0), abs=1e-10)
    # A modality that is moved as a whole: the program's negatives do not see it, ours move along.
    ours, moved = (distance_info_nce_loss(torch.from_numpy(a), torch.from_numpy(x), 2.0).item() for x in (b, b + 1))
    program = [program_loop(a, x, others(a), others(x), 2.0) for x in (b, b + 1)]
    assert abs(ours - program[0]) > 0.1
    assert program[1] - program[0] > moved - ours + 0.1


def test_the_loss_with_a_second_batch_is_that_of_the_program():
    rng = np.random.default_rng(1)
    (a, b), (others_a, others_b) = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 8, 3))
    found = distance_info_nce_loss(
        *map(torch.from_numpy, (a, b)), 2.0, others=tuple(map(torch.from_numpy, (others_a, others_b)))
    )
    expected = program_loop(a, b, np.stack([others_a] * 5), np.stack([others_b] * 5), 2.0)
    assert found.item() == pytest.approx(expected, abs=1e-10)
    alike = torch.ones(5, 3)
    assert distance_info_nce_loss(alike, alike, others=(alike, alike)).item() == pytest.approx(math.log(6))
