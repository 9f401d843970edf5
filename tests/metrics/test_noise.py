from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from indiseek.metrics import noise_share, overdispersion, thin_counts


def test_halves_add_up_and_are_binomial():
    counts = np.random.default_rng(0).poisson(20.0, (500, 8))
    first, second = thin_counts(counts, seed=1)
    assert (first + second == counts).all()
    assert first.mean() == pytest.approx(10.0, abs=0.2)
    # Poisson thinning: the halves are independent, their correlation 0.
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_counts_keep_their_kind(kind):
    dense = np.random.default_rng(2).poisson(1.0, (30, 7)).astype(np.float32)
    counts = kind(dense)
    first, second = thin_counts(counts, seed=3)
    assert type(first) is type(second) is type(counts)
    assert first.dtype == np.float32
    assert (first.toarray() + second.toarray() == dense).all()
    assert (counts.toarray() == dense).all()
    assert 0 < first.sum() < dense.sum()


def test_thinning_depends_on_the_seed_alone():
    counts = np.random.default_rng(4).poisson(5.0, (20, 3))
    assert (thin_counts(counts, seed=1)[0] == thin_counts(counts, seed=1)[0]).all()
    assert (thin_counts(counts, seed=1)[0] != thin_counts(counts, seed=2)[0]).any()


@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan])
def test_counts_are_required(bad):
    with pytest.raises(ValueError, match=r"expected non-negative integer counts, got other values; do pass raw counts"):
        thin_counts(np.array([[1.0, bad]]))


def test_noise_share_is_that_of_the_full_count():
    # Poisson counts of mean m around a state of variance s: noise share m / (m + s) at full depth.
    rng = np.random.default_rng(5)
    rate = 40.0 * rng.gamma(4.0, 0.25, (20000, 1)) * np.array([1.0, 0.1])
    counts = rng.poisson(rate)
    expected = rate.mean(axis=0) / (rate.mean(axis=0) + rate.var(axis=0))
    np.testing.assert_allclose(noise_share(*thin_counts(counts)), expected, atol=0.02)


def test_noise_share_of_the_remainder():
    rng = np.random.default_rng(6)
    known, private = rng.standard_normal((2, 1500, 1))
    state = known + private
    halves = [state + np.sqrt(2.0) * rng.standard_normal((1500, 1)) for _ in range(2)]
    # Full depth has noise variance 1: 1/3 of all, 1/2 of what the known part leaves.
    assert noise_share(*halves)[0] == pytest.approx(1 / 3, abs=0.04)
    assert noise_share(*halves, given=known)[0] == pytest.approx(1 / 2, abs=0.05)


def test_extremes():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((300, 2))
    np.testing.assert_allclose(noise_share(x, x), 0.0, atol=1e-12)
    assert noise_share(x, rng.standard_normal((300, 2))).min() > 0.7
    assert noise_share(x, -x).tolist() == [1.0, 1.0]
    assert np.isnan(noise_share(np.ones((10, 1)), np.ones((10, 1)))).all()


def test_errors():
    x = np.random.default_rng(8).standard_normal((30, 3))
    with pytest.raises(ValueError, match=r"expected the same features in both halves, got 3 and 2"):
        noise_share(x, x[:, :2])
    with pytest.raises(ValueError, match=r"got half_a 30, half_b 29"):
        noise_share(x, x[1:])
    with pytest.raises(ValueError, match=r"got half_a 30, given 29"):
        noise_share(x, x, given=x[1:])


def test_overdispersed_counts_need_a_coin_of_their_own():
    rng = np.random.default_rng(4)
    n, phi = 40_000, np.array([0.0, 0.5, 0.5])
    mean = np.exp(0.5 * rng.standard_normal((n, 3)) + np.log(20))

    def draw():
        size = 1 / np.maximum(phi, 1e-9)
        return rng.poisson(mean * rng.gamma(size, 1 / size, (n, 3)))

    first, second = draw(), draw()
    found = overdispersion(first, second)
    np.testing.assert_allclose(found, phi, atol=0.06)
    np.testing.assert_allclose(overdispersion(sparse.csr_matrix(first), sparse.csc_matrix(second)), found)
    # What another draw of the cells would not repeat is what halves with the right coins say.
    truth = 1 - np.array([np.corrcoef(first[:, j], second[:, j])[0, 1] for j in range(3)])
    own = noise_share(*thin_counts(first, overdispersion=phi))
    fair = noise_share(*thin_counts(first))
    np.testing.assert_allclose(own, truth, atol=0.06)
    assert (fair[1:] < truth[1:] - 0.2).all()
    half, other = thin_counts(sparse.csr_matrix(first), overdispersion=phi, seed=1)
    assert (half + other != sparse.csr_matrix(first)).nnz == 0
    np.testing.assert_allclose(noise_share(half.toarray(), other.toarray()), truth, atol=0.06)
    with pytest.raises(ValueError, match=r"expected overdispersion as 3 values of at least 0, .* got shape \(2,\)"):
        thin_counts(first, overdispersion=phi[:2])
    with pytest.raises(ValueError, match=r"expected two draws of the same cells and features, got shapes"):
        overdispersion(first, second[1:])
