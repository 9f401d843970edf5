"""Distributions of single dimensions matched across states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from indiseek.nn import ConditionalQuantiles


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    """Two states, in which the first of three dimensions has one or two modes, at equal mean and variance."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randint(2, (4000,), generator=generator)
    z = torch.randn(4000, 3, generator=generator)
    sign = torch.randint(2, (4000,), generator=generator) * 2.0 - 1.0
    z[:, 0] = torch.where(state == 1, 0.95 * sign + 0.3 * z[:, 0], z[:, 0])
    return z, torch.nn.functional.one_hot(state, 2).float()


def test_new_cells_of_two_states_have_one_distribution(cells):
    z, weights = cells
    quantiles = ConditionalQuantiles(3)
    quantiles.fit(z[:2000], weights[:2000])
    z, weights = z[2000:], weights[2000:]
    matched, first = quantiles(z, weights), weights[:, 0] > 0
    distance = [ks_2samp(v[first, 0].numpy(), v[~first, 0].numpy()).statistic for v in (z, matched)]
    assert distance[0] > 0.2 and distance[1] < 0.08
    # What all cells have together stays.
    assert ks_2samp(z[:, 0].numpy(), matched[:, 0].numpy()).statistic < 0.04


def test_inverse_slope_and_order(cells):
    z, weights = cells
    weights = 0.7 * weights + 0.3 * weights.roll(1, dims=0)
    quantiles = ConditionalQuantiles(3)
    quantiles.fit(z, weights)
    matched, log_det = quantiles.transform(z, weights)
    torch.testing.assert_close(quantiles.inverse(matched, weights), z, rtol=0, atol=1e-5)
    torch.testing.assert_close(matched[z.abs() > 6], z[z.abs() > 6], rtol=0, atol=0)
    wide, points = quantiles.double(), z[:50].double()
    step = 1e-7
    slopes = (wide(points + step, weights[:50]) - wide(points - step, weights[:50])) / (2 * step)
    assert slopes.min() > 0
    # At a knot the two sides differ.
    close = np.isclose(slopes.log().sum(dim=1).numpy(), wide.transform(points, weights[:50])[1].numpy(), atol=1e-4)
    assert close.mean() > 0.95
    assert log_det.isfinite().all()


def test_the_map_is_monotone_and_the_identity_far_out(cells):
    z, weights = cells
    quantiles = ConditionalQuantiles(3)
    quantiles.fit(z, weights)
    line = torch.linspace(-9.0, 9.0, 500)[:, None].repeat(1, 3)
    matched = quantiles(line, weights[:1].repeat(500, 1))
    assert (matched.diff(dim=0) > 0).all()
    torch.testing.assert_close(matched[[0, -1]], line[[0, -1]], rtol=0, atol=0)


def test_equal_distributions_are_left_alone():
    z = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1))
    quantiles = ConditionalQuantiles(2)
    quantiles.fit(z, torch.ones(3000, 1))
    torch.testing.assert_close(quantiles(z, torch.ones(3000, 1)), z, rtol=0, atol=1e-4)


def test_values_that_repeat_do_not_break_it():
    z = torch.tensor([0.0, 1.0]).repeat(200)[:, None]
    quantiles = ConditionalQuantiles(1)
    quantiles.fit(z, torch.ones(400, 1))
    matched, log_det = quantiles.transform(z, torch.ones(400, 1))
    assert matched.isfinite().all() and log_det.isfinite().all()
    torch.testing.assert_close(quantiles.inverse(matched, torch.ones(400, 1)), z, rtol=0, atol=1e-5)
