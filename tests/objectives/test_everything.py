"""The code that holds everything is features and shared code on their scales, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.objectives import EverythingObjective

WIDTHS, N_SHARED, N_CELLS = {"rna": 5, "prot": 3}, 4, 200


@pytest.fixture
def cells() -> CellTensors:
    generator = torch.Generator().manual_seed(0)
    sizes = {"rna": torch.tensor([3.0, 1.5, 1.0, 0.2, 0.0]), "prot": torch.tensor([1.0, 0.5, 2.0])}
    features = tuple(2.0 + size * torch.randn(N_CELLS, len(size), generator=generator) for size in sizes.values())
    shared = tuple(F.normalize(torch.randn(N_CELLS, N_SHARED, generator=generator), dim=-1) for _ in sizes)
    return CellTensors(features, shared)


@pytest.fixture
def started(cells) -> EverythingObjective:
    objective = EverythingObjective(WIDTHS, N_SHARED).eval()
    objective.start(cells)
    return objective


def test_each_cell_is_what_the_formula_says(started, cells):
    joint = (cells.condition[0] + cells.condition[1]).double().numpy()
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    expected = []
    for x in [part.double().numpy() for part in cells.features]:
        s = x.std(axis=0, ddof=1)
        for j in range(x.shape[1]):
            # A feature that does not vary tells nothing.
            is_flat = s[j] < 1e-6
            expected.append(np.zeros(N_CELLS) if is_flat else (x[:, j] - x[:, j].mean()) / np.sqrt(s[j] * s.sum()))
    size = np.sqrt((joint.std(axis=0, ddof=1) ** 2).sum())
    expected += list((joint - joint.mean(axis=0)).T / size)
    np.testing.assert_allclose(started.joint(cells).numpy(), np.stack(expected, axis=1), atol=1e-5)


def test_blocks_weigh_the_same_and_new_cells_are_scaled_as_those_of_training(started, cells):
    blocks = started.joint(cells).split((*WIDTHS.values(), N_SHARED), dim=1)
    for block in blocks:
        assert block.var(dim=0).sum().item() == pytest.approx(1.0, abs=1e-4)
    rows = torch.tensor([3, 150])
    torch.testing.assert_close(started.joint(cells.take(rows)), started.joint(cells)[rows])


def test_one_modality_has_its_own_block_and_its_own_shared_code(started, cells):
    joint, code = started.joint(cells), started.encode(1, cells)
    torch.testing.assert_close(code[:, :3], joint[:, 5:8])
    center, scale = started.center[-N_SHARED:], started.scale[-N_SHARED:]
    torch.testing.assert_close(code[:, 3:], (cells.condition[1] - center) * scale)


def test_batches_are_moved_together_and_a_cell_does_not_depend_on_the_others(cells):
    batch = torch.arange(N_CELLS) % 2
    features = tuple(x + 2.0 * batch[:, None] * x.std(dim=0) for x in cells.features)
    cells = cells._replace(features=features, covariates=(batch,))
    apart = []
    for n_batches in (0, 2):
        objective = EverythingObjective(WIDTHS, N_SHARED, n_batches=n_batches).eval()
        objective.start(cells)
        joint = objective.joint(cells)
        apart.append((joint[batch == 0].mean(dim=0) - joint[batch == 1].mean(dim=0)).abs().mean())
        rows = torch.tensor([7, 100])
        torch.testing.assert_close(objective.joint(cells.take(rows)), joint[rows])
    assert apart[1] < 0.5 * apart[0]
    again = EverythingObjective(WIDTHS, N_SHARED, n_batches=2).eval()
    again.load_state_dict(objective.state_dict())
    torch.testing.assert_close(again.joint(cells), joint, rtol=0, atol=0)
    assert again.encode(1, cells).shape == (N_CELLS, WIDTHS["prot"] + N_SHARED)
