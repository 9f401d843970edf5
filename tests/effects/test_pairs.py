from __future__ import annotations

import numpy as np
from donors import cells

from indiseek.effects import canonical_pairs, log_centered, log_normalized, thinned


def test_what_is_shared_is_found_and_nothing_else():
    some = cells(0)
    pairs = canonical_pairs(*some.values, some.donor)
    assert len(pairs.correlation) == 2
    for score in (pairs.first, pairs.second):
        centered = score - np.array([score[some.donor == d].mean(axis=0) for d in range(16)])[some.donor]
        np.testing.assert_allclose(centered.std(axis=0), 1)


def test_the_correlation_is_that_of_donors_that_did_not_choose_the_axes():
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(10), 15)
    first, second = rng.normal(size=(2, 150, 12))
    pairs = canonical_pairs(first, second, donor, least=-1.0)
    # The cells that chose the first pair agree along it, though the layers have nothing in common.
    assert np.corrcoef(pairs.first[:, 0], pairs.second[:, 0])[0, 1] > 0.4
    assert abs(pairs.correlation[0]) < 0.25
    assert canonical_pairs(first, second, donor).first.shape == (150, 0)


def test_differences_between_donors_have_no_part_in_the_axes():
    some = cells(1)
    moved = [x + np.random.default_rng(2).normal(scale=5, size=(16, x.shape[1]))[some.donor] for x in some.values]
    before, after = (canonical_pairs(*values, some.donor) for values in (some.values, moved))
    np.testing.assert_allclose(before.correlation, after.correlation)
    steps = [np.diff(pairs.first[some.donor == 3], axis=0) for pairs in (before, after)]
    np.testing.assert_allclose(np.abs(steps[0]), np.abs(steps[1]), atol=1e-8)


def test_layers_are_scaled_as_they_are_said_to_be():
    counts = np.array([[1, 3, 0], [0, 0, 5]])
    np.testing.assert_allclose(log_normalized(counts).toarray(), np.log1p([[2500, 7500, 0], [0, 0, 10_000]]))
    logs = np.log1p(counts)
    np.testing.assert_allclose(log_centered(counts), logs - logs.mean(axis=1, keepdims=True))


def test_thinned_counts_have_the_depth_of_the_shallowest_donor():
    rng = np.random.default_rng(0)
    donor = np.repeat([0, 1, 2], 200)
    counts = rng.poisson(np.array([2.0, 4.0, 8.0])[donor][:, None], size=(600, 30))
    found = thinned(counts, donor, 1).toarray()
    depth = found.sum(axis=1)
    np.testing.assert_allclose([depth[donor == d].mean() for d in range(3)], depth[donor == 0].mean(), rtol=0.05)
    np.testing.assert_array_equal(found[donor == 0], counts[donor == 0])
    assert (found <= counts).all()
