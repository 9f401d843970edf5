"""Bounds against loops written from the papers' equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.estimators import info_nce, nce_club, vclub


def info_nce_loop(f: np.ndarray) -> float:
    """Gui et al. (2025): mean over i of f(z_i, c_i) - log (1/N) sum_k exp f(z_i, c_k)."""
    n = len(f)
    total = 0.0
    for i in range(n):
        average = 0.0
        for k in range(n):
            average += math.exp(f[i, k]) / n
        total += f[i, i] - math.log(average)
    return total / n


def nce_club_loop(f: np.ndarray) -> float:
    """Liang et al. (2023): mean of f over paired cells minus its mean over cells paired at random."""
    n = len(f)
    paired, unpaired = [], []
    for i in range(n):
        for k in range(n):
            (paired if i == k else unpaired).append(f[i, k])
    return sum(paired) / len(paired) - sum(unpaired) / len(unpaired)


def vclub_loop(f: np.ndarray) -> float:
    """Cheng et al. (2020): mean over i, j of log q(y_i | x_i) - log q(y_j | x_i), with i = j, freed of its share."""
    n = len(f)
    total = 0.0
    for i in range(n):
        for j in range(n):
            total += f[i, i] - f[j, i]
    return total / n**2 / (1 - 1 / n)


@pytest.mark.parametrize("n", [2, 3, 17])
@pytest.mark.parametrize(
    ("estimator", "loop"), [(info_nce, info_nce_loop), (nce_club, nce_club_loop), (vclub, vclub_loop)]
)
def test_bound_equals_its_loop(estimator, loop, n):
    scores = np.random.default_rng(n).normal(size=(n, n)) * 3
    assert estimator(torch.from_numpy(scores)).item() == pytest.approx(loop(scores), abs=1e-10)
