from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from donors import cells
from scipy import stats

from indiseek.effects import MIN_SHARE, Labels, compare_profiles, feature_effects
from indiseek.effects._spaces import consensus


def called(seed: int, **changes: float) -> set[str]:
    some = cells(seed, **changes)
    table = compare_profiles(some.profiles, some.labels, n_permutations=199).set_index("space")
    limit = np.where(table.index == "shared", 0.0, MIN_SHARE)
    return set(table.index[(table["pvalue"] <= 0.05) & (table["share"] > limit)])


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"shared": 0.5}, {"shared"}),
        ({"first": 0.6}, {"rna"}),
        ({"second": 0.4}, {"prot"}),
        ({"along": 0.6}, {"rna"}),
        ({"shared": 0.5, "second": 0.4}, {"shared", "prot"}),
    ],
)
def test_each_space_is_called_where_the_condition_acts_on_it(changes: dict[str, float], right: set[str]):
    found = [called(seed, **changes) for seed in range(8)]
    assert sum(right <= each for each in found) >= 7
    assert sum(bool(each - right) for each in found) <= 1


def test_where_nothing_happens_single_tests_are_uniform_and_calls_are_rare():
    single, calls = [], 0
    for seed in range(60):
        some = cells(seed)
        table = compare_profiles(some.profiles, some.labels, n_permutations=99, seed=seed)
        single += [*table["p_first"]]
        calls += int((table["pvalue"] <= 0.05).sum())
    assert stats.kstest(single, "uniform").pvalue > 0.001
    assert calls <= 0.05 * 180


def test_a_batch_that_goes_with_the_condition_is_not_taken_for_an_effect():
    within = free = 0
    for seed in range(12):
        some = cells(seed, cases=(6, 2), batch_effect=0.5)
        for_all = Labels(some.labels.case, np.zeros(16, dtype=np.intp))
        found = [compare_profiles(some.profiles, labels, n_permutations=99) for labels in (some.labels, for_all)]
        within, free = (
            n + int((table["pvalue"] <= 0.05).any()) for n, table in zip((within, free), found, strict=True)
        )
    assert within <= 1
    assert free >= 4


def test_no_p_value_is_below_what_the_labellings_allow():
    some = cells(0, first=3.0, of=(3, 4), cases=(1, 2))
    table = compare_profiles(some.profiles, some.labels)
    assert some.labels.n_possible == 18
    assert table["least_pvalue"].eq(1 / 18).all()
    assert table["pvalue"].min() == 1 / 18
    drawn = compare_profiles(cells(0).profiles, cells(0).labels, n_permutations=19)
    assert drawn["least_pvalue"].eq(1 / 20).all() and drawn["pvalue"].min() >= 1 / 20


def test_layers_that_share_nothing_have_no_shared_test_and_all_of_an_effect_alone():
    some = cells(0, first=0.4)
    both = replace(some, values=(some.values[0], np.random.default_rng(0).permutation(some.values[1])))
    table = compare_profiles(both.profiles, both.labels, n_permutations=99).set_index("space")
    assert np.isnan(table.loc["shared", "pvalue"])
    assert table.loc["rna", "pvalue"] <= 0.05 and table.loc["rna", "share"] == pytest.approx(1)


def test_the_private_part_is_a_regression_within_donors_at_power_0_and_less_of_the_other_layer_at_2():
    some = cells(3, shared=0.5)
    found = some.profiles
    own, other = found.layers
    np.testing.assert_allclose(own.means - found.private(0, 0), other.shared @ own.tie.T)
    taken = [np.abs(own.means - found.private(0, e)).mean() for e in (0, 1, 2)]
    assert taken[0] < taken[1] < taken[2]


def test_consensus_takes_the_smallest_and_nothing_where_signs_differ():
    effects = [np.array([1.0, -3.0, 2.0, 0.0]), np.array([2.0, -1.0, -2.0, 1.0])]
    np.testing.assert_array_equal(consensus(effects), [1.0, -1.0, 0.0, 0.0])


def test_features_name_what_moves_alone_and_split_the_whole():
    some = cells(4, first=0.7, shared=0.5)
    table = feature_effects(some.profiles, some.labels)
    np.testing.assert_allclose(table["total"], table["shared"] + table["private"])
    rna = table[table["modality"] == "rna"].set_index("feature")
    alone = [str(j) for j in range(4)]
    assert (rna.loc[alone, "qvalue"] < 0.05).all()
    assert rna.loc[alone, "private"].to_numpy() == pytest.approx(np.full(4, 0.7), abs=0.25)
    rest = rna.drop(alone)
    assert (rest["total_qvalue"] < 0.05).mean() > 0.8
    assert (rest["qvalue"] < 0.05).mean() < 0.15
    assert (rest["private"].abs() < rest["shared"].abs()).mean() > 0.9
