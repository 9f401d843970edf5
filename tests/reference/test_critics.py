"""Critics against loops over pairs of cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from indiseek.nn import ConcatCritic, GaussianCritic, SeparableCritic

N, N_Z, N_C = 6, 4, 3


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, N_Z, generator=generator).double(), torch.randn(N, N_C, generator=generator).double()


def test_separable_critic_equals_its_loop():
    torch.manual_seed(0)
    critic = SeparableCritic(N_Z, N_C, hidden=(8,), n_embedding=5).double()
    z, c = _inputs()
    scores = critic(z, c)
    for i in range(N):
        for k in range(N):
            g, h = critic.tower_z(z[i : i + 1])[0], critic.tower_c(c[k : k + 1])[0]
            dot = sum(g[d] * h[d] for d in range(5)) / math.sqrt(5)
            torch.testing.assert_close(scores[i, k], dot)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
def test_concat_critic_equals_its_network_on_each_pair(hidden, layer_norm):
    torch.manual_seed(0)
    critic = ConcatCritic(N_Z, N_C, hidden=hidden, activation="relu", layer_norm=layer_norm).double()
    z, c = (x.requires_grad_() for x in _inputs())
    network = nn.Sequential(*critic.net)
    pair_by_pair = torch.stack([torch.cat([network(torch.cat([a, b])) for b in c]) for a in z])
    scores = critic(z, c)
    torch.testing.assert_close(scores, pair_by_pair)
    # A weight for each pair, so that no two of them can be exchanged.
    weights = torch.randn(N, N).double()
    wanted = [z, c, *critic.parameters()]
    gradients = (torch.autograd.grad((weights * found).sum(), wanted) for found in (scores, pair_by_pair))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gaussian_critic_equals_the_log_density_of_every_pair():
    torch.manual_seed(0)
    critic = GaussianCritic(N_Z, N_C, hidden=(8,)).double()
    z, c = _inputs()
    z = 3 * z
    scores = critic(z, c)
    for k in range(N):
        mean, raw = critic.net(c[k : k + 1])[0].split(N_Z)
        spread = (0.5 * 4 * torch.tanh(raw / 4)).exp()
        for i in range(N):
            log_density = sum(Normal(mean[d], spread[d]).log_prob(z[i, d]) for d in range(N_Z))
            torch.testing.assert_close(scores[i, k], log_density)
