"""What a transform would give where features are missing, against what it gives where they are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from indiseek.data import CLR, CLRPCA, EstimatedTransform, LeastSquares, LogNormalizePCA, Scale, ScalePCA

N_TRAIN, N_CELLS, N_FEATURES = 600, 900, 40


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """Counts of four programs: features that are missing are told by the others."""
    rng = np.random.default_rng(0)
    programs = rng.gamma(2.0, 1.0, (N_CELLS, 4)) @ rng.gamma(0.5, 1.0, (4, N_FEATURES))
    return rng.poisson(20.0 * programs * rng.lognormal(0.0, 0.3, (N_CELLS, 1)) + 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def kept() -> np.ndarray:
    return np.sort(np.random.default_rng(1).permutation(N_FEATURES)[: N_FEATURES // 2])


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(Scale(), id="scale"),
        pytest.param(ScalePCA(n_components=4), id="scale-pca"),
        pytest.param(CLR(), id="clr"),
        pytest.param(CLRPCA(n_components=4), id="clr-pca"),
        pytest.param(LogNormalizePCA(n_components=4), id="log-normalize-pca"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_half_of_the_features_tell_the_others_and_zeros_do_not(transform, counts, kept, form):
    train, new = np.arange(N_TRAIN), np.arange(N_TRAIN, N_CELLS)
    values = form(counts)
    transform.fit(values, train)
    truth = transform.apply_to(values, new)
    estimated = EstimatedTransform(transform, kept)
    estimated.fit(values, train)
    found = estimated.apply_to(form(counts[:, kept]), new)
    assert found.shape == truth.shape
    torch.testing.assert_close(estimated.apply_to(estimated.of(values), new), found)
    filled = counts.copy()
    filled[:, np.setdiff1d(np.arange(N_FEATURES), kept)] = 0.0
    zeros = transform.apply_to(form(filled), new)
    size = (truth - truth.mean(dim=0)).square().sum()
    wrong, wrong_of_zeros = (float((x - truth).square().sum() / size) for x in (found, zeros))
    assert wrong < 0.35
    assert wrong_of_zeros > 2.0 * wrong


def test_the_whole_transform_is_untouched_and_no_part_of_what_is_estimated(counts, kept):
    transform = CLR()
    transform.fit(counts, np.arange(N_TRAIN))
    before = {key: value.clone() for key, value in transform.state_dict().items()}
    estimated = EstimatedTransform(transform, kept)
    estimated.fit(counts, np.arange(N_TRAIN))
    assert transform not in list(estimated.modules())
    for key, value in transform.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_least_squares_find_a_line_and_bear_inputs_that_are_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator)
    slope, constant = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]), torch.tensor([4.0, -1.0])
    torch.testing.assert_close(LeastSquares(x, x @ slope + constant)(x), x @ slope + constant, atol=0.02, rtol=0)
    twice = torch.cat([x, x, torch.ones(500, 1)], dim=1)
    torch.testing.assert_close(LeastSquares(twice, x @ slope)(twice), x @ slope, atol=0.02, rtol=0)
