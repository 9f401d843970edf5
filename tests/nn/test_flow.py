from __future__ import annotations

import pytest
import torch

from indiseek.nn import ConditionalFlow

N_CELLS = 40


def _flow(n_features: int = 5, n_axes: int = 5, n_condition: int = 3, *, scale: float = 0.3) -> ConditionalFlow:
    """A flow away from the identity, in inference mode and double precision."""
    torch.manual_seed(0)
    flow = ConditionalFlow(n_features, n_axes, n_condition, n_hidden=16, n_mixed=4).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow


def _cells(n_features: int = 5, n_condition: int = 3, rank: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N_CELLS, rank or n_features, generator=generator).double()
    if rank:
        x = x @ torch.randn(rank, n_features, generator=generator).double()
    return 2 + x, torch.randn(N_CELLS, n_condition, generator=generator).double()


def test_inverse_gives_the_features_back():
    flow, (x, c) = _flow(), _cells()
    flow.fit_scales(x, c)
    z = flow(x, c)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(flow.inverse(z, c), x, atol=1e-6, rtol=0)
    assert not torch.allclose(flow.inverse(z, c.roll(1, 0)), x, atol=0.1)


def test_features_of_low_rank_come_back_from_as_many_dimensions():
    flow, (x, c) = _flow(6, 4), _cells(6, rank=4)
    flow.fit_scales(x, c)
    z, log_det, residual = flow.transform(x, c)
    assert z.shape == residual.shape == (N_CELLS, 4) and log_det.shape == (N_CELLS,)
    torch.testing.assert_close(flow.inverse(z, c), x, atol=1e-6, rtol=0)


def test_log_determinant_is_that_of_the_jacobian():
    flow, (x, c) = _flow(), _cells()
    flow.fit_scales(x, c)
    _, log_det, _ = flow.transform(x, c)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda u, i=i: flow(u[None], c[i : i + 1])[0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("condition", [0, 1])
def test_density_integrates_to_one_for_every_condition(condition):
    flow, (x, c) = _flow(2, 2, scale=0.1), _cells(2)
    flow.fit_scales(x, c)
    side = torch.linspace(-25, 29, 360).double()
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = flow.log_prob(grid, c[condition].expand(len(grid), -1)).exp()
    assert (density.sum() * (side[1] - side[0]) ** 2).item() == pytest.approx(1, abs=0.02)


def test_axes_are_orthonormal_ordered_and_of_fixed_sign():
    flow, (x, c) = _flow(6, 4), _cells(6, rank=4)
    flow.fit_scales(x, c)
    axes = flow.axes.clone()
    torch.testing.assert_close(axes.T @ axes, torch.eye(4).double(), atol=1e-6, rtol=0)
    variance = ((x - x.mean(0)) @ axes).var(0)
    assert (variance.diff() < 0).all()
    flow.fit_scales(x[torch.randperm(N_CELLS)], c)
    torch.testing.assert_close(flow.axes, axes, atol=1e-6, rtol=0)


def test_base_density_does_not_see_the_condition():
    flow, (x, c) = _flow(), _cells()
    z = flow(x, c)
    log_det = flow.transform(x, c)[1]
    torch.testing.assert_close(flow.log_prob(x, c), flow.base_log_prob(z) + log_det)


def test_noise_acts_in_training_only():
    flow, (x, c) = _flow(), _cells()
    torch.testing.assert_close(flow(x, c), flow(x, c), rtol=0, atol=0)
    flow.train()
    assert not torch.equal(flow(x, c), flow(x, c))


def test_maximum_likelihood_takes_the_condition_out_of_the_code():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(2000, 2, generator=generator)
    noise = torch.randn(2000, 2, generator=generator)
    x = torch.stack([1.5 * c[:, 0] + noise[:, 0], c[:, 0] * c[:, 1] + 0.5 * noise[:, 1]], dim=1)
    torch.manual_seed(0)
    flow = ConditionalFlow(2, 2, 2, n_hidden=32, n_mixed=2, condition_noise=0.0)
    flow.fit_scales(x, c)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    targets = torch.stack([c[:, 0], c[:, 0] * c[:, 1]], dim=1)

    def dependence() -> torch.Tensor:
        with torch.no_grad():
            both = torch.cat([flow(x, c), targets], dim=1)
        return both.T.corrcoef()[:2, 2:].abs().max()

    before = dependence()
    for _ in range(150):
        rows = torch.randint(2000, (256,), generator=generator)
        optimizer.zero_grad()
        (-flow.log_prob(x[rows], c[rows]).mean()).backward()
        optimizer.step()
    assert before > 0.7
    assert dependence() < 0.15
