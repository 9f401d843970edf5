"""Cells as tensors, and batches of them as row numbers: the data stay on the device, a batch is an index lookup."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class CellTensors(NamedTuple):
    """What an objective is given of cells: the same rows of every tensor.

    Attributes
    ----------
    features
        One ``(n_cells, n_features)`` tensor for each modality; ``(n_cells, 0)`` for one that no cell here has.
    condition
        Frozen codes of the stages that come before, one ``(n_cells, n_condition)`` tensor for each modality; empty for
        a stage that is given none.
    views
        Augmented features, made before training for objectives that compare views of a cell, one
        ``(n_cells, n_views, n_features)`` tensor for each modality; empty where there are none. They take
        ``4 * n_views`` bytes for each feature and cell.
    covariates
        One ``(n_cells,)`` tensor for each covariate that was set up, the batch key first: int64 codes of categories,
        float32 values of numbers.
    present
        One ``(n_cells,)`` tensor of bools for each modality: whether a cell has it. Empty where every cell has all.
    """

    features: tuple[Tensor, ...]
    condition: tuple[Tensor, ...] = ()
    views: tuple[Tensor, ...] = ()
    covariates: tuple[Tensor, ...] = ()
    present: tuple[Tensor, ...] = ()

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.features[0])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.features[0].device

    def condition_of_others(self, modality: int) -> Tensor:
        """Frozen codes of all modalities but one, side by side, ``(n_cells, (n_modalities - 1) * n_condition)``."""
        return torch.cat([code for j, code in enumerate(self.condition) if j != modality], dim=-1)

    def take(self, rows: Tensor) -> CellTensors:
        """The same rows of every tensor."""
        return CellTensors(*(tuple(t.index_select(0, rows) for t in tensors) for tensors in self))

    def split(self, n_cells: int) -> tuple[CellTensors, CellTensors]:
        """The first `n_cells` and the others, in the same memory."""
        return (
            CellTensors(*(tuple(t[:n_cells] for t in tensors) for tensors in self)),
            CellTensors(*(tuple(t[n_cells:] for t in tensors) for tensors in self)),
        )

    def to(self, device: torch.device) -> CellTensors:
        """Every tensor on `device`."""
        return CellTensors(*(tuple(t.to(device) for t in tensors) for tensors in self))


class RowBatches:
    """Shuffled row numbers, a new order each epoch, on the device.

    The rows that do not fill a last batch are left out for that epoch, so that every batch has the
    same number of negatives.

    Parameters
    ----------
    n_rows
        Number of training cells.
    batch_size
        Cells in a batch; all of them where there are fewer.
    n_extra
        Further independent batches that come with each batch, for the steps of a critic.
    seed
        Seed of the orders.
    device
        Where the row numbers are needed.
    rank, world_size
        Which of how many processes this is. Each has an equal, contiguous share of the same batches, whose size is
        rounded down to a multiple of `world_size`.
    """

    def __init__(
        self,
        n_rows: int,
        *,
        batch_size: int,
        n_extra: int = 0,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n_rows = n_rows
        self.batch_size = min(batch_size, n_rows) // world_size * world_size
        self.n_extra = n_extra
        self.device = device
        self._n_own = self.batch_size // world_size
        self._first_own = rank * self._n_own
        # On the CPU, so that one seed gives one order on every device.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def state(self) -> Tensor:
        """Random state from which the next epoch's orders come."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def __len__(self) -> int:
        return self.n_rows // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        orders = [
            torch.randperm(self.n_rows, generator=self._generator).to(self.device) for _ in range(1 + self.n_extra)
        ]
        for start in range(self._first_own, len(self) * self.batch_size, self.batch_size):
            yield tuple(order[start : start + self._n_own] for order in orders)


class OrderedBatches:
    """Row numbers in order, in pieces of nearly equal size, for held-out cells.

    Pieces of equal size matter where the value of a loss depends on the number of negatives.

    Parameters
    ----------
    n_rows
        Number of cells.
    batch_size
        Most cells in a batch.
    device
        Where the row numbers are needed.
    """

    def __init__(self, n_rows: int, *, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.n_rows = n_rows
        self.n_batches = math.ceil(n_rows / batch_size)
        self.device = device

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.arange(self.n_rows, device=self.device).tensor_split(self.n_batches)
