"""Mean and covariance of a modality given a condition, in closed form, as an invertible map."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from indiseek.nn._axes import leading_axes
from indiseek.nn._fitted import FittedModule
from indiseek.nn._mixture import NormalMixture
from indiseek.nn._nystrom_ridge import N_FOLDS, NystromRidge

_PIECE_CELLS = 2048
# Numbers of states, of coarser states to which they are shrunk, and numbers of cells that shrinking counts for.
_N_STATES = (1, 4, 8, 16, 32, 64)
_N_COARSE = 8
_COARSE_CELLS = 30.0
_STATE_CELLS = (10.0, 30.0, 100.0, 300.0)
_LEVEL_CELLS = 100.0
_COVARIATE_CELLS = (30.0, 100.0, 300.0, 1000.0)
# Cells for each state at the least, and cells of a fold on which likelihoods are compared.
_MIN_CELLS = 12
_MAX_HELD_OUT = 2000
_TWO_FOLDS_FROM = 3000


# Value of d^2 / n: with more, a specific code leaks more, with less, it leaves out more than it gains.
_WHITENING_ERROR = 0.016


def whitenable_axes(n_cells: int) -> int:
    """Most axes that so many training cells can make independent of a condition.

    Whitening d dimensions in every state of the condition from n cells errs by about d^2 / n; that error leaks.

    Parameters
    ----------
    n_cells
        Number of training cells.
    """
    return max(2, math.floor(math.sqrt(_WHITENING_ERROR * n_cells)))


@final
class ConditionalGaussian(FittedModule):
    r"""Invertible map :math:`z = A(c)\,V^\top (x - m(c))` with :math:`z \sim N(0, I)` given c, in closed form.

    .. math::
        A(c) = \sum_k \pi_k(c)\, S_k^{-1/2}, \qquad
        S_k = \frac{\sum_i \pi_k(c_i)\, r_i r_i^\top + \lambda \bar S_k}{\sum_i \pi_k(c_i) + \lambda}

    with the mean m of :class:`NystromRidge` and residuals :math:`r_i = V^\top (x_i - m(c_i))` of cells from fits
    without them, so that the scale is that of new cells. V are their leading principal axes: where these are fewer than
    x has directions, they keep most of what c does not tell, and m gives back the rest as far as c tells it. There are
    soft states :math:`\pi_k` of a normal mixture of the condition's last `n_state` entries, and
    :math:`\bar S_k` is the covariance of 8 coarser states, weighted by how they overlap with state k, and themselves
    shrunk to the common covariance. Roots are symmetric: a dimension of z stays that of an axis, and their sum is
    positive definite, so that x comes back exactly where V has all its directions. Number of states and
    :math:`\lambda` are those of the highest Gaussian likelihood in cells left out.

    A covariate, one-hot, is part of m. The residuals of each of its categories b are first brought to the common
    covariance S, :math:`r \to S^{1/2} S_b^{-1/2} r`; then b has a covariance in each state,
    :math:`(\sum_{i \in b} \pi_k r_i r_i^\top + \mu S_k) / (\sum_{i \in b} \pi_k + \mu)`, with :math:`\mu` chosen
    likewise. A cell of no known category, all zeros, takes the common covariance and :math:`S_k`.

    Parameters
    ----------
    n_features
        Dimension of x.
    n_axes
        Dimension of z, at most the rank of x.
    n_condition
        Dimension of c.
    n_state
        How many of the last entries of c make the states: a code of few dimensions; None for all.
    n_covariate
        Number of categories of the covariate; 0 without one.
    """

    center: Tensor
    axes: Tensor
    condition_center: Tensor
    condition_scale: Tensor
    roots: Tensor
    covariate_roots: Tensor
    levels: Tensor

    def __init__(
        self, n_features: int, n_axes: int, n_condition: int, *, n_state: int | None = None, n_covariate: int = 0
    ) -> None:
        super().__init__()
        self.n_state = n_condition if n_state is None else n_state
        self.n_covariate = n_covariate
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("axes", torch.eye(n_features)[:, :n_axes])
        self.register_buffer("condition_center", torch.zeros(n_condition))
        self.register_buffer("condition_scale", torch.ones(n_condition))
        self.register_buffer("roots", torch.eye(n_axes)[None])
        self.register_buffer("covariate_roots", torch.eye(n_axes).repeat(n_covariate, 1, 1, 1))
        self.register_buffer("levels", torch.eye(n_axes).repeat(n_covariate, 1, 1))
        self.mean = NystromRidge(n_condition, n_covariate, n_features)
        self.states = NormalMixture(1, self.n_state)

    @property
    def n_axes(self) -> int:
        """Dimension of z."""
        return self.axes.shape[1]

    @torch.no_grad()
    def fit(
        self, x: Tensor, c: Tensor, covariate: Tensor | None = None, *, n_landmarks: int = 600, seed: int = 0
    ) -> Tensor:
        """Fit on training cells; everything that has to be chosen is chosen on cells left out within them.

        Parameters
        ----------
        x
            ``(n_cells, n_features)``.
        c
            ``(n_cells, n_condition)``. Its last `n_state` entries are standardised, the others divided by one number.
        covariate
            ``(n_cells, n_covariate)``, one-hot; None where there is none.
        n_landmarks
            Landmarks of the mean, at most half of the cells: its product with the cells is what takes time.
        seed
            Seed of folds, landmarks and states.

        Returns
        -------
        Codes z of the training cells from means without them, ``(n_cells, n_axes)``.
        """
        self._fit_scales(x, c)
        c, covariate = self._scaled(c), self._covariate(c, covariate)
        generator = torch.Generator().manual_seed(seed)
        folds = (torch.randperm(len(x), generator=generator) % N_FOLDS).to(x.device)
        n_landmarks = min(n_landmarks, len(x) // 2)
        residual = self.mean.fit(x - self.center, c, covariate, folds, n_landmarks=n_landmarks, seed=seed)
        residual = self._on_leading_axes(residual)
        self._fit_levels(residual, covariate, folds)
        residual = self._level(residual, covariate)
        self._fit_states(residual, c[:, c.shape[1] - self.n_state :], covariate, folds, seed)
        pieces = zip(residual.split(_PIECE_CELLS), c.split(_PIECE_CELLS), covariate.split(_PIECE_CELLS), strict=True)
        return torch.cat([torch.einsum("nij,nj->ni", self._matrix(self._weights(c, v)), r) for r, c, v in pieces])

    def forward(self, x: Tensor, c: Tensor, covariate: Tensor | None = None) -> Tensor:
        """Codes ``(n_cells, n_axes)``."""
        return self.code_and_residual(x, c, covariate)[0]

    def code_and_residual(self, x: Tensor, c: Tensor, covariate: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Codes and residuals ``x - m(c)`` on the axes, ``(n_cells, n_axes)`` both, and :meth:`state_weights`."""
        z, residual, _, weights = self._whitened(x, c, covariate)
        return z, residual, weights

    def transform(self, x: Tensor, c: Tensor, covariate: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Codes ``(n_cells, n_axes)``, ``log |det A(c)|`` ``(n_cells,)``, and :meth:`state_weights`."""
        z, _, matrix, weights = self._whitened(x, c, covariate)
        # The matrix is positive definite: half the work of a general determinant.
        log_det = 2.0 * torch.linalg.cholesky(matrix).diagonal(dim1=1, dim2=2).log().sum(dim=1)
        if self.n_covariate:
            log_det = log_det + self._covariate(c, covariate) @ torch.linalg.slogdet(self.levels)[1]
        return z, log_det, weights

    def _whitened(self, x: Tensor, c: Tensor, covariate: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes, residuals, ``A(c)`` and weights."""
        scaled, covariate = self._scaled(c), self._covariate(c, covariate)
        residual = (x - self.center) @ self.axes - self.mean(scaled, covariate, self.axes)
        weights = self._weights(scaled, covariate)
        matrix = self._matrix(weights)
        return torch.bmm(matrix, self._level(residual, covariate)[..., None])[..., 0], residual, matrix, weights

    def inverse(self, z: Tensor, c: Tensor, covariate: Tensor | None = None) -> Tensor:
        """Features ``(n_cells, n_features)``."""
        scaled, covariate = self._scaled(c), self._covariate(c, covariate)
        residual = torch.linalg.solve(self._matrix(self._weights(scaled, covariate)), z[..., None])[..., 0]
        if self.n_covariate:
            residual = torch.linalg.solve(self._levels_of(covariate), residual[..., None])[..., 0]
        return residual @ self.axes.T + self.mean(scaled, covariate) + self.center

    def log_prob(self, x: Tensor, c: Tensor, covariate: Tensor | None = None) -> Tensor:
        """``log N(z; 0, I) + log |det A(c)|``, of x on the axes, ``(n_cells,)`` nats."""
        z, log_det, _ = self.transform(x, c, covariate)
        return log_det - 0.5 * (z.square().sum(dim=1) + self.n_axes * math.log(2.0 * math.pi))

    def state_weights(self, c: Tensor, covariate: Tensor | None = None) -> Tensor:
        """Soft states of conditions ``(n_cells, n_condition)``, within each category of the covariate.

        ``(n_cells, (1 + n_covariate) * n_states)``: first those of cells without a known category, then those of each
        category; rows add up to 1.
        """
        return self._weights(self._scaled(c), self._covariate(c, covariate))

    def _weights(self, scaled: Tensor, covariate: Tensor) -> Tensor:
        weights = self.states.weights_of(scaled[:, scaled.shape[1] - self.n_state :])
        if not self.n_covariate:
            return weights
        known = covariate[:, :, None] * weights[:, None]
        return torch.cat([weights * (1.0 - covariate.sum(dim=1, keepdim=True)), known.flatten(1)], dim=1)

    def _covariate(self, c: Tensor, covariate: Tensor | None) -> Tensor:
        return c.new_zeros(len(c), self.n_covariate) if covariate is None else covariate.to(c.dtype)

    def _scaled(self, c: Tensor) -> Tensor:
        return (c - self.condition_center) / self.condition_scale

    def _matrix(self, weights: Tensor) -> Tensor:
        """``A(c)``, ``(n_cells, n_axes, n_axes)``, of cells with these weights."""
        roots = self.roots.flatten(1)
        if self.n_covariate:
            roots = torch.cat([roots, self.covariate_roots.flatten(0, 1).flatten(1)])
        return (weights @ roots).unflatten(1, (self.n_axes, self.n_axes))

    def _levels_of(self, covariate: Tensor) -> Tensor:
        unknown = 1.0 - covariate.sum(dim=1)
        same = torch.eye(self.n_axes, dtype=covariate.dtype, device=covariate.device)
        return torch.einsum("nb,bij->nij", covariate, self.levels) + unknown[:, None, None] * same

    def _level(self, residual: Tensor, covariate: Tensor) -> Tensor:
        """Residuals at the common covariance."""
        if not self.n_covariate:
            return residual
        pieces = zip(residual.split(_PIECE_CELLS), covariate.split(_PIECE_CELLS), strict=True)
        return torch.cat([torch.bmm(self._levels_of(b), r[..., None])[..., 0] for r, b in pieces])

    def _fit_levels(self, residual: Tensor, covariate: Tensor, folds: Tensor) -> None:
        if not self.n_covariate:
            return
        everything = _without(None, _products(residual.new_ones(len(residual), 1), residual, folds))
        common = _shrunk(everything, torch.zeros_like(everything[0]), 0.0)
        own = _shrunk(_without(None, _products(covariate, residual, folds)), common, _LEVEL_CELLS)
        self.set_buffers(levels=torch.linalg.inv(_roots(common)) @ _roots(own))

    def _fit_scales(self, x: Tensor, c: Tensor) -> None:
        wide = c.double()
        scale = wide.std(dim=0).clamp_min(1e-6)
        # Components keep their relative variances: the later ones are mostly noise.
        n_other = c.shape[1] - self.n_state
        scale[:n_other] = scale[:n_other].square().mean().sqrt()
        self.set_buffers(center=x.double().mean(dim=0), condition_center=wide.mean(dim=0), condition_scale=scale)

    def _on_leading_axes(self, residual: Tensor) -> Tensor:
        """Find the axes of residuals ``(n_cells, n_features)``, and give them on these, ``(n_cells, n_axes)``."""
        scatter = torch.zeros(residual.shape[1], residual.shape[1], dtype=torch.float64, device=residual.device)
        for piece in residual.split(_PIECE_CELLS):
            scatter += piece.double().T @ piece.double()
        self.set_buffers(axes=leading_axes(scatter, self.n_axes))
        return residual @ self.axes

    def _fit_states(self, residual: Tensor, c: Tensor, covariate: Tensor, folds: Tensor, seed: int) -> None:
        """Choose the number of states and how far to shrink by likelihood of folds that are left out, and fit."""
        n, common = len(residual), _products(residual.new_ones(len(residual), 1), residual, folds)
        held_out = range(2 if n >= _TWO_FOLDS_FROM else N_FOLDS)
        coarse = NormalMixture(1, self.n_state).to(c)
        coarse.fit(c, n_components=max(1, min(_N_COARSE, n // _MIN_CELLS)), seed=seed + 1)
        coarse_weights = coarse.weights_of(c)
        coarse_products = _products(coarse_weights, residual, folds)
        best = -float("inf")
        for n_states in _N_STATES:
            if n_states > 1 and n_states * _MIN_CELLS > n:
                break
            states = NormalMixture(n_states, self.n_state).to(c)
            states.fit(c, n_components=n_states, seed=seed)
            weights = states.weights_of(c)
            products = _products(weights, residual, folds)
            overlap = (weights.T @ coarse_weights).double()
            overlap = overlap / overlap.sum(dim=1, keepdim=True).clamp_min(1e-12)
            for shrink in _STATE_CELLS:
                value = 0.0
                for k in held_out:
                    own, coarser, whole = (_without(k, sums) for sums in (products, coarse_products, common))
                    roots = _roots(_covariances(own, coarser, whole, overlap, shrink))
                    value += _likelihood(residual, weights, roots, torch.where(folds == k)[0][:_MAX_HELD_OUT])
                if value > best:
                    best, chosen = value, (states, weights, products, overlap, shrink)
        states, weights, products, overlap, shrink = chosen
        self.states = states
        own, coarser, whole = (_without(None, sums) for sums in (products, coarse_products, common))
        covariances = _covariances(own, coarser, whole, overlap, shrink)
        self.set_buffers(roots=_roots(covariances), covariate_roots=covariances.new_zeros(0))
        if self.n_covariate:
            self._fit_covariate(residual, weights, covariate, folds, covariances)

    def _fit_covariate(
        self, residual: Tensor, weights: Tensor, covariate: Tensor, folds: Tensor, covariances: Tensor
    ) -> None:
        joint = (covariate[:, :, None] * weights[:, None]).flatten(1)
        products = _products(joint, residual, folds)
        target = covariances.repeat(self.n_covariate, 1, 1)
        best = -float("inf")
        for shrink in _COVARIATE_CELLS:
            value = 0.0
            for k in range(2):
                rows = torch.where((folds == k) & (covariate.sum(dim=1) > 0))[0][:_MAX_HELD_OUT]
                value += _likelihood(residual, joint, _roots(_shrunk(_without(k, products), target, shrink)), rows)
            if value > best:
                best, chosen = value, shrink
        roots = _roots(_shrunk(_without(None, products), target, chosen))
        self.set_buffers(covariate_roots=roots.unflatten(0, (self.n_covariate, -1)))


Sums = tuple[Tensor, Tensor]
"""Weighted products ``(..., n_states, n_axes, n_axes)`` and weights ``(..., n_states)``, added up over cells."""


def _products(weights: Tensor, residual: Tensor, folds: Tensor) -> Sums:
    """Sums of each fold."""
    n_states, n_axes = weights.shape[1], residual.shape[1]
    total = torch.zeros(N_FOLDS, n_states, n_axes * n_axes, dtype=torch.float64, device=residual.device)
    counts = torch.zeros(N_FOLDS, n_states, dtype=torch.float64, device=residual.device)
    for rows in torch.arange(len(residual), device=residual.device).split(_PIECE_CELLS):
        outer = (residual[rows, :, None] * residual[rows, None, :]).flatten(1)
        for k in range(N_FOLDS):
            own = folds[rows] == k
            total[k] += weights[rows][own].T @ outer[own]
            counts[k] += weights[rows][own].sum(dim=0)
    return total.unflatten(2, (n_axes, n_axes)), counts


def _without(fold: int | None, sums: Sums) -> Sums:
    products, counts = (part.sum(dim=0) for part in sums)
    return (products, counts) if fold is None else (products - sums[0][fold], counts - sums[1][fold])


def _shrunk(sums: Sums, target: Tensor, n_cells: float) -> Tensor:
    """Covariances as if `n_cells` further cells had `target`."""
    products, counts = sums
    return (products + n_cells * target) / (counts + n_cells)[:, None, None]


def _covariances(own: Sums, coarse: Sums, common: Sums, overlap: Tensor, shrink: float) -> Tensor:
    shared = common[0] / common[1][:, None, None]
    target = torch.einsum("kp,pij->kij", overlap, _shrunk(coarse, shared, _COARSE_CELLS))
    return _shrunk(own, target, shrink)


def _roots(covariances: Tensor) -> Tensor:
    """Inverse symmetric square roots."""
    values, vectors = torch.linalg.eigh(covariances)
    values = torch.maximum(values, 1e-5 * values[:, -1:]).clamp_min(1e-12)
    return (vectors * values.rsqrt()[:, None, :]) @ vectors.mT


def _likelihood(residual: Tensor, weights: Tensor, roots: Tensor, rows: Tensor) -> float:
    """Mean Gaussian log-likelihood of some cells, up to its constant."""
    if not len(rows):
        return 0.0
    n_axes = residual.shape[1]
    matrix = (weights[rows] @ roots.flatten(1).to(weights.dtype)).unflatten(1, (n_axes, n_axes))
    z = torch.bmm(matrix, residual[rows, :, None])[..., 0]
    log_det = torch.linalg.slogdet(matrix)[1]
    return float((log_det - 0.5 * z.square().sum(dim=1)).mean())
