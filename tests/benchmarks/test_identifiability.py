"""The published process of the identifiability benchmark: settings, draws on a device, probe, a small fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from indiseek.simulation import ContentStyleProcess

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def published(fresh_module):
    return fresh_module("_identifiability_paper")


def test_paper_size_is_that_of_the_program(published):
    paper = published.PAPER
    assert (paper.batch, paper.steps, paper.learning_rate, paper.n_probe) == (6144, 300_001, 1e-4, 5 * 4096)
    assert paper.hidden == (150, 750, 750, 750, 750, 150) and not paper.anneal
    assert published.SETTINGS[0] == (1.0, "independent") and (0.75, "both") in published.SETTINGS
    network = published.network(paper.hidden).of("rna", 15, 5)
    assert [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)] == [*paper.hidden, 5]
    assert {layer.negative_slope for layer in network if isinstance(layer, torch.nn.LeakyReLU)} == {0.01}
    assert not any(isinstance(layer, torch.nn.LayerNorm) for layer in network)


def test_draws_on_a_device_are_those_of_the_process(published):
    process = ContentStyleProcess(change_probability=0.75, statistical=True, causal=True, form="code", seed=3)
    draws = published.Draws(process, "cpu", seed=0)
    factors = draws.factors(60_000)
    (content, style, own), (again, changed, other) = (factors[name] for name in ("rna", "prot"))
    assert torch.equal(content, again)
    for block, values in (("content", content), ("specific_rna", own), ("specific_prot", other)):
        truth = process.covariances[block]
        found = np.cov(values.numpy().T)
        scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
        assert np.abs((found - truth) / scale).max() < 0.03
    residual = style.numpy() - process.offset - content.numpy() @ process.effect
    np.testing.assert_allclose(np.cov(residual.T), process.covariances["style"], atol=0.04 * 5)
    assert np.abs(np.corrcoef(residual.T, content.numpy().T)[:5, 5:]).max() < 0.02
    assert (style != changed).float().mean().item() == pytest.approx(0.75, abs=0.01)
    few = {name: [block[:40] for block in blocks] for name, blocks in factors.items()}
    for name, x in zip(few, draws.features(few).features, strict=True):
        expected = process._mix(name, torch.cat(few[name], dim=1).double().numpy())
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-4)


def test_kernel_probe_is_the_grid_search_of_the_program(published):
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((2, 130, 3))
    factors = np.concatenate(
        [np.sin(2 * codes @ rng.standard_normal((3, 5))), rng.standard_normal((2, 130, 5))], axis=2
    )
    found = published.kernel_ridge_r2(
        *[tuple(map(torch.from_numpy, pair)) for pair in zip(codes, factors, strict=True)]
    )
    for block in range(2):
        columns = slice(5 * block, 5 * block + 5)
        search = GridSearchCV(
            KernelRidge(kernel="rbf"), {"alpha": [1.0, 0.1, 0.01, 0.001], "gamma": np.logspace(-2, 2, 4)}, cv=3
        ).fit(codes[0], factors[0][:, columns])
        expected = r2_score(factors[1][:, columns], search.predict(codes[1]))
        assert found[block] == pytest.approx(expected, abs=1e-6)
    assert found[0] > 0.5 > 0.2 > found[1]


def test_a_small_fit_finds_content_before_all_else(published):
    training = replace(published.SMALL, hidden=(64, 64), batch=256, steps=500, learning_rate=4e-3, n_probe=400)
    found = published.run(training, 1.0, "independent", 0, "cpu", form="code")
    # Five outputs of an untrained network hold a third of everything.
    assert found["content_kernel"] > 0.4
    assert found["content_kernel"] > found["style_kernel"] + 0.2
    assert max(found["specific_kernel"], found["specific of the other_kernel"]) < 0.1
    assert found["loss"] < np.log(257) - 1
