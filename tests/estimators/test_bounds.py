from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch

from indiseek.estimators import gaussian_mutual_information, gaussian_nce_club, info_nce, nce_club, vclub
from indiseek.nn import GaussianCritic, SeparableCritic


def _exact_critic(rho: float, n_z: int, n_c: int) -> GaussianCritic:
    """log p(z | c) where the first dimensions of z and c correlate by rho, and what one has more of is noise."""
    n = min(n_z, n_c)
    critic = GaussianCritic(n_z, n_c, hidden=()).double()
    linear = critic.net[0]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[:n, :n] = rho * torch.eye(n)
        linear.bias[n_z : n_z + n] = 4 * math.atanh(math.log(1 - rho**2) / 4)
    return critic


def _pairs(rho: float, n_z: int, n_c: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, n_z, generator=generator, dtype=torch.double)
    c = torch.randn(n, n_c, generator=generator, dtype=torch.double)
    shared = min(n_z, n_c)
    z[:, :shared] = rho * c[:, :shared] + math.sqrt(1 - rho**2) * z[:, :shared]
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


SIZES = [(1, 1), (3, 2), (1, 4)]
N_CELLS = 1500


@functools.cache
def _estimates(rho: float, n_z: int, n_c: int) -> dict[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """What each estimator makes of the exact critic's scores, batch by batch."""
    critic = _exact_critic(rho, n_z, n_c)
    found = defaultdict(list)
    with torch.no_grad():
        for seed in range(8):
            scores = critic(*_pairs(rho, n_z, n_c, N_CELLS, seed))
            for estimator in (info_nce, nce_club, vclub):
                found[estimator].append(estimator(scores))
    return {estimator: torch.stack(values) for estimator, values in found.items()}


def _mean_and_band(estimator, rho: float, n_z: int, n_c: int) -> tuple[float, float]:
    """Mean over batches of the estimate with the exact critic, and four standard errors of it."""
    values = _estimates(rho, n_z, n_c)[estimator]
    return values.mean().item(), 4 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize(("n_z", "n_c"), SIZES)
@pytest.mark.parametrize("rho", [-0.5, 0.3, 0.9])
@pytest.mark.parametrize("estimator", [nce_club, vclub])
def test_exact_critic_gives_the_closed_form_of_the_upper_bounds(estimator, rho, n_z, n_c):
    mean, band = _mean_and_band(estimator, rho, n_z, n_c)
    truth = gaussian_nce_club(rho, min(n_z, n_c))
    assert abs(mean - truth) < band
    assert band < 0.25 * truth


@pytest.mark.parametrize(("n_z", "n_c"), SIZES)
@pytest.mark.parametrize("rho", [-0.5, 0.3, 0.9])
def test_info_nce_of_the_exact_critic_is_below_the_information_and_near_it(rho, n_z, n_c):
    mean, band = _mean_and_band(info_nce, rho, n_z, n_c)
    truth = gaussian_mutual_information(rho, min(n_z, n_c))
    assert truth - 0.1 * truth - band < mean < truth + band


@pytest.mark.parametrize("n_dims", [1, 5])
def test_upper_bounds_run_away_from_the_information_as_dependence_grows(n_dims):
    ratios = []
    for rho in (0.3, 0.6, 0.9, 0.99):
        mean, _ = _mean_and_band(vclub, rho, n_dims, n_dims)
        ratios.append(mean / gaussian_mutual_information(rho, n_dims))
    assert ratios == sorted(ratios)
    assert ratios[0] < 3 and ratios[-1] > 20


@pytest.mark.parametrize("n_dims", [5, 20])
def test_info_nce_stops_at_log_n_whatever_the_information(n_dims):
    mean, _ = _mean_and_band(info_nce, 0.99, n_dims, n_dims)
    assert gaussian_mutual_information(0.99, n_dims) > math.log(N_CELLS)
    assert math.log(N_CELLS) - 0.2 < mean <= math.log(N_CELLS)


@pytest.mark.parametrize(("n_z", "n_c"), [(1, 3), (3, 2)])
def test_trained_critics_come_near_the_closed_forms(n_z, n_c):
    rho, n_dims = 0.6, min(n_z, n_c)
    torch.manual_seed(0)
    separable = SeparableCritic(n_z, n_c, hidden=(64,), layer_norm=False).double()
    gaussian = GaussianCritic(n_z, n_c, hidden=(64,), layer_norm=False).double()
    optimizer = torch.optim.Adam([*separable.parameters(), *gaussian.parameters()], lr=5e-3)
    for step in range(300):
        z, c = _pairs(rho, n_z, n_c, 256, step)
        optimizer.zero_grad()
        (-info_nce(separable(z, c)) - gaussian(z, c).diagonal().mean()).backward()
        optimizer.step()
    with torch.no_grad():
        z, c = _pairs(rho, n_z, n_c, 3000, 10_000)
        found = {
            "info_nce": info_nce(separable(z, c)).item(),
            "nce_club": nce_club(separable(z, c)).item(),
            "vclub": vclub(gaussian(z, c)).item(),
        }
    information, jeffreys = gaussian_mutual_information(rho, n_dims), gaussian_nce_club(rho, n_dims)
    assert found["info_nce"] == pytest.approx(information, rel=0.25)
    assert found["nce_club"] == pytest.approx(jeffreys, rel=0.3)
    assert found["vclub"] == pytest.approx(jeffreys, rel=0.3)


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
