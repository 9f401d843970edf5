from __future__ import annotations

import numpy as np
import pytest

from indiseek.simulation import simulate_gaussian


def _plug_in_information(x: np.ndarray, y: np.ndarray) -> float:
    """Gaussian mutual information from the sample covariance, in nats."""
    d = x.shape[1]
    covariance = np.cov(np.hstack([x, y]).astype(np.float64).T)
    log_det = lambda a: np.linalg.slogdet(a)[1]  # noqa: E731
    return 0.5 * (log_det(covariance[:d, :d]) + log_det(covariance[d:, d:]) - log_det(covariance))


@pytest.mark.parametrize(("rho", "n_shared"), [(0.0, 2), (0.5, 1), (0.8, 5), (0.99, 3)])
@pytest.mark.parametrize("rotate", [True, False])
def test_information_matches_the_sample_covariance(rho, n_shared, rotate):
    n_cells = 40_000
    sim = simulate_gaussian(n_cells, n_shared, (4, 1), rho=rho, rotate=rotate, seed=1)
    assert sim.features["rna"].shape == (n_cells, n_shared + 4)
    assert sim.features["prot"].shape == (n_cells, n_shared + 1)
    assert sim.mutual_information == pytest.approx(-n_shared / 2 * np.log(1 - rho**2))
    estimate = _plug_in_information(*sim.features.values())
    # The plug-in estimate is biased upwards by d1 d2 / 2n; its standard deviation is about rho sqrt(d / n).
    bias = (n_shared + 4) * (n_shared + 1) / (2 * n_cells)
    assert abs(estimate - bias - sim.mutual_information) < 4 * rho * np.sqrt(n_shared / n_cells) + bias


def test_closed_form_value():
    assert simulate_gaussian(10, 2, rho=0.6).mutual_information == pytest.approx(0.44628710262841953)


def test_unrotated_features_are_the_latents_in_order():
    sim = simulate_gaussian(20_000, 2, {"rna": 3, "adt": 1}, rho=0.7, rotate=False, seed=3)
    for name, n_private in (("rna", 3), ("adt", 1)):
        x = sim.features[name]
        assert sim.specific[name].shape == (20_000, n_private)
        np.testing.assert_array_equal(x[:, 2:], sim.specific[name].astype(np.float32))
        for k in range(2):
            assert np.corrcoef(x[:, k], sim.shared[:, k])[0, 1] == pytest.approx(np.sqrt(0.7), abs=0.02)
    across = np.corrcoef(sim.features["rna"].T, sim.features["adt"].T)[:5, 5:]
    np.testing.assert_allclose(across, 0.7 * np.eye(5, 3) * (np.arange(3) < 2), atol=0.03)


def test_rotation_keeps_lengths_and_does_not_depend_on_cells():
    plain = simulate_gaussian(50, 3, (4, 2), rotate=False, seed=5).features["rna"].astype(np.float64)
    rotated = simulate_gaussian(50, 3, (4, 2), seed=5).features["rna"].astype(np.float64)
    np.testing.assert_allclose(rotated @ rotated.T, plain @ plain.T, atol=1e-4)
    assert not np.allclose(rotated, plain)
    np.testing.assert_array_equal(simulate_gaussian(30, 3, (4, 2), seed=5).features["rna"], rotated[:30].astype("f4"))


def test_seed_alone_decides():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    a, b, c = (simulate_gaussian(20, seed=seed) for seed in (7, 7, 8))
    for name in a.features:
        np.testing.assert_array_equal(a.features[name], b.features[name])
        assert not np.allclose(a.features[name], c.features[name])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"expected rho in \[0, 1\), got 1"):
        simulate_gaussian(10, rho=1)
    with pytest.raises(ValueError, match="expected exactly two modalities, got .*'atac'"):
        simulate_gaussian(10, n_specific={"rna": 1, "prot": 1, "atac": 1})
    with pytest.raises(ValueError, match="expected n_shared to be an integer >= 1, got 0"):
        simulate_gaussian(10, 0)
    with pytest.raises(ValueError, match="expected seed to be an integer >= 0"):
        simulate_gaussian(10, seed=-1)
