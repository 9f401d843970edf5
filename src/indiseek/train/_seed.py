"""Seeding that leaves the user's random state alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
