from __future__ import annotations

import numpy as np
import pytest
from donors import Cells, cells
from scipy import sparse, stats

from indiseek.effects import MIN_COORDINATION, coordination, profiles
from indiseek.effects._coordination import _rank_correlations, _some


def row(some: Cells, **others: int) -> dict:
    # Features 0 to 3 have no part in the components, as weak features have none in the first of many.
    components = [values[:, 4:] for values in some.values]
    found = profiles(some.values, components, some.donor)
    return coordination(some.values, components, some.donor, found, some.labels, **{"n_permutations": 99} | others)


def is_called(found: dict) -> bool:
    return found["pvalue"] <= 0.05 and found["share"] > MIN_COORDINATION


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        ({"first": 1.5, "second": 1.2, "halves": 1}, True),
        ({"first": 1.5, "second": 1.2, "halves": 2}, False),
        ({"first": 0.75, "second": 0.6}, False),
        ({"shared": 0.5}, False),
        ({"shared": 0.5, "second": 0.4}, False),
        ({"along": 0.6}, False),
    ],
)
def test_a_state_is_called_where_one_half_of_the_cells_has_both_and_nowhere_else(changes: dict, is_new: bool):
    found = [is_called(row(cells(seed, **changes))) for seed in range(8)]
    assert sum(found) >= 7 if is_new else sum(found) <= 1


def test_where_nothing_happens_the_first_p_is_uniform_and_calls_are_rare():
    found = [row(cells(seed), seed=seed) for seed in range(60)]
    assert stats.kstest([each["p_first"] for each in found], "uniform").pvalue > 0.001
    assert sum(map(is_called, found)) <= 3


def test_the_effect_is_the_difference_of_the_sides_and_the_share_the_correlation_on_the_higher():
    some = cells(0, first=1.5, second=1.2, halves=1)
    found = row(some)
    assert found["effect"] > 0.2 and found["share"] > 0.2
    assert found["pvalue"] == max(found["p_first"], found["p_second"])
    turned = row(Cells(some.values, some.donor, type(some.labels)(~some.labels.case, some.labels.batch)))
    assert turned["effect"] == pytest.approx(-found["effect"]) and turned["share"] == pytest.approx(found["share"])


def test_sparse_values_give_what_dense_ones_give():
    some = cells(1, first=1.5, second=1.2, halves=1)
    both = [
        coordination(values, some.values, some.donor, some.profiles, some.labels, n_permutations=19)
        for values in (some.values, (sparse.csr_matrix(some.values[0]), some.values[1]))
    ]
    assert both[0] == pytest.approx(both[1])


def test_rank_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 60, 4))
    donor = rng.integers(3, size=60)
    found = _rank_correlations(first, second, donor)
    for d in range(3):
        here = donor == d
        expected = [stats.spearmanr(a, b).statistic for a, b in zip(first[here].T, second[here].T, strict=True)]
        np.testing.assert_allclose(found[:, d], expected)


def test_of_large_donors_some_cells_are_drawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indiseek.effects._coordination._MOST_CELLS", 5)
    donor = np.array([0] * 3 + [1] * 20 + [0] * 9)
    rows = _some(donor, 0)
    assert (np.bincount(donor[rows]) == 5).all() and (np.diff(rows) > 0).all()
    assert (rows != _some(donor, 1)).any()


def test_a_layer_without_features_has_no_test():
    some = cells(0)
    flat = Cells((np.ones_like(some.values[0]), some.values[1]), some.donor, some.labels)
    assert np.isnan(row(flat)["pvalue"])
