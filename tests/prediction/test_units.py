"""Scales of predictions: counts come back from what was made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from indiseek.data import CLR, CLRPCA, LogNormalizePCA, Scale, ScalePCA, to_tensor
from indiseek.prediction import units_of


def _counts() -> np.ndarray:
    return np.random.default_rng(0).negative_binomial(2, 0.1, size=(30, 12)).astype(np.float32) + 1


@pytest.mark.parametrize("transform", [CLR(), CLRPCA(), LogNormalizePCA(target_sum=500.0)])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_counts_come_back_at_the_cells_own_depth(transform, as_sparse):
    units, counts = units_of(transform), _counts()
    read = units.read(to_tensor(sparse.csr_matrix(counts) if as_sparse else counts, torch.device("cpu")))
    assert read.shape == counts.shape
    for row, own in zip(read, counts, strict=True):
        back = units.counts(row[None], row[None], float(own.sum()))
        np.testing.assert_allclose(back[0].numpy(), own, rtol=1e-3)


def test_a_panel_is_read_as_logarithms_less_the_mean_of_the_cell():
    logs = np.log1p(_counts())
    expected = logs - logs.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(units_of(CLR()).read(torch.from_numpy(_counts())).numpy(), expected, atol=1e-6)


def test_what_no_cell_can_have_is_not_predicted():
    low = torch.tensor([[-0.5, 0.5]])
    assert units_of(LogNormalizePCA()).bounded(low).tolist() == [[0.0, 0.5]]
    assert units_of(CLR()).bounded(low) is low
    assert units_of(CLR()).counts(torch.tensor([[-9.0, 1.0]]), torch.tensor([[-1.0, 1.0]]), 10.0)[0, 0] == 0.0


@pytest.mark.parametrize(
    ("transform", "scale", "message"),
    [
        (CLR(), "raw", r"expected scale to be one of \['log', 'clr', 'counts'\] for 'x', got 'raw'; choose one of"),
        (LogNormalizePCA(), "clr", r"expected scale to be one of \['log', 'counts'\] for 'x', got 'clr'; choose one"),
        (Scale(), "log", "expected scale=None for 'x', whose values are no counts, got 'log'; leave it out"),
        (ScalePCA(), "counts", "expected scale=None for 'x', whose values are no counts, got 'counts'; leave it"),
    ],
)
def test_scales_that_do_not_apply_are_refused(transform, scale, message):
    with pytest.raises(ValueError, match=message):
        units_of(transform).check("x", scale)
    units_of(transform).check("x", None)
