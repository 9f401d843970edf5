"""Held-out InfoNCE bound of a fresh critic, which no encoder has been trained against."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from indiseek._checks import check_number, check_seed
from indiseek._streams import one_stream

from ._probes import pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_WIDTH, _EMBEDDING, _BATCH, _RATE, _DECAY = 64, 16, 256, 3e-3, 1e-2
_CHECK_EVERY, _PATIENCE = 10, 4


@dataclass(frozen=True)
class InformationBound:
    """Lower bound of a mutual information from cells that the critic was not fitted on.

    Attributes
    ----------
    nats
        InfoNCE bound in nats; 0 if the critic finds nothing.
    limit
        Largest value it can take, the log of the number of candidates: a bound near it means "at least this much".
    """

    nats: float
    limit: float


def infonce_bound(
    a: ArrayLike, b: ArrayLike, *, max_steps: int = 150, max_cells: int = 4000, seed: int = 0
) -> InformationBound:
    """Held-out InfoNCE bound of the mutual information between two codes, in nats.

    A separable critic ``f(a, b) = g(a) . h(b)`` of two small networks is trained on half of the cells, stopped on a
    sixth and evaluated on the remaining third; it starts from ``f = 0``, whose bound is 0, so that a critic which
    learns nothing reports nothing.

    Parameters
    ----------
    a, b
        Codes of the same cells, ``(n_cells, n_a)`` and ``(n_cells, n_b)``.
    max_steps
        Largest number of optimiser steps, default 150.
    max_cells
        Cells drawn at random if there are more, default 4,000.
    seed
        Seed of the split, the networks and the batches, default 0; the global state of torch is left as it was.

    Returns
    -------
    InformationBound
        Lower is better for a specific code against what it should not hold.

    Raises
    ------
    ValueError
        If cells differ, values are not finite, or there are fewer than 30 cells.

    References
    ----------
    van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", arXiv 1807.03748, eq. 4.
    Poole et al., "On variational bounds of mutual information", ICML 2019, eq. 10.
    """
    x, y = pair(a, b, "a", "b")
    check_number("n_cells", len(x), low=30, whole=True)
    check_number("max_steps", max_steps, low=1, whole=True)
    check_number("max_cells", max_cells, low=30, whole=True)
    check_seed("seed", seed)
    rng = np.random.default_rng([seed, 3])
    order = rng.permutation(len(x))[:max_cells]
    train, validation, test = np.split(order, [len(order) // 2, 2 * len(order) // 3])
    parts = [(_tensor(x, train, part), _tensor(y, train, part)) for part in (train, validation, test)]
    with one_stream, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        critic = _Critic(x.shape[1], y.shape[1])
        _fit(critic, parts[0], parts[1], max_steps=max_steps)
    with torch.no_grad():
        return InformationBound(nats=-float(critic.loss(*parts[2])), limit=math.log(len(test)))


class _Critic(nn.Module):
    def __init__(self, n_a: int, n_b: int) -> None:
        super().__init__()
        self.a, self.b = _network(n_a), _network(n_b)
        # With one side silent the scores start at exactly 0 while the other side's gradient is not.
        for parameter in self.b[-1].parameters():
            nn.init.zeros_(parameter)

    def loss(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Minus the InfoNCE bound, the mean of both directions."""
        scores = self.a(a) @ self.b(b).T
        match = scores.diagonal().mean()
        partition = 0.5 * (scores.logsumexp(dim=0).mean() + scores.logsumexp(dim=1).mean())
        return partition - math.log(len(a)) - match


def _network(n_inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_inputs, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _EMBEDDING))


def _tensor(x: Array, train: NDArray[np.int64], part: NDArray[np.int64]) -> torch.Tensor:
    scale = x[train].std(axis=0)
    scaled = (x[part] - x[train].mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    return torch.as_tensor(scaled, dtype=torch.float32)


def _fit(
    critic: _Critic,
    train: tuple[torch.Tensor, ...],
    validation: tuple[torch.Tensor, ...],
    *,
    max_steps: int,
) -> None:
    optimiser = torch.optim.AdamW(critic.parameters(), lr=_RATE, weight_decay=_DECAY)
    a, b = train
    best, state, waited = 0.0, copy.deepcopy(critic.state_dict()), 0
    for step in range(1, max_steps + 1):
        batch = torch.randperm(len(a))[:_BATCH]
        optimiser.zero_grad()
        critic.loss(a[batch], b[batch]).backward()
        optimiser.step()
        if step % _CHECK_EVERY:
            continue
        with torch.no_grad():
            loss = float(critic.loss(*validation))
        if loss < best:
            best, state, waited = loss, copy.deepcopy(critic.state_dict()), 0
        else:
            waited += 1
            if waited == _PATIENCE:
                break
    critic.load_state_dict(state)
