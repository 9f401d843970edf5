from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from indiseek.metrics import completeness, feature_r2, leakage, leakages, probe_r2
from indiseek.metrics._kernel_ridge import fit_predict


def _linear_leak(level, *, n=1500, d=8, q=5, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d))
    return z, np.sqrt(level) * z[:, :q] + np.sqrt(1 - level) * rng.standard_normal((n, q))


def _quadratic_leak(level, *, n=1000, d=8, q=5, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d))
    even = (np.square(z[:, :q]) - 1) / np.sqrt(2)
    c = np.sqrt(level) * even + np.sqrt(1 - level) * rng.standard_normal((n, q))
    return z @ np.linalg.qr(rng.standard_normal((d, d)))[0], c


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("probe", ["ridge", "nonlinear"])
def test_gaussian_case_has_its_true_r2(level, probe):
    assert probe_r2(*_linear_leak(level), probe=probe) == pytest.approx(level, abs=0.04)


def test_only_the_nonlinear_probe_sees_a_quadratic_leak():
    z, c = _quadratic_leak(0.3)
    assert probe_r2(z, c, probe="ridge") < 0.01
    assert 0.2 < probe_r2(z, c, probe="nonlinear") < 0.33


def test_one_curved_dimension_among_fifty_is_found():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((1000, 50))
    c = np.sqrt(0.5) * (z[:, [3]] ** 2 - 1) + np.sqrt(0.5) * rng.standard_normal((1000, 1))
    assert probe_r2(z, c, probe="nonlinear") > 0.35


def test_an_interaction_is_found():
    rng = np.random.default_rng(2)
    z = rng.standard_normal((1000, 4))
    assert probe_r2(z, z[:, [0]] * z[:, [1]], probe="nonlinear") > 0.8


@pytest.mark.parametrize(("n", "d"), [(150, 8), (150, 50), (700, 8)])
def test_no_positive_bias_without_leakage(n, d):
    scores = {"ridge": [], "nonlinear": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z, c = rng.standard_normal((n, d)), rng.standard_normal((n, 5))
        for probe, values in scores.items():
            values.append(probe_r2(z, c, probe=probe))
    for values in scores.values():
        assert -0.06 < np.mean(values) < 0.003
        assert max(values) < 0.02


def test_ridge_equals_sklearn_at_its_penalty(monkeypatch):
    monkeypatch.setattr("indiseek.metrics._kernel_ridge._RIDGE_PENALTIES", np.array([30.0]))
    z, c = _linear_leak(0.5, n=200)
    prediction = np.empty_like(c)
    for train, test in KFold(4, shuffle=True, random_state=3).split(z):
        mean, scale = z[train].mean(axis=0), z[train].std(axis=0)
        model = Ridge(alpha=30.0).fit((z[train] - mean) / scale, c[train])
        prediction[test] = model.predict((z[test] - mean) / scale)
    expected = 1 - np.square(c - prediction).sum() / np.square(c - c.mean(axis=0)).sum()
    assert probe_r2(z, c, n_splits=4, seed=3) == pytest.approx(expected, abs=1e-10)


def test_more_inputs_than_cells_has_the_same_solution(monkeypatch):
    monkeypatch.setattr("indiseek.metrics._kernel_ridge._RIDGE_PENALTIES", np.array([10.0]))
    rng = np.random.default_rng(4)
    x, y, queries = rng.standard_normal((40, 90)), rng.standard_normal((40, 3)), rng.standard_normal((7, 90))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    expected = Ridge(alpha=10.0).fit((x - mean) / scale, y).predict((queries - mean) / scale)
    got = fit_predict(x, y, queries, groups=[slice(0, 3)], nonlinear=False, rng=np.random.default_rng(0))
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_r2_is_weighted_by_variance():
    z, c = _linear_leak(0.5)
    noise = np.random.default_rng(5).standard_normal((1500, 1))
    columns = feature_r2(z, np.hstack([c[:, :1], 3 * noise]))
    joint = probe_r2(z, np.hstack([c[:, :1], 3 * noise]))
    weights = np.array([c[:, 0].var(), 9 * noise.var()])
    assert joint == pytest.approx((columns * weights).sum() / weights.sum(), abs=1e-8)
    assert joint < 0.1 < columns[0]


def test_invariance():
    z, c = _quadratic_leak(0.5, n=400)
    base = probe_r2(z, c, probe="nonlinear")
    rng = np.random.default_rng(6)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert probe_r2(z * 7 - 3, 0.01 * c + 5, probe="nonlinear") == pytest.approx(base, abs=0.02)
    assert probe_r2(z, c @ rotation, probe="nonlinear") == pytest.approx(base, abs=0.03)
    order = rng.permutation(400)
    assert probe_r2(z[order], c[order], probe="nonlinear") == pytest.approx(base, abs=0.06)
    assert probe_r2(z[order], c, probe="nonlinear") < 0.01


def test_standardisation_finds_a_leak_in_a_small_dimension():
    z, c = _linear_leak(0.6)
    z[:, :5] *= 1e-3
    assert probe_r2(z, c) > 0.5
    assert probe_r2(z, c, probe="nonlinear") > 0.5


def test_constant_inputs_and_columns():
    z, c = _linear_leak(0.5, n=300)
    assert probe_r2(np.ones((300, 2)), c) < 0.0
    with_constant = np.hstack([z, np.full((300, 1), 1e6)])
    assert probe_r2(with_constant, c) == pytest.approx(probe_r2(z, c), abs=1e-9)
    assert np.isnan(feature_r2(z, np.hstack([c, np.full((300, 1), 0.1)]))[-1])


def test_mostly_repeated_cells():
    # A panel in which most cells are zero for every protein has a median distance of 0.
    rng = np.random.default_rng(7)
    z = np.zeros((300, 3))
    z[:60] = rng.standard_normal((60, 3))
    assert np.isfinite(probe_r2(z, z + 0.1 * rng.standard_normal((300, 3)), probe="nonlinear"))


def test_seed_is_all_the_randomness():
    z, c = _quadratic_leak(0.3, n=300)
    state = np.random.get_state()[1].copy()
    assert leakage(z, c, seed=3) == leakage(z, c, seed=3)
    assert leakage(z, c, seed=3) != leakage(z, c, seed=4)
    assert (np.random.get_state()[1] == state).all()


def test_leakage_takes_the_better_probe_and_a_null_near_zero():
    result = leakage(*_quadratic_leak(0.3))
    assert result.r2 == result.nonlinear > 0.2
    assert result.ridge < 0.02
    assert abs(result.null) < 0.01
    assert result.above_null == result.r2 - result.null
    linear = leakage(*_linear_leak(0.3))
    assert linear.r2 == max(linear.ridge, linear.nonlinear) > 0.25


def test_many_targets_are_many_single_ones():
    z, c = _linear_leak(0.3, n=200)
    targets = {"c": c, "square": np.square(z[:, :2]), "noise": np.random.default_rng(1).standard_normal((200, 3))}
    together = leakages(z, targets, n_permutations=2, seed=5)
    assert list(together) == list(targets)
    for name, target in targets.items():
        alone = leakage(z, target, n_permutations=2, seed=5)
        assert together[name].r2 == pytest.approx(alone.r2, abs=1e-9)
        assert together[name].null == pytest.approx(alone.null, abs=1e-9)
    assert np.isnan(leakages(z, targets, n_permutations=0)["c"].above_null)


def test_leakage_orders_levels():
    above = [leakage(*_linear_leak(level, n=500), n_permutations=2).above_null for level in (0.0, 0.05, 0.1, 0.3)]
    assert above == sorted(above)
    assert abs(above[0]) < 0.015


def test_completeness_splits_a_feature():
    rng = np.random.default_rng(8)
    c, z, e = (rng.standard_normal((1200, d)) for d in (4, 3, 4))
    x = np.column_stack([c[:, 0], z[:, 0], (c[:, 1] + z[:, 1]) / np.sqrt(2), e[:, 0], np.zeros(1200)])
    table = completeness(x, c, z, feature_names=["own", "private", "half", "noise", "off"])
    assert list(table.columns) == ["shared", "specific", "both"]
    assert table.index.name == "feature"
    expected = np.array([[1, 0, 1], [0, 1, 1], [0.5, 0.5, 1], [0, 0, 0]])
    np.testing.assert_allclose(table.iloc[:4], expected, atol=0.03)
    assert table.loc["off"].isna().all()


def test_completeness_ridge_only_and_default_names():
    rng = np.random.default_rng(9)
    c, z = rng.standard_normal((500, 2)), rng.standard_normal((500, 2))
    x = np.square(c[:, [0]])
    assert completeness(x, c, z, probe="ridge").loc[0, "shared"] < 0.05
    assert completeness(x, c, z).loc[0, "shared"] > 0.8


def test_errors():
    z, c = _linear_leak(0.5, n=50)
    with pytest.raises(ValueError, match=r"got inputs 50, targets 49; do subset"):
        probe_r2(z, c[:-1])
    with pytest.raises(ValueError, match=r"expected probe to be one of \['ridge', 'nonlinear'\], got 'forest'"):
        probe_r2(z, c, probe="forest")
    with pytest.raises(
        ValueError, match=r"expected n_splits to be a whole number of at least 2 and of at most 25, got 1"
    ):
        probe_r2(z, c, n_splits=1)
    with pytest.raises(ValueError, match=r"expected at least one target that varies over cells"):
        probe_r2(z, np.full((50, 2), 0.1))
    with pytest.raises(ValueError, match=r"expected finite values in specific, got NaN or inf in 50 of 50 cells"):
        leakage(z * np.inf, c)
    with pytest.raises(ValueError, match=r"expected n_permutations to be a whole number of at least 0, got -1"):
        leakage(z, c, n_permutations=-1)
    with pytest.raises(ValueError, match=r"expected 5 feature_names, one for each column of features, got 2"):
        completeness(c, z, z, feature_names=["a", "b"])
    with pytest.raises(ValueError, match=r"expected inputs with at least 4 cells, got 3"):
        probe_r2(z[:3], c[:3])
