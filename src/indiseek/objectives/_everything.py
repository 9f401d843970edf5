"""All that is known of a cell in one code, for neighbours of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.nn import BatchDisplacement, leading_axes
from indiseek.objectives._base import Objective, ObjectiveOutput, joint_code

# Leading axes of the code on which the states of the second pass lie.
_N_AXES = 10


@final
class EverythingObjective(Objective):
    r"""Features of all modalities and the joint shared code, side by side on scales at which cells can be compared.

    .. math::
        \Bigl[\, \frac{x_{ij} - \bar x_{ij}}{a_i \sqrt{s_{ij}}} \,\Bigr]_{i, j}, \quad \frac{c - \bar c}{a_0}

    with the standard deviation :math:`s_{ij}` of a feature in the training cells, and :math:`a` such that the variances
    of each block add up to 1. The root lies between components as they are, of which the first is all there is, and
    standardised ones, where counting noise weighs as much as signal; the shared code draws together what the modalities
    agree on. A stage in closed form: means and scales are found in :meth:`start`.

    Where there are batches, the features are first moved to where all batches lie, state by state
    (:class:`indiseek.nn.BatchDisplacement`): in the states of the shared code, which knows little of the batch, and
    again in those of the leading axes of the code that this gives.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the shared code, which is ``CellTensors.condition`` of each modality.
    n_batches
        Number of batches, the first of ``CellTensors.covariates``; 0 for none.
    seed
        Seed of the states.
    """

    center: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, n_features: Mapping[str, int], n_shared: int, *, n_batches: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.widths = (*n_features.values(), n_shared)
        self.n_batches = n_batches
        self.seed = seed
        n_own, n_all = sum(n_features.values()), sum(self.widths)
        self.register_buffer("center", torch.zeros(n_all))
        self.register_buffer("scale", torch.ones(n_all))
        if n_batches:
            n_axes = min(_N_AXES, n_all)
            self.register_buffer("axes", torch.eye(n_all)[:, :n_axes])
            self.in_shared = BatchDisplacement(n_own, n_shared, n_batches)
            self.in_all = BatchDisplacement(n_own, n_axes, n_batches)

    @torch.no_grad()
    def start(self, cells: CellTensors) -> None:
        """Find means, scales and the displacement of each batch in the training cells."""
        features, shared = torch.cat(cells.features, dim=1), joint_code(cells.condition)
        if self.n_batches:
            batch = cells.covariates[0]
            self.in_shared.fit(features, shared, batch, seed=self.seed)
            features = self.in_shared(features, shared, batch)
        self._fit_scales(torch.cat([features, shared], dim=1).double())
        if self.n_batches:
            code = self._scaled(features, shared)
            self.axes.copy_(leading_axes((code.T @ code).double(), self.axes.shape[1]))
            self.in_all.fit(features, code @ self.axes, batch, seed=self.seed)

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """What one modality tells, ``(n_cells, n_features + n_shared)``: its features and its own shared code.

        Batches are moved in the states of its own shared code only.
        """
        x, shared = cells.features[modality], cells.condition[modality]
        first = sum(self.widths[:modality])
        own = slice(first, first + self.widths[modality])
        if self.n_batches:
            blank = x.new_zeros(len(x), sum(self.widths[:-1]))
            x = x + self.in_shared(blank, shared, cells.covariates[0])[:, own]
        last = slice(sum(self.widths[:-1]), None)
        parts = ((x, own), (shared, last))
        return torch.cat([(part - self.center[at]) * self.scale[at] for part, at in parts], dim=1)

    def joint(self, cells: CellTensors) -> Tensor:
        """All that is known of the cells, ``(n_cells, n_features of all modalities + n_shared)``."""
        features, shared = torch.cat(cells.features, dim=1), joint_code(cells.condition)
        if self.n_batches:
            batch = cells.covariates[0]
            features = self.in_shared(features, shared, batch)
            features = self.in_all(features, self._scaled(features, shared) @ self.axes, batch)
        return self._scaled(features, shared)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Nothing to lose: 0."""
        return ObjectiveOutput(torch.zeros((), device=cells.device), {})

    def _scaled(self, features: Tensor, shared: Tensor) -> Tensor:
        return (torch.cat([features, shared], dim=1) - self.center) * self.scale

    def _fit_scales(self, everything: Tensor) -> None:
        spread = everything.std(dim=0)
        parts = list(spread.clamp_min(1e-6).split(self.widths))
        root = torch.cat([*(part.sqrt() for part in parts[:-1]), torch.ones_like(parts[-1])])
        size = [part.square().sum().sqrt() * torch.ones_like(part) for part in (spread / root).split(self.widths)]
        self.center.copy_(everything.mean(dim=0))
        self.scale.copy_(1.0 / (root * torch.cat(size).clamp_min(1e-6)))
