"""Displacement of batches against a loop written from its equation, and what it does to batches that differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from indiseek.nn import BatchDisplacement

N_CELLS, N_BATCHES = 3000, 3


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three types, told by c; batches add something else to each type, and the third type is in batch 0 alone."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(N_BATCHES, (N_CELLS,), generator=generator)
    kind = torch.randint(2, (N_CELLS,), generator=generator)
    kind[(batch == 0) & (torch.rand(N_CELLS, generator=generator) < 0.3)] = 2
    c = 8.0 * torch.eye(3)[kind][:, :2] + torch.randn(N_CELLS, 2, generator=generator)
    shifts = 3.0 * torch.randn(N_BATCHES, 3, 4, generator=generator)
    x = torch.randn(N_CELLS, 4, generator=generator) + shifts[batch, kind]
    return x, c, batch, kind


def test_it_is_what_the_equation_says(cells):
    x, c, batch, _ = cells
    displacement = BatchDisplacement(4, 2, N_BATCHES)
    displacement.fit(x, c, batch)
    weights = displacement.states.weights_of(c).double().numpy()
    n_states = weights.shape[1]
    mean, count = np.zeros((N_BATCHES, n_states, 4)), np.zeros((N_BATCHES, n_states))
    for b in range(N_BATCHES):
        for k in range(n_states):
            for i in np.flatnonzero(batch.numpy() == b):
                count[b, k] += weights[i, k]
                mean[b, k] += weights[i, k] * x[i].numpy()
            mean[b, k] /= max(count[b, k], 1e-9)
    expected = np.zeros((N_CELLS, 4))
    for i in range(N_CELLS):
        b = int(batch[i])
        expected[i] = x[i].numpy()
        for k in range(n_states):
            others = [mean[other, k] for other in range(N_BATCHES) if count[other, k] > 1]
            if count[b, k] > 1:
                expected[i] -= weights[i, k] * count[b, k] / (count[b, k] + 3) * (mean[b, k] - np.mean(others, axis=0))
    np.testing.assert_allclose(displacement(x, c, batch).numpy(), expected, atol=1e-4)


def test_batches_of_a_type_come_to_lie_together_and_a_type_of_one_batch_stays(cells):
    x, c, batch, kind = cells
    train, new = torch.arange(2000), torch.arange(2000, N_CELLS)
    displacement = BatchDisplacement(4, 2, N_BATCHES)
    displacement.fit(x[train], c[train], batch[train])
    moved = displacement(x[new], c[new], batch[new])
    for k in (0, 1):
        rows = [torch.where((batch[new] == b) & (kind[new] == k))[0] for b in range(N_BATCHES)]
        apart = [torch.stack([z[r].mean(dim=0) for r in rows]).std(dim=0).mean() for z in (x[new], moved)]
        assert apart[1] < 0.25 * apart[0]
    alone = kind[new] == 2
    assert (moved - x[new])[alone].abs().mean() < 0.1
    assert (moved - x[new])[~alone].abs().mean() > 1.0


def test_a_saved_state_moves_cells_to_the_same_place(cells):
    x, c, batch, _ = cells
    displacement, again = BatchDisplacement(4, 2, N_BATCHES), BatchDisplacement(4, 2, N_BATCHES)
    displacement.fit(x, c, batch, seed=3)
    again.load_state_dict(displacement.state_dict())
    torch.testing.assert_close(again(x, c, batch), displacement(x, c, batch), rtol=0, atol=0)
