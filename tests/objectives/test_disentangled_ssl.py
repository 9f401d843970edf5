from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.distributions import bessel_ratio
from indiseek.nn import Encoder
from indiseek.objectives import (
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    augmented_view,
    n_masked_features,
    orthogonality_loss,
)

FEATURES = {"rna": 9, "prot": 4, "atac": 6}
SPECIFIC = {"rna": 3, "prot": 2, "atac": 5}
N_SHARED = 4


def _shared(k: int = 2, **options) -> DisentangledSharedObjective:
    torch.manual_seed(0)
    return DisentangledSharedObjective(
        dict(list(FEATURES.items())[:k]), N_SHARED, encoder=Encoder(hidden=(16,)), **options
    )


def _specific(k: int = 2, **options) -> DisentangledSpecificObjective:
    torch.manual_seed(0)
    features = dict(list(FEATURES.items())[:k])
    specific = {name: SPECIFIC[name] for name in features}
    return DisentangledSpecificObjective(features, N_SHARED, specific, encoder=Encoder(hidden=(16,)), **options)


def _batch(k: int = 2, n: int = 40) -> CellTensors:
    generator = torch.Generator().manual_seed(1)
    features = tuple(3 + 2 * torch.randn(n, d, generator=generator) for d in list(FEATURES.values())[:k])
    shared = tuple(F.normalize(torch.randn(n, N_SHARED, generator=generator), dim=-1) for _ in range(k))
    return CellTensors(features, shared)


# --- step 1 -----------------------------------------------------------------------------------------------------


def test_published_beta_is_the_true_one_times_kappa_times_the_bessel_ratio():
    batch = _batch()
    published = _shared(beta=3.0, bottleneck="cosine", kappa=50.0).eval().loss(batch).loss
    true = _shared(beta=3.0 / (50 * bessel_ratio(N_SHARED, 50.0)), bottleneck="kl", kappa=50.0).eval().loss(batch).loss
    torch.testing.assert_close(published, true)
    assert 1000 * bessel_ratio(100, 1000.0) == pytest.approx(952, abs=0.5)


def test_beta_weighs_the_bottleneck_alone():
    batch = _batch()
    free, tight = (_shared(beta=beta).eval().loss(batch) for beta in (0.0, 2.0))
    torch.testing.assert_close(free.loss, free.terms["infonce"])
    torch.testing.assert_close(tight.loss, free.loss + 2.0 * free.terms["kl"])


def test_codes_are_drawn_in_training_only():
    objective, batch = _shared(kappa=10.0), _batch()
    torch.manual_seed(0)
    first, second = objective.loss(batch).terms["infonce"], objective.loss(batch).terms["infonce"]
    assert first != second
    objective.eval()
    torch.testing.assert_close(objective.loss(batch).loss, objective.loss(batch).loss, rtol=0, atol=0)


def test_very_narrow_codes_are_their_mean_directions():
    batch = _batch()
    narrow = _shared(kappa=1e12, beta=0.0)
    torch.manual_seed(0)
    torch.testing.assert_close(narrow.loss(batch).loss, narrow.eval().loss(batch).loss, rtol=1e-3, atol=1e-4)


def test_wide_codes_tell_cells_apart_less():
    batch = _batch()
    torch.manual_seed(0)
    wide = torch.stack([_shared(kappa=0.01, temperature=1.0).loss(batch).terms["infonce"] for _ in range(20)]).mean()
    # Uniform codes in 4 dimensions: the expected loss is above chance by half the variance of a score, 1 / 4.
    assert wide.item() == pytest.approx(math.log(40) + 0.5 / N_SHARED, abs=0.1)


def test_the_bottleneck_pulls_the_codes_of_a_cell_together():
    generator = torch.Generator().manual_seed(2)
    known = torch.randn(200, 3, generator=generator)
    batch = CellTensors(tuple(torch.cat([known, torch.randn(200, d - 3, generator=generator)], -1) for d in (9, 4)))
    gaps = []
    for beta in (0.0, 1.0):
        objective = _shared(beta=beta)
        optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            objective.loss(batch).loss.backward()
            optimizer.step()
        gaps.append(objective.eval().loss(batch).terms["misalignment"].item())
    assert gaps[1] < 0.3 * gaps[0]


# --- augmentation ---------------------------------------------------------------------------------------------------


def test_a_third_of_the_cells_each_get_noise_zeros_or_nothing():
    x = 5 + torch.rand(3000, 20, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    view = augmented_view(x, noise=0.5, masked=0.3)
    zeroed, changed = (view == 0).any(dim=1), (view != x).any(dim=1)
    noised = changed & ~zeroed
    for cells in (zeroed, noised, ~changed):
        assert cells.float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    assert ((view[zeroed] == 0).sum(dim=1) == 6).all()
    torch.testing.assert_close(view[zeroed][view[zeroed] != 0], x[zeroed][view[zeroed] != 0], rtol=0, atol=0)
    assert (view[noised] - x[noised]).std().item() == pytest.approx(0.5, rel=0.03)
    # Each feature is as likely to be zeroed as any other.
    assert (view[zeroed] == 0).float().mean(dim=0).sub(0.3).abs().max() < 0.07


@pytest.mark.parametrize("n_features", [1, 2, 4, 14, 50])
def test_masking_always_leaves_a_feature(n_features):
    assert n_masked_features(n_features, 0.1) == round(0.1 * n_features) < n_features
    x = torch.ones(200, n_features)
    assert (augmented_view(x, noise=0.0, masked=0.4) != 0).any(dim=1).all()


@pytest.mark.parametrize(("n_features", "masked"), [(1, 0.6), (4, 0.9), (14, 1.0), (3, 1.5), (9, -0.1), (5, math.nan)])
def test_an_augmentation_that_drops_every_feature_is_refused(n_features, masked):
    message = f"expected masked to leave at least one of {n_features} features, got {masked}; choose a smaller fraction"
    with pytest.raises(ValueError, match=message):
        augmented_view(torch.ones(5, n_features), noise=0.1, masked=masked)
    with pytest.raises(ValueError, match=message):
        DisentangledSpecificObjective({"a": n_features, "b": 30}, 2, {"a": 2, "b": 2}, masked=masked)


# --- orthogonality --------------------------------------------------------------------------------------------------


def _codes(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.double), dim=-1)


def test_correlation_is_one_for_equal_and_opposite_codes_of_one_dimension():
    z = torch.randn(50, 1, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for other in (z, -z, 7 * z + 3):
        assert orthogonality_loss(z, other).item() == pytest.approx(1, rel=1e-6)


def test_correlation_ignores_shift_scale_and_batch_size_where_the_published_form_does_not():
    z, c = _codes(30, 3, 0), _codes(30, 5, 1)
    twice = torch.cat([z, z]), torch.cat([c, c])
    torch.testing.assert_close(orthogonality_loss(4 * z - 2, c), orthogonality_loss(z, c))
    torch.testing.assert_close(orthogonality_loss(*twice), orthogonality_loss(z, c))
    published = orthogonality_loss(z, c, "published")
    torch.testing.assert_close(orthogonality_loss(*twice, "published"), 2 * published)
    assert orthogonality_loss(z - 2, c, "published") > 2 * published


@pytest.mark.parametrize("n", [100, 400])
def test_floors_of_unrelated_codes(n):
    # Means over draws: d_c / N for the squared correlations, sqrt(N) for the published norm.
    draws = [(_codes(n, 6, 2 * i), _codes(n, 8, 2 * i + 1)) for i in range(30)]
    squares = torch.stack([orthogonality_loss(z, c) for z, c in draws]).mean().item()
    norms = torch.stack([orthogonality_loss(z, c, "published") for z, c in draws]).mean().item()
    assert squares == pytest.approx(8 / n, rel=0.1)
    assert norms == pytest.approx(math.sqrt(n), rel=0.1)


@pytest.mark.parametrize("form", ["correlation", "published"])
def test_orthogonality_has_the_gradient_of_finite_differences(form):
    z, c = _codes(6, 3, 0).requires_grad_(), _codes(6, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, c: orthogonality_loss(z, c, form), (z, c))


def test_a_code_without_variance_is_unrelated_and_stable():
    z = torch.ones(9, 2, requires_grad=True)
    loss = orthogonality_loss(z, _codes(9, 3, 0).float())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and z.grad.isfinite().all()


# --- step 2 -----------------------------------------------------------------------------------------------------


def _rolled(batch: CellTensors, modality: int) -> CellTensors:
    shared = list(batch.condition)
    shared[modality] = shared[modality].roll(1, 0)
    return CellTensors(batch.features, tuple(shared))


def test_codes_are_unit_vectors_of_the_size_asked_for():
    codes = _specific(3).latents(_batch(3))
    assert [code.shape for code in codes] == [(40, 3), (40, 2), (40, 5)]
    for code in codes:
        torch.testing.assert_close(code.norm(dim=-1), torch.ones(40))


@pytest.mark.parametrize("k", [2, 3])
def test_a_code_sees_its_own_shared_code_and_no_other(k):
    objective, batch = _specific(k), _batch(k)
    before = objective.latents(batch)
    for changed in range(k):
        for i, code in enumerate(objective.latents(_rolled(batch, changed))):
            assert torch.equal(code, before[i]) is (i != changed)


def test_penalty_is_on_the_own_shared_code_and_views_are_told_apart_beside_the_others():
    objective, batch = _specific(3).eval(), _batch(3)
    # With an encoder that ignores its shared code, only the terms themselves can change.
    with torch.no_grad():
        for encoder in objective.encoders:
            encoder[0].weight[:, -N_SHARED:] = 0
    before = objective.loss(batch).terms
    for changed in range(3):
        after = objective.loss(_rolled(batch, changed)).terms
        for i, name in enumerate(FEATURES):
            penalty, info = (torch.equal(before[f"{t}_{name}"], after[f"{t}_{name}"]) for t in PARTS)
            assert penalty is (i != changed)
            assert info is (i == changed)


PARTS = ("orthogonality", "infonce")


def test_ramp_and_lam_scale_the_penalty():
    batch = _batch()
    free = _specific(lam=0.0).eval().loss(batch)
    penalty = free.terms["orthogonality_rna"] + free.terms["orthogonality_prot"]
    torch.testing.assert_close(_specific(lam=2.0).eval().loss(batch).loss, free.loss + 2.0 * penalty)
    ramped = _specific(lam=2.0).eval()
    ramped.ramp = 0.25
    torch.testing.assert_close(ramped.loss(batch).loss, free.loss + 0.5 * penalty)


def test_views_are_drawn_in_training_and_fixed_in_validation():
    objective, batch = _specific(noise=1.0, masked=0.5), _batch()
    torch.manual_seed(0)
    assert objective.loss(batch).loss != objective.loss(batch).loss
    state = torch.get_rng_state()
    first, second = objective.validate(batch), objective.validate(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == second
    assert first["infonce_rna"] > objective.eval().loss(batch).terms["infonce_rna"]


def test_a_large_lam_takes_the_shared_code_out():
    generator = torch.Generator().manual_seed(0)
    shared = F.normalize(torch.randn(300, N_SHARED, generator=generator), dim=-1)
    features = tuple(torch.cat([2 * shared, torch.randn(300, d - 4, generator=generator)], -1) for d in (9, 5))
    batch = CellTensors(features, (shared, shared))
    left = []
    for lam in (0.0, 50.0):
        torch.manual_seed(0)
        objective = DisentangledSpecificObjective(
            {"a": 9, "b": 5}, N_SHARED, {"a": 3, "b": 2}, lam=lam, encoder=Encoder(hidden=(16,))
        )
        optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
        for _ in range(80):
            optimizer.zero_grad()
            objective.loss(batch).loss.backward()
            optimizer.step()
        left.append(objective.eval().loss(batch).terms["orthogonality_a"].item())
    assert left[1] < 0.1 * left[0]
