"""What modality-specific codes by an invertible map have in common: an order of dimensions, and a way back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.objectives._base import Objective

# An order needs no more.
_MOST_TO_ORDER = 50_000


class InvertibleObjective(Objective):
    """Codes by an invertible map of a modality that is also given the others' codes, trained by maximum likelihood.

    The dimensions given out are those that carry most of what the map's residual varies by; the rest are set to their
    mean where features are given back.

    Parameters
    ----------
    n_axes
        Rank of the features by modality name, the dimension of the full code; the order of names is that of
        ``CellTensors.features``.
    n_specific
        How many dimensions of the code to give out, by modality name.
    """

    monitor = "nll"
    sees_others = True
    # Every cell has a map of its own: as many at a time as in inference, whose memory it is to stay below.
    _piece_cells: ClassVar[int] = 2048

    def __init__(self, n_axes: Mapping[str, int], n_specific: Mapping[str, int]) -> None:
        super().__init__()
        self.names = tuple(n_axes)
        self.n_specific = dict(n_specific)
        for i, name in enumerate(self.names):
            self.register_buffer(f"order_{i}", torch.arange(n_axes[name]))

    @abstractmethod
    def inverse(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        """Features ``(n_cells, n_features)`` of one modality from its full code and what the others say of `cells`."""

    @abstractmethod
    def _code_and_residual(self, modality: int, cells: CellTensors) -> tuple[Tensor, Tensor]:
        """Full code, and on the same axes the features less what the others say of them, ``(n_cells, n_axes)`` both."""

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Specific code ``(n_cells, n_specific)``, the most informative dimensions first."""
        return self.full_code(modality, cells)[:, self._kept(modality)]

    def full_code(self, modality: int, cells: CellTensors) -> Tensor:
        """All dimensions of the code, ``(n_cells, n_axes)``, one for each principal axis of the features."""
        return self._code_and_residual(modality, cells)[0]

    def reconstruct(self, modality: int, cells: CellTensors) -> Tensor:
        """Features from the dimensions that are given out, by the exact inverse; the others are set to their mean."""
        code = self.full_code(modality, cells)
        kept = torch.zeros_like(code, dtype=torch.bool)
        kept[:, self._kept(modality)] = True
        # What is left out has mean 0 and variance 1 whatever the condition.
        return self.inverse(modality, torch.where(kept, code, torch.zeros_like(code)), cells)

    @torch.no_grad()
    def finish(self, cells: CellTensors) -> None:
        """Order the dimensions by how much of the modality's residual variance each carries."""
        if cells.n_cells > _MOST_TO_ORDER:
            cells = cells.take(torch.arange(0, cells.n_cells, -(-cells.n_cells // _MOST_TO_ORDER), device=cells.device))
        for i in range(len(self.names)):
            self._order(i).copy_(self._carried(i, cells).argsort(descending=True))

    def validate(self, cells: CellTensors) -> dict[str, Tensor]:
        """Held-out negative log-likelihood per axis (nats) by modality, and their sum as ``nll``."""
        terms = {name: value for name, value in self.loss(cells).terms.items() if name.startswith("nll_")}
        return {"nll": torch.stack(list(terms.values())).sum(), **terms}

    def _pieces(self, cells: CellTensors) -> Iterator[CellTensors]:
        rows = torch.arange(cells.n_cells, device=cells.device)
        return (cells.take(piece) for piece in rows.split(self._piece_cells))

    def _carried(self, modality: int, cells: CellTensors) -> Tensor:
        """Residual variance that each dimension carries, ``(n_axes,)``."""
        n_axes = len(self._order(modality))
        moments = torch.zeros(2 * n_axes + 1, 2 * n_axes + 1, dtype=torch.float64, device=cells.device)
        for piece in self._pieces(cells):
            z, residual = self._code_and_residual(modality, piece)
            joined = torch.cat([z, residual, torch.ones_like(z[:, :1])], dim=1).double()
            moments += joined.T @ joined
        covariance = moments - torch.outer(moments[:, -1], moments[-1]) / cells.n_cells
        variance = covariance.diagonal()[:n_axes].clamp_min(1e-12)
        return (covariance[:n_axes, n_axes:-1].square() / variance[:, None]).sum(dim=1)

    def _kept(self, modality: int) -> Tensor:
        return self._order(modality)[: self.n_specific[self.names[modality]]]

    def _order(self, modality: int) -> Tensor:
        return self.get_buffer(f"order_{modality}")
