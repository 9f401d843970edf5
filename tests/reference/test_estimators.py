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


def factorcl_nce_loop(f: np.ndarray) -> float:
    """FactorCL's program: mean over i of f(z_i, c_i) - log (1/N) sum_k exp f(z_k, c_i), the candidates being z."""
    n = len(f)
    return sum(f[i, i] - math.log(sum(math.exp(f[k, i]) for k in range(n)) / n) for i in range(n)) / n


def factorcl_club_loop(f: np.ndarray) -> float:
    """FactorCL's program: mean of f over paired cells minus its mean over all pairs, the paired ones too."""
    n = len(f)
    return sum(f[i, i] for i in range(n)) / n - sum(f[i, k] for i in range(n) for k in range(n)) / n**2


@pytest.mark.parametrize("n", [2, 5, 17])
def test_bounds_of_the_factorcl_program_from_ours(n):
    scores = np.random.default_rng(n).normal(size=(n, n)) * 3
    f = torch.from_numpy(scores)
    assert info_nce(f.T).item() == pytest.approx(factorcl_nce_loop(scores), abs=1e-10)
    assert abs(info_nce(f).item() - factorcl_nce_loop(scores)) > 1e-3
    assert nce_club(f).item() * (n - 1) / n == pytest.approx(factorcl_club_loop(scores), abs=1e-10)


def test_what_either_normalisation_leaves_open_does_not_reach_the_upper_bound():
    rng = np.random.default_rng(0)
    scores, of_z, of_c = rng.normal(size=(7, 7)), rng.normal(size=(7, 1)), rng.normal(size=(1, 7))
    f, g, h = map(torch.from_numpy, (scores, of_z, of_c))
    torch.testing.assert_close(info_nce(f + g), info_nce(f))
    torch.testing.assert_close(info_nce((f + h).T), info_nce(f.T))
    assert (info_nce(f + h) - info_nce(f)).abs() > 1e-3
    torch.testing.assert_close(nce_club(f + g + h), nce_club(f))
