from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.nn import Encoder, GaussianCritic, SeparableCritic
from indiseek.objectives import NCEClubObjective

FEATURES = {"rna": 9, "prot": 4, "atac": 6}
SPECIFIC = {"rna": 3, "prot": 2, "atac": 5}
N_SHARED = 4


def _names(k: int) -> list[str]:
    return list(FEATURES)[:k]


def _objective(k: int = 2, **options) -> NCEClubObjective:
    torch.manual_seed(0)
    names = _names(k)
    return NCEClubObjective(
        {name: FEATURES[name] for name in names},
        N_SHARED,
        {name: SPECIFIC[name] for name in names},
        encoder=Encoder(hidden=(16,)),
        critic_hidden=(8,),
        **options,
    )


def _batch(k: int = 2, n: int = 40) -> CellTensors:
    generator = torch.Generator().manual_seed(1)
    features = tuple(3 + 2 * torch.randn(n, FEATURES[name], generator=generator) for name in _names(k))
    shared = tuple(F.normalize(torch.randn(n, N_SHARED, generator=generator), dim=-1) for _ in range(k))
    return CellTensors(features, shared)


def _changed(batch: CellTensors, modality: int) -> CellTensors:
    shared = list(batch.condition)
    shared[modality] = shared[modality].roll(1, 0)
    return CellTensors(batch.features, tuple(shared))


def test_codes_have_the_size_asked_for_by_modality():
    assert [code.shape for code in _objective(3).latents(_batch(3))] == [(40, 3), (40, 2), (40, 5)]


def test_codes_are_standardised_over_the_batch_in_training():
    for code in _objective().latents(_batch()):
        torch.testing.assert_close(code.mean(0), torch.zeros(code.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(code.std(0, correction=0), torch.ones(code.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [2.0, 1e3])
def test_the_scale_of_a_code_is_no_way_out(factor):
    objective, batch = _objective(), _batch()
    before = objective.loss(batch)
    with torch.no_grad():
        for encoder in objective.encoders:
            encoder[-1].weight.mul_(factor)
            encoder[-1].bias.mul_(factor).add_(5.0)
    after = objective.loss(batch)
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_reconstruction_is_relative_to_the_size_of_the_features(lam):
    objective, batch = _objective(lam=lam), _batch()
    objective.ramp = 0.0
    output = objective.loss(batch)
    relative = []
    for i, code in enumerate(objective.latents(batch)):
        decoded = objective.decoders[i](torch.cat([code, batch.condition[i]], dim=-1))
        relative.append(((decoded - batch.features[i]) ** 2).sum() / (batch.features[i] ** 2).sum())
    torch.testing.assert_close(output.loss, lam / 2 * sum(relative))
    assert set(output.terms) == {"reconstruction_rna", "reconstruction_prot"}


def test_decoder_sees_the_own_shared_code():
    objective, batch = _objective().eval(), _batch()
    before, after = (objective.validate(b) for b in (batch, _changed(batch, 1)))
    assert before["reconstruction_prot"] != after["reconstruction_prot"]
    torch.testing.assert_close(before["reconstruction_rna"], after["reconstruction_rna"], rtol=0, atol=0)


@pytest.mark.parametrize("k", [2, 3])
def test_independence_is_of_the_shared_codes_of_all_others(k):
    objective, batch = _objective(k).eval(), _batch(k)
    names = _names(k)
    before = objective.loss(batch).terms
    for changed in range(k):
        after = objective.loss(_changed(batch, changed)).terms
        for i, name in enumerate(names):
            same = torch.equal(before[f"independence_{name}"], after[f"independence_{name}"])
            assert same is (i == changed)


@pytest.mark.parametrize("k", [2, 3])
def test_indiseek0_is_independent_of_the_own_shared_code(k):
    objective, batch = _objective(k, independent_of="own").eval(), _batch(k)
    before = objective.loss(batch).terms
    for changed in range(k):
        after = objective.loss(_changed(batch, changed)).terms
        for i, name in enumerate(_names(k)):
            same = torch.equal(before[f"independence_{name}"], after[f"independence_{name}"])
            assert same is (i != changed)


@pytest.mark.parametrize("independence", ["nce-club", "vclub"])
def test_critic_loss_trains_critics_only(independence):
    objective, batch = _objective(independence=independence), _batch()
    objective.critic_loss(batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in _weights(objective.critics))
    assert all(p.grad is None for p in objective.encoder_parameters())


def _weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Matrices: a bias just before a constant direction of the loss may rightly have no gradient."""
    return [p for p in module.parameters() if p.ndim == 2]


@pytest.mark.parametrize("independence", ["nce-club", "vclub"])
def test_independence_alone_reaches_the_encoders(independence):
    objective, batch = _objective(independence=independence, lam=0.0), _batch()
    objective.loss(batch).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in _weights(objective.encoders))


def test_frozen_shared_codes_and_features_get_no_gradient_from_the_critics():
    batch = _batch()
    features = tuple(x.requires_grad_() for x in batch.features)
    _objective().critic_loss(CellTensors(features, batch.condition)).backward()
    assert all(x.grad is None for x in features)


def test_ramp_and_weight_multiply():
    batch = _batch()
    base = _objective(lam=0.0).loss(batch).loss
    for weight in (1.0, 5.0):
        objective = _objective(lam=0.0, independence_weight=weight)
        objective.ramp = 0.3
        torch.testing.assert_close(objective.loss(batch).loss, 0.3 * weight * base)


def test_the_independence_term_can_be_switched_off():
    objective = _objective(independence_weight=0.0)
    assert objective.critic_loss(_batch()) is None
    assert not any(name.startswith("independence") for name in objective.loss(_batch()).terms)


def test_vclub_takes_a_gaussian_critic_and_nce_club_a_separable_one():
    assert all(isinstance(critic, GaussianCritic) for critic in _objective(independence="vclub").critics)
    assert all(isinstance(critic, SeparableCritic) for critic in _objective().critics)


@pytest.mark.parametrize("independence", ["nce-club", "vclub"])
def test_a_trained_critic_finds_dependence_and_only_that(independence):
    # Codes that are a function of C_j against codes that are not: the term must tell them apart by a wide margin.
    values = {}
    for dependent in (True, False):
        objective = _objective(independence=independence).eval()
        objective.encoders[0] = torch.nn.Identity()
        objective.standardise[0] = torch.nn.Identity()
        generator = torch.Generator().manual_seed(0)
        shared = F.normalize(torch.randn(600, N_SHARED, generator=generator), dim=-1)
        noise = torch.randn(600, 3, generator=generator)
        code = 2 * shared[:, :3] + 0.3 * noise if dependent else noise
        batch = CellTensors((code, torch.randn(600, 4, generator=generator)), (shared.roll(7, 0), shared))
        optimizer = torch.optim.Adam(objective.critic_parameters(), lr=5e-3)
        for _ in range(150):
            rows = torch.randperm(300, generator=generator)[:128]
            optimizer.zero_grad()
            objective.critic_loss(batch.take(rows)).backward()
            optimizer.step()
        with torch.no_grad():
            # The decoder takes any code of the right width; only the term of the first modality is read.
            scores = objective.critics[0](code[300:], shared[300:])
            n = len(scores)
            values[dependent] = (scores.diagonal().mean() - (scores.sum() - scores.trace()) / (n * (n - 1))).item()
    assert values[True] > 1.5
    assert abs(values[False]) < 0.5


def test_monitor_is_the_mean_of_the_modalities():
    held_out = _objective(3).eval().validate(_batch(3))
    parts = [held_out[f"reconstruction_{name}"] for name in _names(3)]
    torch.testing.assert_close(held_out["reconstruction"], sum(parts) / 3)
