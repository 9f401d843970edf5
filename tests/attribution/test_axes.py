"""Axes and loadings of codes of which it is known what they follow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from indiseek.attribution import Codes, Piece, find_axes, group_directions, loading_table, moments, short_names, varimax

N_CELLS, N_FEATURES = 3000, 60
NAMES = [f"f{j}" for j in range(N_FEATURES)]


class Known:
    """Three factors, each followed by ten features, mixed into codes beside two dimensions of noise."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.factors = rng.normal(size=(N_CELLS, 3))
        self.weights = np.zeros((3, N_FEATURES))
        for k in range(3):
            self.weights[k, 10 * k : 10 * k + 10] = (
                (1.2 - 0.3 * k) * rng.uniform(0.3, 1.0, 10) * rng.choice([-1, 1], 10)
            )
        mixed = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        self.batch = np.arange(N_CELLS) % 3

        def noise(*shape):
            return rng.normal(size=shape)

        halves = [
            (np.hstack([self.factors + 0.5 * noise(N_CELLS, 3), noise(N_CELLS, 2)]), noise(N_CELLS, N_FEATURES))
            for _ in range(2)
        ]
        self.true = mixed.T[:, :3]
        offset = 4.0 * self.batch[:, None]
        codes = [code @ mixed + offset for code, _ in halves]
        values = [self.factors @ self.weights + error + offset for _, error in halves]
        self.codes = Codes((codes[0] + codes[1]) / 2, *codes)
        self.values = ((values[0] + values[1]) / 2, *values)

    def pieces(self, size: int = 1000):
        for start in range(0, N_CELLS, size):
            rows = np.arange(start, start + size)
            yield Piece(rows, *(value[rows] for value in self.values))

    def moments(self, size: int = 1000):
        return moments(self.codes, self.pieces(size), N_FEATURES, batch=self.batch)


@pytest.fixture(scope="module")
def known() -> Known:
    return Known()


def _centred(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    return values - pd.DataFrame(values).groupby(batch).transform("mean").to_numpy()


def test_loadings_are_correlations_within_batches(known: Known):
    z, y = _centred(known.codes.whole, known.batch), _centred(known.values[0], known.batch)
    expected = np.corrcoef(z.T, y.T)[:5, 5:]
    assert np.allclose(known.moments().loadings(), expected, atol=1e-3)
    assert np.allclose(known.moments(size=500).loadings(), known.moments().loadings(), atol=1e-10)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    assert np.allclose(known.moments().along(turn).loadings(), np.corrcoef((z @ turn).T, y.T)[:5, 5:], atol=1e-3)


def test_the_axes_are_the_factors_in_their_order_and_the_rest_is_noise(known: Known):
    axes = find_axes("made", known.codes, known.moments(), NAMES, batch=known.batch)
    assert axes.table["is_noise"].tolist() == [False] * 3 + [True] * 2
    assert axes.n_axes == 3
    agreement = np.abs(axes.rotation[:, :3].T @ known.true)
    # The largest factor first, each on an axis of its own.
    assert (np.diag(agreement) > 0.97).all()
    assert axes.table["share"].is_monotonic_decreasing
    assert axes.names[3:] == ["made 4: noise", "made 5: noise"]
    first = axes.names[0].removeprefix("made 1: ").split(", ")
    assert {name.removeprefix("-") for name in first} <= set(NAMES[:10]) and not first[0].startswith("-")
    assert axes.table["reliability"][:3].between(0.8, 0.95).all()


def test_loadings_on_the_axes_are_in_the_order_of_the_true_ones(known: Known):
    found = known.moments()
    axes = find_axes("made", known.codes, found, NAMES, batch=known.batch)
    labels = axes.table[["dimension", "name"]]
    table = loading_table(found.along(axes.rotation), ["x"] * N_FEATURES, NAMES, labels)
    for k in range(3):
        rows = table[table["dimension"] == k + 1].set_index("feature").loc[NAMES[10 * k : 10 * k + 10]]
        true = known.weights[k, 10 * k : 10 * k + 10]
        assert abs(spearmanr(rows["loading"], true)[0]) > 0.9
        assert (rows["rank"] <= 12).all() and (rows["stability"] > 0.7).all()
    others = table[(table["dimension"] == 1) & ~table["feature"].isin(NAMES[:10])]
    assert others["stability"].mean() < 0.3
    noise = table[table["dimension"] == 5]
    assert noise["stability"].mean() < 0.3


def test_without_rotation_dimensions_stay_and_are_judged(known: Known):
    axes = find_axes("made", known.codes, known.moments(), NAMES, batch=known.batch, rotation="none")
    assert np.array_equal(axes.rotation, np.eye(5))
    assert axes.table["dimension"].tolist() == [1, 2, 3, 4, 5]


def test_codes_of_noise_have_no_axes():
    rng = np.random.default_rng(4)
    codes = Codes(*(rng.normal(size=(400, 6)) for _ in range(3)))
    values = rng.normal(size=(400, N_FEATURES))
    found = moments(codes, [Piece(np.arange(400), values, values, values)], N_FEATURES)
    axes = find_axes("made", codes, found, NAMES)
    assert axes.n_axes == 0
    assert axes.coordinates(codes.whole).shape == (400, 0)


def test_scales_of_the_dimensions_do_not_make_noise_of_a_small_one():
    known = Known(seed=2)
    scale = np.array([30.0, 1.0, 1.0, 1.0, 1.0])
    codes = Codes(*(code * scale for code in known.codes))
    found = moments(codes, known.pieces(), N_FEATURES, batch=known.batch)
    before = find_axes("made", known.codes, known.moments(), NAMES, batch=known.batch, rotation="none")
    after = find_axes("made", codes, found, NAMES, batch=known.batch, rotation="none")
    assert after.table["is_noise"].tolist() == before.table["is_noise"].tolist()


def test_a_feature_that_does_not_vary_is_left_out(known: Known):
    def pieces():
        for piece in known.pieces():
            parts = [value.copy() for value in piece[1:]]
            for part in parts:
                part[:, 5] = 3.0
            yield Piece(piece.rows, *parts)

    found = moments(known.codes, pieces(), N_FEATURES, batch=known.batch)
    table = loading_table(found, ["x"] * N_FEATURES, NAMES, pd.DataFrame({"dimension": range(5)}))
    assert "f5" not in set(table["feature"]) and len(table) == 5 * (N_FEATURES - 1)
    assert table.notna().all(axis=None)


def test_what_a_group_differs_in_is_the_difference_of_its_means(known: Known):
    members = known.factors[:, 0] > 1.0
    direction = group_directions(known.codes.whole, members, known.batch)
    found = known.moments().along(direction).loadings(standardised=False)[0]
    z, y = _centred(known.codes.whole, known.batch), _centred(known.values[0], known.batch)
    fitted = z @ np.linalg.lstsq(z, y, rcond=None)[0]
    expected = (fitted[members].mean(axis=0) - fitted[~members].mean(axis=0)) / y.std(axis=0)
    assert np.allclose(found, expected, atol=2e-3)
    assert np.abs(found[:10]).min() > 5 * np.abs(found[10:]).max()


def test_varimax_finds_the_axes_that_few_features_carry():
    rng = np.random.default_rng(0)
    simple = np.zeros((40, 4))
    simple[np.arange(40), np.arange(40) % 4] = rng.uniform(0.5, 1.0, 40)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    found = varimax(simple @ turn)
    assert np.allclose(found.T @ found, np.eye(4))
    back = np.abs(turn @ found)
    assert np.allclose(back.max(axis=0), 1.0, atol=1e-6)


def test_names_lose_the_tag_of_the_kit():
    assert short_names(["CD3_TotalSeqB", "PD-1-TotalSeqC", "CD45RA"]) == ["CD3", "PD-1", "CD45RA"]


def test_counting_noise_that_code_and_feature_share_is_not_reproducible():
    rng = np.random.default_rng(5)
    noise = [rng.normal(size=(1000, N_FEATURES)) for _ in range(2)]
    values = ((noise[0] + noise[1]) / 2, *noise)
    codes = Codes(*(value[:, :4].copy() for value in values))
    found = moments(codes, [Piece(np.arange(1000), *values)], N_FEATURES)
    assert np.allclose(np.diag(found.loadings()), 1.0)
    assert np.abs(found.reproducible()).max() < 0.15
    assert find_axes("made", codes, found, NAMES).n_axes == 0
