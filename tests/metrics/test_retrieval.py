from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from indiseek.metrics import foscttm, median_rank, recall_at_k
from indiseek.metrics._retrieval import match_ranks


def _reference(a, b, metric):
    """Closer, tied counts for every cell, by loops over both directions."""
    n = len(a)

    def distance(x, y):
        if metric == "euclidean":
            return float(np.linalg.norm(x - y))
        return 1.0 - float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    closer, tied = [], []
    for source, target in ((a, b), (b, a)):
        for i in range(n):
            match = distance(source[i], target[i])
            others = [distance(source[i], target[j]) for j in range(n) if j != i]
            closer.append(sum(d < match - 1e-12 for d in others))
            tied.append(sum(abs(d - match) <= 1e-12 for d in others))
    return np.array(closer), np.array(tied)


def _codes(seed, n=60, d=3, noise=0.7):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d))
    return a, a + noise * rng.standard_normal((n, d))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("chunk_size", [1, 7, 256])
def test_retrieval_equals_loops(metric, chunk_size):
    a, b = _codes(0)
    a[10:15], b[10:15] = a[10], b[10]  # five cells that are one and the same point
    closer, tied = _reference(a, b, metric)
    assert tied.max() == 4
    options = {"metric": metric, "chunk_size": chunk_size}
    assert foscttm(a, b, **options) == pytest.approx((closer + 0.5 * tied).mean() / 59, abs=1e-12)
    assert median_rank(a, b, **options) == np.median(1 + closer + 0.5 * tied)
    expected = np.clip((5 - closer) / (tied + 1), 0, 1).mean()
    assert recall_at_k(a, b, k=5, **options) == pytest.approx(expected, abs=1e-12)


def test_more_cells_than_one_tile():
    a, b = _codes(1, n=4200, d=2)
    whole = 0.0
    distances = cdist(a, b)
    for distance in (distances, distances.T):
        whole += (distance < np.diag(distance)[:, None]).sum() / (4200 * 4199) / 2
    assert foscttm(a, b, metric="euclidean") == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_identical_codes_are_perfect(metric):
    a, _ = _codes(2, n=200, d=5)
    assert foscttm(a, a, metric=metric) == 0.0
    assert recall_at_k(a, a, k=1, metric=metric) == 1.0
    assert median_rank(a, a, metric=metric) == 1.0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_shuffled_pairing_is_chance(metric):
    rng = np.random.default_rng(3)
    a, b = _codes(3, n=1500, d=5)
    b = rng.permutation(b)
    assert 0.47 < foscttm(a, b, metric=metric) < 0.53
    assert 0.0 < recall_at_k(a, b, k=15, metric=metric) < 0.025
    assert 700 < median_rank(a, b, metric=metric) < 800


def test_opposite_codes_are_worst():
    angle = np.linspace(0.1, 3.0, 40)
    a = np.column_stack([np.cos(angle), np.sin(angle)])
    assert foscttm(a, -a) == 1.0
    assert median_rank(a, -a) == 40.0
    assert recall_at_k(a, -a, k=39) == 0.0


def test_reversed_order_by_hand():
    # Cells on a line against the same line reversed: 0, 1, 2 meets 2, 1, 0; the outer matches are the farthest.
    a = np.array([[0.0], [1.0], [2.0]])
    assert foscttm(a, a[::-1], metric="euclidean") == pytest.approx(2 * (1 + 0 + 1) / (2 * 3))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_collapsed_codes_are_chance_not_perfect(metric):
    a = np.ones((30, 4))
    assert foscttm(a, a, metric=metric) == 0.5
    assert recall_at_k(a, a, k=3, metric=metric) == pytest.approx(0.1)
    assert median_rank(a, a, metric=metric) == 15.5


def test_codes_of_length_zero_are_at_right_angles():
    a = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    b = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert foscttm(a, b) == pytest.approx(_by_angle(a, b))


def _by_angle(a, b):
    total = 0.0
    for x, y in ((a, b), (b, a)):
        similarity = x @ y.T
        match = np.diag(similarity)[:, None]
        total += ((similarity > match).sum() + 0.5 * ((similarity == match).sum() - len(a))) / (len(a) * (len(a) - 1))
    return total / 2


def test_invariance():
    a, b = _codes(4, n=120, d=4)
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    order = rng.permutation(120)
    cosine, euclidean = foscttm(a, b), foscttm(a, b, metric="euclidean")
    assert foscttm(a @ rotation, b @ rotation) == pytest.approx(cosine, abs=1e-12)
    assert foscttm(a[order], b[order]) == pytest.approx(cosine, abs=1e-12)
    assert foscttm(b, a) == pytest.approx(cosine, abs=1e-12)
    # Cosine ignores the length of every code; euclidean ignores a common shift and scale.
    assert foscttm(a * rng.uniform(0.1, 10, (120, 1)), 3 * b) == pytest.approx(cosine, abs=1e-12)
    assert foscttm(2 * a + 1e4, 2 * b + 1e4, metric="euclidean") == pytest.approx(euclidean, abs=1e-12)
    assert cosine != euclidean


def test_better_codes_score_better():
    a, good = _codes(6, n=300, noise=0.2)
    _, bad = _codes(6, n=300, noise=2.0)
    assert foscttm(a, good) < foscttm(a, bad) < 0.5
    assert recall_at_k(a, good) > recall_at_k(a, bad)
    assert median_rank(a, good) < median_rank(a, bad)


@pytest.mark.parametrize("function", [foscttm, recall_at_k, median_rank])
def test_errors(function):
    a = np.random.default_rng(7).standard_normal((12, 3))
    with pytest.raises(ValueError, match=r"expected the same cells .* got a 12, b 11; do subset"):
        function(a, a[:-1])
    with pytest.raises(ValueError, match=r"expected a and b in one latent space, got 3 and 2 dimensions"):
        function(a, a[:, :2])
    with pytest.raises(ValueError, match=r"expected metric to be one of \['cosine', 'euclidean'\], got 'manhattan'"):
        function(a, a, metric="manhattan")
    with pytest.raises(ValueError, match=r"expected a with at least 2 cells, got 1"):
        function(a[:1], a[:1])
    with pytest.raises(ValueError, match=r"expected b with at least 1 column"):
        function(a, a[:, :0])
    with pytest.raises(ValueError, match=r"expected a of shape \(n_cells, n_columns\), got shape \(12, 3, 1\)"):
        function(a[:, :, None], a)
    with pytest.raises(ValueError, match=r"expected finite values in b, got NaN or inf in 1 of 12 cells"):
        function(a, np.where(np.arange(12)[:, None] == 3, np.nan, a))
    with pytest.raises(TypeError, match=r"expected a to be a dense array of numbers, got list; do"):
        function([["x"], ["y"]], a)
    with pytest.raises(ValueError, match=r"expected chunk_size to be a whole number of at least 1, got 0"):
        function(a, a, chunk_size=0)


@pytest.mark.parametrize("k", [0, 13])
def test_k_out_of_range(k):
    a = np.random.default_rng(8).standard_normal((12, 3))
    with pytest.raises(ValueError, match=rf"expected k to be a whole number of at least 1 and of at most 12, got {k}"):
        recall_at_k(a, a, k=k)


def test_a_draw_of_cells_has_a_standard_error():
    a, b = _codes(9, n=900, noise=1.0)
    whole = match_ranks(a, b)
    drawn = [match_ranks(a, b, max_cells=200, seed=seed) for seed in range(20)]
    assert {ranks.n_cells for ranks in drawn} == {200}
    assert np.mean([ranks.foscttm() for ranks in drawn]) == pytest.approx(whole.foscttm(), abs=0.01)
    spread = np.std([ranks.foscttm() for ranks in drawn])
    assert np.mean([ranks.foscttm_se() for ranks in drawn]) == pytest.approx(spread, rel=0.5)
    assert foscttm(a, b, max_cells=200, seed=1) == drawn[1].foscttm() != foscttm(a, b) == foscttm(a, b, max_cells=None)
    with pytest.raises(ValueError, match=r"expected max_cells to be a whole number of at least 2, got 1"):
        match_ranks(a, b, max_cells=1)
