from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from indiseek.data import CLR, TRANSFORMS, LogNormalizePCA, Scale, _transforms
from indiseek.data._components import highly_variable
from indiseek.data._disk import CHUNK_CELLS, row_chunks

ALL = [Scale, CLR, functools.partial(LogNormalizePCA, n_top_features=80, n_components=7)]
EACH = pytest.mark.parametrize("make", ALL, ids=["scale", "clr", "log-normalize-pca"])


@pytest.fixture(scope="module")
def counts(real_cells) -> sparse.csr_matrix:
    return real_cells["rna"].X


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.sort(np.random.default_rng(1).choice(600, 400, replace=False))


def _fitted(make, values, rows):
    transform = make()
    transform.fit(values, rows)
    return transform


@EACH
def test_sparse_and_dense_values_give_the_same_features(make, counts, rows):
    from_sparse = _fitted(make, counts, rows).apply_to(counts)
    from_dense = _fitted(make, counts.toarray(), rows).apply_to(counts.toarray())
    torch.testing.assert_close(from_sparse, from_dense, rtol=1e-3, atol=1e-3)


@EACH
def test_pieces_of_any_size_give_the_same_features(make, counts, rows, monkeypatch):
    whole = _fitted(make, counts, rows)
    features = whole.apply_to(counts)
    monkeypatch.setattr(_transforms, "row_chunks", functools.partial(_transforms.row_chunks, size=37))
    monkeypatch.setattr(_transforms, "STEP_CELLS", 10)
    torch.testing.assert_close(whole.apply_to(counts), features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(_fitted(make, counts, rows).apply_to(counts), features, rtol=1e-3, atol=1e-3)


@EACH
def test_cells_in_any_order_are_read_in_that_of_the_values(make, counts, rows, monkeypatch):
    transform = _fitted(make, counts, rows)
    wanted = np.random.default_rng(0).permutation(600)[:500]
    read = []

    def spy(values, rows=None, **settings):
        read.extend(rows if values is counts else [])
        return row_chunks(values, rows, **settings)

    monkeypatch.setattr(_transforms, "row_chunks", spy)
    features = transform.apply_to(counts, wanted)
    np.testing.assert_array_equal(read, np.sort(wanted))
    torch.testing.assert_close(features, transform.apply_to(counts)[wanted])


@EACH
def test_rows_are_transformed_alone(make, counts, rows):
    transform = _fitted(make, counts, rows)
    some = np.array([3, 599, 3, 40])
    torch.testing.assert_close(transform.apply_to(counts, some), transform.apply_to(counts)[some])
    assert transform.apply_to(counts, some).dtype == torch.float32


@EACH
def test_only_training_cells_are_looked_at(make, counts, rows):
    others = np.setdiff1d(np.arange(600), rows)
    changed = counts.toarray()
    changed[others] = 1 + 50 * changed[others][::-1]
    for values in (changed, sparse.csr_matrix(changed)):
        base = counts.toarray() if isinstance(values, np.ndarray) else counts
        ours, theirs = _fitted(make, base, rows).state_dict(), _fitted(make, values, rows).state_dict()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


@EACH
def test_features_of_training_cells_are_centred(make, counts, rows):
    features = _fitted(make, counts, rows).apply_to(counts, rows)
    torch.testing.assert_close(features.mean(0), torch.zeros(features.shape[1]), atol=1e-3, rtol=0)


@EACH
def test_saved_state_comes_back(make, counts, rows):
    transform = _fitted(make, counts, rows)
    copy = TRANSFORMS[transform.name](**transform.config())
    copy.allocate(counts.shape[1], transform.n_output)
    assert not torch.equal(copy.apply_to(counts), transform.apply_to(counts))
    copy.load_state_dict(transform.state_dict())
    assert copy.n_output == transform.n_output == transform.max_output(counts.shape[1])
    torch.testing.assert_close(copy.apply_to(counts), transform.apply_to(counts), rtol=0, atol=0)


@EACH
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_values_are_not_changed(make, form, counts, rows):
    values = counts.toarray() if form == "dense" else counts.copy()
    _fitted(make, values, rows).apply_to(values)
    np.testing.assert_array_equal(values if form == "dense" else values.toarray(), counts.toarray())


@EACH
def test_a_feature_constant_in_the_training_cells_gives_finite_features(make, counts, rows):
    values = counts.toarray()
    values[rows, 5] = 0
    values[np.setdiff1d(np.arange(600), rows)[0], 5] = 7
    values[rows, 6] = 3
    transform = _fitted(make, values, rows)
    assert transform.apply_to(values).isfinite().all()
    assert transform.apply_to(sparse.csr_matrix(values)).isfinite().all()


@EACH
def test_a_second_fit_replaces_the_first(make, counts, rows):
    transform = _fitted(make, counts, np.arange(200))
    transform.fit(counts, rows)
    torch.testing.assert_close(transform.apply_to(counts), _fitted(make, counts, rows).apply_to(counts))


def test_scale_is_the_z_score_of_the_training_cells(counts, rows):
    x = counts.toarray().astype(np.float64)
    expected = (x - x[rows].mean(0)) / x[rows].std(0)
    np.testing.assert_allclose(_fitted(Scale, counts, rows).apply_to(counts), expected, rtol=1e-4, atol=1e-4)


def test_scale_keeps_small_spreads_on_large_means():
    x = (1e3 + 0.5 * np.random.default_rng(0).normal(size=(500, 2))).astype(np.float32)
    features = _fitted(Scale, x, np.arange(500)).apply_to(x)
    torch.testing.assert_close(features.std(0), torch.ones(2), rtol=1e-2, atol=0)


def test_scale_leaves_a_constant_training_feature_unscaled():
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    x[:80, 1], x[80:, 1] = 4.0, 9.0
    features = _fitted(Scale, x, np.arange(80)).apply_to(x)
    np.testing.assert_allclose(features[:, 1], np.repeat([0.0, 5.0], [80, 20]), atol=1e-6)


def test_clr_has_its_closed_form(real_cells, rows):
    x = real_cells["prot"].X.astype(np.float64)
    ratios = np.empty_like(x)
    for i, cell in enumerate(x):
        logs = [np.log(1 + value) for value in cell]
        ratios[i] = [value - sum(logs) / len(logs) for value in logs]
    expected = (ratios - ratios[rows].mean(0)) / ratios[rows].std(0)
    features = _fitted(CLR, real_cells["prot"].X, rows).apply_to(real_cells["prot"].X)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_clr_takes_out_a_common_factor_of_a_cell(real_cells, rows):
    x = real_cells["prot"].X + 200
    transform = _fitted(CLR, x, rows)
    spread = transform.apply_to(x).std()
    difference = (transform.apply_to(50 * x) - transform.apply_to(x)).abs().max()
    assert difference < 0.05 * spread


def test_library_size_is_taken_out(counts, rows):
    transform = _fitted(LogNormalizePCA, counts, rows)
    torch.testing.assert_close(transform.apply_to(7 * counts), transform.apply_to(counts), rtol=1e-3, atol=1e-3)


def _scanpy(counts, rows, n_top: int, target_sum: float = 1e4) -> AnnData:
    adata = AnnData(counts[rows].copy())
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=n_top, flavor="seurat")
    return adata


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target_sum", [1e4, 1e3])
def test_components_are_those_of_scanpy(counts, rows, target_sum):
    n_components = 6
    adata = _scanpy(counts, rows, 80, target_sum)
    picked = adata.var["highly_variable"].to_numpy()
    transform = LogNormalizePCA(n_top_features=80, n_components=n_components, target_sum=target_sum)
    transform.fit(counts, rows)
    assert np.array_equal(transform.loadings.abs().sum(1).numpy() > 0, picked)
    x = sc.pp.scale(adata[:, picked].copy(), copy=True).X
    theirs = PCA(n_components, svd_solver="full").fit_transform(x)
    ours = transform.apply_to(counts, rows).numpy()
    factors = (ours * theirs).sum(0) / (theirs**2).sum(0)
    np.testing.assert_allclose(ours, theirs * factors, atol=5e-3)
    np.testing.assert_allclose(np.abs(factors), np.abs(factors).mean(), rtol=1e-3)
    assert ours.var(axis=0, ddof=1).mean() == pytest.approx(1, rel=1e-3)
    assert (np.diff(ours.var(axis=0)) < 0).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n_top", [10, 80, 250])
def test_highly_variable_features_are_those_of_scanpy(counts, rows, n_top):
    normalised = counts[rows].astype(np.float64).toarray()
    normalised *= 1e4 / normalised.sum(1, keepdims=True)
    picked = highly_variable(normalised.mean(0), normalised.var(0, ddof=1), n_top)
    assert picked.tolist() == np.flatnonzero(_scanpy(counts, rows, n_top).var["highly_variable"]).tolist()


def test_highly_variable_takes_what_there_is_and_unexpressed_features_last():
    mean, variance = np.array([1.0, 0.0, 3.0, 2.0]), np.array([2.0, 0.0, 5.0, 7.0])
    assert highly_variable(mean, variance, 10).tolist() == [0, 1, 2, 3]
    assert 1 not in highly_variable(mean, variance, 3)


def test_components_do_not_exceed_what_cells_and_features_allow(counts):
    transform = LogNormalizePCA(n_top_features=20, n_components=50)
    transform.fit(counts, np.arange(400))
    assert transform.n_output == transform.max_output(300) == 20
    transform = LogNormalizePCA(n_components=300)
    transform.fit(counts, np.arange(60))
    features = transform.apply_to(counts)
    assert features.shape == (600, 59)
    assert features.isfinite().all()


def test_sign_of_a_component_is_fixed_by_its_largest_loading(counts, rows):
    loadings = _fitted(ALL[2], counts, rows).loadings.numpy()
    adata = _scanpy(counts, rows, 80)
    spread = adata.X.toarray().std(0, ddof=1)
    axes = loadings * spread[:, None]
    assert (axes[np.abs(axes).argmax(0), np.arange(7)] > 0).all()


def test_an_empty_cell_gives_finite_features(counts, rows):
    transform = _fitted(LogNormalizePCA, counts, rows)
    empty = np.zeros((2, 300), dtype=np.float32)
    assert transform.apply_to(empty).isfinite().all()
    torch.testing.assert_close(transform.apply_to(sparse.csr_matrix(empty)), transform.apply_to(empty))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_top_features": 0}, "expected n_top_features to be a whole number of at least 1, got 0"),
        ({"n_components": -2}, "expected n_components to be a whole number of at least 1, got -2"),
        ({"target_sum": 0.0}, "expected target_sum to be a number above 0, got 0.0"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LogNormalizePCA(**options)


def test_components_are_fitted_in_the_memory_of_one_chunk_and_two_covariances():
    n_features = 1500
    cells = sparse.random_array((CHUNK_CELLS + 900, n_features), density=0.05, dtype=np.float32, rng=0)
    values = sparse.csr_matrix(cells.tocsr().ceil())
    transform = LogNormalizePCA(n_top_features=n_features, n_components=20)
    tracemalloc.start()
    transform.fit(values, np.arange(len(values.indptr) - 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * CHUNK_CELLS * n_features + 2 * 8 * n_features**2
