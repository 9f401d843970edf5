from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA, PLSSVD

from indiseek.metrics import cca, foscttm, pls_svd


def _modalities(seed=0, n=400):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 3))
    a = shared @ rng.standard_normal((3, 8)) + rng.standard_normal((n, 8))
    b = shared @ rng.standard_normal((3, 5)) + rng.standard_normal((n, 5))
    return a[:300], b[:300], a[300:], b[300:]


def _abs_correlation(x, y):
    return np.array([abs(np.corrcoef(x[:, k], y[:, k])[0, 1]) for k in range(x.shape[1])])


def test_cca_equals_sklearn():
    train_a, train_b, test_a, test_b = _modalities()
    reference = CCA(n_components=4, max_iter=5000, tol=1e-12).fit(train_a, train_b)
    expected = reference.transform(test_a, test_b)
    ours = cca(train_a, train_b, test_a, test_b, n_components=4)
    for got, want in zip(ours, expected, strict=True):
        assert got.shape == (100, 4)
        np.testing.assert_allclose(_abs_correlation(got, want), 1.0, atol=1e-5)


def test_cca_codes_are_white_with_canonical_correlations():
    train_a, train_b, _, _ = _modalities(1)
    a, b = cca(train_a, train_b, train_a, train_b, n_components=5)
    np.testing.assert_allclose(np.cov(a.T), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(np.cov(b.T), np.eye(5), atol=1e-4)
    cross = a.T @ b / (len(a) - 1)
    np.testing.assert_allclose(cross, np.diag(np.diag(cross)), atol=1e-4)
    assert (np.diff(np.diag(cross)) < 0).all()


def test_cca_ignores_an_invertible_map_of_the_features():
    train_a, train_b, test_a, test_b = _modalities(2)
    mix = np.random.default_rng(3).standard_normal((8, 8))
    before = cca(train_a, train_b, test_a, test_b, n_components=3)
    after = cca(train_a @ mix, train_b, test_a @ mix, test_b, n_components=3)
    np.testing.assert_allclose(_abs_correlation(before[0], after[0]), 1.0, atol=1e-4)


def test_pls_svd_equals_sklearn():
    train_a, train_b, test_a, test_b = _modalities(4)
    reference = PLSSVD(n_components=4).fit(train_a, train_b)
    for got, want in zip(
        pls_svd(train_a, train_b, test_a, test_b, n_components=4), reference.transform(test_a, test_b), strict=True
    ):
        np.testing.assert_allclose(np.abs(got), np.abs(want), atol=1e-8)


@pytest.mark.parametrize("method", [cca, pls_svd])
def test_codes_match_test_cells(method):
    train_a, train_b, test_a, test_b = _modalities(5)
    a, b = method(train_a, train_b, test_a, test_b, n_components=3)
    assert foscttm(a, b) < 0.2
    assert foscttm(a, b[::-1]) > 0.4


@pytest.mark.parametrize("method", [cca, pls_svd])
def test_constant_and_duplicated_features(method):
    train_a, train_b, test_a, test_b = _modalities(6)
    wide, wide_test = (
        np.hstack([train_a, train_a[:, :2], np.ones((300, 1))]),
        np.hstack([test_a, test_a[:, :2], np.ones((100, 1))]),
    )
    a, _ = method(wide, train_b, wide_test, test_b, n_components=3)
    assert np.isfinite(a).all()


@pytest.mark.parametrize("method", [cca, pls_svd])
def test_errors(method):
    train_a, train_b, test_a, test_b = _modalities(7)
    with pytest.raises(
        ValueError, match=r"expected n_components to be a whole number of at least 1 and of at most 5, got 6"
    ):
        method(train_a, train_b, test_a, test_b, n_components=6)
    with pytest.raises(ValueError, match=r"got train_a 299, train_b 300; do subset"):
        method(train_a[1:], train_b, test_a, test_b, n_components=2)
    with pytest.raises(ValueError, match=r"expected the same features in train_b and test_b, got 5 and 4"):
        method(train_a, train_b, test_a, test_b[:, :4], n_components=2)
