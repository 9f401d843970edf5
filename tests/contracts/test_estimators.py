"""What every estimator on a table of scores must do. A new one adds a line to the list."""

from __future__ import annotations

import pytest
import torch

from indiseek.estimators import info_nce, nce_club, vclub

ESTIMATORS = [info_nce, nce_club, vclub]

pytestmark = pytest.mark.parametrize("estimator", ESTIMATORS)


def _scores(n: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e3])
def test_a_critic_that_ignores_its_inputs_finds_nothing(estimator, value):
    assert estimator(torch.full((6, 6), value, dtype=torch.double)).item() == pytest.approx(0, abs=1e-9)


def test_a_function_of_z_alone_is_no_information(estimator):
    assert estimator(_scores()[:, :1].expand(7, 7)).item() == pytest.approx(0, abs=1e-12)


def test_adding_a_function_of_z_changes_nothing(estimator):
    scores = _scores()
    torch.testing.assert_close(estimator(scores + 9 * torch.arange(7)[:, None]), estimator(scores))


def test_the_order_of_the_cells_does_not_matter(estimator):
    scores = _scores()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(estimator(scores[order][:, order]), estimator(scores))


def test_mispaired_cells_show_less(estimator):
    scores = _scores() + 4 * torch.eye(7)
    assert estimator(scores.roll(1, 1)) < estimator(scores) - 1


def test_gradient_is_that_of_finite_differences(estimator):
    assert torch.autograd.gradcheck(estimator, (_scores(4).requires_grad_(),))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_extreme_scores_stay_finite_in_single_precision(estimator, scale):
    scores = (scale * _scores()).float().requires_grad_()
    value = estimator(scores)
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all()


def test_result_is_a_scalar_of_the_dtype_of_the_scores(estimator):
    for dtype in (torch.float32, torch.float64):
        value = estimator(_scores().to(dtype))
        assert value.shape == () and value.dtype == dtype


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 3, 3)])
def test_scores_that_are_no_table_of_all_pairs_are_refused(estimator, shape):
    with pytest.raises(ValueError, match=r"expected scores of shape \(n_cells, n_cells\), got .*; score every z"):
        estimator(torch.zeros(shape))


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_cell_is_refused(estimator, n):
    with pytest.raises(ValueError, match=f"expected scores of at least 2 cells, got {n}; .*use a larger batch"):
        estimator(torch.zeros(n, n))
