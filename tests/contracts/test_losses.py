"""What every loss on two sets of codes must do. A new one adds a line to the list."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from indiseek.objectives import clip_loss, distance_info_nce_loss, nt_xent

LOSSES = [pytest.param(functools.partial(clip_loss, logit_scale=scale), id=f"clip-{scale}") for scale in (1.0, 20.0)]
LOSSES += [
    pytest.param(functools.partial(distance_info_nce_loss, temperature=tau), id=f"distance-{tau}") for tau in (1.0, 0.1)
]
LOSSES += [pytest.param(functools.partial(nt_xent, temperature=tau), id=f"nt-xent-{tau}") for tau in (1.0, 0.1)]

pytestmark = pytest.mark.parametrize("loss", LOSSES)


def _codes(n: int = 9, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(n, d, generator=generator, dtype=torch.double), dim=-1) for _ in range(2))


def test_modalities_are_exchangeable(loss):
    a, b = _codes()
    torch.testing.assert_close(loss(a, b), loss(b, a))


def test_the_order_of_the_cells_does_not_matter_but_their_pairing_does(loss):
    a, b = _codes()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b))
    assert abs(loss(a[order], b) - loss(a, b)) > 1e-3


def test_paired_codes_are_preferred(loss):
    a, _ = _codes()
    assert loss(a, a) < loss(a, a.flip(0))


def test_gradient_is_that_of_finite_differences(loss):
    a, b = _codes(5, 3)
    assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b.requires_grad_()))


def test_both_modalities_get_a_gradient_in_single_precision(loss):
    a, b = (code.float().requires_grad_() for code in _codes())
    loss(a, b).backward()
    assert a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0
