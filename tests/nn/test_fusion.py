from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from indiseek.nn import Encoder, FusionTransformer

# Different sizes everywhere, so that exchanged dimensions cannot pass.
FEATURES = {"a": 7, "b": 4, "c": 9}
N_CELLS, N_LATENT, N_TOKENS = 11, 12, 3


def _network(n_layers: int = 2, **options) -> FusionTransformer:
    torch.manual_seed(0)
    network = FusionTransformer(
        FEATURES, N_LATENT, n_tokens=N_TOKENS, n_layers=n_layers, n_heads=2, encoder=Encoder(hidden=(8,)), **options
    )
    with torch.no_grad():
        network.first.add_(torch.randn(N_LATENT))
    return network.eval()


def _cells(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(N_CELLS, n, generator=generator).to(dtype) for n in FEATURES.values()]


def _by_hand(network: FusionTransformer, features: list[torch.Tensor | None], cell: int) -> torch.Tensor:
    """One cell, one head and one query at a time, with every row computed in every block."""
    rows = [network.first]
    for converter, x in zip(network.converters, features, strict=True):
        if x is not None:
            rows += list(converter(x[cell]).reshape(N_TOKENS, N_LATENT))
    size = N_LATENT // 2
    for block in network.blocks:
        normed = [F.layer_norm(r, (N_LATENT,), block.norm.weight, block.norm.bias) for r in rows]
        new = []
        for row, own in zip(rows, normed, strict=True):
            attended = []
            for head in range(2):
                part = slice(head * size, (head + 1) * size)
                keys = [block.key_value(r)[:N_LATENT][part] for r in normed]
                values = [block.key_value(r)[N_LATENT:][part] for r in normed]
                scores = torch.stack([block.query(own)[part] @ key / size**0.5 for key in keys])
                weights = scores.exp() / scores.exp().sum()
                attended.append(sum(w * value for w, value in zip(weights, values, strict=True)))
            row = row + block.output(torch.cat(attended))
            new.append(row + block.feed_forward(row))
        rows = new
    return network.norm(rows[0])


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("absent", [(), (1,), (0, 2)])
def test_code_equals_attention_written_out(n_layers, absent):
    network = _network(n_layers).double()
    features = [None if i in absent else x for i, x in enumerate(_cells(torch.double))]
    code = network(features)
    assert code.shape == (N_CELLS, N_LATENT)
    for cell in (0, 5):
        torch.testing.assert_close(code[cell], _by_hand(network, features, cell))


@pytest.mark.parametrize("present", [(0,), (1, 2), (0, 2)])
def test_dropping_a_modality_is_a_sequence_without_its_tokens(present):
    network, cells = _network(), _cells()
    kept = [x if i in present else None for i, x in enumerate(cells)]
    tokens = [network.tokens(i, cells[i]) for i in present]
    assert tokens[0].shape == (N_CELLS, N_TOKENS, N_LATENT)
    torch.testing.assert_close(network(kept), network.fuse(tokens), rtol=0, atol=0)
    # Zeros in the place of the tokens would be attended to.
    zeros = [torch.zeros_like(tokens[0])] * (3 - len(present))
    assert not torch.allclose(network.fuse([*tokens, *zeros]), network(kept), atol=1e-2)
    assert not torch.allclose(network(cells), network(kept), atol=1e-2)


def test_order_of_the_modalities_tokens_does_not_matter_but_whose_they_are_does():
    network, cells = _network(), _cells()
    tokens = [network.tokens(i, x) for i, x in enumerate(cells)]
    torch.testing.assert_close(network.fuse(tokens[::-1]), network.fuse(tokens))
    square = FusionTransformer({"a": 5, "b": 5}, 4, n_heads=2, encoder=Encoder(hidden=(8,)))
    a, b = torch.randn(2, 6, 5)
    assert not torch.allclose(square([a, b]), square([b, a]), atol=1e-3)


def test_cells_do_not_see_each_other_even_in_training():
    network, cells = _network().train(), _cells()
    code = network(cells)
    order = torch.randperm(N_CELLS)
    torch.testing.assert_close(network([x[order] for x in cells]), code[order])
    torch.testing.assert_close(network([x[3:4] for x in cells]), code[3:4])
    changed = [x.clone() for x in cells]
    for x in changed:
        x[0] = 1e3
    torch.testing.assert_close(network(changed)[1:], code[1:])


@pytest.mark.parametrize("absent", [(), (1,)])
def test_half_precision_stays_close(absent):
    network = _network()
    features = [None if i in absent else x for i, x in enumerate(_cells())]
    exact = network(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(features)
    whole = _network().to(torch.bfloat16)([None if x is None else x.to(torch.bfloat16) for x in features])
    for code in (mixed, whole):
        assert code.isfinite().all()
        assert (code.float() - exact).abs().max() < 0.1
        assert F.cosine_similarity(code.float(), exact).min() > 0.999


def test_gradient_reaches_every_parameter():
    network = _network()
    (network(_cells()) * torch.randn(N_LATENT)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_gradient_is_that_of_finite_differences():
    network = _network().double()
    cells = [x[:2].requires_grad_() for x in _cells(torch.double)]
    assert torch.autograd.gradcheck(lambda *x: network(x), cells)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tokens": 0}, "expected n_tokens of at least 1, got 0"),
        ({"n_layers": 0}, "expected n_layers of at least 1, got 0"),
        ({"n_heads": 5}, "expected n_latent to be a multiple of n_heads=5, got 12"),
    ],
)
def test_wrong_sizes_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        FusionTransformer(FEATURES, N_LATENT, **options)


@pytest.mark.parametrize("n", [2, 3])
def test_wrong_features_say_what_was_expected(n):
    with pytest.raises(ValueError, match=rf"expected features of 3 modalities.* got {n} entries of which 0 are not"):
        _network()([None] * n)
