"""Shares of variance against those that are known: counts drawn again from the same cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import MadeUp, made_up

from indiseek.attribution import Features, feature_shares
from indiseek.metrics import thin_counts

N_CELLS = 2000


@pytest.fixture(scope="module")
def truth() -> MadeUp:
    return made_up(N_CELLS, seed=1)


def features_of(truth: MadeUp, *, batch_shift: float = 0.0) -> Features:
    halves = thin_counts(truth.counts, seed=3)
    batch = np.arange(N_CELLS) % 2
    # Halves of twice the counts, so that the logarithm has the slope that it has for all of them.
    read = [np.log1p(part) + batch_shift * batch[:, None] for part in (truth.counts, *(2 * half for half in halves))]
    code = truth.private
    return Features(
        tuple(f"f{j}" for j in range(truth.counts.shape[1])),
        read[0],
        truth.told,
        (read[1], read[2]),
        codes=(code, code),
    )


def test_the_shares_are_those_of_another_draw_of_the_cells(truth: MadeUp):
    table = feature_shares(features_of(truth))
    for part in ("shared", "specific", "noise"):
        assert np.abs(table[part] - truth.shares[part]).max() < 0.07
        assert np.abs(table[part] - truth.shares[part]).mean() < 0.02
    assert table[["shared", "specific", "noise"]].sum(axis=1).between(0.9999, 1.0001).all()
    assert (table["n_cells"] == N_CELLS).all()


def test_intervals_hold_what_they_say(truth: MadeUp):
    table = feature_shares(features_of(truth))
    for part in ("shared", "specific"):
        inside = truth.shares[part].between(table[f"{part}_low"], table[f"{part}_high"])
        assert inside.mean() > 0.8
        assert ((table[f"{part}_high"] - table[f"{part}_low"]) < 0.2).all()


def test_a_code_that_holds_the_private_factors_holds_the_specific_share(truth: MadeUp):
    features = features_of(truth)
    whole = feature_shares(features)
    clear = whole["specific"] > 0.1
    assert (whole["in_code"][clear] / whole["specific"][clear]).mean() > 0.9
    chance = np.random.default_rng(0).normal(size=(N_CELLS, 3))
    nothing = feature_shares(replace(features, codes=(chance, chance)))
    assert (nothing["in_code"][clear] / nothing["specific"][clear]).mean() < 0.02
    # What only copies one draw of the counts holds nothing that another one would repeat.
    noise = [half - np.log1p(truth.counts) for half in features.halves]
    copied = feature_shares(replace(features, codes=(noise[0][:, :5], noise[1][:, :5])))
    assert (copied["in_code"] <= whole["in_code"] + 0.02)[clear].all()
    none = feature_shares(replace(features, codes=None))
    assert none["in_code"].isna().all() and none["left_out"].isna().all()


def test_what_is_common_to_a_batch_has_no_part(truth: MadeUp):
    plain = feature_shares(features_of(truth))
    shifted = features_of(truth, batch_shift=5.0)
    within = feature_shares(shifted, batch=np.arange(N_CELLS) % 2)
    assert np.abs(within["shared"] - plain["shared"]).max() < 0.01
    assert (feature_shares(shifted)["shared"] < 0.1).all()


def test_without_counts_the_noise_is_not_known(truth: MadeUp):
    table = feature_shares(replace(features_of(truth), halves=None))
    assert table[["noise", "noise_low", "noise_high", "in_code"]].isna().all(axis=None)
    assert np.allclose(table["shared"] + table["specific"], 1.0)


def test_a_feature_that_hardly_any_cell_has_gets_no_shares(truth: MadeUp):
    features = features_of(truth)
    observed = features.observed.copy()
    observed[:, 0] = 0.0
    observed[:9, 0] = 1.0
    table = feature_shares(replace(features, observed=observed))
    assert table["detected"][0] == 9
    assert table.loc[0, ["shared", "specific", "noise"]].isna().all()
    assert table.loc[1:, ["shared", "specific", "noise"]].notna().all(axis=None)


def test_blocks_of_features_make_no_difference(truth: MadeUp, monkeypatch: pytest.MonkeyPatch):
    whole = feature_shares(features_of(truth))
    monkeypatch.setattr("indiseek.attribution._shares._BLOCK", 7)
    assert np.allclose(whole.drop(columns="feature"), feature_shares(features_of(truth)).drop(columns="feature"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"observed": np.ones((99, 40))}, "expected at least 100 held-out cells, got 99"),
        ({"predicted": np.ones((N_CELLS, 3))}, "expected the same cells and features in all values"),
        ({"names": ("a",)}, "and 1 names; align them"),
    ],
)
def test_what_does_not_fit_is_named(truth: MadeUp, changed, words):
    with pytest.raises(ValueError, match=words):
        feature_shares(replace(features_of(truth), **changed))
    with pytest.raises(ValueError, match="expected one batch for each of 2000 cells, got 3"):
        feature_shares(features_of(truth), batch=[0, 1, 2])
