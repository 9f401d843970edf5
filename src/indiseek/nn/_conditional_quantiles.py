"""Match the distribution of each dimension in every state of a condition to that of all cells."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from indiseek.nn._fitted import FittedModule

_N_KNOTS = 65
# Beyond the outermost knots there are too few cells of a state to tell its tails.
_TAIL = 0.002
_SHRINK_CELLS = 50.0
_PIECE_CELLS = 4096


@final
class ConditionalQuantiles(FittedModule):
    r"""Monotone map of each dimension, :math:`z'_j = G_j^{-1}(F_j(z_j \mid c))`.

    .. math::
        F_j(z \mid c) = \sum_k \pi_k(c) F_{jk}(z), \qquad
        F_{jk} = \frac{\sum_i \pi_k(c_i)\, 1[z_{ij} \le z] + \lambda G_j(z)}{\sum_i \pi_k(c_i) + \lambda}

    with :math:`G_j` the distribution in all cells. Equal means and variances leave the form of a distribution to tell
    the state; after this map each dimension alone has the same distribution in every state, and keeps the form, and so
    the clusters, that it has in all cells together. Distributions are piecewise linear between knots, the identity
    beyond the outermost ones: the inverse is exact.

    Parameters
    ----------
    n_axes
        Number of dimensions.
    """

    knots: Tensor
    tables: Tensor
    common: Tensor

    def __init__(self, n_axes: int) -> None:
        super().__init__()
        line = torch.linspace(0.0, 1.0, 2).repeat(n_axes, 1)
        self.register_buffer("knots", line)
        self.register_buffer("common", line.clone())
        self.register_buffer("tables", line[:, None].clone())

    @torch.no_grad()
    def fit(self, z: Tensor, weights: Tensor) -> None:
        """Find the distributions in the training cells.

        Parameters
        ----------
        z
            ``(n_cells, n_axes)``.
        weights
            Soft states ``(n_cells, n_states)``; rows add up to 1.
        """
        n_cells, n_axes = z.shape
        n_knots = max(2, min(_N_KNOTS, n_cells // 10))
        levels = torch.linspace(_TAIL, 1.0 - _TAIL, n_knots, dtype=torch.float64, device=z.device)
        order = torch.sort(z.double(), dim=0).values
        position = levels * (n_cells - 1)
        low = position.floor().long()
        high, part = (low + 1).clamp_max(n_cells - 1), (position - low)[:, None]
        knots = (order[low] * (1.0 - part) + order[high] * part).T.contiguous()
        # Ties would make a step of no width.
        step = 1e-4 * (knots[:, -1:] - knots[:, :1]).clamp_min(1e-6)
        ramp = torch.arange(n_knots, dtype=torch.float64, device=z.device)
        knots = torch.cummax(knots - ramp * step, dim=1).values + ramp * step
        counts = weights.double().sum(dim=0)
        below = torch.zeros(n_axes, len(counts), n_knots, dtype=torch.float64, device=z.device)
        total = torch.zeros(n_axes, n_knots, dtype=torch.float64, device=z.device)
        for piece, own in zip(z.split(_PIECE_CELLS), weights.split(_PIECE_CELLS), strict=True):
            for j in range(n_axes):
                under = (piece[:, j, None] <= knots[j]).to(own.dtype)
                below[j] += own.T @ under
                total[j] += under.sum(dim=0)
        # A little of a straight line keeps every slope above 0.
        flat = torch.linspace(0.0, 1.0, n_knots, dtype=torch.float64, device=z.device)
        common = (0.98 * total / n_cells) + 0.02 * flat
        tables = (0.98 * below + counts[:, None] * 0.02 * flat + _SHRINK_CELLS * common[:, None]) / (
            counts[:, None] + _SHRINK_CELLS
        )
        self.set_buffers(knots=knots, common=_anchored(common), tables=_anchored(tables))

    def transform(self, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Matched codes ``(n_cells, n_axes)`` and ``log |det|`` ``(n_cells,)``."""
        value, knots = z.T.double().contiguous(), self.knots.double()
        at = _interval(knots, value)
        level, rise = _line(value, *_ends(knots, at), *self._levels(at, weights.double()))
        mapped, run = _interpolate(level, self.common.double(), knots)
        return self._within(value, mapped, rise * run, z)

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """Matched codes ``(n_cells, n_axes)``."""
        return self.transform(z, weights)[0]

    def inverse(self, z: Tensor, weights: Tensor) -> Tensor:
        """Codes ``(n_cells, n_axes)`` before the map."""
        value, knots = z.T.double().contiguous(), self.knots.double()
        level, rise = _interpolate(value, knots, self.common.double())
        # The levels of a cell are its own: it has to be looked for among all of them.
        given = weights.double() @ self.tables.double()
        mapped, run = _interpolate(level[..., None], given, knots[:, None].expand_as(given))
        return self._within(value, mapped[..., 0], rise * run[..., 0], z)[0]

    def _levels(self, at: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """``F_j(. | c)`` at the lower and upper knot of an interval, ``(n_axes, n_cells)``."""
        # In double precision: where a state has few cells, the inverse magnifies what rounding leaves of a level.
        tables = self.tables.double().mT
        both, twice = torch.cat([tables[:, :-1], tables[:, 1:]], dim=2), torch.cat([weights, weights], dim=1)
        # One dimension after the other: all of them at once are n_axes tables of weights.
        each = [
            (own.index_select(0, rows) * twice).unflatten(1, (2, -1)).sum(dim=2)
            for own, rows in zip(both, at, strict=True)
        ]
        lower, upper = torch.stack(each).unbind(dim=2)
        return lower, upper

    def _within(self, value: Tensor, mapped: Tensor, slope: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and ``log |det|``, of the type of z, with the identity beyond the outermost knots."""
        outside = (value <= self.knots[:, :1]) | (value >= self.knots[:, -1:])
        mapped = torch.where(outside, value, mapped)
        slope = torch.where(outside, torch.ones_like(slope), slope)
        return mapped.T.to(z.dtype), slope.log().sum(dim=0).to(z.dtype)


def _anchored(levels: Tensor) -> Tensor:
    """Distributions that are 0 at the first knot and 1 at the last, so that the map meets the identity there."""
    first, last = levels[..., :1], levels[..., -1:]
    return (levels - first) / (last - first)


def _interpolate(value: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Piecewise linear functions through (x, y), ``(..., n_knots)``, at `value`, ``(..., n)``, and their slopes."""
    at = _interval(x, value)
    return _line(value, *_ends(x, at), *_ends(y, at))


def _interval(x: Tensor, value: Tensor) -> Tensor:
    """Number of the interval between entries of x in which a value lies."""
    return torch.searchsorted(x.contiguous(), value.detach()).clamp(1, x.shape[-1] - 1) - 1


def _ends(x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    return x.gather(-1, at), x.gather(-1, at + 1)


def _line(value: Tensor, x0: Tensor, x1: Tensor, y0: Tensor, y1: Tensor) -> tuple[Tensor, Tensor]:
    slope = (y1 - y0) / (x1 - x0)
    return y0 + slope * (value - x0), slope
