from __future__ import annotations

import math

import pytest
import torch

from indiseek.estimators import gaussian_mutual_information, gaussian_nce_club, info_nce, nce_club
from indiseek.nn import GaussianCritic


def _exact_critic(rho: float, n_z: int, n_c: int) -> GaussianCritic:
    """log p(z | c) where the first n_c dimensions of z correlate with c by rho and the others are noise."""
    critic = GaussianCritic(n_z, n_c, hidden=()).double()
    linear = critic.net[0]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[:n_c] = rho * torch.eye(n_c)
        linear.bias[n_z : n_z + n_c] = 4 * math.atanh(math.log(1 - rho**2) / 4)
    return critic


def _pairs(rho: float, n_z: int, n_c: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, n_z, generator=generator, dtype=torch.double)
    c = torch.randn(n, n_c, generator=generator, dtype=torch.double)
    z[:, :n_c] = rho * c + math.sqrt(1 - rho**2) * z[:, :n_c]
    return z, c


@pytest.mark.parametrize("n", [2, 7, 64])
def test_perfect_scores_reach_log_n(n):
    assert info_nce(1e4 * torch.eye(n)).item() == pytest.approx(math.log(n), rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e3])
def test_info_nce_is_never_above_log_n(scale):
    torch.manual_seed(0)
    scores = scale * torch.randn(50, 9, 9, dtype=torch.double)
    assert max(info_nce(s).item() for s in scores) <= math.log(9) + 1e-12


def test_info_nce_of_a_two_by_two_table():
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.double)
    by_hand = 0.5 * (1 - math.log((math.e + 1) / 2)) + 0.5 * (0 - math.log(1))
    assert info_nce(scores).item() == pytest.approx(by_hand)


def test_nce_club_of_a_two_by_two_table():
    scores = torch.tensor([[5.0, 1.0], [3.0, 2.0]])
    assert nce_club(scores).item() == pytest.approx((5 + 2) / 2 - (1 + 3) / 2)


def test_rows_and_columns_are_not_exchangeable():
    torch.manual_seed(0)
    scores = torch.randn(8, 8) + 3 * torch.randn(1, 8)
    assert abs(info_nce(scores) - info_nce(scores.T)) > 0.1


def test_a_function_of_c_alone_is_penalised_by_info_nce():
    # Only functions of z cancel: the normalisation runs over c.
    torch.manual_seed(0)
    assert info_nce(torch.randn(1, 16).expand(16, 16)) < -0.1


def test_nce_club_is_linear_in_the_scores():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 6, dtype=torch.double)
    torch.testing.assert_close(nce_club(2 * a - 3 * b), 2 * nce_club(a) - 3 * nce_club(b))


@pytest.mark.parametrize(("rho", "n_z", "n_c"), [(0.3, 1, 1), (0.6, 3, 2), (0.8, 4, 1)])
def test_exact_critic_gives_the_closed_form_of_nce_club(rho, n_z, n_c):
    values = []
    for seed in range(6):
        z, c = _pairs(rho, n_z, n_c, 1500, seed)
        values.append(nce_club(_exact_critic(rho, n_z, n_c)(z, c)).item())
    values = torch.tensor(values)
    band = 4 * values.std() / math.sqrt(len(values))
    truth = gaussian_nce_club(rho, n_c)
    assert abs(values.mean() - truth) < band
    assert band < 0.2 * truth


@pytest.mark.parametrize(("rho", "n_z", "n_c"), [(0.3, 1, 1), (0.6, 3, 2), (0.8, 4, 1)])
def test_info_nce_of_the_exact_critic_is_below_the_information_and_near_it(rho, n_z, n_c):
    values = []
    for seed in range(6):
        z, c = _pairs(rho, n_z, n_c, 1500, seed)
        values.append(info_nce(_exact_critic(rho, n_z, n_c)(z, c)).item())
    values = torch.tensor(values)
    band = 4 * values.std() / math.sqrt(len(values))
    truth = gaussian_mutual_information(rho, n_c)
    assert truth - 0.1 * truth - band < values.mean() < truth + band


def test_small_batches_cannot_show_strong_dependence_but_nce_club_can():
    rho, d = 0.95, 3
    z, c = _pairs(rho, d, d, 8, 0)
    scores = _exact_critic(rho, d, d)(z, c)
    truth = gaussian_mutual_information(rho, d)
    assert info_nce(scores) <= math.log(8) < truth < nce_club(scores)


def test_independent_pairs_show_nothing():
    z, c = _pairs(0.0, 3, 2, 1500, 0)
    critic = _exact_critic(0.6, 3, 2)
    # The critic of another distribution: both expressions are then at most zero.
    assert info_nce(critic(z, c)) < 0.05
    assert abs(nce_club(critic(z, c))) < 0.1
