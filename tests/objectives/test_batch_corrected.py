"""Correction of each modality's features for the batch, from that modality alone."""

from __future__ import annotations

import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import BatchDisplacement
from indiseek.objectives import BatchCorrectedObjective

WIDTHS = {"rna": 7, "prot": 4}
N_CELLS, N_SHARED, N_BATCHES = 900, 3, 3


@pytest.fixture
def cells() -> CellTensors:
    """Two types, told by both shared codes; batches add something else to each type and modality."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(N_BATCHES, (N_CELLS,), generator=generator)
    kind = torch.randint(2, (N_CELLS,), generator=generator)
    features, shared = [], []
    for n in WIDTHS.values():
        shifts = 3.0 * torch.randn(N_BATCHES, 2, n, generator=generator)
        features.append(torch.randn(N_CELLS, n, generator=generator) + shifts[batch, kind])
        shared.append(4.0 * torch.eye(N_SHARED)[kind] + 0.3 * torch.randn(N_CELLS, N_SHARED, generator=generator))
    return CellTensors(features=tuple(features), condition=tuple(shared), covariates=(batch,))


@pytest.fixture
def started(cells) -> BatchCorrectedObjective:
    objective = BatchCorrectedObjective(WIDTHS, N_SHARED, N_BATCHES).eval()
    objective.start(cells)
    return objective


def test_each_modality_is_displaced_in_the_states_of_its_own_code(started, cells):
    for i, x in enumerate(cells.features):
        alone = BatchDisplacement(x.shape[1], N_SHARED, N_BATCHES)
        alone.fit(x, cells.condition[i], cells.covariates[0])
        expected = x + 0.75 * (alone(x, cells.condition[i], cells.covariates[0]) - x)
        torch.testing.assert_close(started.encode(i, cells), expected, rtol=0, atol=1e-5)
        apart = [
            torch.stack([z[cells.covariates[0] == b].mean(dim=0) for b in range(3)]).std(dim=0).mean()
            for z in (x, expected)
        ]
        assert apart[1] < 0.4 * apart[0]
    torch.testing.assert_close(started.joint(cells), torch.cat(started.latents(cells), dim=1), rtol=0, atol=0)
    assert float(started.loss(cells).loss) == 0.0


def test_a_modality_needs_nothing_of_the_others(started, cells):
    blank = cells.features[0].new_zeros(N_CELLS, 0)
    only = cells._replace(features=(blank, cells.features[1]), condition=(blank, cells.condition[1]))
    torch.testing.assert_close(started.encode(1, only), started.encode(1, cells), rtol=0, atol=0)


def test_its_state_is_all_that_it_needs(started, cells):
    again = BatchCorrectedObjective(WIDTHS, N_SHARED, N_BATCHES).eval()
    again.load_state_dict(started.state_dict())
    torch.testing.assert_close(again.joint(cells), started.joint(cells), rtol=0, atol=0)
