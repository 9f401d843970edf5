from __future__ import annotations

import math

import pytest
import torch

from indiseek.nn._autoregressive import AutoregressiveMixture, AutoregressiveNet, MonotoneAutoregressive, soft_clip

D, C = 5, 3


def _away_from_zero(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def _jacobian(net: AutoregressiveNet, output: int, with_respect_to: str) -> torch.Tensor:
    x, c = torch.randn(D).double(), torch.randn(C).double()

    def one(u: torch.Tensor) -> torch.Tensor:
        a, b = (u, c) if with_respect_to == "x" else (x, u)
        return net(a[None], b[None])[0, output]

    return torch.autograd.functional.jacobian(one, x if with_respect_to == "x" else c)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [(7,), (11, 6)])
def test_an_output_sees_the_earlier_dimensions_all_of_them_and_the_condition(reverse, hidden):
    torch.manual_seed(0)
    net = _away_from_zero(AutoregressiveNet(D, C, 2, hidden=hidden, reverse=reverse))
    expected = torch.ones(D, D).triu(1) if reverse else torch.ones(D, D).tril(-1)
    for output in range(2):
        torch.testing.assert_close((_jacobian(net, output, "x") != 0).float(), expected)
        assert (_jacobian(net, output, "c") != 0).all()


def _layer(n_axes: int, n_condition: int, *, reverse: bool = False) -> MonotoneAutoregressive:
    torch.manual_seed(0)
    hidden = (8, 8)
    return _away_from_zero(MonotoneAutoregressive(n_axes, n_condition, hidden=hidden, reverse=reverse, n_steps=3))


@pytest.mark.parametrize("reverse", [False, True])
def test_monotone_layer_is_what_its_equation_says(reverse):
    layer = _layer(D, C, reverse=reverse)
    x, c = torch.randn(4, D).double(), torch.randn(4, C).double()
    z, log_det = layer(x, c)
    output = layer.net(x, c)
    for n in range(4):
        total = 0.0
        for d in range(D):
            shift, log_scale, *steps = output[n, :, d].tolist()
            s = 1.5 * math.tanh(log_scale / 1.5)
            u = (x[n, d].item() - shift) * math.exp(-s)
            bent, slope = u, 1.0
            for k in range(3):
                height = math.log1p(math.exp(steps[k] + layer.start_height[k].item()))
                place = steps[3 + k] + layer.place[k, d].item()
                width = math.exp(2 * math.tanh(layer.log_width[k, d].item() / 2))
                bent += height * math.tanh((u - place) / width)
                slope += height / width / math.cosh((u - place) / width) ** 2
            assert z[n, d].item() == pytest.approx(bent)
            total += math.log(slope) - s
        assert log_det[n].item() == pytest.approx(total)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_monotone_layer_goes_back(reverse, dtype):
    layer = _layer(D, C, reverse=reverse).to(dtype)
    x, c = 3 * torch.randn(200, D, dtype=dtype), torch.randn(200, C, dtype=dtype)
    z, _ = layer(x, c)
    assert not torch.allclose(z, x, atol=0.5)
    torch.testing.assert_close(layer.inverse(z, c), x, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_monotone_layer_starts_near_the_identity():
    torch.manual_seed(0)
    x = torch.randn(100, D)
    z, log_det = MonotoneAutoregressive(D, C, hidden=(16,))(x, torch.randn(100, C))
    assert (z - x).square().mean() < 0.05
    assert log_det.abs().max() < 1.0


def test_mixture_is_what_its_equation_says():
    torch.manual_seed(0)
    k = 3
    base = _away_from_zero(AutoregressiveMixture(D, n_components=k, hidden=(8, 8)))
    z = torch.randn(4, D).double()
    parts = base.net(z, None).transpose(0, 1) + base.start[:, None, None]
    for n in range(4):
        total = 0.0
        for d in range(D):
            logits, means, scales = parts[:, n, d].split(k)
            scales = 4.0 * torch.tanh(scales / 4.0)
            weights = torch.softmax(logits, 0)
            density = sum(
                w * math.exp(-0.5 * ((z[n, d] - m) / math.exp(s)) ** 2) / (math.exp(s) * math.sqrt(2 * math.pi))
                for w, m, s in zip(weights.tolist(), means.tolist(), scales.tolist(), strict=True)
            )
            total += math.log(density)
        assert base.log_prob(z)[n].item() == pytest.approx(total)


def test_mixture_integrates_to_one():
    torch.manual_seed(0)
    base = _away_from_zero(AutoregressiveMixture(2, n_components=3, hidden=(6,)))
    side = torch.linspace(-60, 60, 1200).double()
    with torch.no_grad():
        density = base.log_prob(torch.cartesian_prod(side, side)).exp()
    assert (density.sum() * (side[1] - side[0]) ** 2).item() == pytest.approx(1, abs=0.02)


def test_gradients_are_right():
    torch.manual_seed(0)
    layer = _layer(3, 2)
    base = _away_from_zero(AutoregressiveMixture(3, n_components=2, hidden=(4,)))
    x, c = torch.randn(2, 3).double().requires_grad_(), torch.randn(2, 2).double().requires_grad_()

    def log_prob(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        z, log_det = layer(x, c)
        return base.log_prob(z) + log_det

    assert torch.autograd.gradcheck(log_prob, (x, c))


def test_soft_clip_keeps_small_values_and_bounds_large_ones():
    values = torch.tensor([-50.0, 0.01, 50.0])
    torch.testing.assert_close(soft_clip(values), torch.tensor([-1.5, 0.01, 1.5]), atol=1e-5, rtol=0)
