from __future__ import annotations

import numpy as np
import pytest

from indiseek.metrics import distance_correlation, infonce_bound


def _reference(a, b):
    """Bias-corrected squared distance correlation by loops over entries."""

    def centred(x):
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        n = len(x)
        d = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(n)] for i in range(n)])
        u = np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                if i != j:
                    row, column = d[i].sum() / (n - 2), d[:, j].sum() / (n - 2)
                    u[i, j] = d[i, j] - row - column + d.sum() / ((n - 1) * (n - 2))
        return u

    x, y = centred(a), centred(b)
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def _pair(rho, *, n, d=5, extra=3, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d + extra))
    return a, rho * a[:, :d] + np.sqrt(1 - rho**2) * rng.standard_normal((n, d))


def test_distance_correlation_equals_loops():
    a, b = _pair(0.5, n=40)
    assert distance_correlation(a, b, n_permutations=0).value == pytest.approx(_reference(a, b), abs=1e-5)


def test_distance_correlation_of_a_rotation_is_one():
    rng = np.random.default_rng(1)
    a = np.linalg.qr(rng.standard_normal((200, 3)))[0]
    a = (a - a.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a.T))).T  # white, so scaling keeps rotations
    b = a @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert distance_correlation(a, b).value == pytest.approx(1.0, abs=1e-4)


def test_distance_correlation_is_zero_on_average_without_dependence():
    found = [distance_correlation(*_pair(0.0, n=100, seed=s), n_permutations=19, seed=s) for s in range(20)]
    assert abs(np.mean([d.value for d in found])) < 0.003
    assert 0.25 < np.mean([d.p_value for d in found]) < 0.75
    assert abs(np.mean([d.null for d in found])) < 0.003


def test_distance_correlation_sees_a_dependence_without_correlation():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((400, 1))
    b = np.square(a) + 0.3 * rng.standard_normal((400, 1))
    found = distance_correlation(a, b, n_permutations=99)
    assert found.value > 0.1
    assert found.p_value == 0.01


def test_distance_correlation_invariance():
    a, b = _pair(0.4, n=120)
    base = distance_correlation(a, b, n_permutations=0).value
    order = np.random.default_rng(3).permutation(120)
    assert distance_correlation(a[order] * 9 + 2, b[order], n_permutations=0).value == pytest.approx(base, abs=1e-5)
    assert distance_correlation(b, a, n_permutations=0).value == pytest.approx(base, abs=1e-5)
    padded = np.hstack([a, np.full((120, 1), 0.1)])
    assert distance_correlation(padded, b, n_permutations=0).value == pytest.approx(base, abs=1e-5)


def test_distance_correlation_of_a_collapsed_code_is_zero():
    a, b = _pair(0.4, n=50)
    found = distance_correlation(np.ones_like(a), b, n_permutations=9)
    assert (found.value, found.p_value) == (0.0, 1.0)


def test_distance_correlation_draws_cells():
    a, b = _pair(0.6, n=400)
    whole, drawn = (distance_correlation(a, b, n_permutations=0, max_cells=cells).value for cells in (400, 200))
    assert whole != drawn
    assert drawn == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_infonce_is_a_bound_of_the_gaussian_information(rho):
    a, b = _pair(rho, n=1500)
    truth = -2.5 * np.log(1 - rho**2)
    found = infonce_bound(a, b)
    # A little above the truth is the noise of 500 test cells.
    assert 0.55 * truth < found.nats < truth + 0.1
    assert found.limit == pytest.approx(np.log(500))


def test_infonce_without_dependence_is_zero():
    found = [infonce_bound(*_pair(0.0, n=600, seed=s), seed=s).nats for s in range(3)]
    assert max(found) < 0.05


def test_infonce_sees_a_scale_that_no_probe_of_the_mean_sees():
    rng = np.random.default_rng(4)
    c = rng.standard_normal((1500, 2))
    z = rng.standard_normal((1500, 2)) * (0.2 + np.abs(c))
    assert abs(np.corrcoef(z[:, 0], c[:, 0])[0, 1]) < 0.1
    assert infonce_bound(z, c).nats > 0.1


def test_infonce_never_exceeds_its_limit():
    rng = np.random.default_rng(5)
    a = rng.standard_normal((300, 4))
    found = infonce_bound(a, a)
    assert 1.0 < found.nats <= found.limit == pytest.approx(np.log(100))


def test_infonce_ignores_scale_and_depends_on_the_seed_alone():
    import torch

    a, b = _pair(0.6, n=300)
    state = torch.get_rng_state()
    first = infonce_bound(a, b, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert infonce_bound(a, b, seed=1) == first != infonce_bound(a, b, seed=2)
    assert infonce_bound(a * 1024, b - 4, seed=1).nats == pytest.approx(first.nats, abs=0.02)
    constant = np.hstack([a, np.full((300, 1), 0.1)])
    assert infonce_bound(constant, b, seed=1).nats > 0.2


@pytest.mark.parametrize("function", [distance_correlation, infonce_bound])
def test_errors(function):
    a, b = _pair(0.5, n=40)
    with pytest.raises(ValueError, match=r"got a 39, b 40; do subset"):
        function(a[1:], b)
    with pytest.raises(ValueError, match=r"expected finite values in b, got NaN or inf in 40 of 40 cells"):
        function(a, b * np.nan)
    with pytest.raises(ValueError, match=r"expected max_cells to be a whole number of at least \d+, got 2"):
        function(a, b, max_cells=2)


def test_errors_of_each():
    a, b = _pair(0.5, n=29)
    with pytest.raises(ValueError, match=r"expected n_cells to be a whole number of at least 30, got 29"):
        infonce_bound(a, b)
    with pytest.raises(ValueError, match=r"expected max_steps to be a whole number of at least 1, got 0"):
        infonce_bound(np.vstack([a, a]), np.vstack([b, b]), max_steps=0)
    with pytest.raises(ValueError, match=r"expected n_permutations to be a whole number of at least 0, got -1"):
        distance_correlation(a, b, n_permutations=-1)
