"""Regression by an ensemble of small networks: what one modality knows of another, as well as it can be learned."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from indiseek._streams import one_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_WIDTH, _DROPOUT, _BATCH, _RATE, _DECAY = 256, 0.2, 256, 1e-3, 1e-4
_MAX_EPOCHS, _PATIENCE = 60, 5


def ensemble_predict(
    x: Array, y: Array, x_new: Array, *, held_out: NDArray[np.intp], n_members: int, seed: int
) -> Array:
    """Mean prediction of networks that each stop when their error on held-out cells no longer falls.

    Parameters
    ----------
    x, y
        Inputs ``(n_cells, n_inputs)`` and targets ``(n_cells, n_targets)``.
    x_new
        Inputs of the cells to predict, ``(n_new, n_inputs)``.
    held_out
        Positions of the cells of `x` that decide when to stop and are not fitted on.
    n_members
        Number of networks; their mean errs less than each of them.
    seed
        Seed of weights, dropout and batches; the global state of torch is left as it was.

    Returns
    -------
    ``(n_new, n_targets)``.
    """
    fitted = np.setdiff1d(np.arange(len(x)), held_out)
    x_mean, x_scale = x[fitted].mean(axis=0), x[fitted].std(axis=0)
    y_mean, y_scale = y[fitted].mean(axis=0), np.sqrt(y[fitted].var(axis=0).mean()) or 1.0
    inputs = [_tensor((part - x_mean) / np.where(x_scale > 0, x_scale, 1.0)) for part in (x, x_new)]
    targets = _tensor((y - y_mean) / y_scale)
    train, stop = torch.as_tensor(fitted), torch.as_tensor(held_out)
    total = torch.zeros(len(x_new), y.shape[1])
    with one_stream, torch.random.fork_rng(devices=[]):
        for member in range(n_members):
            torch.manual_seed(int(np.random.default_rng([seed, 6, member]).integers(2**31)))
            network = _network(x.shape[1], y.shape[1])
            _fit(network, (inputs[0][train], targets[train]), (inputs[0][stop], targets[stop]))
            with torch.no_grad():
                total += network(inputs[1])
    return total.double().numpy() / n_members * y_scale + y_mean


def _network(n_inputs: int, n_targets: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_from in (n_inputs, _WIDTH):
        layers += [nn.Linear(n_from, _WIDTH), nn.LayerNorm(_WIDTH), nn.GELU(), nn.Dropout(_DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, n_targets))


def _tensor(values: Array) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _fit(
    network: nn.Sequential, train: tuple[torch.Tensor, torch.Tensor], stop: tuple[torch.Tensor, torch.Tensor]
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, state, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for _ in range(_MAX_EPOCHS):
        network.train()
        for rows in torch.randperm(len(train[0])).split(_BATCH):
            optimiser.zero_grad()
            nn.functional.mse_loss(network(train[0][rows]), train[1][rows]).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            error = float(nn.functional.mse_loss(network(stop[0]), stop[1]))
        if error < best:
            best, state, waited = error, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
            if waited == _PATIENCE:
                break
    network.load_state_dict(state)
    network.eval()
