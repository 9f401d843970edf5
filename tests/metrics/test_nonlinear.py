from __future__ import annotations

import numpy as np
import pytest

from indiseek.metrics._nonlinear import nonlinear_probes
from indiseek.metrics._scan import scan


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    return rng.standard_normal((600, 4)), rng.standard_normal((600, 3))


def test_probes_find_nothing_in_independent_codes(codes):
    for probed in nonlinear_probes(*codes, seed=0).values():
        assert probed.r2 < 0.02 and 0 < probed.se < 0.02


def test_probes_see_a_threshold_and_three_factors(codes):
    z, c = codes
    c[:, 0] = 2 * np.sign(z[:, 0] * (z[:, 1] > 0)) + 0.5 * c[:, 0]
    found = nonlinear_probes(z, c, seed=0)
    assert found["trees"].r2 > 0.35 and found["mlp"].r2 > 0.2
    assert found["trees"].r2 - 1.96 * found["trees"].se > 0.3


def test_probes_of_a_collapsed_code(codes):
    assert nonlinear_probes(np.ones((600, 2)), codes[1], seed=0)["mlp"].r2 == 0.0


def test_global_state_is_left_alone(codes):
    before = np.random.get_state()[1].copy()
    first = nonlinear_probes(*codes, seed=3)
    assert first == nonlinear_probes(*codes, seed=3)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def _dependent(form, z, c):
    if form == "sine":
        z[:, 0] = np.sin(8 * c[:, 0]) + 0.3 * z[:, 0]
    elif form == "xor":
        z[:, 0] = np.abs(z[:, 0]) * np.sign(c[:, 0] * c[:, 1])
    elif form == "tails":
        outer = np.abs(z[:, 0]) > 1.96
        c[outer, 0] = 2.5 * np.sign(c[outer, 0])
    elif form == "variance":
        c[:, 0] *= np.exp(0.6 * z[:, 0])


@pytest.mark.parametrize("form", ["sine", "xor", "tails", "variance"])
def test_scan_sees_other_forms(codes, form):
    # The least that 39 permutations can give, and never less.
    least = pytest.approx(1 / 40, rel=1e-12)
    assert scan(*codes, n_permutations=39, seed=0).p_value > 0.1
    _dependent(form, *codes)
    for seed in range(3):
        assert scan(*codes, n_permutations=39, seed=seed).p_value == least


def test_p_of_the_scan_is_exact():
    rng = np.random.default_rng(1)
    n = 200
    p = [
        scan(rng.standard_normal((80, 3)), rng.standard_normal((80, 2)), n_permutations=19, seed=k).p_value
        for k in range(n)
    ]
    # The rank of the cells as they are among 20 orders of them: uniform, as far as so many draws can tell.
    ranks = 20 * np.array(p)
    np.testing.assert_allclose(ranks, np.rint(ranks), atol=1e-9)
    assert ranks.min() >= 1 and ranks.max() <= 20
    for limit in (1, 2, 4, 10, 16, 18):
        level = limit / 20
        band = 3.5 * np.sqrt(level * (1 - level) / n)
        assert np.mean(np.rint(ranks) <= limit) == pytest.approx(level, abs=band)
    assert scan(np.ones((50, 2)), rng.standard_normal((50, 2)), n_permutations=5, seed=0).p_value == 1.0
