"""A flow that starts as the identity."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import ks_2samp

from indiseek.nn import RefiningFlow


@pytest.fixture
def started() -> tuple[RefiningFlow, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    z, c = torch.randn(400, 4), torch.randn(400, 3)
    flow = RefiningFlow(4, 3, n_hidden=16)
    flow.start(z, c)
    return flow.eval(), z, c


def test_it_starts_as_the_identity_with_the_density_of_its_base(started):
    flow, z, c = started
    torch.testing.assert_close(flow(z, c), z, rtol=0, atol=5e-3)
    torch.testing.assert_close(flow.log_prob(z, c), flow.base.log_prob(z), rtol=0, atol=5e-2)


def test_inverse_and_log_determinant_of_a_flow_that_has_moved(started):
    flow, z, c = started
    with torch.no_grad():
        for parameter in flow.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    refined = flow(z, c)
    assert (refined - z).abs().max() > 0.05
    torch.testing.assert_close(flow.inverse(refined, c), z, rtol=0, atol=1e-5)
    flow, z, c = flow.double(), z.double(), c.double()
    for i in (0, 3):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: flow(v[None], c[i : i + 1])[0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], flow.transform(z[i : i + 1], c[i : i + 1])[1][0])


def test_stretch_and_shift_of_all_codes_are_taken_back_and_density_and_inverse_stay(started):
    flow, z, c = started
    with torch.no_grad():
        for parameter in flow.layers.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    density, stretched = flow.log_prob(z, c), flow(z, c)
    assert (torch.cov(stretched.T) - torch.cov(z.T)).abs().max() > 0.2
    flow.settle(z, c)
    refined = flow(z, c)
    torch.testing.assert_close(torch.cov(refined.T), torch.cov(z.T), rtol=0, atol=1e-4)
    torch.testing.assert_close(refined.mean(dim=0), z.mean(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(flow.log_prob(z, c), density, rtol=0, atol=0)
    torch.testing.assert_close(flow.inverse(refined, c), z, rtol=0, atol=1e-4)
    # No dimension takes the place of another.
    together = torch.corrcoef(torch.cat([refined, stretched], dim=1).T)[:4, 4:]
    assert together.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_it_removes_dependence_that_mean_and_covariance_do_not_show():
    torch.manual_seed(0)
    c = torch.randn(3000, 1)
    z = torch.randn(3000, 2)
    # Given c the first dimension is skewed one way or the other, at mean 0.
    z[:, 0] = z[:, 0] + torch.sign(c[:, 0]) * 0.4 * (z[:, 0].square() - 1.0)
    flow = RefiningFlow(2, 1, n_hidden=32, condition_noise=0.0)
    flow.start(z, c)

    def difference(values: torch.Tensor) -> float:
        return float(ks_2samp(values[c[:, 0] > 0, 0].numpy(), values[c[:, 0] <= 0, 0].numpy()).statistic)

    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    before, start = difference(z), float(flow.log_prob(z, c).detach().mean())
    for _ in range(200):
        optimizer.zero_grad()
        (-flow.log_prob(z, c).mean()).backward()
        optimizer.step()
    assert float(flow.log_prob(z, c).detach().mean()) > start + 0.1
    assert before > 0.15 and difference(flow(z, c).detach()) < 0.7 * before
