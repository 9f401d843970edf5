from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.metrics import feature_r2
from indiseek.nn import Encoder
from indiseek.objectives import DistanceInfoNCEObjective, distance_info_nce_loss
from indiseek.simulation import ContentStyleProcess

N_FACTORS, N_SPECIFIC = 2, {"rna": 2, "adt": 1}
N_PROBE = 600
SEEDS = range(2)


def test_codes_that_are_all_alike_are_at_chance():
    codes = torch.ones(12, 3, dtype=torch.double)
    assert distance_info_nce_loss(codes, codes).item() == pytest.approx(math.log(12))


def test_codes_far_apart_from_all_but_their_partner_leave_nothing():
    codes = 100 * torch.eye(6, dtype=torch.double)
    assert distance_info_nce_loss(codes, codes).item() == pytest.approx(0, abs=1e-9)


def test_moving_and_turning_both_codes_together_changes_nothing():
    torch.manual_seed(0)
    a, b = torch.randn(2, 9, 3, dtype=torch.double)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double))[0]
    before = distance_info_nce_loss(a, b)
    torch.testing.assert_close(distance_info_nce_loss(a @ turn + 5, b @ turn + 5), before)
    assert abs(distance_info_nce_loss(a + 5, b) - before) > 0.1


def test_temperature_is_a_squared_length():
    torch.manual_seed(0)
    a, b = torch.randn(2, 9, 3, dtype=torch.double)
    torch.testing.assert_close(distance_info_nce_loss(3 * a, 3 * b, 9.0), distance_info_nce_loss(a, b))


def test_codes_keep_their_length_in_the_joint_code():
    torch.manual_seed(0)
    objective = DistanceInfoNCEObjective({"rna": 5, "adt": 3}, 2, encoder=Encoder(hidden=(4,), layer_norm=False))
    batch = CellTensors((10 * torch.randn(8, 5), torch.randn(8, 3)))
    a, b = objective.latents(batch)
    torch.testing.assert_close(objective.joint(batch), (a + b) / 2)
    assert a.norm(dim=1).std() > 0.1


def _found(dim: int, seed: int, *, n_steps: int = 400, n_cells: int = 128, **dependence) -> dict[str, float]:
    """R2 of each kind of factor from the codes, the modality-specific ones at their most."""
    process = ContentStyleProcess(
        N_FACTORS, N_FACTORS, N_SPECIFIC, n_layers=2, slope=0.5, max_condition=3.0, seed=seed, **dependence
    )
    cells = process.sample(N_PROBE, seed=0)
    torch.manual_seed(seed)
    objective = DistanceInfoNCEObjective(
        {name: x.shape[1] for name, x in cells.features.items()},
        dim,
        temperature=1.0,
        encoder=Encoder(hidden=(64, 64), activation="relu", layer_norm=False),
    )
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step in range(n_steps):
        fresh = process.sample(n_cells, seed=step + 1)
        optimizer.zero_grad()
        objective.loss(CellTensors(tuple(map(torch.from_numpy, fresh.features.values())))).loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 2.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        codes = objective.latents(CellTensors(tuple(map(torch.from_numpy, cells.features.values()))))
    rows, oracle = [], []
    for code, name in zip(codes, cells.features, strict=True):
        blocks = (cells.shared, cells.style[name], cells.specific[name])
        r2 = feature_r2(code.numpy(), np.hstack(blocks), probe="nonlinear")
        rows.append([r2[:2].mean(), r2[2:4].mean(), r2[4:].max()])
        oracle.append(feature_r2(cells.shared, cells.style[name], probe="nonlinear").mean())
    content, style, _ = np.mean(rows, axis=0)
    return {"content": content, "style": style, "specific": np.max(rows, axis=0)[2], "oracle": float(np.mean(oracle))}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_code_of_the_right_size_finds_content_and_of_style_what_content_tells(seed):
    found = _found(2, seed, change_probability=0.75, causal=True)
    assert found["content"] >= 0.95
    assert abs(found["style"] - found["oracle"]) <= 0.05
    assert found["oracle"] > 0.2
    assert found["specific"] <= 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_a_code_of_the_right_size_leaves_independent_style_out(seed):
    found = _found(2, seed, change_probability=1.0, statistical=True)
    assert found["content"] >= 0.95
    assert found["style"] <= 0.05
    assert found["specific"] <= 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_a_code_that_is_too_small_holds_its_share_of_the_content(seed):
    found = _found(1, seed)
    assert abs(found["content"] - 0.5) <= 0.1
    assert found["style"] <= 0.05
    assert found["specific"] <= 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_a_code_that_is_too_large_takes_style_in_but_nothing_modality_specific(seed):
    # Style is found last, and from fewer negatives not at all.
    found = _found(4, seed, n_steps=600, n_cells=256, change_probability=0.75)
    assert found["content"] >= 0.95
    assert found["style"] >= 0.9
    assert found["specific"] <= 0.03
