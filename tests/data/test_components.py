"""Components that hold signal, in counts and other values of known rank."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from indiseek.data import (
    CLR,
    CLRPCA,
    TRANSFORMS,
    LogNormalizePCA,
    Scale,
    ScalePCA,
    Transform,
    count_components,
    reconstructed_components,
)

N_CELLS, RANK = 900, 4


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    rate = np.exp(1.0 + 0.6 * rng.standard_normal((N_CELLS, RANK)) @ rng.standard_normal((RANK, 60)) / 1.5)
    return rng.poisson(rate).astype(np.float32)


@pytest.mark.parametrize("transform", [LogNormalizePCA(n_components=20), CLRPCA(n_components=20)])
def test_counts_of_four_programmes_have_four_components(counts, transform):
    found = count_components(counts, np.arange(N_CELLS), transform)
    assert RANK <= found.n_components <= RANK + 1
    assert found.n_components == found.explained.argmax() + 1
    assert found.reliability[:RANK].min() > 0.7 and found.reliability[RANK + 2 :].max() < 0.5
    assert found.explained.shape == found.reliability.shape == (20,)
    # The transform that was given stays unfitted.
    assert not hasattr(transform, "loadings")


def test_sparse_counts_and_other_rows_change_nothing(counts):
    rows = np.arange(100, 700)
    rng = np.random.default_rng(1)
    other = counts.copy()
    other[:100] = rng.poisson(30, (100, counts.shape[1]))
    dense = count_components(counts, rows, CLRPCA(n_components=10), max_cells=300, seed=3)
    again = count_components(other, rows, CLRPCA(n_components=10), max_cells=300, seed=3)
    assert dense.n_cells == 300
    np.testing.assert_array_equal(dense.explained, again.explained)
    full = sparse.csr_matrix(counts)
    thin = count_components(full, rows, CLRPCA(n_components=10), max_cells=300, seed=3)
    # Zeros take no random numbers, so that the halves are others.
    np.testing.assert_allclose(thin.reliability[:RANK], dense.reliability[:RANK], atol=0.1)
    assert full.data.sum() == counts.sum()


def test_noise_has_one_component():
    noise = np.random.default_rng(0).poisson(5.0, (600, 40)).astype(np.float32)
    found = count_components(noise, np.arange(600), CLRPCA(n_components=15))
    assert found.n_components == 1 and found.explained[-1] < 0.0


def test_values_that_are_no_counts(counts):
    rng = np.random.default_rng(2)
    loadings = rng.standard_normal((RANK, 30))
    values = (rng.standard_normal((N_CELLS, RANK)) @ loadings + rng.standard_normal((N_CELLS, 30))).astype(np.float32)
    found = reconstructed_components(values, np.arange(N_CELLS), n_max=12)
    assert found.n_components == RANK
    assert found.reliability[:RANK].min() > 0.4 and found.reliability[RANK + 1 :].max() < 0.3
    with pytest.raises(ValueError, match="reconstructed_components"):
        count_components(counts, np.arange(N_CELLS), Scale())


def test_independent_features_are_all_kept():
    values = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)
    assert reconstructed_components(values, np.arange(500)).n_components == 12


@pytest.mark.parametrize("find", [lambda v, r: count_components(v, r, CLRPCA()), reconstructed_components])
def test_too_few_cells(find, counts):
    with pytest.raises(ValueError, match="at least 20 training cells, got 19"):
        find(counts, np.arange(19))


@pytest.mark.parametrize("transform", [LogNormalizePCA(), CLRPCA()])
def test_counts_get_as_many_components_as_hold_signal(counts, transform):
    rows = np.arange(50, 800)
    transform.fit(counts, rows)
    whole = type(transform)(n_components=transform.max_output(counts.shape[1]))
    assert transform.n_output == count_components(counts, rows, whole).n_components
    assert RANK <= transform.n_output <= RANK + 1
    # What was found comes back from a file, and is not looked for again.
    copy = _reloaded(transform, counts)
    assert copy.n_components is None
    np.testing.assert_array_equal(copy.apply_to(counts).numpy(), transform.apply_to(counts).numpy())


def test_other_values_get_as_many_components_as_foretell_each_other():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((N_CELLS, RANK)) @ rng.standard_normal((RANK, 80)) * 3.0
    values = (5.0 + values + rng.standard_normal(values.shape)).astype(np.float32)
    rows = np.arange(0, N_CELLS, 2)
    transform = ScalePCA()
    transform.fit(values, rows)
    assert transform.n_output == RANK
    scaled = (values - values[rows].mean(axis=0)) / values[rows].std(axis=0, ddof=1)
    axes = np.linalg.svd(scaled[rows], full_matrices=False)[2][:RANK]
    expected = scaled @ axes.T
    expected /= np.sqrt(expected[rows].var(axis=0, ddof=1).mean())
    np.testing.assert_allclose(np.abs(transform.apply_to(values).numpy()), np.abs(expected), atol=5e-3)
    given = ScalePCA(n_components=7)
    given.fit(sparse.csr_matrix(values), rows)
    assert given.n_output == 7
    np.testing.assert_array_equal(_reloaded(given, values).apply_to(values).numpy(), given.apply_to(values).numpy())


def test_codes_that_want_more_components_get_them(counts):
    transform = LogNormalizePCA(n_top_features=50).with_at_least(11)
    transform.fit(counts, np.arange(N_CELLS))
    assert transform.n_output == 11 and transform.config()["n_top_features"] == 50
    # Of too few cells to look for signal, no more than are asked for.
    few = CLRPCA()
    few.fit(counts, np.arange(15))
    assert few.n_output == 2
    with pytest.raises(ValueError, match="expected at_least to be a whole number of at least 1, got 0"):
        CLRPCA(at_least=0)


def _reloaded(transform: Transform, values: np.ndarray) -> Transform:
    copy = TRANSFORMS[transform.name](**transform.config())
    copy.allocate(values.shape[1], transform.n_output)
    copy.load_state_dict(transform.state_dict())
    return copy


def test_components_of_log_ratios_are_those_of_the_scaled_log_ratios(counts):
    rows = np.arange(0, N_CELLS, 2)
    ratios, components = CLR(), CLRPCA(n_components=6)
    ratios.fit(counts, rows)
    components.fit(sparse.csr_matrix(counts), rows)
    x = ratios.apply_to(counts).double().numpy()
    got = components.apply_to(counts).double().numpy()
    _, _, axes = np.linalg.svd(x[rows], full_matrices=False)
    expected = x @ axes[:6].T
    expected /= np.sqrt(expected[rows].var(axis=0, ddof=1).mean())
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=5e-3)
    np.testing.assert_allclose(got[rows].mean(axis=0), 0.0, atol=1e-4)
    assert np.mean(got[rows].var(axis=0)) == pytest.approx(1.0, abs=0.01)
    assert components.output_names(["a"] * 60) == [f"PC{i + 1}" for i in range(6)]


def test_components_of_log_ratios_are_at_most_one_fewer_than_the_features(counts):
    few = CLRPCA(n_components=50)
    few.fit(counts[:, :5], np.arange(N_CELLS))
    assert few.n_output == few.rank == 4 == few.max_output(5)
    copy = _reloaded(few, counts[:, :5])
    np.testing.assert_array_equal(copy.apply_to(counts[:, :5]).numpy(), few.apply_to(counts[:, :5]).numpy())
    with pytest.raises(ValueError, match="at least 1"):
        CLRPCA(n_components=0)


def test_of_very_many_cells_the_axes_are_those_of_some(counts, monkeypatch):
    few, some = CLRPCA(n_components=RANK), np.linspace(0, N_CELLS - 1, 300).astype(np.intp)
    few.fit(counts, some)
    monkeypatch.setattr("indiseek.data._components._MOST_FOR_AXES", 300)
    many, whole = CLRPCA(n_components=RANK), np.arange(N_CELLS)
    many.fit(counts, whole)
    np.testing.assert_array_equal(many.loadings, few.loadings)
    # The number of components is still found in all of them, and the axes are near to those of all.
    seen = []
    monkeypatch.setattr(CLRPCA, "_number", lambda self, values, rows: seen.append(len(rows)) or RANK)
    CLRPCA().fit(counts, whole)
    assert seen == [N_CELLS]
    monkeypatch.undo()
    every = CLRPCA(n_components=RANK)
    every.fit(counts, whole)
    turned = np.linalg.svd(np.linalg.qr(many.loadings)[0].T @ np.linalg.qr(every.loadings)[0])[1]
    assert turned.min() > 0.95 and np.abs(many.loadings.numpy() - every.loadings.numpy()).max() > 1e-4
