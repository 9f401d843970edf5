from __future__ import annotations

import pytest
import torch
from torch import nn

from indiseek.nn import MLP, Encoder


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_widths_and_layers_are_those_asked_for(hidden, layer_norm):
    net = MLP(6, 2, hidden=hidden, activation="relu", layer_norm=layer_norm)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    widths = [6, *hidden, 2]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(
        zip(widths[:-1], widths[1:], strict=True)
    )
    assert sum(isinstance(layer, nn.LayerNorm) for layer in net) == layer_norm * len(hidden)
    assert sum(isinstance(layer, nn.ReLU) for layer in net) == len(hidden)
    assert net(torch.randn(4, 6)).shape == (4, 2)


def test_last_layer_is_linear_so_that_codes_take_both_signs():
    torch.manual_seed(0)
    out = MLP(3, 5, hidden=(16,), activation="relu")(torch.randn(200, 3))
    assert (out < 0).any() and (out > 0).any()


def test_no_hidden_layer_is_a_linear_map():
    net = MLP(3, 2, hidden=())
    x, y = torch.randn(2, 5, 3)
    bias = net(torch.zeros(1, 3))
    torch.testing.assert_close(net(2 * x - y) - bias, 2 * (net(x) - bias) - (net(y) - bias))


def test_norm_comes_before_the_nonlinearity():
    kinds = [type(layer) for layer in MLP(3, 2, hidden=(4,), activation="gelu")]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear]


@pytest.mark.parametrize(("n_in", "n_out", "hidden"), [(0, 2, (4,)), (3, 0, (4,)), (3, 2, (4, 0)), (3, 2, (-1,))])
def test_a_width_below_one_is_refused(n_in, n_out, hidden):
    with pytest.raises(ValueError, match=r"expected layer widths of at least 1, got \[.*\]; give positive integers"):
        MLP(n_in, n_out, hidden=hidden)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"expected activation to be one of \['gelu', 'relu'\], got 'tanh'"):
        MLP(3, 2, activation="tanh")


def test_initial_weights_have_the_standard_deviation_asked_for_and_biases_are_torchs():
    torch.manual_seed(0)
    net = Encoder(hidden=(300,), initial_sd=0.01).network(400, 200)
    for layer in net:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
            assert layer.weight.mean().item() == pytest.approx(0, abs=2e-4)
            # Normal, not uniform: a part of them lies beyond the ends of a uniform distribution of this width.
            assert (layer.weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, rel=0.1)
            assert layer.bias.abs().max().item() == pytest.approx(layer.in_features**-0.5, rel=0.05)


def test_weights_are_torchs_without_a_standard_deviation():
    torch.manual_seed(0)
    first = Encoder(hidden=(5,)).network(4, 3)
    torch.manual_seed(0)
    for a, b in zip(first.parameters(), MLP(4, 3, hidden=(5,)).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("initial_sd", [0.0, -1.0, float("nan")])
def test_an_initial_width_that_is_none_is_refused(initial_sd):
    with pytest.raises(ValueError, match="expected initial_sd to be a .*number above 0"):
        Encoder(initial_sd=initial_sd)
