from __future__ import annotations

import pytest
import torch

from indiseek.nn import SequenceTransformer


def _made(**options) -> SequenceTransformer:
    torch.manual_seed(0)
    return SequenceTransformer(4 * 7, 4 * 10, n_steps=4, n_layers=2, n_hidden=16, **options).eval()


def test_every_step_gives_a_token():
    x = torch.randn(3, 28)
    assert _made()(x).shape == (3, 40)


def test_order_of_the_steps_is_seen_with_places_alone():
    x = torch.randn(3, 4, 7)
    order = [2, 0, 3, 1]
    for places in (False, True):
        network = _made(places=places)
        plain, turned = (network(steps.flatten(1)).unflatten(1, (4, 10)) for steps in (x, x[:, order]))
        same = torch.allclose(plain[:, order], turned, atol=1e-5)
        assert same is not places


def test_steps_see_each_other_and_cells_do_not():
    network = _made()
    x = torch.randn(3, 4, 7)
    changed = x.clone()
    changed[0, 1] += 1
    before, after = (network(steps.flatten(1)).unflatten(1, (4, 10)) for steps in (x, changed))
    assert (before[0] - after[0]).abs().amax(dim=1).min() > 1e-4
    torch.testing.assert_close(before[1:], after[1:])


def test_published_size_is_the_default():
    network = SequenceTransformer(50 * 300, 50 * 40, n_steps=50)
    first = network.blocks.layers[0]
    assert len(network.blocks.layers) == 5 and first.self_attn.num_heads == 5 and first.norm_first
    assert (network.project.in_features, network.project.out_features, network.project.bias) == (300, 40, None)
    assert first.linear1.out_features == 2048


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((29, 40), {}, "expected n_features to be a multiple of n_steps=4, got 29"),
        ((28, 41), {}, "expected n_latent to be a multiple of n_steps=4, got 41"),
        ((28, 24), {}, "expected tokens of a dimension that is a multiple of n_heads=5 .* got 6"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceTransformer(*sizes, n_steps=4, **options)


def test_features_that_were_left_out_are_read_as_zero():
    varies = torch.ones(28, dtype=torch.bool)
    varies[[3, 20, 27]] = False
    torch.manual_seed(0)
    network = SequenceTransformer(25, 40, n_steps=4, n_layers=2, n_hidden=16, varies=varies.numpy()).eval()
    x = torch.randn(3, 28) * varies
    torch.testing.assert_close(network(x[:, varies]), _made()(x))
    with pytest.raises(ValueError, match="expected varies to name the 24 features that are given, got 25 of 28"):
        SequenceTransformer(24, 40, n_steps=4, varies=varies.numpy())
