from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special, stats

from indiseek.distributions import bessel_ratio, sample_von_mises_fisher, von_mises_fisher_kl


def _directions(n: int, m: int, dtype: torch.dtype = torch.double, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, m, generator=generator, dtype=dtype), dim=-1)


@pytest.mark.parametrize("kappa", [1e-3, 0.1, 1.0, 7.0, 100.0, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("n_dims", [2, 3, 5, 32, 100])
def test_ratio_is_that_of_scipy_bessel_functions(n_dims, kappa):
    expected = special.ive(n_dims / 2, kappa) / special.ive(n_dims / 2 - 1, kappa)
    assert bessel_ratio(n_dims, kappa) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kappa", [0.01, 2.0, 500.0])
def test_ratio_in_three_dimensions_is_langevin_function(kappa):
    assert bessel_ratio(3, kappa) == pytest.approx(1 / math.tanh(kappa) - 1 / kappa, rel=1e-8)


def test_ratio_is_kappa_over_m_near_the_uniform_and_finite_where_bessel_functions_underflow():
    assert special.ive(999, 1e-3) == 0
    assert bessel_ratio(2000, 1e-3) == pytest.approx(1e-3 / 2000, rel=1e-9)


@pytest.mark.parametrize(("kappa", "published"), [(1, 0.01), (10, 0.10), (100, 0.62), (1e3, 0.952), (1e4, 0.995)])
def test_mean_cosine_in_100_dimensions_is_the_table_and_that_of_draws(kappa, published):
    assert bessel_ratio(100, kappa) == pytest.approx(published, abs=0.006)
    mean = _directions(1, 100).expand(4000, 100)
    torch.manual_seed(0)
    cosine = (sample_von_mises_fisher(mean, kappa) * mean).sum(-1)
    assert cosine.mean().item() == pytest.approx(bessel_ratio(100, kappa), abs=4 * cosine.std().item() / 4000**0.5)


@pytest.mark.parametrize(("n_dims", "kappa"), [(2, 0.5), (3, 4.0), (3, 200.0), (10, 30.0), (50, 1e3)])
def test_draws_are_distributed_as_those_of_scipy(n_dims, kappa):
    mean = _directions(1, n_dims)
    torch.manual_seed(0)
    ours = (sample_von_mises_fisher(mean.expand(3000, n_dims), kappa) @ mean[0]).numpy()
    theirs = stats.vonmises_fisher(mean[0].numpy(), kappa).rvs(3000, random_state=1) @ mean[0].numpy()
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_draws_are_symmetric_around_the_mean_direction():
    mean = _directions(1, 4)
    torch.manual_seed(0)
    draws = sample_von_mises_fisher(mean.expand(20_000, 4), 5.0)
    torch.testing.assert_close(draws.mean(0), bessel_ratio(4, 5.0) * mean[0], atol=0.02, rtol=0)
    # The covariance has mean direction and tangent space as eigenspaces.
    values = np.linalg.eigvalsh(np.cov((draws - (draws @ mean[0])[:, None] * mean).numpy().T))
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[1:] == pytest.approx(values[1:].mean(), rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("n_dims", [2, 3, 100])
def test_draws_are_unit_vectors_of_the_given_precision(n_dims, kappa, dtype):
    mean = _directions(500, n_dims, dtype)
    torch.manual_seed(0)
    draws = sample_von_mises_fisher(mean, kappa)
    assert draws.dtype == dtype and draws.shape == mean.shape
    torch.testing.assert_close(draws.norm(dim=-1), torch.ones(500, dtype=dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_draws_keep_their_spread_in_both_precisions(dtype):
    # 1 - cos is (m - 1) / 2 kappa to first order: 5e-5, where single precision has steps of 6e-8 near 1.
    mean = _directions(2000, 100, dtype)
    torch.manual_seed(0)
    distance = (sample_von_mises_fisher(mean, 1e6) - mean).square().sum(-1) / 2
    assert distance.mean().item() == pytest.approx(99 / 2e6, rel=0.02)


def test_draws_are_differentiable_in_the_mean_direction():
    mean = _directions(3, 5).requires_grad_()

    def draw(mean: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return sample_von_mises_fisher(F.normalize(mean, dim=-1), 20.0)

    assert torch.autograd.gradcheck(draw, (mean,))


def test_draws_follow_the_seed_and_differ_between_cells():
    mean = _directions(1, 6).expand(50, 6)
    torch.manual_seed(3)
    first, second = sample_von_mises_fisher(mean, 10.0), sample_von_mises_fisher(mean, 10.0)
    torch.manual_seed(3)
    torch.testing.assert_close(sample_von_mises_fisher(mean, 10.0), first, rtol=0, atol=0)
    assert not torch.equal(first, second)
    assert len(torch.unique(first, dim=0)) == 50


def test_no_cells_give_no_draws():
    assert sample_von_mises_fisher(torch.zeros(0, 4), 1.0).shape == (0, 4)


@pytest.mark.parametrize(("n_dims", "kappa"), [(3, 2.0), (5, 40.0), (20, 0.3)])
def test_divergence_is_the_mean_log_ratio_of_scipy_densities(n_dims, kappa):
    p, q = _directions(2, n_dims).numpy()
    one, other = stats.vonmises_fisher(p, kappa), stats.vonmises_fisher(q, kappa)
    draws = one.rvs(40_000, random_state=0)
    ratio = one.logpdf(draws) - other.logpdf(draws)
    ours = von_mises_fisher_kl(torch.tensor(p)[None], torch.tensor(q)[None], kappa).item()
    assert ours == pytest.approx(ratio.mean(), abs=4 * ratio.std() / 200)


def test_divergence_is_zero_for_equal_and_largest_for_opposite_directions():
    mean = _directions(6, 4)
    torch.testing.assert_close(von_mises_fisher_kl(mean, mean, 50.0), torch.zeros(6).double(), rtol=0, atol=0)
    expected = torch.full((6,), 2 * 50.0 * bessel_ratio(4, 50.0), dtype=torch.double)
    torch.testing.assert_close(von_mises_fisher_kl(mean, -mean, 50.0), expected)


def test_divergence_of_close_directions_is_not_lost_in_single_precision():
    angle = 1e-4
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle)]])
    expected = 1e6 * bessel_ratio(2, 1e6) * (1 - math.cos(angle))
    assert von_mises_fisher_kl(p, q, 1e6).item() == pytest.approx(expected, rel=1e-3)


def test_divergence_has_the_gradient_of_finite_differences():
    p, q = _directions(3, 4, seed=1).requires_grad_(), _directions(3, 4, seed=2).requires_grad_()

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return von_mises_fisher_kl(F.normalize(p, dim=-1), F.normalize(q, dim=-1), 12.0)

    assert torch.autograd.gradcheck(divergence, (p, q))


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.nan, math.inf])
def test_a_concentration_that_is_none_is_refused(kappa):
    mean = _directions(2, 3)
    message = f"expected kappa above 0 and finite, got {kappa}; a concentration is a positive number"
    for call in (
        lambda: bessel_ratio(3, kappa),
        lambda: sample_von_mises_fisher(mean, kappa),
        lambda: von_mises_fisher_kl(mean, mean, kappa),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_sphere_in_one_dimension_is_refused():
    with pytest.raises(ValueError, match="expected directions in at least 2 dimensions, got 1; a sphere in one"):
        sample_von_mises_fisher(torch.ones(3, 1), 1.0)
