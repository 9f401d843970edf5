"""What is predicted, within what is easily told, and what could be."""

from __future__ import annotations

import numpy as np
import pytest

from indiseek.metrics import predictability, thin_counts


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    groups, batch = rng.integers(4, size=2000), rng.integers(2, size=2000)
    state = rng.normal(size=(2000, 1))
    observed = 3 * groups[:, None] + 2 * batch[:, None] + state + 0.5 * rng.normal(size=(2000, 2))
    return groups, batch, state, observed


def test_correlation_and_r2_are_those_of_numpy(cells):
    groups, _, state, observed = cells
    predicted = np.hstack([3 * groups[:, None] + state, state])
    table = predictability(predicted, observed, names=["a", "b"])
    assert list(table.index) == ["a", "b"] and list(table) == ["r", "r2"]
    for j, name in enumerate("ab"):
        assert table.loc[name, "r"] == pytest.approx(np.corrcoef(predicted[:, j], observed[:, j])[0, 1])
        residual = np.square(observed[:, j] - predicted[:, j]).mean()
        assert table.loc[name, "r2"] == pytest.approx(1 - residual / observed[:, j].var())


def test_what_knows_types_only_knows_nothing_within_them(cells):
    groups, batch, state, observed = cells
    of_types = 3.0 * groups[:, None] + 2.0 * batch[:, None]
    predicted = np.hstack([of_types + 0.001 * np.random.default_rng(1).normal(size=(2000, 1)), of_types + state])
    table = predictability(predicted, observed, batch=batch, groups=np.array(list("abcd"))[groups])
    assert (table["r"] > 0.9).all()
    assert abs(table["r_within_groups"][0]) < 0.1
    assert table["r_within_groups"][1] == pytest.approx(1 / np.sqrt(1.25), abs=0.02)
    assert (table["r_within_batches"] > table["r_within_groups"]).all()
    # Without the batch its shift is within the types.
    assert predictability(predicted, observed, groups=groups)["r_within_groups"][0] > 0.5
    constant = predictability(np.ones_like(observed), observed)
    assert constant["r"].isna().all() and (constant["r2"] < 0).all()


def test_the_ceiling_is_the_correlation_with_what_a_second_count_repeats():
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(size=(4000, 3)) * 0.5 + np.log([1.0, 5.0, 100.0]))
    counts = rng.poisson(mean).astype(float)
    table = predictability(mean, counts, halves=thin_counts(counts))
    expected = [np.corrcoef(mean[:, j], counts[:, j])[0, 1] for j in range(3)]
    np.testing.assert_allclose(table["ceiling"], expected, atol=0.03)
    np.testing.assert_allclose(table["of_ceiling"], 1.0, atol=0.05)
    assert table["ceiling"].is_monotonic_increasing


def test_what_does_not_fit_together_is_refused(cells):
    groups, _, _, observed = cells
    with pytest.raises(ValueError, match="expected the same features in predicted and observed, got 1 and 2; do align"):
        predictability(observed[:, :1], observed)
    with pytest.raises(ValueError, match="expected in groups one value for each of 2000 cells, got 10; do align them"):
        predictability(observed, observed, groups=groups[:10])
    with pytest.raises(ValueError, match="cells"):
        predictability(observed[:5], observed)
