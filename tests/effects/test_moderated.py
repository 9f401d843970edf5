from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from indiseek.effects import moderated_t
from indiseek.effects._moderated import _inverse_trigamma, _prior, permuted_t


@pytest.mark.parametrize("value", [1e-8, 1e-3, 0.5, 3.0, 100.0, 1e8])
def test_inverse_trigamma(value: float):
    assert special.polygamma(1, _inverse_trigamma(value)) == pytest.approx(value, rel=1e-3)


def test_the_prior_of_variances_is_found():
    rng = np.random.default_rng(0)
    variance = 0.3 * 8 / rng.chisquare(8, 40_000) * rng.chisquare(5, 40_000) / 5
    free, location = _prior(variance, 5)
    assert free == pytest.approx(8, rel=0.1)
    assert location == pytest.approx(0.3, rel=0.05)


def test_variances_that_are_as_chance_makes_them_are_taken_for_one():
    rng = np.random.default_rng(1)
    variance = 2.0 * np.linspace(0.9, 1.1, 50)
    effect = rng.normal(size=50)
    pvalues = moderated_t(effect, variance, 0.25, 10)
    location = np.exp(np.mean(np.log(variance)) - special.digamma(5) + np.log(5))
    np.testing.assert_allclose(pvalues, 2 * stats.norm.sf(np.abs(effect) / np.sqrt(0.25 * location)))


def test_p_values_are_uniform_where_nothing_happens_and_few_donors_are_enough():
    rng = np.random.default_rng(2)
    scale = 1 / rng.gamma(4, size=4000)
    values = rng.normal(size=(6, 4000)) * np.sqrt(scale)
    effect = values[:3].mean(axis=0) - values[3:].mean(axis=0)
    variance = (values[:3].var(axis=0) + values[3:].var(axis=0)) * 3 / 4
    pvalues = moderated_t(effect, variance, 2 / 3, 4)
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01
    # With the variance of each feature alone an effect of four of its standard deviations is seldom found.
    strong = effect + 4 * np.sqrt(scale)
    plain = 2 * stats.t.sf(np.abs(strong) / np.sqrt(variance * 2 / 3), 4)
    assert (moderated_t(strong, variance, 2 / 3, 4) < 1e-3).mean() > (plain < 1e-3).mean() + 0.1


def test_permuted_t_is_t_times_a_prior_for_each_labelling():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(8, 300)) * np.sqrt(1 / rng.gamma(2, size=300))
    values -= values.mean(axis=0)
    case = np.array([1, 1, 1, 1, -1, -1, -1, -1]) / 2
    rows = np.stack([case, case[::-1], np.roll(case, 2)]) / (case @ case)
    found = permuted_t(values, rows, 6)
    free, location = _prior((values**2).sum(axis=0) / 7, 7)
    for row, t in zip(rows, found, strict=True):
        effect = row @ values
        residual = values - np.outer(row * (case @ case), effect)
        variance = (free * location + (residual**2).sum(axis=0)) / (free + 6)
        np.testing.assert_allclose(t, effect / np.sqrt(variance * (row @ row)))
