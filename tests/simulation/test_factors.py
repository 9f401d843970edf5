from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor

from indiseek.simulation import simulate_factors


def _r2(x: np.ndarray, y: np.ndarray, probe) -> float:
    n = len(x) * 3 // 4
    with warnings.catch_warnings():
        # A probe that was stopped after its epochs is good enough here.
        warnings.filterwarnings("ignore", message="Stochastic Optimizer")
        return probe.fit(x[:n], y[:n]).score(x[n:], y[n:])


def _mlp() -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=(128,), learning_rate_init=4e-3, max_iter=60, alpha=1e-5, random_state=0)


@pytest.fixture(scope="module")
def sim():
    return simulate_factors()


def test_default_has_the_sizes_and_scale_that_are_promised(sim):
    assert sim.features["rna"].shape == (8000, 100)
    assert sim.features["prot"].shape == (8000, 50)
    assert sim.shared.shape == (8000, 5)
    for name, x in sim.features.items():
        assert sim.specific[name].shape == (8000, 5)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.06)
        np.testing.assert_allclose(x.var(axis=0), 1 + 0.1**2, atol=0.08)
    assert sim.shared.dtype == np.float64
    assert sim.mutual_information is None
    assert not sim.clusters


def test_all_factors_are_independent_standard_normal(sim):
    latents = np.hstack([sim.shared, *sim.specific.values()])
    # Each entry of the sample covariance has a standard error of 1 / sqrt(8000) (sqrt 2 times that on the diagonal).
    assert np.abs(np.cov(latents.T) - np.eye(15)).max() < 5 / np.sqrt(8000)
    assert np.abs((latents**4).mean(axis=0) - 3).max() < 5 * np.sqrt(96 / 8000)


def test_modalities_share_the_shared_factors_only(sim):
    rna, prot = sim.features.values()
    # Both see c; neither sees the other's private factors.
    for x, own, other in ((rna, "rna", "prot"), (prot, "prot", "rna")):
        assert _r2(x, sim.shared, Ridge()) > 0.9
        assert _r2(x, sim.specific[own], Ridge()) > 0.9
        assert abs(_r2(x, sim.specific[other], Ridge())) < 0.02


def test_shared_factors_are_a_nonlinear_but_recoverable_function_of_features(sim):
    linear, mlp = (_r2(sim.features["prot"], sim.shared, probe) for probe in (Ridge(), _mlp()))
    assert 0.93 < linear < 0.975
    assert mlp > 0.975
    # A nonlinear probe recovers much of what a linear one misses.
    assert 1 - mlp < 0.65 * (1 - linear)


def test_larger_gain_is_less_linear():
    r2 = [
        _r2(s.features["prot"], s.shared, Ridge())
        for s in (simulate_factors(2000, gain=gain, seed=4) for gain in (0.1, 1.0, 2.5))
    ]
    assert r2[0] > r2[1] + 0.02 > r2[2] + 0.05


def test_noise_is_added_to_a_signal_that_does_not_depend_on_it():
    clean, noisy = (simulate_factors(4000, noise=noise, seed=2) for noise in (0.0, 0.3))
    for name in clean.features:
        difference = noisy.features[name] - clean.features[name]
        assert difference.std() == pytest.approx(0.3, abs=0.005)
        assert abs(np.corrcoef(difference[:, 0], clean.features[name][:, 0])[0, 1]) < 0.08


def test_private_clusters_are_seen_by_their_own_modality_only():
    sim = simulate_factors(3000, 5, (3, 3), n_clusters=3, seed=1)
    assert set(sim.clusters) == {"rna", "prot"}
    for name, other in (("rna", "prot"), ("prot", "rna")):
        state = sim.clusters[name]
        assert np.bincount(state, minlength=3) == pytest.approx([1000] * 3, abs=130)
        codes = PCA(15, random_state=0).fit_transform(sim.features[name])
        assert adjusted_rand_score(state, KMeans(3, n_init=5, random_state=0).fit_predict(codes)) > 0.98
        near = KNeighborsClassifier(15).fit(sim.features[other][:2000], state[:2000])
        assert near.score(sim.features[other][2000:], state[2000:]) < 0.4
        assert _r2(sim.features[name], sim.specific[name], Ridge()) > 0.85
        assert _r2(sim.features[name], sim.shared, Ridge()) > 0.85
    assert adjusted_rand_score(*sim.clusters.values()) < 0.01


def test_asymmetric_sizes_and_names():
    sim = simulate_factors(20, 2, {"rna": 3, "atac": 0, "adt": 4}, (6, 7, 8))
    assert {name: x.shape for name, x in sim.features.items()} == {"rna": (20, 6), "atac": (20, 7), "adt": (20, 8)}
    assert [z.shape for z in sim.specific.values()] == [(20, 3), (20, 0), (20, 4)]
    by_name = simulate_factors(20, 2, (3, 4), {"adt": 6, "rna": 7})
    assert {name: z.shape[1] for name, z in by_name.specific.items()} == {"adt": 3, "rna": 4}


def test_seed_alone_decides():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    a, b, c = (simulate_factors(30, n_clusters=2, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a.shared, b.shared)
    assert not np.allclose(a.shared, c.shared)
    for name in a.features:
        np.testing.assert_array_equal(a.features[name], b.features[name])
        np.testing.assert_array_equal(a.clusters[name], b.clusters[name])
        assert not np.allclose(a.features[name], c.features[name])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_more_cells_only_add_cells():
    few, many = (simulate_factors(n, n_clusters=3, seed=3) for n in (40, 90))
    np.testing.assert_array_equal(few.shared, many.shared[:40])
    for name in few.features:
        np.testing.assert_allclose(few.features[name], many.features[name][:40], atol=1e-5)


def test_mudata_holds_data_and_truth_as_copies():
    sim = simulate_factors(30, 2, {"rna": 3, "adt": 1}, {"rna": 6, "adt": 5}, n_clusters=3)
    mdata = sim.to_mudata()
    assert mdata.shape == (30, 11)
    for name, x in sim.features.items():
        adata = mdata[name]
        assert adata.X.dtype == np.float32
        np.testing.assert_array_equal(adata.X, x)
        np.testing.assert_array_equal(adata.obsm["true_shared"], sim.shared)
        np.testing.assert_array_equal(adata.obsm["true_specific"], sim.specific[name])
        assert isinstance(adata.obs["true_cluster"].dtype, pd.CategoricalDtype)
        assert adata.obs["true_cluster"].astype(int).tolist() == sim.clusters[name].tolist()
        assert adata.var_names[0] == f"{name}_0"
    mdata["rna"].X[:] = 0
    mdata["rna"].obsm["true_shared"][:] = 0
    assert np.any(sim.features["rna"]) and np.any(sim.shared)
    assert "true_cluster" not in simulate_factors(30).to_mudata()["rna"].obs


def test_result_is_frozen(sim):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sim.shared = None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_cells": 0}, "expected n_cells to be an integer >= 1, got 0"),
        ({"n_shared": 2.5}, "expected n_shared to be an integer >= 1, got 2.5"),
        ({"n_specific": (5, -1)}, r"expected n_specific\['prot'\] to be an integer >= 0, got -1"),
        ({"n_features": (5, 0)}, r"expected n_features\['prot'\] to be an integer >= 1, got 0"),
        ({"n_features": (5, 6, 7)}, "expected n_features to have one entry for each of .* got 3; pass a mapping"),
        ({"n_specific": {"rna": 2, "adt": 3}, "n_features": {"rna": 2, "prot": 3}}, "to have the modalities .*'adt'"),
        ({"n_specific": {"rna": 2}}, "expected at least two modalities"),
        ({"noise": -0.1}, "expected noise to be a finite number >= 0, got -0.1"),
        ({"gain": float("nan")}, "expected gain to be a finite number > 0, got nan"),
        ({"separation": 0.0}, "expected separation to be a finite number > 0, got 0.0"),
        ({"n_clusters": 1}, "expected n_clusters to be an integer >= 2, got 1"),
        ({"n_hidden": 0}, "expected n_hidden to be an integer >= 1, got 0"),
        ({"seed": True}, "expected seed to be an integer >= 0, got True"),
    ],
)
def test_errors_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_factors(**arguments)


THREE = ("rna", "prot", "atac")


def test_what_two_of_three_have_in_common_the_third_has_not():
    arguments = (2000, 2, dict.fromkeys(THREE, 2), dict.fromkeys(THREE, 40))
    sim, without = simulate_factors(*arguments, n_paired=1), simulate_factors(*arguments)
    assert list(sim.paired) == [("rna", "prot"), ("rna", "atac"), ("prot", "atac")]
    for pair, factors in sim.paired.items():
        assert factors.shape == (2000, 1)
        for name, x in sim.features.items():
            found = _r2(x, factors, Ridge(1.0))
            assert found > 0.6 if name in pair else found < 0.05
    # Whoever has them, all else is drawn as it was.
    np.testing.assert_array_equal(sim.shared, without.shared)
    for name in THREE:
        np.testing.assert_array_equal(sim.specific[name], without.specific[name])
    assert not without.paired
    mdata = sim.to_mudata()
    np.testing.assert_array_equal(
        mdata["prot"].obsm["true_paired"], np.hstack([sim.paired["rna", "prot"], sim.paired["prot", "atac"]])
    )
    assert "true_paired" not in without.to_mudata()["rna"].obsm


def test_two_modalities_have_no_third_one():
    with pytest.raises(ValueError, match=r"expected n_paired of 0 for \['rna', 'prot'\], got 1; "):
        simulate_factors(200, n_paired=1)
    with pytest.raises(ValueError, match="expected n_paired to be an integer >= 0, got -1"):
        simulate_factors(200, n_paired=-1)
