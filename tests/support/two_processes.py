"""Losses and gradients of objectives on shares of one batch, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import (
    CLIPObjective,
    CoMMObjective,
    ConditionalFlowObjective,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    DistanceInfoNCEObjective,
    NCEClubObjective,
    Objective,
    across_processes,
    gather,
    gather_objects,
    gathered_sum,
    own_share,
)

N_CELLS, N_SHARED = 10, 3
N_FEATURES = {"a": 5, "b": 4, "c": 6}
N_SPECIFIC = {"a": 2, "b": 3, "c": 4}
HIDDEN = {"encoder": Encoder(hidden=(7,))}
CRITICS = HIDDEN | {"critic_hidden": (8,)}
_SPECIFIC = (N_FEATURES, N_SHARED, N_SPECIFIC)
_CODES = (N_FEATURES, N_SHARED)
_COMM = HIDDEN | {"head_hidden": (6,), "n_head": 5, "n_heads": 2, "feature_dropout": 0.0, "noise": 0.0}
_QUIET = HIDDEN | {"noise": 0.0, "masked": 0.0}

# Without noise, because processes draw noise of their own.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "clip": lambda: CLIPObjective(*_CODES, alignment=0.5, **HIDDEN),
    "distance": lambda: DistanceInfoNCEObjective(*_CODES, encoder=Encoder(hidden=(7,), layer_norm=False)),
    "nce-club": lambda: NCEClubObjective(*_SPECIFIC, **CRITICS),
    "nce-club own": lambda: NCEClubObjective(*_SPECIFIC, independent_of="own", **CRITICS),
    "nce-club supervised": lambda: NCEClubObjective(*_SPECIFIC, n_labels=3, **CRITICS),
    "nce-club paper": lambda: NCEClubObjective(*_SPECIFIC, critic="concat", batch_norm=False, **CRITICS),
    "vclub": lambda: NCEClubObjective(*_SPECIFIC, independence="vclub", **CRITICS),
    "disentangled shared": lambda: DisentangledSharedObjective(*_CODES, beta=0.5, kappa=10.0, **HIDDEN),
    "disentangled specific": lambda: DisentangledSpecificObjective(*_SPECIFIC, **_QUIET),
    "disentangled published": lambda: DisentangledSpecificObjective(*_SPECIFIC, orthogonality="published", **_QUIET),
    "disentangled code": lambda: DisentangledSpecificObjective(*_SPECIFIC, form="code", **_QUIET),
    "comm": lambda: CoMMObjective(N_FEATURES, 4, **_COMM),
    "comm code": lambda: CoMMObjective(N_FEATURES, 4, form="code", negatives="both", **_COMM),
    "flow": lambda: ConditionalFlowObjective(
        N_FEATURES, N_FEATURES, N_SHARED, N_SPECIFIC, n_hidden=8, condition_noise=0.0, feature_noise=0.0
    ),
}


def joined_batch() -> CellTensors:
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(N_CELLS, n, generator=generator, dtype=torch.float64)

    # The shares of two processes differ in mean and scale, so that statistics of a share would be found out.
    tilt = torch.linspace(0.5, 2.0, N_CELLS, dtype=torch.float64)[:, None]
    features = tuple(tilt * draw(n) + tilt for n in N_FEATURES.values())
    shared = tuple(torch.nn.functional.normalize(draw(N_SHARED), dim=1) for _ in N_FEATURES)
    # More of the first share have a label.
    labels = torch.tensor([0, 2, 1, 1, 0, -1, 2, -1, -1, 0])
    return CellTensors(features, shared, labels=(labels,))


def losses_and_gradients(name: str, rows: Tensor, *, across: bool) -> dict[str, Tensor]:
    """What the loss and the critics' loss of one objective give on some of the cells."""
    torch.manual_seed(1)
    batch = joined_batch()
    objective = OBJECTIVES[name]().double().train()
    with torch.no_grad():
        objective.start(batch)
    found: dict[str, Tensor] = {}
    part = batch.take(rows)
    draw = "indiseek.objectives._disentangled_shared.sample_von_mises_fisher"
    for kind in ("loss", "critic_loss"):
        objective.zero_grad()
        with across_processes() if across else nullcontext(), mock.patch(draw, lambda mean, kappa: mean):
            value: Any = objective.loss(part).loss if kind == "loss" else objective.critic_loss(part)
        if value is not None:
            value.backward()
            found[kind] = value.detach()
            own = {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}
            found |= {f"{kind} {key}": gradient.clone() for key, gradient in own.items()}
    return found | {f"buffer {key}": value for key, value in objective.named_buffers()}


def work(rank: int, world_size: int, directory: str) -> None:
    """Write down what one of several processes finds on its share."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    rows = torch.arange(N_CELLS).chunk(world_size)[rank]
    found: dict[str, Any] = {
        f"{name}, {across}": losses_and_gradients(name, rows, across=across)
        for name in OBJECTIVES
        for across in (True, False)
    }
    own = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    found["outside"] = [gather(own) is own, gathered_sum(own) is own, own_share(own) is own]
    with across_processes():
        rows_of_all = gather(own)
        found["gather"] = rows_of_all.detach()
        found["sum"] = gathered_sum(own.detach())
        found["share"] = own_share(rows_of_all).detach()
        # Each process weighs the rows in its own way.
        (gradient,) = torch.autograd.grad((rows_of_all * (1 + torch.arange(4)[:, None]) * 10**rank).sum(), own)
    found["gradient"] = gradient
    found["objects"] = gather_objects({"rank": rank})
    torch.save(found, Path(directory) / f"{rank}.pt")
    dist.destroy_process_group()
