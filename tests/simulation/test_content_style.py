from __future__ import annotations

import numpy as np
import pytest

from indiseek.simulation import ContentStyleProcess
from indiseek.simulation._content_style import _covariance

ASYMMETRIC = (2, 3, {"rna": 4, "adt": 1})


def _blocks(sim) -> dict[str, np.ndarray]:
    first, second = sim.features
    return {
        "content": sim.shared,
        "style": sim.style[first],
        "change": sim.style[second] - sim.style[first],
        f"specific_{first}": sim.specific[first],
        f"specific_{second}": sim.specific[second],
    }


def test_sizes_follow_the_factors_of_each_modality():
    sim = ContentStyleProcess(*ASYMMETRIC).sample(50)
    assert {name: x.shape for name, x in sim.features.items()} == {"rna": (50, 9), "adt": (50, 6)}
    assert sim.shared.shape == (50, 2)
    assert all(s.shape == (50, 3) for s in sim.style.values())
    assert [m.shape for m in sim.specific.values()] == [(50, 4), (50, 1)]
    assert all(x.dtype == np.float32 for x in sim.features.values())
    assert all(x.dtype == np.float64 for x in (sim.shared, *sim.style.values(), *sim.specific.values()))
    assert sim.mutual_information is None and not sim.clusters
    default = ContentStyleProcess().sample(10)
    assert [x.shape for x in default.features.values()] == [(10, 15), (10, 15)]


@pytest.mark.parametrize("statistical", [False, True])
def test_blocks_are_independent_gaussians_of_their_covariances(statistical):
    n = 40_000
    process = ContentStyleProcess(*ASYMMETRIC, statistical=statistical, seed=1)
    blocks = _blocks(process.sample(n))
    truth = np.zeros((13, 13))
    start = 0
    for name, values in blocks.items():
        width = values.shape[1]
        truth[start : start + width, start : start + width] = process.covariances[name]
        start += width
    covariance = np.cov(np.hstack(list(blocks.values())).T)
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    assert np.abs((covariance - truth) / scale).max() < 5 * np.sqrt(2 / n)
    fourth = np.mean(np.hstack(list(blocks.values())) ** 4, axis=0) / np.diag(truth) ** 2
    assert np.abs(fourth - 3).max() < 5 * np.sqrt(96 / n)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_equal_size_get_covariances_of_their_own(seed):
    process = ContentStyleProcess(3, 3, (3, 3), statistical=True, seed=seed)
    covariances = list(process.covariances.values())
    assert len(covariances) == 5
    for i, one in enumerate(covariances):
        assert np.trace(one) == pytest.approx(3)
        assert np.abs(one - np.diag(np.diag(one))).max() > 0.01
        assert all(np.abs(one - other).max() > 0.05 for other in covariances[:i])


@pytest.mark.parametrize("form", ["paper", "code"])
def test_published_layers_are_among_the_best_conditioned_of_a_thousand(form):
    process = ContentStyleProcess(2, 2, {"rna": 2, "adt": 1}, form=form)
    for name, width in (("rna", 6), ("adt", 5)):
        draws = np.random.default_rng(0).uniform(-1, 1, (20_000, width, width))
        draws /= np.linalg.norm(draws, axis=2, keepdims=True)
        bound = np.quantile(np.linalg.cond(draws), [0.0004, 0.0025])
        conditions = [np.linalg.cond(layer) for layer in process.layers[name]]
        assert max(conditions) <= bound[1]
        # Of the published network it is the weights of an input that have unit length, of ours those of an output.
        for layer in process.layers[name]:
            np.testing.assert_allclose(np.linalg.norm(layer, axis=1), 1)
            assert np.abs(np.linalg.norm(layer, axis=0) - 1).max() > 0.01
    assert bound[0] > 1


def test_published_covariances_are_wishart_draws_as_they_come():
    rng = np.random.default_rng(0)
    covariances = np.array([_covariance(3, rng, None) for _ in range(4000)])
    # A Wishart matrix with n degrees of freedom has mean n I, and its trace is chi-squared with n^2.
    np.testing.assert_allclose(covariances.mean(axis=0), 3 * np.eye(3), atol=0.2)
    traces = np.trace(covariances, axis1=1, axis2=2)
    assert traces.mean() == pytest.approx(9, abs=0.3)
    assert traces.var() == pytest.approx(18, rel=0.15)
    assert np.median(np.linalg.cond(covariances)) > 20
    process = ContentStyleProcess(3, 3, (3, 2), statistical=True, form="paper", n_layers=1)
    assert np.abs(process.covariances["change"] - process.covariances["content"]).max() > 0.05
    assert np.trace(process.covariances["content"]) != pytest.approx(3)


def test_the_program_draws_one_covariance_for_all_blocks_of_a_size():
    process = ContentStyleProcess(3, 3, (3, 2), statistical=True, form="code", seed=1)
    for block in ("style", "change", "specific_rna"):
        np.testing.assert_array_equal(process.covariances[block], process.covariances["content"])
    assert process.covariances["specific_prot"].shape == (2, 2)
    # Equal covariances, not equal draws.
    drawn = _blocks(process.sample(20_000))
    assert np.abs(np.corrcoef(drawn["content"].T, drawn["style"].T)[:3, 3:]).max() < 0.04


@pytest.mark.parametrize("max_condition", [5.0, 30.0])
def test_no_layer_or_covariance_is_worse_conditioned_than_asked_for(max_condition):
    for seed in range(3):
        process = ContentStyleProcess(3, 2, (1, 0), statistical=True, max_condition=max_condition, seed=seed)
        layers = [layer for stack in process.layers.values() for layer in stack]
        assert len(layers) == 6
        covariances = [covariance for covariance in process.covariances.values() if covariance.size]
        assert max(map(np.linalg.cond, [*layers, *covariances])) <= max_condition
        for layer in layers:
            np.testing.assert_allclose(np.linalg.norm(layer, axis=0), 1)


def test_modalities_are_mixed_by_different_networks():
    process = ContentStyleProcess(2, 2, (2, 2))
    first, second = process.layers.values()
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(first, second, strict=True))


def _inverse(process: ContentStyleProcess, name: str, x: np.ndarray, slope: float) -> np.ndarray:
    layers = process.layers[name]
    x = x @ np.linalg.inv(layers[-1])
    for layer in reversed(layers[:-1]):
        x = np.where(x > 0, x, x / slope) @ np.linalg.inv(layer)
    return x


@pytest.mark.parametrize(
    ("n_layers", "slope", "form"), [(1, 0.2, "conditioned"), (3, 0.2, "code"), (2, 0.5, "conditioned")]
)
def test_mixing_is_invertible_and_both_modalities_hold_the_same_content(n_layers, slope, form):
    process = ContentStyleProcess(
        *ASYMMETRIC, n_layers=n_layers, slope=slope, change_probability=0.5, form=form, seed=2
    )
    sim = process.sample(200)
    for name, x in sim.features.items():
        factors = np.hstack([sim.shared, sim.style[name], sim.specific[name]])
        np.testing.assert_allclose(_inverse(process, name, x.astype(np.float64), slope), factors, atol=1e-4)


@pytest.mark.parametrize("p", [0.25, 0.75, 1.0])
def test_each_style_dimension_changes_with_its_probability_and_on_its_own(p):
    n = 20_000
    sim = ContentStyleProcess(1, 3, (1, 1), change_probability=p, seed=3).sample(n, seed=3)
    changed = sim.style["rna"] != sim.style["prot"]
    assert np.abs(changed.mean(axis=0) - p).max() <= 4.5 * np.sqrt(p * (1 - p) / n)
    both = (changed[:, 0] & changed[:, 1]).mean()
    assert abs(both - p**2) <= 4.5 * np.sqrt(p**2 * (1 - p**2) / n)
    correlation = np.corrcoef(sim.style["rna"][:, 0], sim.style["prot"][:, 0])[0, 1]
    assert correlation == pytest.approx(1 / np.sqrt(1 + p), abs=0.03)


def test_style_depends_on_content_only_where_it_is_caused():
    for causal in (False, True):
        process = ContentStyleProcess(3, 2, (1, 2), causal=causal, seed=4)
        sim = process.sample(20_000)
        design = np.hstack([np.ones((20_000, 1)), sim.shared])
        weights = np.linalg.lstsq(design, sim.style["rna"], rcond=None)[0]
        truth = np.vstack([process.offset, process.effect])
        np.testing.assert_allclose(weights, truth, atol=0.04)
        assert bool(np.abs(truth).max() > 0.1) is causal
        np.testing.assert_allclose((sim.style["rna"] - design @ weights).var(axis=0), 1, atol=0.05)


def test_the_process_outlives_its_draws():
    process = ContentStyleProcess(2, 1, (1, 2), statistical=True, causal=True, seed=5)
    few, many, other = process.sample(20, seed=7), process.sample(60, seed=7), process.sample(20, seed=8)
    again = ContentStyleProcess(2, 1, (1, 2), statistical=True, causal=True, seed=5).sample(20, seed=7)
    for name, x in few.features.items():
        np.testing.assert_array_equal(many.features[name][:20], x)
        np.testing.assert_array_equal(again.features[name], x)
        assert not np.allclose(other.features[name], x)


def test_global_randomness_is_left_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    ContentStyleProcess(2, 2, (1, 1), statistical=True, causal=True).sample(10)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_mudata_carries_the_style_where_there_is_one():
    sim = ContentStyleProcess(*ASYMMETRIC).sample(30)
    mdata = sim.to_mudata()
    for name in ("rna", "adt"):
        np.testing.assert_array_equal(mdata[name].obsm["true_style"], sim.style[name])
    mdata["rna"].obsm["true_style"][:] = 0
    assert np.any(sim.style["rna"])


def test_style_and_specific_factors_may_be_absent():
    sim = ContentStyleProcess(2, 0, (0, 1), causal=True, statistical=True).sample(5)
    assert [x.shape for x in sim.features.values()] == [(5, 2), (5, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_content": 0}, "expected n_content to be an integer >= 1, got 0"),
        ({"n_style": -1}, "expected n_style to be an integer >= 0, got -1"),
        ({"n_specific": (1, 2, 3)}, "expected n_specific to have one entry for each of .* got 3"),
        ({"n_specific": {"a": 1, "b": 1, "c": 1}}, "expected exactly two modalities, got .*'c'"),
        ({"change_probability": 0.0}, r"expected change_probability in \(0, 1\], got 0.0; style that never changes is"),
        ({"change_probability": 1.5}, r"expected change_probability in \(0, 1\], got 1.5"),
        ({"slope": 0.0}, r"expected slope in \(0, 1\], got 0.0; at 0 the mixing has no inverse"),
        ({"n_layers": 0}, "expected n_layers to be an integer >= 1, got 0"),
        ({"max_condition": 0.0}, "expected max_condition to be a finite number > 0, got 0.0"),
        ({"max_condition": 1.001}, "expected max_condition that layers of width 15 reach, got 1.001; .* raise it or"),
        ({"form": "published"}, "expected form to be one of .*'paper', 'code'.*, got 'published'"),
        (
            {"form": "code", "max_condition": 5.0},
            "expected max_condition with form='conditioned' alone, got 5.0 with 'co",
        ),
        ({"seed": -1}, "expected seed to be an integer >= 0, got -1"),
    ],
)
def test_errors_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContentStyleProcess(**arguments)


@pytest.mark.parametrize(("arguments", "named"), [({"n_cells": 0}, "n_cells"), ({"n_cells": 1, "seed": -1}, "seed")])
def test_draws_name_what_is_wrong(arguments, named):
    with pytest.raises(ValueError, match=f"expected {named} to be an integer >= [01], got "):
        ContentStyleProcess().sample(**arguments)
