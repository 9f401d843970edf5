from __future__ import annotations

import pytest
import torch
from torch import nn

from indiseek.nn import MLP


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
