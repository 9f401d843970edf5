from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from indiseek.data import LogNormalizePCA, Scale, thinned_views
from indiseek.data._views import _thin

ROWS = np.array([5, 3, 8, 90, 41])


def _counts(n: int = 100, p: int = 30) -> sparse.csr_matrix:
    counts = np.random.default_rng(0).poisson(3.0, size=(n, p)).astype(np.float32)
    return sparse.csr_matrix(counts)


@pytest.mark.parametrize("form", [sparse.csr_matrix, lambda x: x.toarray()], ids=["sparse", "dense"])
def test_views_are_of_the_rows_asked_for_and_differ(form):
    values = form(_counts())
    transform = LogNormalizePCA(n_components=6)
    transform.fit(values, np.arange(100))
    before = values.copy()
    views = thinned_views(values, transform, ROWS, 3, seed=1)
    assert views.shape == (5, 3, 6) and views.isfinite().all()
    assert abs(values - before).max() == 0
    torch.testing.assert_close(thinned_views(values, transform, ROWS, 3, seed=1), views, rtol=0, atol=0)
    assert not torch.allclose(thinned_views(values, transform, ROWS, 3, seed=2), views)
    assert not torch.allclose(views[:, 0], views[:, 1])


def test_without_thinning_and_dropout_a_view_is_the_cell():
    values, transform = _counts(), LogNormalizePCA(n_components=6)
    transform.fit(values, np.arange(100))
    views = thinned_views(values, transform, ROWS, 2, lowest=1.0, dropout=0.0)
    for view in range(2):
        torch.testing.assert_close(views[:, view], transform.apply_to(values, ROWS), rtol=0, atol=0)


def test_other_cells_do_not_matter():
    values, transform = _counts().toarray(), Scale()
    transform.fit(values, np.arange(100))
    changed = values.copy()
    changed[np.setdiff1d(np.arange(100), ROWS)] = 7.0
    for a, b in zip(*(thinned_views(v, transform, ROWS, 2) for v in (values, changed)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("form", [sparse.csr_matrix, lambda x: x], ids=["sparse", "dense"])
def test_counts_keep_their_expected_share_and_poisson_noise(form):
    rng = np.random.default_rng(3)
    counts = np.full((4000, 50), 20.0, dtype=np.float32)
    thinned = _thin(form(counts), 0.5, 0.0, rng)
    thinned = thinned.toarray() if sparse.issparse(thinned) else thinned
    assert thinned.dtype == np.float32 and (thinned == np.rint(thinned)).all() and thinned.max() <= 20
    depth = thinned.mean(axis=1) / 20
    # Uniform on (.5, 1): mean 3/4, variance 1/48, and within a cell 20 q (1 - q).
    assert depth.mean() == pytest.approx(0.75, abs=0.01)
    assert depth.var() == pytest.approx(1 / 48, rel=0.1)
    assert thinned.var(axis=1, ddof=1).mean() == pytest.approx(20 * (0.75 - 0.75**2 - 1 / 48), rel=0.05)


@pytest.mark.parametrize("form", [sparse.csr_matrix, lambda x: x], ids=["sparse", "dense"])
def test_features_are_lost_at_a_rate_of_each_cell(form):
    lost = _thin(form(np.full((4000, 50), 9.0, dtype=np.float32)), 1.0, 0.6, np.random.default_rng(4))
    lost = (lost.toarray() if sparse.issparse(lost) else lost) == 0
    assert lost.mean() == pytest.approx(0.3, abs=0.01)
    # Binomial at one rate would have a standard deviation of .065.
    assert lost.mean(axis=1).std() > 0.15


@pytest.mark.parametrize("form", [sparse.csr_matrix, lambda x: x], ids=["sparse", "dense"])
def test_a_view_never_loses_every_count(form):
    counts = np.ones((500, 4), dtype=np.float32)
    thinned = _thin(form(counts), 1e-6, 0.999, np.random.default_rng(5))
    thinned = thinned.toarray() if sparse.issparse(thinned) else thinned
    assert thinned.dtype == np.float32
    whole = (thinned == 1).all(axis=1)
    assert 0 < whole.sum() < 500 and (thinned[~whole].sum(axis=1) > 0).all()
