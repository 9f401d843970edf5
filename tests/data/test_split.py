from __future__ import annotations

import numpy as np
import pytest

from indiseek.data import Groups, SplitOptions, given_split, grouped_split, random_split


@pytest.mark.parametrize(("train_size", "validation_size"), [(0.8, 0.1), (0.5, 0.5), (0.6, 0.2)])
def test_parts_are_disjoint_sorted_and_hold_every_cell(train_size, validation_size):
    split = random_split(501, train_size=train_size, validation_size=validation_size, seed=0)
    assert np.sort(np.concatenate(split)).tolist() == list(range(501))
    assert all((np.diff(part) > 0).all() for part in split)
    assert len(split.train) == round(train_size * 501)
    assert abs(len(split.validation) - validation_size * 501) <= 1


def test_seed_gives_the_split():
    def split(seed: int) -> list[int]:
        return random_split(200, train_size=0.8, validation_size=0.1, seed=seed).test.tolist()

    assert split(1) == split(1) != split(2)


def test_split_is_random_over_the_cells():
    # A run of neighbouring cells (one batch, one type) must not fall into one part.
    test = random_split(2000, train_size=0.8, validation_size=0.1, seed=0).test
    assert 700 < test.mean() < 1300
    assert test.min() < 100 and test.max() > 1900


def test_numpys_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    random_split(200, train_size=0.8, validation_size=0.1, seed=0)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(
    ("train_size", "validation_size"),
    [(0.9, 0.2), (0.0, 0.1), (0.8, 0.0), (1.2, 0.1), (-0.1, 0.1), (float("nan"), 0.1)],
)
def test_impossible_fractions_are_refused(train_size, validation_size):
    with pytest.raises(ValueError, match="expected train_size and validation_size above 0 .* got .*; for example"):
        random_split(1000, train_size=train_size, validation_size=validation_size, seed=0)


def test_too_few_cells_in_a_part_are_refused():
    with pytest.raises(ValueError, match="expected at least 50 training and 10 validation cells, got 95 and 5"):
        random_split(100, train_size=0.95, validation_size=0.05, seed=0)
    with pytest.raises(ValueError, match="expected at least 50 training and 10 validation cells, got 3 and 20"):
        given_split(100, [range(3), range(3, 23)])


def test_a_given_split_is_taken_as_it_is():
    split = given_split(100, [np.arange(99, 39, -1), list(range(20)), range(20, 30)])
    assert split.train.tolist() == list(range(40, 100))
    assert split.validation.tolist() == list(range(20))
    assert split.test.tolist() == list(range(20, 30))


def test_a_given_split_without_test_cells_has_none():
    assert len(given_split(100, [range(80), range(80, 100)]).test) == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([range(80)], "expected external_indexing with .*, got 1 parts; give a list of two or three arrays"),
        ([range(80), range(80, 90), [90], [91]], "got 4 parts"),
        ([range(80), range(80, 101)], "expected positions between 0 and 99, got 80 to 100; .*positions in the MuData"),
        ([range(-1, 80), range(80, 100)], "expected positions between 0 and 99, got -1 to 79"),
        ([range(80), range(79, 100)], "expected parts without common cells, got overlapping ones; give each cell"),
        ([[*range(80), 0], range(80, 100)], "expected parts without common cells"),
    ],
)
def test_errors_of_a_given_split_say_what_to_do(parts, message):
    with pytest.raises(ValueError, match=message):
        given_split(100, parts)


def test_masks_are_positions_and_what_is_neither_is_refused():
    masks = [np.arange(100) < 80, (np.arange(100) >= 80) & (np.arange(100) < 90)]
    for found, expected in zip(given_split(100, masks), given_split(100, [range(80), range(80, 90)]), strict=True):
        np.testing.assert_array_equal(found, expected)
    options = SplitOptions(external_indexing=masks)
    assert options.n_train(100, 0) == 80
    assert options.record() == SplitOptions(external_indexing=[range(80), range(80, 90)]).record()
    with pytest.raises(ValueError, match="expected in external_indexing a mask of all 120 cells, got one of shape"):
        given_split(120, masks)
    for wrong in (np.arange(80) + 0.5, [f"cell{i}" for i in range(80)], [None] * 80):
        with pytest.raises(TypeError, match="expected in external_indexing positions as whole numbers, or a boolean m"):
            given_split(100, [wrong, range(80, 90)])


@pytest.mark.parametrize(
    ("n_cells", "sizes"),
    [(400, (260, 40, 100)), (6855, (4670, 686, 1499)), (10_000, (7500, 1000, 1500)), (50_000, (40_000, 5000, 5000))],
)
def test_by_default_few_cells_are_tested_on_more_of_them(n_cells, sizes):
    options = SplitOptions()
    assert tuple(len(part) for part in options.split(n_cells, 3)) == sizes
    assert options.n_train(n_cells, 3) == sizes[0]


def test_what_is_said_of_one_part_leaves_the_others_to_share():
    assert [len(part) for part in SplitOptions(train_size=0.5).split(1000, 0)] == [500, 100, 400]
    assert [len(part) for part in SplitOptions(validation_size=0.55).split(1000, 0)] == [325, 550, 125]


@pytest.mark.parametrize("sizes", [("0.8", 0.1), (None, "0.1"), (0.8, True)])
def test_fractions_are_numbers(sizes):
    options = SplitOptions(train_size=sizes[0], validation_size=sizes[1])
    for call in (lambda: options.split(1000, 0), lambda: options.n_train(1000, 0)):
        with pytest.raises(TypeError, match="expected train_size and validation_size above 0 .*, got .*; for example"):
            call()


def _donors(n_donors: int = 20, n_batches: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Donors of 20 to 200 cells, each in one batch."""
    rng = np.random.default_rng(0)
    donor = rng.permutation(np.repeat(np.arange(n_donors), rng.integers(20, 200, n_donors)))
    return donor, donor % n_batches


def test_groups_stay_whole_and_parts_come_near_their_sizes():
    donor, batch = _donors()
    groups = Groups("donor", donor, (batch,))
    seen = set()
    for seed in range(5):
        split = grouped_split(groups, train_size=0.7, validation_size=0.1, seed=seed)
        parts = [set(donor[part]) for part in split]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert np.sort(np.concatenate(split)).tolist() == list(range(len(donor)))
        assert [len(part) / len(donor) for part in split] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
        seen.add(frozenset(parts[2]))
    assert len(seen) == 5
    again = grouped_split(groups, train_size=0.7, validation_size=0.1, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(again, split, strict=True))


def test_every_category_keeps_training_cells():
    # Two donors a batch: one of them at the most may be held out.
    donor, batch = _donors(8, 4)
    for seed in range(20):
        split = grouped_split(Groups("donor", donor, (batch,)), train_size=0.5, validation_size=0.1, seed=seed)
        assert set(batch[split.train]) == {0, 1, 2, 3}
    free = [grouped_split(Groups("donor", donor), train_size=0.5, validation_size=0.1, seed=seed) for seed in range(20)]
    assert any(set(batch[split.train]) != {0, 1, 2, 3} for split in free)


def test_every_batch_is_tested_where_it_has_the_groups():
    donor = np.arange(2400) % 24
    batch = donor % 4
    for seed in range(10):
        split = grouped_split(Groups("donor", donor, (batch,)), train_size=0.5, validation_size=0.2, seed=seed)
        assert set(batch[split.test]) == set(batch[split.validation]) == {0, 1, 2, 3}
    free = [grouped_split(Groups("donor", donor), train_size=0.5, validation_size=0.2, seed=seed) for seed in range(10)]
    assert any(set(batch[split.validation]) != {0, 1, 2, 3} for split in free)


def test_a_split_by_groups_without_test_cells_has_none():
    split = grouped_split(Groups("donor", _donors()[0]), train_size=0.9, validation_size=0.1, seed=0)
    assert len(split.test) == 0 and len(split.validation) > 0


def test_groups_that_cannot_be_split_are_refused():
    donor = np.arange(600) % 2
    with pytest.raises(ValueError, match="expected in 'donor' groups enough .*, got 2 groups; split by a finer column"):
        SplitOptions(groups=Groups("donor", donor)).split(600, 0)
    with pytest.raises(ValueError, match="expected split_by or external_indexing, got both, 'donor' and positions"):
        SplitOptions(groups=Groups("donor", donor), external_indexing=[range(300), range(300, 600)]).split(600, 0)
    # Each batch is one donor: none can be held out.
    with pytest.raises(ValueError, match="with training cells left to every batch and covariate, got 4 groups"):
        SplitOptions(groups=Groups("donor", np.arange(600) % 4, (np.arange(600) % 4,))).split(600, 0)


def test_the_record_tells_groups_apart_and_old_records_stay_as_they_are():
    donor, _ = _donors()
    one, other = (SplitOptions(groups=Groups("donor", codes)) for codes in (donor, donor[::-1].copy()))
    assert one.record() == other.record() == SplitOptions().record() | {"split_by": "donor"}
    assert one.digest() != other.digest()
    assert one.n_train(len(donor), 3) == len(one.split(len(donor), 3).train)
