from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from indiseek.metrics import modality_weight


def _cells(seed=0, n=70, n_types=4):
    """Codes of different widths, in which types are told apart more or less."""
    rng = np.random.default_rng(seed)
    types = rng.integers(n_types, size=n)
    first = rng.standard_normal((n, 3)) + 1.2 * types[:, None]
    second = rng.standard_normal((n, 5)) - 0.4 * types[:, None]
    return first, second, np.array(list("abcd"))[types], rng.random(n) + 0.1 * types


def _loop(first, second, labels, k, a, metric):
    theta = []
    for i in range(len(labels)):
        same = []
        for space in (first, second):
            distances = []
            for j in range(len(labels)):
                if metric == "cosine":
                    cosine = space[i] @ space[j] / np.linalg.norm(space[i]) / np.linalg.norm(space[j])
                    distance = 1 - cosine
                else:
                    distance = np.linalg.norm(space[i] - space[j])
                if j != i:
                    distances.append((distance, j))
            same.append(sum(labels[j] == labels[i] for _, j in sorted(distances)[:k]))
        theta.append(np.log((same[0] + a) / (same[1] + a)))
    return np.array(theta)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("k", "a"), [(10, 1.0), (3, 0.25)])
def test_it_equals_loops(metric, k, a):
    first, second, labels, weight = _cells()
    found = modality_weight(first, second, labels, weight=weight, n_neighbors=k, pseudocount=a, metric=metric)
    theta = _loop(first, second, labels, k, a, metric)
    np.testing.assert_allclose(found.theta, theta, atol=1e-12)
    np.testing.assert_allclose(np.log((found.shares * k + a) @ [[1, 0], [0, 1]]) @ [1, -1], theta, atol=1e-12)
    means = pd.DataFrame({"theta": theta, "weight": weight}).groupby(labels).mean()
    pd.testing.assert_frame_equal(found.classes[["theta", "weight"]].sort_index(), means, check_names=False, rtol=1e-12)
    assert found.classes["theta"].is_monotonic_increasing
    assert found.spearman == pytest.approx(spearmanr(means["theta"], means["weight"]).statistic, abs=1e-12)
    # The wrong way round, everything is the other way round.
    turned = modality_weight(second, first, labels, weight=weight, n_neighbors=k, pseudocount=a, metric=metric)
    np.testing.assert_allclose(turned.theta, -theta, atol=1e-12)
    assert turned.spearman == pytest.approx(-found.spearman, abs=1e-12)


def _told_apart(types, known, rng):
    """A code in which the types that are `known` lie alone, and all others in one heap."""
    place = np.where(np.isin(types, known), 1 + types, 0)
    return 100.0 * np.eye(types.max() + 2)[place] + rng.standard_normal((len(types), types.max() + 2))


def test_of_types_that_one_space_alone_tells_apart_the_answer_is_known():
    rng = np.random.default_rng(1)
    types = np.repeat(np.arange(6), 40)
    # 0 and 1 are known from the first space alone, 2 from both, 3, 4 and 5 from the second alone.
    first, second = _told_apart(types, [0, 1, 2], rng), _told_apart(types, [2, 3, 4, 5], rng)
    weight = np.array([0.9, 0.9, 0.5, 0.1, 0.1, 0.1])[types]
    found = modality_weight(first, second, types, weight=weight)
    classes = found.classes
    assert list(classes.loc[[0, 1, 2], "share_first"]) == [1, 1, 1]
    assert list(classes.loc[[2, 3, 4, 5], "share_second"]) == [1, 1, 1, 1]
    # A cell of a heap of 2 or 3 types meets its own about as often as they are drawn there.
    assert np.allclose(classes.loc[[3, 4, 5], "share_first"], 39 / 119, atol=0.08)
    assert np.allclose(classes.loc[[0, 1], "share_second"], 39 / 79, atol=0.08)
    assert classes.loc[2, "theta"] == 0
    assert (classes.loc[[0, 1], "theta"] > 0.4).all() and (classes.loc[[3, 4, 5], "theta"] < -0.8).all()
    # Ranks of the weight are 5.5 twice, 4, and 2 three times; those of theta 1 to 6 in the same groups, in any order.
    assert found.spearman == pytest.approx(np.sqrt(15 / 17.5))
    assert modality_weight(first, second, types, weight=1 - weight).spearman == pytest.approx(-np.sqrt(15 / 17.5))
    alone = modality_weight(first, second, types)
    assert alone.spearman is None and "weight" not in alone.classes


def test_no_neighbour_of_the_own_type_is_no_infinity():
    labels = ["a"] * 6 + ["b"] * 6
    apart, mixed = np.arange(12.0), np.r_[0.0:12:2, 1.0:12:2]
    found = modality_weight(apart, mixed, labels, n_neighbors=1, pseudocount=0.5)
    np.testing.assert_array_equal(found.shares[:, 1], 0)
    np.testing.assert_allclose(found.theta, np.log((found.shares[:, 0] + 0.5) / 0.5))
    assert np.isfinite(found.theta).all()


def test_rare_types_are_shown_and_not_compared():
    first, second, labels, weight = _cells(n=200)
    labels = labels.astype(object)
    labels[:5] = "rare"
    with_rare = modality_weight(first, second, labels, weight=weight)
    assert with_rare.classes["compared"].to_dict() == {"a": True, "b": True, "c": True, "d": True, "rare": False}
    other = weight.copy()
    other[:5] = 1e6
    assert modality_weight(first, second, labels, weight=other).spearman == with_rare.spearman
    assert modality_weight(first, second, labels, weight=other, min_cells=5).classes["compared"].all()


def test_equal_spaces_have_no_order():
    first, _, labels, weight = _cells()
    found = modality_weight(first, first, labels, weight=weight)
    assert (found.theta == 0).all() and np.isnan(found.spearman)


def test_what_does_not_fit_is_refused():
    first, second, labels, weight = _cells()
    for arguments, message in (
        ((first[:-1], second, labels), "expected the same cells in the same order in all arrays, got first 69, sec"),
        ((first[:10], second[:10], labels[:10]), "expected more than n_neighbors=10 cells, got 10; "),
        ((first, second, labels[:-1]), "expected labels of 70 cells, got 69; "),
        ((first, second, [None, *labels[1:]]), "expected a label for each cell, got none for 1 of 70; "),
    ):
        with pytest.raises(ValueError, match=message):
            modality_weight(*arguments)
    with pytest.raises(ValueError, match=r"expected weight of shape \(70,\), got \(70, 2\); "):
        modality_weight(first, second, labels, weight=np.column_stack([weight, weight]))
    with pytest.raises(ValueError, match="expected at least 3 types of 11 cells or more to compare, got 2 of 2; "):
        modality_weight(first, second, np.where(labels == "a", "a", "b"), weight=weight)
