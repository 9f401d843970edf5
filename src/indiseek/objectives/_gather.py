"""Gathering across processes; the only file that knows torch.distributed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_ACROSS: ContextVar[bool] = ContextVar("across_processes", default=False)


def rank() -> int:
    """Number of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def across_processes() -> Iterator[None]:
    """Let :func:`gather`, :func:`gathered_sum` and :func:`own_share` reach across processes inside the block.

    Outside it they change nothing, so that one process can evaluate an objective while the others do something else.
    """
    token = _ACROSS.set(True)
    try:
        yield
    finally:
        _ACROSS.reset(token)


def _alone() -> bool:
    return not _ACROSS.get() or world_size() == 1


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradients to each of them.

    Every process then has the loss of the joined batch. The gradient of a row is summed over the processes, and so
    the mean over processes of the parameters' gradients, which data-parallel training takes, is the gradient of one
    process on the joined batch: whether a parameter acts before the gathering or after it.

    Parameters
    ----------
    tensor
        ``(n_cells, ...)``, as many cells in every process.

    Returns
    -------
    ``(n_processes * n_cells, ...)``; `tensor` itself outside :func:`across_processes` or in a single process.
    """
    if _alone():
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def gathered_sum(tensor: Tensor) -> Tensor:
    """Sum over processes, with gradients; `tensor` itself where :func:`gather` changes nothing."""
    return tensor if _alone() else gather(tensor[None]).sum(dim=0)


def own_share(tensor: Tensor) -> Tensor:
    """Rows of this process out of what :func:`gather` gave; `tensor` itself where that changes nothing."""
    return tensor if _alone() else tensor.chunk(world_size())[rank()]


def gather_objects(value: T) -> list[T]:
    """Picklable values of all processes in the order of their ranks; also waits until every process is here."""
    values: list[Any] = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(world_size())[rank()]
