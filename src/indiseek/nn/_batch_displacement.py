"""Move the cells of each batch, state by state, to where the cells of all batches lie."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from indiseek.nn._fitted import FittedModule
from indiseek.nn._mixture import NormalMixture

_N_STATES = 30
# Training cells of a state and batch at the least, and cells that shrinking a displacement towards 0 counts for.
_MIN_CELLS = 12
_SHRINK_CELLS = 3.0
_PIECE_CELLS = 4096


@final
class BatchDisplacement(FittedModule):
    r"""Features less what a batch adds to them in each state, :math:`x - \sum_k \pi_k(c)\, \delta_{bk}`.

    .. math::
        \delta_{bk} = \frac{n_{bk}}{n_{bk} + \lambda} \Bigl(\mu_{bk} - \frac{1}{B_k} \sum_{b'} \mu_{b'k}\Bigr),
        \qquad \mu_{bk} = \frac{1}{n_{bk}} \sum_{i \in b} \pi_k(c_i)\, x_i, \quad n_{bk} = \sum_{i \in b} \pi_k(c_i)

    with soft states :math:`\pi_k` of a normal mixture of c, and the mean over the :math:`B_k` batches that have cells
    in a state: a type of cell that only one batch has stays where it is. Fitted on training cells and applied to any
    cell of a known batch.

    Parameters
    ----------
    n_features
        Dimension of x.
    n_condition
        Dimension of c.
    n_batches
        Number of batches.

    References
    ----------
    Korsunsky et al. (2019), Nature Methods 16, 1289-1296 (displacement of batches by soft cluster).
    """

    shifts: Tensor

    def __init__(self, n_features: int, n_condition: int, n_batches: int) -> None:
        super().__init__()
        self.n_batches = n_batches
        self.register_buffer("shifts", torch.zeros(n_batches, 1, n_features))
        self.states = NormalMixture(1, n_condition)

    @torch.no_grad()
    def fit(self, x: Tensor, c: Tensor, batch: Tensor, *, seed: int = 0) -> None:
        """Find states and displacements.

        Parameters
        ----------
        x
            ``(n_cells, n_features)``.
        c
            What makes the states, ``(n_cells, n_condition)``.
        batch
            Number of each cell's batch, ``(n_cells,)``.
        seed
            Seed of the states.
        """
        n_states = max(1, min(_N_STATES, len(x) // (_MIN_CELLS * self.n_batches)))
        self.states.fit(c, n_components=n_states, seed=seed)
        sums = x.new_zeros(self.n_batches, n_states, x.shape[1], dtype=torch.float64)
        counts = x.new_zeros(self.n_batches, n_states, dtype=torch.float64)
        for rows in torch.arange(len(x), device=x.device).split(_PIECE_CELLS):
            weights = self.states.weights_of(c[rows]).double()
            for b in range(self.n_batches):
                own = batch[rows] == b
                sums[b] += weights[own].T @ x[rows][own].double()
                counts[b] += weights[own].sum(dim=0)
        means = sums / counts.clamp_min(1e-9)[..., None]
        here = (counts > 1.0)[..., None].double()
        common = (means * here).sum(dim=0) / here.sum(dim=0).clamp_min(1.0)
        kept = (counts / (counts + _SHRINK_CELLS))[..., None] * here
        self.set_buffers(shifts=kept * (means - common))

    def forward(self, x: Tensor, c: Tensor, batch: Tensor) -> Tensor:
        """Features ``(n_cells, n_features)`` of cells of known batches."""
        weights, moved = self.states.weights_of(c), x.clone()
        for b in range(self.n_batches):
            own = batch == b
            moved[own] = x[own] - weights[own] @ self.shifts[b]
        return moved
