from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CoMMObjective, nt_xent

FEATURES = {"rna": 7, "prot": 4}
N_CELLS = 11


def _unit(n: int, d: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return F.normalize(x, dim=-1)


def _objective(**options) -> CoMMObjective:
    torch.manual_seed(0)
    return CoMMObjective(FEATURES, 8, encoder=Encoder(hidden=(8,)), **options)


def _batch(n: int = N_CELLS, n_views: int = 0) -> CellTensors:
    generator = torch.Generator().manual_seed(1)
    features = tuple(torch.randn(n, p, generator=generator) for p in FEATURES.values())
    if not n_views:
        return CellTensors(features)
    # View v of cell i and every feature is 100 v + i.
    number = 100.0 * torch.arange(n_views)[None, :, None] + torch.arange(n)[:, None, None]
    return CellTensors(features, views=tuple(number.expand(n, n_views, p).clone() for p in FEATURES.values()))


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("tau", [0.1, 2.0])
def test_equal_codes_are_at_chance_among_all_others(n, tau):
    code = _unit(1, 4, 0).expand(n, 4)
    assert nt_xent(code, code, tau).item() == pytest.approx(math.log(2 * n - 1))


@pytest.mark.parametrize("tau", [0.2, 2.0])
def test_identical_views_with_orthogonal_codes_have_a_closed_form(tau):
    eye = torch.eye(6, dtype=torch.double)
    assert nt_xent(eye, eye, tau).item() == pytest.approx(math.log(1 + 10 * math.exp(-1 / tau)))


def test_a_cell_alone_has_nothing_to_be_told_from():
    a, b = _unit(1, 4, 0), _unit(1, 4, 1)
    assert nt_xent(a, b, 0.1).item() == pytest.approx(0.0, abs=1e-12)


def test_rotating_both_sets_changes_nothing():
    a, b = _unit(8, 4, 0), _unit(8, 4, 1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(2)))[0]
    torch.testing.assert_close(nt_xent(a @ rotation, b @ rotation, 0.3), nt_xent(a, b, 0.3))
    assert abs(nt_xent(a @ rotation, b, 0.3) - nt_xent(a, b, 0.3)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_own_similarity_stays_out_in_half_precision(dtype):
    a, b = _unit(9, 4, 0), _unit(9, 4, 1)
    loss = nt_xent(a.to(dtype), b.to(dtype), 0.1)
    assert loss.isfinite() and loss.item() == pytest.approx(nt_xent(a, b, 0.1).item(), abs=0.1)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_loss_under_autocast_is_finite_and_close(form):
    objective, batch = _objective(form=form).eval(), _batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = objective.loss(batch).loss
    assert mixed.item() == pytest.approx(objective.loss(batch).loss.item(), abs=0.1)
    mixed.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_a_projection_does_not_depend_on_the_other_modality_and_the_fused_code_does():
    objective, batch = _objective().eval(), _batch()
    changed = CellTensors((batch.features[0], torch.full_like(batch.features[1], float("nan"))))
    torch.testing.assert_close(objective.latents(changed)[0], objective.latents(batch)[0], rtol=0, atol=0)
    assert objective.joint(changed).isnan().all()
    assert not torch.allclose(objective.joint(batch), objective.latents(batch)[0], atol=1e-2)


@pytest.mark.parametrize(("left", "out"), [("joint_weight", "rna"), ("unimodal_weight", "joint")])
def test_terms_can_be_left_out(left, out):
    output = _objective(**{left: 0.0}).loss(_batch())
    names = {"infonce_joint"} if out == "rna" else {"infonce_rna", "infonce_prot"}
    assert output.terms.keys().isdisjoint(names) and output.terms
    assert output.loss.item() == pytest.approx(sum(term.item() for term in output.terms.values()), rel=1e-5)


def test_views_in_training_differ_by_modality_view_and_cell_and_keep_the_means():
    objective, batch = _objective(feature_dropout=0.6, noise=0.0), _batch(4000)
    first, second = objective.view(batch, 0), objective.view(batch, 1)
    for x, a, b in zip(batch.features, first, second, strict=True):
        kept_a, kept_b = a != 0, b != 0
        torch.testing.assert_close(a, x * kept_a, rtol=0, atol=0)
        # U(0, .6): 30 % on average, but for the feature that is always kept.
        assert 0.24 < 1 - kept_a.float().mean() <= 0.32
        rates = 1 - kept_a.float().mean(dim=1)
        assert rates.std() > 0.1
        assert (kept_a == kept_b).float().mean() < 0.75
    together = (first[0][:, 0] != 0).float() * (first[1][:, 0] != 0).float()
    apart = (first[0][:, 0] != 0).float().mean() * (first[1][:, 0] != 0).float().mean()
    assert abs(together.mean() - apart) < 0.03


def test_one_feature_is_always_kept():
    objective = _objective(feature_dropout=0.999, noise=0.0)
    for view in objective.view(_batch(2000), 0):
        assert ((view != 0).sum(dim=1) >= 1).all()
        assert ((view != 0).sum(dim=1) == 1).any()
    for view in objective.eval().view(_batch(), 0):
        assert ((view != 0).sum(dim=1) >= 1).all()


def test_noise_has_its_size_and_may_differ_by_modality():
    objective, batch = _objective(feature_dropout=0.0, noise={"rna": 0.5, "prot": 0.0}), _batch(4000)
    rna, prot = objective.view(batch, 0)
    assert (rna - batch.features[0]).std().item() == pytest.approx(0.5, rel=0.05)
    torch.testing.assert_close(prot, batch.features[1], rtol=0, atol=0)


def test_views_of_counts_are_drawn_for_each_cell_and_modality():
    objective, batch = _objective(feature_dropout=0.0, noise=0.0), _batch(300, n_views=4)
    numbers = []
    for view in objective.view(batch, 0):
        assert (view == view[:, :1]).all()
        cell, number = view[:, 0] % 100, view[:, 0] // 100
        assert (cell == torch.arange(300) % 100).all()
        numbers.append(number - torch.arange(300) // 100)
        assert set(numbers[-1].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert 0.1 < (numbers[0] == numbers[1]).float().mean() < 0.4


def test_views_are_fixed_in_eval_mode_and_two_different_ones():
    objective, batch = _objective(feature_dropout=0.8, noise=0.5).eval(), _batch(n_views=3)
    first, second = objective.view(batch, 0), objective.view(batch, 1)
    for a, again in zip(first, objective.view(batch, 0), strict=True):
        torch.testing.assert_close(a, again, rtol=0, atol=0)
    assert all(a.max() < 100 <= 200 <= b.max() for a, b in zip(first, second, strict=True))
    plain = CellTensors(batch.features)
    kept = [tuple(x != 0 for x in objective.view(plain, number)) for number in (0, 1)]
    assert not torch.equal(kept[0][0], kept[1][0])
    assert all((mask == mask[:1]).all() for masks in kept for mask in masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"feature_dropout": 1.0},
            r"expected feature_dropout in \[0, 1\), got 1.0 for 'rna'; at 1 every feature could",
        ),
        ({"feature_dropout": {"rna": 0.1, "prot": -0.1}}, r"expected feature_dropout in \[0, 1\), got -0.1 for 'prot'"),
        (
            {"joint_weight": 0.0, "unimodal_weight": 0.0},
            "expected joint_weight and unimodal_weight .* nothing would be",
        ),
    ],
)
def test_wrong_arguments_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        _objective(**options)


def test_augmentations_of_your_own_take_the_place_of_noise_and_dropped_features():
    def shifted(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return x + 100 + torch.rand(1, generator=generator)

    objective = _objective(augment={"rna": shifted}, noise=0.0, feature_dropout={"rna": 0.9, "prot": 0.0})
    batch = _batch()
    torch.manual_seed(0)
    first, again = objective.view(batch, 0), objective.view(batch, 0)
    torch.testing.assert_close(first[1], batch.features[1])
    shift = first[0] - batch.features[0]
    assert 100 <= shift.min() and shift.max() <= 101.001
    assert (first[0] - again[0]).abs().min() > 1e-4
    objective.eval()
    views = [objective.view(batch, number)[0] for number in (0, 1, 0)]
    torch.testing.assert_close(views[0], views[2])
    assert (views[0] - views[1]).abs().min() > 1e-4
    assert objective.loss(batch).loss.item() == objective.loss(batch).loss.item()
    with pytest.raises(ValueError, match="expected augment by the modalities .*'rna', 'prot'.*, got .*'atac'"):
        _objective(augment={"atac": shifted})


@pytest.mark.parametrize("form", ["paper", "code"])
def test_a_head_of_your_own_sees_one_set_of_codes_at_a_time(form):
    class Counting(torch.nn.Module):
        sizes: list[int] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(x))
            return x - x.mean(dim=0)

    head = Counting()
    objective = _objective(form=form, head=head)
    loss = objective.loss(_batch())
    assert head.sizes == [N_CELLS] * (4 if form == "paper" else 6)
    assert torch.isfinite(loss.loss)
    # The perceptron maps rows alone, so that all at once is the same.
    plain, split = _objective(form=form, noise=0.0), _objective(form=form, noise=0.0)
    split.head, split.own_head = plain.head, True
    torch.testing.assert_close(plain.eval().loss(_batch()).loss, split.eval().loss(_batch()).loss)
