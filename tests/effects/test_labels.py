from __future__ import annotations

import numpy as np

from indiseek.effects import Labels
from indiseek.effects._labels import min_p

BATCH = np.array([0, 0, 0, 0, 1, 1, 1, 2])
CASE = np.array([True, False, False, True, False, True, False, True])


def drawn(labels: Labels, n: int) -> np.ndarray:
    """Labels of every row of the contrasts, of donors whose batch has both groups."""
    rows = labels.contrasts(n, 0)
    return (rows > 0)[:, labels.informative]


def test_the_contrast_is_the_coefficient_of_a_regression_on_batch_and_condition():
    values = np.random.default_rng(0).normal(size=(len(BATCH), 5))
    design = np.column_stack([CASE, *(BATCH == b for b in range(3))]).astype(float)
    expected = np.linalg.lstsq(design, values, rcond=None)[0][0]
    np.testing.assert_allclose(Labels(CASE, BATCH).contrasts(0, 0)[0] @ values, expected)


def test_few_labellings_are_all_used_once_and_the_observed_comes_first():
    labels = Labels(CASE, BATCH)
    assert labels.n_possible == 6 * 3
    found = drawn(labels, 999)
    assert len(found) == 18 == len(np.unique(found, axis=0))
    np.testing.assert_array_equal(found[0], CASE[labels.informative])
    assert (found[:, :4].sum(axis=1) == 2).all() and (found[:, 4:].sum(axis=1) == 1).all()


def test_many_labellings_are_drawn_within_batch_by_the_seed():
    batch = np.repeat([0, 1], [9, 12])
    case = np.arange(21) % 3 == 0
    labels = Labels(case, batch)
    found = labels.contrasts(200, 1)
    assert found.shape == (201, 21)
    for b in (0, 1):
        assert ((found[:, batch == b] > 0).sum(axis=1) == case[batch == b].sum()).all()
    np.testing.assert_array_equal(found, labels.contrasts(200, 1))
    assert (found != labels.contrasts(200, 2)).any()


def test_a_batch_with_one_group_says_nothing():
    labels = Labels(CASE, BATCH)
    np.testing.assert_array_equal(labels.informative, BATCH < 2)
    assert labels.n_each == (4, 3)
    assert not labels.contrasts(0, 0)[:, BATCH == 2].any()


def test_the_least_p_value_is_reached_and_knows_of_labels_that_mirror_each_other():
    for case, batch in ((CASE, BATCH), (np.arange(6) < 3, np.zeros(6, dtype=int))):
        labels = Labels(case, batch)
        rows = labels.contrasts(9999, 0)
        # Donors' values that are the labels themselves are as far apart as any.
        assert min_p(np.abs(rows @ case.astype(float))[:, None]) == labels.least_pvalue
    assert labels.least_pvalue == 2 / 20


def test_min_p_is_that_of_a_slow_loop():
    statistics = np.random.default_rng(0).normal(size=(40, 3)).round(1)
    ranks = [[sum(other >= mine for other in column) for mine in column] for column in statistics.T]
    best = [min(each) for each in zip(*ranks, strict=True)]
    assert min_p(statistics) == sum(each <= best[0] for each in best) / 40


def test_min_p_of_one_statistic_is_the_share_of_labels_as_far_from_the_null():
    assert min_p(np.array([2.0, 1.0, 3.0, 2.0 + 1e-12, 0.0])[:, None]) == 3 / 5
