"""Splits by which every cell is tested once."""

from __future__ import annotations

import numpy as np
import pytest

from indiseek.data import Groups, fold_splits

NONE = [np.zeros(700, dtype=np.intp)]


def test_every_cell_is_a_test_cell_once_and_parts_do_not_overlap():
    splits = fold_splits(5, NONE, None, seed=0)
    assert len(splits) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(700))
    for split in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(700))
        assert all(np.all(np.diff(part) > 0) for part in split)
        assert 0.08 < len(split.validation) / len(split.train) < 0.17


def test_each_part_has_its_share_of_every_batch():
    batch = np.random.default_rng(0).choice(3, p=[0.1, 0.3, 0.6], size=700)
    for split in fold_splits(4, [batch], None, seed=0):
        for part in split:
            np.testing.assert_allclose(
                np.bincount(batch[part], minlength=3) / len(part), np.bincount(batch) / 700, atol=0.02
            )


def test_a_batch_that_is_rarer_than_the_folds_is_taken_as_it_comes():
    batch = np.zeros(700, dtype=np.intp)
    batch[:2] = 1
    splits = fold_splits(5, [batch], None, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(700))


def test_groups_stay_whole():
    codes = np.random.default_rng(1).integers(0, 12, size=700)
    splits = fold_splits(3, [codes % 2], Groups("donor", codes), seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(700))
    for split in splits:
        donors = [set(codes[part]) for part in split]
        assert all(donors)
        assert not donors[0] & donors[1] and not donors[0] & donors[2] and not donors[1] & donors[2]


def test_the_seed_decides():
    first, again, other = (fold_splits(3, NONE, None, seed=seed)[0].test for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_groups_are_named():
    codes = np.arange(700) % 3
    with pytest.raises(ValueError, match=r"expected at least 4 groups of 'donor', one for each of 3 folds .* got 3"):
        fold_splits(3, NONE, Groups("donor", codes), seed=0)
