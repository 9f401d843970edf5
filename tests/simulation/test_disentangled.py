from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from indiseek import metrics
from indiseek.simulation import simulate_disentangled

N_TRAIN = 4000


def _accuracy(code: np.ndarray, label: np.ndarray) -> float:
    model = LogisticRegression(max_iter=500).fit(code[:N_TRAIN], label[:N_TRAIN])
    return model.score(code[N_TRAIN:], label[N_TRAIN:])


def test_sizes_are_those_asked_for_and_labels_are_halves():
    s = simulate_disentangled(n_cells=301, n_latent=4, n_features=9)
    assert {name: x.shape for name, x in s.features.items()} == {"rna": (301, 9), "prot": (301, 9)}
    assert s.shared.shape == (301, 4)
    assert {name: z.shape for name, z in s.specific.items()} == {"rna": (301, 4), "prot": (301, 4)}
    assert set(s.labels) == {"shared", "rna", "prot"}
    for label in s.labels.values():
        assert label.sum() == 150 and set(label) == {0, 1}


def test_latents_are_independent_with_variance_one_half():
    s = simulate_disentangled(n_cells=20_000, n_latent=5)
    latents = np.hstack([s.shared, *s.specific.values()])
    np.testing.assert_allclose(np.cov(latents.T), 0.5 * np.eye(15), atol=0.03)


def test_published_modalities_are_linear_in_their_own_and_the_shared_latents():
    s = simulate_disentangled(n_cells=500, n_latent=6, n_features=8)
    for name, x in s.features.items():
        own = np.hstack([s.specific[name], s.shared])
        mixture, *_ = np.linalg.lstsq(own, x, rcond=None)
        np.testing.assert_allclose(own @ mixture, x, atol=1e-4)
        assert np.abs(mixture).max() <= 1 + 1e-4 and abs(mixture.mean()) < 0.2


def test_labels_are_seen_in_their_own_latents_only():
    s = simulate_disentangled(n_cells=6000, n_latent=8)
    latents = {"shared": s.shared, **s.specific}
    for name, label in s.labels.items():
        for other, code in latents.items():
            accuracy = _accuracy(code, label)
            assert accuracy > 0.7 if name == other else accuracy < 0.55


def test_cca_solves_the_published_form_and_fails_on_the_cosine():
    found = {}
    for gain in (None, 3.0):
        s = simulate_disentangled(n_cells=6000, n_latent=8, n_features=60, gain=gain, noise=0.2 if gain else 0.0)
        parts = [x[rows] for rows in (slice(N_TRAIN), slice(None)) for x in s.features.values()]
        found[gain] = _accuracy(metrics.cca(*parts, n_components=8)[0], s.labels["shared"])
        ceiling = _accuracy(s.shared, s.labels["shared"])
    assert found[None] == pytest.approx(ceiling, abs=0.01)
    assert found[3.0] < ceiling - 0.15


def test_noise_is_added_to_the_same_signal():
    clean, noisy = (simulate_disentangled(n_cells=4000, n_latent=3, noise=noise, gain=1.0) for noise in (0.0, 0.5))
    for name in clean.features:
        difference = noisy.features[name] - clean.features[name]
        assert difference.std() == pytest.approx(0.5, rel=0.02)
        assert np.abs(clean.features[name]).max() <= 1
    np.testing.assert_array_equal(noisy.labels["shared"], clean.labels["shared"])


def test_seed_fixes_everything_and_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    first, second, other = (simulate_disentangled(n_cells=50, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(first.features["rna"], second.features["rna"])
    assert not np.allclose(first.features["rna"], other.features["rna"])
    assert not np.allclose(first.features["rna"], first.features["prot"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_cells": 1}, "expected n_cells to be an integer >= 2, got 1"),
        ({"n_latent": 0}, "expected n_latent to be an integer >= 1, got 0"),
        ({"n_features": 2.5}, "expected n_features to be an integer >= 1, got 2.5"),
        ({"gain": 0.0}, "expected gain to be a finite number > 0, got 0.0"),
        ({"noise": -1.0}, "expected noise to be a finite number >= 0, got -1.0"),
        ({"seed": -1}, "expected seed to be an integer >= 0, got -1"),
    ],
)
def test_wrong_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_disentangled(**arguments)
