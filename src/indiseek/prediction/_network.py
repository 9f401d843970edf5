"""A small network beside the ridge regression: where cells are many, their mean is better than either."""

from __future__ import annotations

import torch
from torch import Tensor

from indiseek._streams import one_stream
from indiseek.data import watched
from indiseek.nn import MLP

HIDDEN = (256, 256)
_BATCH_CELLS = 256
_N_EPOCHS, _LEAST_STEPS = 20, 400
_LR, _WEIGHT_DECAY = 2e-3, 1e-2
# On inputs of variance about 1: more of it blurs cells that differ, less lets single cells be remembered.
_NOISE = 0.2


def fit_network(c: Tensor, y: Tensor, *, seed: int) -> MLP:
    """Network that predicts y from c, by least squares.

    Parameters
    ----------
    c, y
        Inputs ``(n_cells, n_inputs)`` and outputs ``(n_cells, n_outputs)``, of which each counts by its variance.
    seed
        Seed of weights, batches and noise.
    """
    with one_stream, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(c.shape[1], y.shape[1], hidden=HIDDEN, activation="gelu", layer_norm=False).to(c.device)
    generator = torch.Generator().manual_seed(seed)
    n_steps = max(_LEAST_STEPS, _N_EPOCHS * len(c) // _BATCH_CELLS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=n_steps)
    scale = y.square().mean().sqrt().clamp_min(1e-6)
    with torch.enable_grad():
        for _ in watched(range(n_steps), desc="fit the prediction", unit="step"):
            rows = torch.randint(len(c), (_BATCH_CELLS,), generator=generator).to(c.device)
            noise = _NOISE * torch.randn(len(rows), c.shape[1], generator=generator).to(c.device)
            error = network(c[rows] + noise) - y[rows] / scale
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            last = network[-1]
            for parameter in last.parameters():
                parameter.mul_(scale)
    return network.eval().requires_grad_(False)
