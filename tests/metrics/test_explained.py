from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from indiseek.metrics import explained
from indiseek.metrics._explained import explained_each, winsorised


def _leaky(share, *, n=1000, p=6, m=4, seed=0, products=False):
    """Codes, and a target of which they explain the given share: by their mean, or by products of two dimensions."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, p))
    if products:
        first, second = np.triu_indices(p, 1)
        inputs = z[:, first] * z[:, second]
    else:
        inputs = z
    weights = rng.standard_normal((inputs.shape[1], m))
    signal = inputs @ (weights / np.linalg.norm(weights, axis=0))
    return z, np.sqrt(share) * signal + np.sqrt(1 - share) * rng.standard_normal((n, m))


def _ranks(column):
    return np.array([(np.sum(column < value) + 0.5 * (np.sum(column == value) + 1)) for value in column])


def _slow(z, y):
    """The docstring's equations, cell by cell; without ties and outliers, and for at most five dimensions."""
    n, p = z.shape
    y = y - y.mean(axis=0)
    scores = np.column_stack([norm.ppf((_ranks(z[:, j]) - 0.5) / n) for j in range(p)])
    scores /= scores.std(axis=0)
    centred = z - z.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    leading = centred @ axes.T
    leading = np.clip(leading / leading.std(axis=0), -4, 4)
    columns = [scores[:, j] for j in range(p)]
    columns += [scores[:, j] ** 2 for j in range(p)]
    columns += [scores[:, j] ** 3 - 3 * scores[:, j] for j in range(p)]
    columns += [leading[:, j] * leading[:, k] for j in range(p) for k in range(j, p)]
    columns += [leading[:, j] ** 3 for j in range(p)]
    f = np.column_stack([(c - c.mean()) / c.std() for c in columns])
    h = f @ np.linalg.inv(f.T @ f + 1.5 * n * np.eye(f.shape[1])) @ f.T
    k = f @ f.T / f.shape[1]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    slope = sum(h[i, j] * k[i, j] for i, j in pairs) / n
    total = np.square(y).sum()
    found = sum(y[i] @ y[j] * h[i, j] / slope for i, j in pairs) / total
    by_map = found - np.trace(h) / (slope * n**2)

    s = np.clip(scores, -3, 3)
    s = (s - s.mean(axis=0)) / s.std(axis=0)
    k2 = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            k2[i, j] = sum(s[i, a] * s[i, b] * s[j, a] * s[j, b] for a in range(p) for b in range(p) if a != b)
    k2 /= p * (p - 1)
    basis = np.linalg.qr(np.column_stack([np.ones(n), f]))[0]
    off = np.eye(n) - basis @ basis.T
    cleared = off @ k2 @ off
    a = off @ (cleared - np.diag(np.diag(cleared))) @ off
    free = n - basis.shape[1]
    a -= np.trace(a) / free * off
    slope2 = np.sum(a * k2) / (np.trace(cleared) * n / free)
    by_products = sum(y[i] @ y[j] * a[i, j] / slope2 for i in range(n) for j in range(n)) / total
    return by_map, by_products


def test_slow_loop():
    rng = np.random.default_rng(3)
    z = rng.uniform(-1, 1, (60, 4))
    y = np.column_stack([z[:, 0] * z[:, 1] + 0.3 * z[:, 2], rng.uniform(-1, 1, 60)])
    found = explained(z, y)
    by_map, by_products = _slow(z, y)
    assert found.map == pytest.approx(by_map, abs=1e-10)
    assert found.products == pytest.approx(by_products, abs=1e-10)
    assert abs(by_products) > 0.01
    assert explained(z, y, products=False).map == found.map


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_closed_form_of_linear_gaussian_codes(share):
    found = np.mean([explained(*_leaky(share, seed=seed)).total for seed in range(8)])
    assert found == pytest.approx(share, abs=0.01 + 0.08 * share)


def test_mean_does_not_depend_on_the_number_of_cells():
    few = [explained(*_leaky(0.1, n=200, seed=seed)).total for seed in range(30)]
    many = [explained(*_leaky(0.1, n=1500, seed=seed)).total for seed in range(8)]
    assert np.mean(few) == pytest.approx(np.mean(many), abs=0.03)
    assert np.mean(many) == pytest.approx(0.1, abs=0.01)


def test_products_are_seen_and_not_counted_twice():
    readings = [explained(*_leaky(0.2, p=10, seed=seed, products=True)) for seed in range(6)]
    assert np.mean([reading.products for reading in readings]) > 0.08
    assert np.mean([reading.total for reading in readings]) == pytest.approx(0.2, abs=0.03)
    z, y = _leaky(0.2, p=10, products=True)
    alone = explained(z, y, products=False)
    assert np.isnan(alone.products) and alone.total == alone.map < 0.15


def test_permuted_cells_give_nothing_and_the_standard_error_says_so():
    totals, errors = [], []
    for seed in range(40):
        z, y = _leaky(0.3, n=300, seed=seed)
        found = explained(z, y[np.random.default_rng(seed + 1).permutation(300)])
        totals.append(found.total)
        errors.append(found.null_se)
    assert abs(np.mean(totals)) < 0.01
    assert np.std(totals) == pytest.approx(np.mean(errors), rel=0.35)


def test_intervals_cover():
    readings = [explained(*_leaky(0.1, n=500, seed=seed)) for seed in range(40)]
    inside = [reading.interval[0] < 0.1 < reading.interval[1] for reading in readings]
    assert np.mean(inside) >= 0.85


def test_invariance():
    z, y = _leaky(0.2, n=400)
    found = explained(z, y)
    rng = np.random.default_rng(1)
    order = rng.permutation(400)
    assert explained(z[order], y[order]).total == pytest.approx(found.total, abs=1e-10)
    # Units do not matter, nor the order of the dimensions, nor the rotation of a target without outliers.
    assert explained(100 * z[:, ::-1] - 7, y).total == pytest.approx(found.total, abs=1e-10)
    inside = np.clip(y, -2.5, 2.5)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert explained(z, 3 * inside @ rotation).total == pytest.approx(explained(z, inside).total, abs=1e-10)
    # Rotating the code changes which squares and products are read by which part, not what both read together.
    rotated = explained(z @ np.linalg.qr(rng.standard_normal((6, 6)))[0], y)
    assert rotated.total == pytest.approx(found.total, abs=0.03)


def test_three_joint_outliers_are_no_leak():
    z, y = _leaky(0.0, n=700, p=10)
    z[:3] += 30
    y[:3] += 30
    assert abs(explained(z, y).total) < 0.03
    # The same without drawing them in.
    assert np.corrcoef(z[:, 0], y[:, 0])[0, 1] > 0.5
    rare = np.zeros((100, 1))
    rare[:4] = 1
    np.testing.assert_array_equal(winsorised(rare), rare)


def test_duplicated_cells_read_as_a_leak():
    z, y = _leaky(0.0, n=350, p=10)
    assert explained(np.vstack([z, z]), np.vstack([y, y])).total > 0.1


def test_products_of_a_draw():
    z, y = _leaky(0.2, n=600, products=True)
    whole, drawn = explained(z, y), explained(z, y, max_cells=300)
    assert drawn.map == whole.map and drawn.products != whole.products
    assert drawn.se > whole.se
    assert explained(z, y, max_cells=300).products == drawn.products != explained(z, y, max_cells=300, seed=1).products


@pytest.mark.parametrize(("n", "p", "max_cells"), [(300, 6, 4000), (400, 5, 250), (80, 30, 4000), (60, 1, 4000)])
def test_several_targets_are_read_as_each_alone(n, p, max_cells):
    z, y = _leaky(0.3, n=n, p=p)
    # Each target has outliers and a mean of its own.
    z[:2] += 30
    targets = {"a": y, ("b", "wide"): np.hstack([y, y[:, :1] ** 2]) + 5, "c": y[::-1] * 40}
    targets["c"][:2] += 900
    for name, found in explained_each(z, targets, max_cells=max_cells, seed=3).items():
        assert str(found) == str(explained(z, targets[name], max_cells=max_cells, seed=3))


def test_more_features_than_cells_leaves_the_products_open():
    z, y = _leaky(0.5, n=60, p=30)
    found = explained(z, y)
    assert np.isfinite(found.map) and found.products == 0.0 and np.isinf(found.se)


def test_constant_codes_and_targets():
    _, y = _leaky(0.0, n=50)
    found = explained(np.ones((50, 3)), y)
    assert found.total == found.se == 0.0
    with pytest.raises(ValueError, match=r"expected a target that varies over cells, got constant columns"):
        explained(y, np.full((50, 2), 0.1))
    with pytest.raises(ValueError, match=r"expected code with at least 20 cells, got 10"):
        explained(y[:10], y[:10])
    with pytest.raises(ValueError, match=r"expected the same cells .* got code 50, target 49"):
        explained(y, y[1:])
