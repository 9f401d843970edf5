"""The map from one modality to another: Nystrom ridge on components, and how far it is off in which cells."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from indiseek.data import ComponentTransform, Transform, Values, row_chunks, to_tensor
from indiseek.nn import MLP, N_FOLDS, FittedModule, NystromRidge
from indiseek.prediction._network import HIDDEN, fit_network
from indiseek.prediction._units import units_of

_N_COMPONENTS = 50
_N_LANDMARKS, _N_LANDMARKS_NOISE = 600, 300
# Features beyond which what is predicted are their components; also how many are held dense at once.
_MOST_DIRECT = 512
_PIECE_CELLS = 1024
# Of inputs in all, and of a batch beside them: two batches are about as far apart as two cells of different types.
_INPUT_VARIANCE, _BATCH = 50.0, 4.0
# Relative to a feature's error: less than this is as good as none.
_LEAST_RESIDUAL = 0.1
_LEVELS = torch.cat([torch.linspace(0.0, 0.99, 100), torch.tensor([0.995, 0.999, 1.0])])


class Predicted(NamedTuple):
    """Predictions ``(n_cells, n_features)``, and half the width of an interval around them, if one was asked for."""

    value: Tensor
    half: Tensor | None


@final
class Predictor(FittedModule):
    r"""Conditional mean :math:`m(x, b)` of one modality given components x of another and batch b, and its error.

    The mean is a :class:`indiseek.nn.NystromRidge` on x and b side by side or, where that is nearer in a fifth of the
    cells that neither has seen, the mean of it and of a small network. Of cells that a fit has left out, residuals
    r of feature j have the size :math:`\sigma_j(x, b) = \exp h_j(x, b)`, with h another such regression, of
    :math:`\log(|r_j| / s_j + .1)`. An interval of level q is :math:`m_j \pm k_j \sigma_j` with k the quantile q of
    :math:`|r_j| / \sigma_j`, where neither mean nor size have seen the cell: it holds whatever the form of the errors.
    Residuals are those of the regression alone, which a network only makes smaller.

    Features that are many are predicted as their components and rotated back.

    Parameters
    ----------
    given
        Transform of the modality from which is predicted; one of components is fitted anew with 50 of them.
    target
        Transform of the modality that is predicted, which says on what scale.
    n_batches
        Number of batches; 0 for none.
    """

    input_scale: Tensor
    basis: Tensor
    offset: Tensor
    spread: Tensor
    quantiles: Tensor
    depth: Tensor

    def __init__(self, given: Transform, target: Transform, n_batches: int) -> None:
        super().__init__()
        self.inputs = _with_more_components(given)
        self.units = units_of(target)
        self.n_batches = n_batches
        self._components = _with_more_components(target)
        self.mean = NystromRidge(1, 0, 1)
        self.noise = nn.ModuleList()
        self.network: MLP | None = None
        for name in ("input_scale", "depth"):
            self.register_buffer(name, torch.ones(()))
        for name in ("basis", "quantiles"):
            self.register_buffer(name, torch.zeros(0, 0))
        for name in ("offset", "spread"):
            self.register_buffer(name, torch.zeros(0))

    @classmethod
    def empty(cls, given: Transform, target: Transform, state: Mapping[str, Tensor], prefix: str) -> Self:
        """One that is ready to take up a saved state, of which `prefix` begins the keys."""
        landmarks = state[f"{prefix}mean.landmarks"]
        loadings = state.get(f"{prefix}inputs.loadings")
        n_inputs = len(state[f"{prefix}inputs.center"]) if loadings is not None else given.n_output
        found = cls(given, target, landmarks.shape[1] - n_inputs)
        if loadings is not None:
            found.inputs.allocate(*loadings.shape)
        if f"{prefix}network.0.weight" in state:
            found.network = MLP(
                landmarks.shape[1],
                state[f"{prefix}mean.weight"].shape[1],
                hidden=HIDDEN,
                activation="gelu",
                layer_norm=False,
            )
        while f"{prefix}noise.{len(found.noise)}.landmarks" in state:
            found.noise.append(NystromRidge(1, 0, 1))
        return found

    @torch.no_grad()
    def fit(
        self,
        given: Values,
        target: Values,
        rows: NDArray[np.intp],
        batch: Tensor | None = None,
        groups: NDArray[np.intp] | None = None,
        *,
        seed: int = 0,
    ) -> Self:
        """Fit on training cells.

        Parameters
        ----------
        given, target
            Stored values of the two modalities, ``(n_cells, n_features)``.
        rows
            Positions of the training cells.
        batch
            Batch of each training cell, ``(n_train,)``.
        groups
            Group of each training cell, such as its donor: cells of one are left out together, and groups count alike
            in the intervals. None leaves out cells at random.
        seed
            Seed of folds and landmarks.
        """
        if isinstance(self.inputs, ComponentTransform):
            self.inputs.fit(given, rows)
        x = self.inputs.apply_to(given, rows)
        variance = x.double().var(dim=0).sum().clamp_min(1e-12)
        self.set_buffers(input_scale=(_INPUT_VARIANCE / variance).sqrt())
        c = self._condition(x, batch)
        folds = torch.from_numpy(folds_of(groups, len(rows), seed)).to(x.device)
        weight = torch.from_numpy(_weights(groups, len(rows))).to(x.device)
        y = self._fit_target(target, rows)
        none = c.new_zeros(len(c), 0)
        residual = self.mean.fit(y, c, none, folds, n_landmarks=min(_N_LANDMARKS, len(c) // 2), seed=seed)
        self._fit_network(c, y, residual, folds, seed)
        spreads, quantiles = [], []
        for columns in _blocks(target.shape[1]):
            if len(self.basis):
                read = self._read(target, rows, columns)
                left = read - (y - residual) @ self.basis[:, columns] - self.offset[columns]
            else:
                left = residual[:, columns]
            spread = left.square().mean(dim=0).sqrt().clamp_min(1e-6)
            logs = torch.log(left.abs() / spread + _LEAST_RESIDUAL)
            noise = NystromRidge(1, 0, 1).to(x.device)
            n_landmarks = min(_N_LANDMARKS_NOISE, len(c) // 2)
            known = logs - noise.fit(logs, c, none, folds, n_landmarks=n_landmarks, seed=seed + 1)
            self.noise.append(noise)
            spreads.append(spread)
            quantiles.append(_quantiles(left.abs() / (spread * known.exp()), weight))
        self.set_buffers(spread=torch.cat(spreads), quantiles=torch.cat(quantiles, dim=1))
        return self

    @torch.no_grad()
    def forward(self, x: Tensor, batch: Tensor | None = None, level: float | None = None) -> Predicted:
        """Predictions of cells.

        Parameters
        ----------
        x
            What ``inputs`` gives of their values, ``(n_cells, n_inputs)``.
        batch
            Their batches, ``(n_cells,)``.
        level
            Share of the cells that the interval is to hold; None for no interval.
        """
        mean, n = self.mean.joined(), len(self.offset)
        noise = [] if level is None else [each.joined() for each in self._noise()]
        value = x.new_empty(len(x), n)
        half = None if level is None else x.new_empty(len(x), n)
        width = None if level is None else self.spread * self._quantile(level)
        for rows in torch.arange(len(x), device=x.device).split(_PIECE_CELLS):
            c = self._condition(x[rows], None if batch is None else batch[rows])
            none = c.new_zeros(len(c), 0)
            found = mean(c, none)
            if self.network is not None:
                found = 0.5 * (found + self.mean.offset + self.network(c))
            value[rows] = self.units.bounded(found @ self.basis + self.offset if len(self.basis) else found)
            if half is not None and width is not None:
                half[rows] = torch.cat([each(c, none) for each in noise], dim=1).exp_().mul_(width)
        return Predicted(value, half)

    def _noise(self) -> Iterator[NystromRidge]:
        for each in self.noise:
            assert isinstance(each, NystromRidge)
            yield each

    def _condition(self, x: Tensor, batch: Tensor | None) -> Tensor:
        scaled = x * self.input_scale
        if not self.n_batches or batch is None:
            return scaled
        return torch.cat([scaled, _BATCH * F.one_hot(batch, self.n_batches).to(x.dtype)], dim=1)

    def _fit_network(self, c: Tensor, y: Tensor, residual: Tensor, folds: Tensor, seed: int) -> None:
        """Take a network too, if in the first fold, left out, the mean of both is nearer than the regression."""
        own = folds == 0
        network = fit_network(c[~own], y[~own] - self.mean.offset, seed=seed)
        both = 0.5 * (residual[own] + y[own] - self.mean.offset - network(c[own]))
        self.network = network if both.square().mean() < residual[own].square().mean() else None

    def _fit_target(self, target: Values, rows: NDArray[np.intp]) -> Tensor:
        """What the mean is fitted to, ``(n_train, n_outputs)``: the features, or components of many of them."""
        device, n = self.inputs.device, target.shape[1]
        totals = [np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel() for chunk in row_chunks(target, rows)]
        self.set_buffers(depth=torch.tensor(float(np.median(np.concatenate(totals)))))
        if n <= _MOST_DIRECT or not isinstance(self._components, ComponentTransform):
            self.set_buffers(offset=torch.zeros(n), basis=torch.zeros(0, n))
            return self._read(target, rows, slice(None))
        components = copy.deepcopy(self._components).to(device)
        components.fit(target, rows)
        y = components.apply_to(target, rows)
        y = y - y.mean(dim=0)
        total, cross = (torch.zeros(shape, n, dtype=torch.float64, device=device) for shape in (1, y.shape[1]))
        for piece, own in zip(self._pieces(target, rows), y.split(_PIECE_CELLS), strict=True):
            total += piece.sum(dim=0)
            cross += own.double().T @ piece.double()
        gram = y.double().T @ y.double()
        self.set_buffers(
            offset=total[0] / len(rows),
            basis=torch.linalg.solve(gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram), cross),
        )
        return y

    def _read(self, values: Values, rows: NDArray[np.intp], columns: slice) -> Tensor:
        return torch.cat([piece[:, columns] for piece in self._pieces(values, rows)])

    def _pieces(self, values: Values, rows: NDArray[np.intp]) -> Iterator[Tensor]:
        for chunk in row_chunks(values, rows, _PIECE_CELLS):
            yield self.units.read(to_tensor(chunk, self.inputs.device))

    def _quantile(self, level: float) -> Tensor:
        levels = _LEVELS.to(self.quantiles)
        above = int(torch.searchsorted(levels, level).clamp(1, len(levels) - 1))
        low, high = float(levels[above - 1]), float(levels[above])
        return torch.lerp(self.quantiles[above - 1], self.quantiles[above], (level - low) / (high - low))


def folds_of(groups: NDArray[np.intp] | None, n_cells: int, seed: int) -> NDArray[np.int64]:
    """Fold of each cell: whole groups in folds of about one size, the largest first, or at random without groups."""
    if groups is None or len(np.unique(groups)) < 2:
        return np.random.default_rng(seed).permutation(n_cells) % N_FOLDS
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    fold_of, filled = np.zeros(len(sizes), dtype=np.int64), np.zeros(N_FOLDS)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[codes]


def _weights(groups: NDArray[np.intp] | None, n_cells: int) -> NDArray[np.float32]:
    """Weight of each cell, so that every group counts alike."""
    if groups is None:
        return np.full(n_cells, 1.0 / n_cells, dtype=np.float32)
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    return (1.0 / (len(sizes) * sizes[codes])).astype(np.float32)


def _quantiles(ratios: Tensor, weight: Tensor) -> Tensor:
    """Weighted quantiles of each column at all levels, ``(n_levels, n_columns)``."""
    ordered, order = ratios.sort(dim=0)
    reached = weight[order].cumsum(dim=0).T.contiguous()
    levels = _LEVELS.to(reached).expand(reached.shape[0], -1).contiguous()
    places = torch.searchsorted(reached, levels).clamp_max(len(ratios) - 1)
    return ordered.gather(0, places.T)


def _blocks(n: int) -> list[slice]:
    size = math.ceil(n / math.ceil(n / _MOST_DIRECT))
    return [slice(start, start + size) for start in range(0, n, size)]


def _with_more_components(transform: Transform) -> Transform:
    """An unfitted copy with 50 components where the transform gives any, else the transform."""
    if not isinstance(transform, ComponentTransform):
        return copy.deepcopy(transform)
    wanted = max(_N_COMPONENTS, transform.n_components or 0)
    return type(transform)(**transform.config() | {"n_components": wanted})
