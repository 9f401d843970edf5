from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, clip_loss, joint_code


def _unit(n: int, d: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return F.normalize(x, dim=-1)


def _objective(**options) -> CLIPObjective:
    torch.manual_seed(0)
    return CLIPObjective({"rna": 7, "prot": 4}, 3, encoder=Encoder(hidden=(8,)), **options)


def _batch(n: int = 11) -> CellTensors:
    generator = torch.Generator().manual_seed(1)
    return CellTensors((torch.randn(n, 7, generator=generator), torch.randn(n, 4, generator=generator)))


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_equal_codes_are_at_chance(n, scale):
    code = _unit(1, 4, 0).expand(n, 4)
    assert clip_loss(code, code, scale).item() == pytest.approx(math.log(n))


@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_orthogonal_codes_have_a_closed_form(scale):
    eye = torch.eye(6, dtype=torch.double)
    assert clip_loss(eye, eye, scale).item() == pytest.approx(math.log(1 + 5 * math.exp(-scale)))


def test_paired_codes_are_better_than_mispaired_ones():
    a = _unit(12, 4, 0)
    assert clip_loss(a, a, 10.0) < clip_loss(a, a.roll(1, 0), 10.0)


def test_rotating_both_modalities_changes_nothing():
    a, b = _unit(8, 4, 0), _unit(8, 4, 1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(2)))[0]
    torch.testing.assert_close(clip_loss(a @ rotation, b @ rotation, 7.0), clip_loss(a, b, 7.0))
    assert abs(clip_loss(a @ rotation, b, 7.0) - clip_loss(a, b, 7.0)) > 1e-3


def test_gradient_reaches_the_temperature():
    a, b = _unit(5, 3, 0), _unit(5, 3, 1)
    scale = torch.tensor(4.0, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: clip_loss(a, b, s), (scale,))


@pytest.mark.parametrize("k", [2, 3])
def test_joint_code_is_the_normalised_mean_in_any_order(k):
    codes = [_unit(6, 4, seed) for seed in range(k)]
    joint = joint_code(codes)
    torch.testing.assert_close(joint.norm(dim=-1), torch.ones(6).double())
    mean = sum(codes) / k
    torch.testing.assert_close(joint, mean / mean.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(joint_code(codes[::-1]), joint)


def test_joint_code_of_opposite_codes_is_finite():
    code = _unit(3, 4, 0)
    assert joint_code([code, -code]).isfinite().all()


def test_codes_lie_on_the_unit_sphere():
    for code in _objective().latents(_batch()):
        assert code.shape == (11, 3)
        torch.testing.assert_close(code.norm(dim=-1), torch.ones(11))


def _temperatures(objective: CLIPObjective) -> torch.nn.Parameter:
    (parameter,) = (p for name, p in objective.named_parameters() if "scale" in name)
    return parameter


def test_temperature_starts_where_asked_and_is_bounded():
    batch = _batch()
    objective = _objective(temperature=0.25)
    a, b = objective.latents(batch)
    torch.testing.assert_close(objective.loss(batch).loss, clip_loss(a, b, 4.0))
    with torch.no_grad():
        _temperatures(objective).fill_(50.0)
    torch.testing.assert_close(objective.loss(batch).loss, clip_loss(a, b, 100.0))


def test_temperature_is_learned():
    objective = _objective()
    objective.loss(_batch()).loss.backward()
    assert (_temperatures(objective).grad.abs() > 0).all()


def test_alignment_adds_its_weight_times_the_gap():
    batch = _batch()
    plain, aligned = _objective(), _objective(alignment=2.5)
    a, b = plain.latents(batch)
    gap = (a - b).square().sum(-1).mean() / 2
    torch.testing.assert_close(aligned.loss(batch).loss - plain.loss(batch).loss, 2.5 * gap)
