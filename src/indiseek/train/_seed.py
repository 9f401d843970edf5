"""Seeding that leaves the user's random state alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch seeded, on the CPU and every CUDA device, and give the old state back.

    Parameters
    ----------
    seed
        Seed inside the block.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def random_states(device: torch.device) -> list[Tensor]:
    """Random states of torch on the CPU and, where it is a GPU, on `device`."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Take up what :func:`random_states` gave, inside :func:`seeded`."""
    on_cpu, *on_gpu = states
    torch.set_rng_state(on_cpu)
    if device.type == "cuda":
        for state in on_gpu:
            torch.cuda.set_rng_state(state, device)
