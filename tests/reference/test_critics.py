"""Critics against loops over pairs of cells."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal

from indiseek.nn import GaussianCritic, SeparableCritic

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
