from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from indiseek.simulation import TrifeatureImages
from indiseek.simulation._trifeature_images import COLOURS, SHAPES, TEXTURES, _render

GREY = 128


@pytest.fixture(scope="module")
def made() -> TrifeatureImages:
    return TrifeatureImages(n_values=4, n_renderings=2, size=48, seed=1)


def test_splits_have_every_combination_once_or_as_often_as_asked_for(made):
    train, test = ({tuple(state) for state in made.states[split]} for split in ("train", "test"))
    assert len(test) == len(made.states["test"]) == round(0.2 * 64)
    assert train.isdisjoint(test) and len(train | test) == 64
    counts = np.unique(made.states["train"], axis=0, return_counts=True)[1]
    assert set(counts) == {2}
    for split, images in made.images.items():
        assert images.shape == (len(made.states[split]), 3, 48, 48) and images.dtype == np.uint8


def test_published_numbers_of_images_are_the_defaults():
    # 800 combinations three times and 200 once, without rendering them at the published size.
    made = TrifeatureImages(size=16)
    assert {split: len(images) for split, images in made.images.items()} == {"train": 2400, "test": 200}
    assert len(made.pairs("train").rows) == 10_000
    assert 3500 < len(made.pairs("test").rows) < 4500


def test_an_image_has_its_colour_and_grey_and_nothing_else(made):
    colours = [np.array(colour) for colour in COLOURS.values()]
    for image, (_, _, colour) in zip(made.images["train"], made.states["train"], strict=True):
        pixels = np.unique(image.reshape(3, -1).T, axis=0)
        assert len(pixels) == 2
        assert any(np.array_equal(pixel, colours[colour]) for pixel in pixels)
        assert any(np.array_equal(pixel, [GREY] * 3) for pixel in pixels)
        drawn = (image != GREY).any(axis=0).mean()
        assert 0.01 < drawn < 0.35


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_shapes_are_where_they_were_put_and_cover_what_they_should(shape):
    # Areas of the shapes in the square from -1 to 1, by hand.
    areas = {
        "triangle": 2.0,
        "square": 4.0,
        "plus": 2 * 2 * 0.66 - 0.66**2,
        "circle": np.pi,
        "tee": 2 * 0.65 + 0.66 * 1.35,
        "rhombus": 2.0,
        "pentagon": 2.5 * np.sin(2 * np.pi / 5),
        "star": 5 * 0.42 * np.sin(np.pi / 5),
        "fivesquare": 0.66**2 + 4 * 0.67**2,
        "trapezoid": 2.7,
    }
    rng, solid = np.random.default_rng(shape), TEXTURES.index("solid")
    masks = [(_render(shape, solid, 0, 112, rng) != GREY).any(axis=0) for _ in range(5)]
    for mask in masks:
        assert mask.sum() * (2 / 64) ** 2 == pytest.approx(areas[SHAPES[shape]], rel=0.05)
    centres = [np.argwhere(mask).mean(axis=0) for mask in masks]
    assert np.std(centres, axis=0).max() > 3


def test_no_two_textures_look_alike():
    found = {}
    for number, name in enumerate(TEXTURES):
        rng = np.random.default_rng(5)
        mask = (_render(SHAPES.index("square"), number, 0, 224, rng) != GREY).any(axis=0)
        found[name] = mask
    for i, one in enumerate(TEXTURES):
        assert 0.1 < found[one].sum() / found["solid"].sum() <= 1
        for other in TEXTURES[:i]:
            assert (found[one] ^ found[other]).sum() > 0.05 * found["solid"].sum()


def test_pairs_share_the_shape_and_their_answers_are_what_the_states_say(made):
    pairs = made.pairs("train", 3000)
    first, second = (made.states["train"][rows] for rows in pairs.rows.T)
    np.testing.assert_array_equal(first[:, 0], second[:, 0])
    np.testing.assert_array_equal(pairs.labels["redundant"], first[:, 0])
    np.testing.assert_array_equal(pairs.labels["unique_first"], first[:, 1])
    np.testing.assert_array_equal(pairs.labels["unique_second"], second[:, 1])
    np.testing.assert_array_equal(pairs.labels["synergy"], made.partner[first[:, 1]] == second[:, 2])
    assert sorted(made.partner) == list(range(4))
    assert len(np.unique(pairs.rows, axis=0)) == len(pairs.rows)
    for state in (*first.T, *second.T):
        for value in range(4):
            assert pairs.labels["synergy"][state == value].mean() == pytest.approx(0.25, abs=0.1)


def test_matched_pairs_all_obey_one_bijection_in_both_splits(made):
    for split in ("train", "test"):
        pairs = made.pairs(split, matched=True)
        assert pairs.labels["synergy"].all() and len(pairs.rows) > 10
        first, second = (made.states[split][rows] for rows in pairs.rows.T)
        np.testing.assert_array_equal(made.partner[first[:, 1]], second[:, 2])


def test_one_seed_gives_the_same_images_and_draws_are_others(made):
    again = TrifeatureImages(n_values=4, n_renderings=2, size=48, seed=1)
    np.testing.assert_array_equal(again.images["train"], made.images["train"])
    other = TrifeatureImages(n_values=4, n_renderings=2, size=48, seed=2)
    assert (other.images["train"] != made.images["train"]).any()
    # What is rendered does not change what is asked.
    larger = TrifeatureImages(n_values=4, n_renderings=3, size=32, seed=1)
    np.testing.assert_array_equal(larger.partner, made.partner)
    np.testing.assert_array_equal(larger.states["test"], made.states["test"])
    rows = [made.pairs("train", 100, draw=draw).rows for draw in (0, 0, 1)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_pixels_tell_the_colour_to_a_straight_line_and_the_shape_not_at_once(made):
    x, states = made.images["train"], made.states["train"]
    means = x.reshape(len(x), 3, -1).mean(axis=2) - GREY
    direction = means / np.linalg.norm(means, axis=1, keepdims=True)
    rows = np.random.default_rng(0).permutation(len(x))
    fit, test = rows[: len(x) // 2], rows[len(x) // 2 :]
    colour, shape = (
        LogisticRegression(max_iter=1000, C=100.0)
        .fit(direction[fit], states[fit, k])
        .score(direction[test], states[test, k])
        for k in (2, 0)
    )
    assert colour > 0.95
    assert shape < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_values": 1}, "expected n_values to be an integer >= 2, got 1"),
        ({"n_values": 11}, "expected n_values of at most 10, got 11"),
        ({"n_renderings": 0}, "expected n_renderings to be an integer >= 1, got 0"),
        ({"held_out": 1.0}, r"expected held_out in \(0, 1\), got 1.0"),
        ({"size": 8}, "expected size to be an integer >= 16, got 8"),
        ({"n_values": 3, "held_out": 0.01}, "expected images of all 3 shapes in 'test', got 0 images"),
    ],
)
def test_errors_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrifeatureImages(**arguments)


def test_pairs_name_what_is_wrong(made):
    with pytest.raises(ValueError, match="expected split to be one of .*'train', 'test'.*, got 'val'"):
        made.pairs("val")
    with pytest.raises(ValueError, match="expected n_pairs to be an integer >= 1, got 0"):
        made.pairs(n_pairs=0)
