from __future__ import annotations

import math

import pytest
import torch

from indiseek.nn import ConcatCritic, GaussianCritic, SeparableCritic

CRITICS = [SeparableCritic, ConcatCritic, GaussianCritic]


@pytest.mark.parametrize("critic", CRITICS)
def test_every_pair_of_inputs_of_different_widths_gets_a_score(critic):
    torch.manual_seed(0)
    scores = critic(5, 2, hidden=(8,))(torch.randn(7, 5), torch.randn(7, 2))
    assert scores.shape == (7, 7)
    assert scores.isfinite().all()


@pytest.mark.parametrize("critic", CRITICS)
def test_rows_are_z_and_columns_are_c(critic):
    torch.manual_seed(0)
    net = critic(5, 2, hidden=(8,)).double()
    z, c = torch.randn(7, 5).double(), torch.randn(7, 2).double()
    scores = net(z, c)
    order = torch.randperm(7)
    torch.testing.assert_close(net(z[order], c), scores[order])
    torch.testing.assert_close(net(z, c[order]), scores[:, order])


@pytest.mark.parametrize("critic", CRITICS)
def test_exchanged_inputs_are_not_accepted_silently(critic):
    with pytest.raises(RuntimeError, match="shape"):
        critic(5, 2, hidden=(8,))(torch.randn(7, 2), torch.randn(7, 5))


def test_gaussian_critic_is_a_density_in_z():
    # exp f(., c_k) integrates to one over z for every c_k: the midpoint rule on a wide grid.
    torch.manual_seed(0)
    net = GaussianCritic(1, 3, hidden=(8,)).double()
    z = torch.linspace(-40, 40, 40_001, dtype=torch.double)[:, None]
    c = torch.randn(4, 3).double()
    mass = net(z, c).exp().sum(dim=0) * (z[1] - z[0])
    torch.testing.assert_close(mass, torch.ones(4).double(), atol=1e-4, rtol=0)


def test_gaussian_critic_bounds_its_variance():
    net = GaussianCritic(2, 3, hidden=())
    with torch.no_grad():
        net.net[0].weight.zero_()
        net.net[0].bias.copy_(torch.tensor([0.0, 0.0, -1e4, 1e4]))
    at_mean = net(torch.zeros(1, 2), torch.zeros(1, 3)).item()
    # Log-variances of -4 and 4: they cancel.
    assert at_mean == pytest.approx(-math.log(2 * math.pi), rel=1e-5)


def test_separable_scores_do_not_grow_with_the_embedding():
    torch.manual_seed(0)
    z, c = torch.randn(400, 3), torch.randn(400, 4)
    narrow, wide = (SeparableCritic(3, 4, n_embedding=d)(z, c).std().item() for d in (16, 1024))
    assert 0.2 < narrow / wide < 5
