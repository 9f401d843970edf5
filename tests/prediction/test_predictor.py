"""Predictions and their intervals, where the truth is known and on real cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from indiseek.data import CLR, LogNormalizePCA, Scale
from indiseek.datasets import pbmc10k_cite
from indiseek.metrics import predictability
from indiseek.prediction import Predictor, _network, _predictor, folds_of

SHIFT = np.array([1.5, 0.0, -1.0])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few landmarks and steps, so that a fit takes a moment."""
    monkeypatch.setattr(_predictor, "_N_LANDMARKS", 200)
    monkeypatch.setattr(_network, "_LEAST_STEPS", 50)
    monkeypatch.setattr(_network, "_N_EPOCHS", 1)
    monkeypatch.setattr(_predictor, "_N_LANDMARKS_NOISE", 100)


def fitted(transform, values, rows):
    """Transform that has seen the cells at `rows`, as a trained model has it."""
    transform.fit(values, rows)
    return transform


def simulated(seed: int, n: int):
    """Inputs, batch, mean and size of the noise of three features, of which two differ between batches."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    batch = rng.integers(2, size=n)
    mean = np.stack([np.sin(2 * x[:, 0]), x[:, 0] * x[:, 1], x[:, 2]], axis=1) + SHIFT * batch[:, None]
    size = (0.1 + 0.4 / (1 + np.exp(-2 * x[:, 3])))[:, None] * np.ones(3)
    y = (mean + size * rng.standard_t(5, size=mean.shape)).astype(np.float32)
    return x, torch.from_numpy(batch), mean, size, y


def test_truth_batch_and_coverage_are_found():
    covered, shifts = [], []
    for seed in range(3):
        x, batch, mean, size, y = simulated(seed, 1500)
        train, test = np.arange(900), np.arange(900, 1500)
        predictor = Predictor(fitted(Scale(), x, train), Scale(), 2)
        predictor.fit(x, y, train, batch[train], seed=seed)
        own = predictor.inputs.apply_to(x, test)
        value, half = predictor(own, batch[test], 0.9)
        error = np.square(value.numpy() - mean[test]).mean(axis=0) / mean[test].var(axis=0)
        assert error.max() < 0.3
        covered.append((np.abs(y[test] - value.numpy()) <= half.numpy()).mean(axis=0))
        assert all(spearmanr(half[:, j], size[test, j]).statistic > 0.5 for j in range(3))
        as_each = [predictor(own, torch.full((len(test),), b)).value for b in (0, 1)]
        shifts.append((as_each[1] - as_each[0]).mean(dim=0).numpy())
        # What the batch shifts is gone where all are predicted as of one.
        between = [as_each[0][batch[test] == b].mean(dim=0).numpy() for b in (0, 1)]
        assert np.abs(between[1] - between[0])[[0, 2]].max() < 0.4 < 0.8 < np.abs(SHIFT[[0, 2]]).min()
    # One of 900 noisy cells is off by up to .17.
    np.testing.assert_allclose(np.mean(shifts, axis=0), SHIFT, atol=0.1)
    assert 0.88 < np.mean(covered) < 0.92
    assert 0.84 < np.min(covered) and np.max(covered) < 0.96


def test_a_wider_share_has_wider_intervals():
    x, batch, _, _, y = simulated(0, 400)
    train = np.arange(300)
    predictor = Predictor(fitted(Scale(), x, train), Scale(), 2).fit(x, y, train, batch[:300])
    own = predictor.inputs.apply_to(x, np.arange(300, 400))
    halves = [predictor(own, batch[300:], level).half for level in (0.001, 0.5, 0.9, 0.95, 0.9999)]
    assert all(bool((a < b).all()) for a, b in zip(halves, halves[1:], strict=False))
    assert predictor(own, batch[300:]).half is None


def test_a_network_that_is_off_is_left_out(monkeypatch):
    x, batch, _, _, y = simulated(0, 300)
    train = np.arange(300)
    found = []
    for scale in (0.0, 3.0):
        off = torch.nn.Linear(7, 3).requires_grad_(False)
        off.weight.mul_(scale)
        monkeypatch.setattr(_predictor, "fit_network", lambda c, y, seed, off=off: off)
        predictor = Predictor(fitted(Scale(), x, train), Scale(), 2).fit(x, y, train, batch)
        assert predictor.network is None
        found.append(predictor(predictor.inputs.apply_to(x), batch).value)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_intervals_for_new_donors_need_folds_of_donors():
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(40), 30)
    place, level = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    x = np.hstack([place[donor] + 0.05 * rng.normal(size=(1200, 3)), rng.normal(size=(1200, 1))]).astype(np.float32)
    y = (level[donor] + x[:, 3:] + 0.2 * rng.normal(size=(1200, 2))).astype(np.float32)
    train, test = np.flatnonzero(donor < 25), np.flatnonzero(donor >= 25)
    covered = []
    for groups in (None, donor[train]):
        predictor = Predictor(fitted(Scale(), x, train), Scale(), 0).fit(x, y, train, None, groups)
        value, half = predictor(predictor.inputs.apply_to(x, test), None, 0.9)
        covered.append(float((np.abs(y[test] - value.numpy()) <= half.numpy()).mean()))
    assert covered[0] < 0.6 < 0.8 < covered[1]


def test_folds_keep_groups_whole_and_are_of_about_one_size():
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(12) * 7, 10 + np.arange(12)))
    folds = folds_of(groups, len(groups), seed=0)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.min() > 0.7 * sizes.max()
    for unknown in (None, np.zeros(50, dtype=int)):
        assert np.bincount(folds_of(unknown, 50, seed=0)).tolist() == [10] * 5


def test_quantiles_count_every_group_alike():
    ratios = torch.from_numpy(np.random.default_rng(0).exponential(size=(5000, 3)))
    groups = np.repeat([0, 1], [4000, 1000])
    weight = torch.from_numpy(_predictor._weights(groups, 5000))
    even = torch.full((5000,), 1 / 5000)
    for own, expected in ((even, ratios), (weight, torch.cat([ratios[:4000], *[ratios[4000:]] * 4]))):
        found = _predictor._quantiles(ratios, own)
        for level in (10, 50, 90):
            wanted = np.quantile(expected.numpy(), level / 100, axis=0, method="inverted_cdf")
            np.testing.assert_allclose(found[level].numpy(), wanted, rtol=0.01)


@pytest.fixture(scope="module")
def pbmc():
    """1,800 real cells with the 800 genes that most of them have."""
    full = pbmc10k_cite()
    rows = np.random.default_rng(0).permutation(full.n_obs)[:1800]
    prot = full["prot"].X[rows]
    prot = np.asarray(prot.toarray() if hasattr(prot, "toarray") else prot, dtype=np.float32)
    rna = full["rna"].X[rows].astype(np.float32)
    return rna[:, np.argsort(-rna.getnnz(axis=0))[:800]], prot


def test_real_proteins_are_predicted_better_than_by_a_linear_map(pbmc, monkeypatch):
    monkeypatch.setattr(_network, "_LEAST_STEPS", 200)
    rna, prot = pbmc
    train, test = np.arange(1000), np.arange(1000, 1800)
    predictor = Predictor(LogNormalizePCA(), CLR(), 0).fit(rna, prot, train)
    assert predictor.network is not None
    x = predictor.inputs.apply_to(rna).double().numpy()
    assert x.shape[1] == 50
    y = predictor.units.read(torch.from_numpy(prot)).double().numpy()
    weight = np.linalg.lstsq(np.c_[x[train], np.ones(1000)], y[train], rcond=None)[0]
    linear = np.c_[x[test], np.ones(800)] @ weight
    found = predictor(torch.from_numpy(x[test]).float()).value.numpy()
    better, worse = (predictability(each, y[test]) for each in (found, linear))
    assert better["r"].mean() > worse["r"].mean() + 0.01
    assert better["r2"].mean() > worse["r2"].mean() + 0.02


def test_features_that_are_many_are_predicted_as_their_components(pbmc, monkeypatch):
    rna, prot = pbmc
    rna = rna[:, :250]
    train, test = np.arange(400), np.arange(400, 1000)
    found = []
    for most in (512, 100):
        monkeypatch.setattr(_predictor, "_MOST_DIRECT", most)
        predictor = Predictor(fitted(CLR(), prot, train), LogNormalizePCA(), 0).fit(prot, rna, train)
        found.append(predictor(predictor.inputs.apply_to(prot, test), None, 0.9))
    assert len(predictor.basis) == 50 and len(predictor.noise) == 3
    y = predictor.units.read(torch.from_numpy(rna[test].toarray())).numpy()
    direct, rotated = (predictability(value.numpy(), y)["r"].mean() for value, _ in found)
    assert direct > 0.1 and rotated > direct - 0.02
    value, half = found[1]
    assert bool((value >= 0).all()) and 0.87 < float((np.abs(y - value.numpy()) <= half.numpy()).mean()) < 0.93
    empty = CLR()
    empty.allocate(prot.shape[1], prot.shape[1])
    other = Predictor.empty(empty, LogNormalizePCA(), predictor.state_dict(prefix="a."), "a.")
    other.load_state_dict(predictor.state_dict())
    again = other(other.inputs.apply_to(prot, test), None, 0.9)
    np.testing.assert_array_equal(again.value.numpy(), value.numpy())
    np.testing.assert_array_equal(again.half.numpy(), half.numpy())
