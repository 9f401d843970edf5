"""CoMM on images and on sequences: published settings, augmentations, networks, and runs of the smallest size."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def images(fresh_module):
    return fresh_module("_comm_images")


@pytest.fixture
def affect(fresh_module):
    return fresh_module("_comm_affect")


def _photographs(n: int = 4, size: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_published_size_is_that_of_the_program(images):
    size = images.PAPER
    assert (size.n_values, size.n_renderings, size.held_out, size.size, size.n_pairs) == (10, 3, 0.2, 224, 10_000)
    assert (size.epochs, size.batch, size.learning_rate, size.n_latent, size.n_heads) == (100, 64, 3e-4, 512, 8)
    model = images.comm(size)
    assert (model.form, model.negatives, model.temperature) == ("code", "both", 0.1)
    # 6 x 6 maps of AlexNet, a token each.
    assert model.fusion.n_tokens == 36 and len(model.fusion.blocks) == 1
    linear = [layer for layer in model.head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512, 512), (512, 512), (512, 256)]
    # As many weights as the convolutions of AlexNet are known to have.
    assert sum(p.numel() for p in images.alexnet().parameters()) == 2_469_696


def test_tokens_know_their_place(images):
    torch.manual_seed(0)
    network = images.ImageTokens(images.small_network(), 48, 64)
    assert network.side == 3 and network.places.shape == (9, 64)
    assert torch.pdist(network.places).min() > 0.1
    # The first half tells the column, the second the row.
    grid = network.places.unflatten(0, (3, 3))
    torch.testing.assert_close(grid[0, :, :32], grid[2, :, :32])
    torch.testing.assert_close(grid[:, 0, 32:], grid[:, 2, 32:])
    assert network(torch.rand(2, 3 * 48 * 48)).shape == (2, 9 * 64)


def test_a_crop_of_everything_is_the_image_and_a_smaller_one_a_part_of_it(images):
    x = _photographs()
    ramp = torch.linspace(0, 1, 24).expand(50, 3, 24, 24)
    generator = torch.Generator().manual_seed(0)
    parts = images.crop(ramp, 0.1, generator)
    widths = (parts[:, 0, 0, -1] - parts[:, 0, 0, 0]).numpy()
    assert 0.15 < widths.min() < 0.6 < widths.max() <= 1.0
    assert (parts >= 0).all() and (parts <= 1).all()
    flipped = images.crop(ramp, 0.5, torch.Generator().manual_seed(0), flip=True)
    rising = flipped[:, 0, 0, -1] > flipped[:, 0, 0, 0]
    assert 10 < rising.sum() < 40
    # Sides are at most 4:3, so that a crop of the whole area still cuts one of them.
    whole = images.crop(x, 1.0, torch.Generator().manual_seed(1))
    assert (whole - x).abs().mean() < 0.35


def test_colours_change_brightness_hue_and_grey_and_stay_colours(images):
    x = _photographs(300, 8)
    changed = images.jitter(x, torch.Generator().manual_seed(0))
    assert changed.shape == x.shape and (changed >= 0).all() and (changed <= 1).all()
    spread = (changed.amax(dim=1) - changed.amin(dim=1)).amax(dim=(1, 2))
    assert (spread < 1e-5).float().mean().item() == pytest.approx(0.2, abs=0.07)
    same = ((changed - x).abs().amax(dim=(1, 2, 3)) < 1e-6).float().mean().item()
    assert same == pytest.approx(0.2 * 0.8, abs=0.07)
    # A grey image has no hue: it may only become lighter or darker.
    grey = torch.full((50, 3, 4, 4), 0.5)
    turned = images.jitter(grey, torch.Generator().manual_seed(0))
    assert (turned.amax(dim=1) - turned.amin(dim=1)).max() < 1e-5
    assert turned.std() > 0.01


def test_blur_keeps_the_mean_and_smooths_one_image_in_two(images):
    x = _photographs(200, 224)[:, :, :64, :64].clone()
    blurred = images.blur(torch.nn.functional.interpolate(x, 224), torch.Generator().manual_seed(0))
    before = torch.nn.functional.interpolate(x, 224)
    changed = (blurred - before).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 70 < changed.sum() < 130
    assert (blurred.mean(dim=(1, 2, 3)) - before.mean(dim=(1, 2, 3))).abs().max() < 0.02
    assert (blurred.std(dim=(1, 2, 3)) <= before.std(dim=(1, 2, 3)) + 1e-5).all()


def test_two_views_of_a_batch_differ_and_fixed_ones_do_not(images):
    size = images.SMOKE
    model = images.comm(size)
    batch = CellTensors(tuple(_photographs(6, size.size).flatten(1) for _ in range(2)))
    first, second = model.view(batch, 0)[0], model.view(batch, 0)[0]
    assert (first - second).abs().max() > 0.1
    model.eval()
    torch.testing.assert_close(model.view(batch, 0)[0], model.view(batch, 0)[0])
    loss = model.train().loss(batch).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_smallest_run_gives_every_figure(images):
    found = images.run("CoMM", images.SMOKE, 0, "cpu", matched=False) | images.run(
        "CoMM", images.SMOKE, 0, "cpu", matched=True
    )
    assert {"R", "U of first", "U of second", "S"} <= set(found)
    assert all(0 <= found[question] <= 100 for question in images.QUESTIONS)
    assert np.isfinite(found["loss, matched"])
    towers = images.run("CLIP", images.SMOKE, 0, "cpu", matched=False)
    assert 0 <= towers["R"] <= 100


def test_comm_learns_the_class_of_made_sequences(affect, tmp_path):
    rng = np.random.default_rng(0)
    data = {}
    for split, n in (("train", 192), ("valid", 16), ("test", 96)):
        scores = rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 3, n)
        # As MOSI: 20 vision features and 300 of text, here fewer, in 50 steps.
        part = {name: rng.normal(size=(n, 50, width)) for name, width in (("vision", 4), ("audio", 2), ("text", 6))}
        part["text"] = part["text"] + 2 * np.sign(scores)[:, None, None]
        data[split] = part | {"labels": scores.reshape(n, 1, 1)}
    path = tmp_path / "mosi_data.pkl"
    path.write_bytes(pickle.dumps(data))
    found = affect.run(path, 0, "cpu", epochs=4, n_layers=1, n_hidden=32)
    assert found["balanced accuracy"] > 75


def test_steps_are_dropped_whole_and_in_half_of_the_samples(affect):
    x = torch.full((400, 50 * 3), 5.0)
    found = affect.augment(x, torch.Generator().manual_seed(0)).unflatten(1, (50, 3))
    gone = found.abs().amax(dim=2) < 1
    assert ((found - 5).abs().amax(dim=2) < 1)[~gone].all()
    rates = gone.float().mean(dim=1)
    assert rates.max() <= 0.95 and rates.mean().item() == pytest.approx(0.2, abs=0.04)
    assert (rates == 0).float().mean().item() == pytest.approx(0.5, abs=0.08)
    noisy = (found - 5)[~gone].abs().max() > 0.2
    assert noisy
    x[:, 60:] = 0
    filled = affect.augment(x, torch.Generator().manual_seed(0))
    assert not filled[:, 60:].any() and filled[:, :60].any()
    model = affect.objective({"vision": 50 * 4, "text": 50 * 6})
    assert (model.form, model.negatives, model.fusion.n_tokens) == ("code", "both", 50)
