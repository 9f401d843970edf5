"""Ridge regression on Nystrom features, with residuals of cells that a fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from indiseek.nn._fitted import FittedModule

_PIECE_CELLS = 1024
# More cells choose the same width, and each width that is tried costs a pass over them.
_MAX_TO_CHOOSE = 8192
N_FOLDS = 5
# Two of them tell widths and penalties apart.
_FOLDS_TO_CHOOSE = 2
# Widths relative to the median squared distance of the landmarks, and ridge penalties.
_WIDTHS = (0.5, 1.0, 2.0, 4.0)
_PENALTIES = tuple(10.0**exponent for exponent in (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5))
# One penalty for all features: the kernel's are cheap, a linear trend less so, an offset of a covariate hardly costs.
_KERNEL, _LINEAR, _COVARIATE = 5.5, 0.3, 3.0
# Squared distance of two categories in the kernel, in units of the median one of the landmarks: what a batch does to a
# mean may differ from state to state.
_APART = 0.15


class _Moments(NamedTuple):
    """Of the cells of each fold: products of features, and of features and targets."""

    gram: Tensor
    cross: Tensor
    squares: Tensor


@final
class NystromRidge(FittedModule):
    r"""Conditional mean :math:`m(c) = \bar x + W^\top \phi(c)` of x given c, by ridge regression.

    .. math::
        \phi(c) = [K_{LL}^{-1/2} k_L(c), c, \text{covariate}], \qquad
        k_L(c)_l = \exp(-(\lVert c - c_l \rVert^2 + 0.15\, s^2\, [\text{covariates differ}]) / (g\, s^2)),

    with landmarks :math:`c_l`, cells drawn at random, and :math:`s^2` their median squared distance. Width g and
    penalty are those with the least error, on a log scale, in folds of cells that were left out; for the width at most
    8,192 cells are looked at. All that is needed of the cells are sums of products, so that they are read in pieces,
    once for these and once for the residuals.

    Parameters
    ----------
    n_condition
        Dimension of c.
    n_covariate
        Number of categories of a covariate; 0 without one.
    n_outputs
        Dimension of x.

    References
    ----------
    Williams and Seeger (2001), Using the Nystrom method to speed up kernel machines, NeurIPS 13.
    """

    landmarks: Tensor
    apart: Tensor
    root: Tensor
    rate: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, n_condition: int, n_covariate: int, n_outputs: int) -> None:
        super().__init__()
        self.register_buffer("landmarks", torch.zeros(1, n_condition + n_covariate))
        if n_covariate:
            self.register_buffer("apart", torch.zeros(()))
        self.register_buffer("root", torch.zeros(1, 1))
        self.register_buffer("rate", torch.ones(()))
        self.register_buffer("weight", torch.zeros(1 + n_condition + n_covariate, n_outputs))
        self.register_buffer("offset", torch.zeros(n_outputs))

    def forward(self, c: Tensor, covariate: Tensor, axes: Tensor | None = None) -> Tensor:
        """Mean ``(n_cells, n_outputs)`` given c ``(n_cells, n_condition)``, covariate ``(n_cells, n_covariate)``.

        On `axes`, ``(n_outputs, n_axes)``, where they are given: ``(n_cells, n_axes)``.
        """
        return self.joined(torch.float64, axes)(c, covariate).to(c.dtype)

    def joined(
        self, dtype: torch.dtype = torch.float32, axes: Tensor | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """:meth:`forward` with the products of its matrices computed once, for many cells.

        Parameters
        ----------
        dtype
            Of what is computed. The inverse root magnifies rounding a thousandfold: in single precision two devices
            differ in the third digit of a residual, which is no matter to a prediction; codes take double precision.
        axes
            As in :meth:`forward`.
        """
        weight, offset = self.weight.double(), self.offset.double()
        if axes is not None:
            weight, offset = weight @ axes.double(), offset @ axes.double()
        weight, offset = self._basis(weight).to(dtype), offset.to(dtype)
        landmarks, rate = self.landmarks.to(dtype), self.rate.to(dtype)
        n = len(landmarks)

        def mean(c: Tensor, covariate: Tensor) -> Tensor:
            c, covariate = c.to(dtype), covariate.to(dtype)
            line = torch.addmm(offset, self._linear(c, covariate), weight[n:])
            return line.addmm_(self._kernel(c, covariate, landmarks, rate), weight[:n])

        return mean

    def _features(self, c: Tensor, covariate: Tensor, landmarks: Tensor, rate: Tensor) -> Tensor:
        """``[k_L(c), c, covariate]``, ``(n_cells, n_landmarks + n_condition + n_covariate)``."""
        return torch.cat([self._kernel(c, covariate, landmarks, rate), self._linear(c, covariate)], dim=1)

    def _kernel(self, c: Tensor, covariate: Tensor, landmarks: Tensor, rate: Tensor) -> Tensor:
        return _square_distance(self._point(c, covariate), landmarks).mul_(-rate).exp_()

    def _linear(self, c: Tensor, covariate: Tensor) -> Tensor:
        return torch.cat([_LINEAR * c, _COVARIATE * covariate], dim=1)

    def _basis(self, weight: Tensor) -> Tensor:
        """From coefficients of phi, ``(..., n_features, n_outputs)``, those of :meth:`_features`; double precision."""
        n, weight = len(self.root), weight.double()
        return torch.cat([self.root.double() @ weight[..., :n, :], weight[..., n:, :]], dim=-2)

    def _point(self, c: Tensor, covariate: Tensor) -> Tensor:
        """Where cells lie for the kernel, ``(n_cells, n_condition + n_covariate)``."""
        return torch.cat([c, self.apart * covariate], dim=1) if covariate.shape[1] else c

    @torch.no_grad()
    def fit(self, x: Tensor, c: Tensor, covariate: Tensor, folds: Tensor, *, n_landmarks: int, seed: int) -> Tensor:
        """Choose width and penalty, fit, and return the residuals of each cell from a fit without its fold.

        Parameters
        ----------
        x, c, covariate
            Of the training cells, as in :meth:`forward`.
        folds
            Fold of each cell, ``(n_cells,)``.
        n_landmarks
            Number of landmarks, at most that of the cells: then it is kernel ridge regression.
        seed
            Seed of the landmarks.

        Returns
        -------
        ``(n_cells, n_outputs)``.
        """
        n = len(x)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(c.device)
        rows, few = order[: max(1, n_landmarks)], order[:_MAX_TO_CHOOSE].sort().values
        points = c[rows]
        scale = max(float(_square_distance(points, points).double().median()), 1e-12)
        if covariate.shape[1]:
            # Two categories differ in two entries.
            self.set_buffers(apart=torch.tensor(0.5 * _APART * scale).sqrt())
        points = self._point(points, covariate[rows])
        self.set_buffers(landmarks=points, offset=x.double().mean(dim=0))
        distance = _square_distance(self.landmarks, self.landmarks).double()
        best = float("inf")
        for width in _WIDTHS:
            kernel = torch.exp(-distance / (scale * width))
            values, vectors = torch.linalg.eigh(kernel)
            root = _KERNEL * (vectors / values.clamp_min(1e-6).sqrt()) @ vectors.T
            self.set_buffers(root=root, rate=torch.tensor(1.0 / (scale * width)))
            moments = self._moments(x[few], c[few], covariate[few], folds[few])
            error, penalty = min(_errors(moments))
            if error < best:
                best, chosen = error, (self.root.clone(), self.rate.clone(), penalty, moments)
        root, rate, penalty, moments = chosen
        self.set_buffers(root=root, rate=rate)
        if n > len(few):
            moments = self._moments(x, c, covariate, folds)
            _, penalty = min(_errors(moments))
        gram, cross = moments.gram.sum(dim=0), moments.cross.sum(dim=0)
        self.set_buffers(weight=_solve(gram, cross, penalty))
        left_out = torch.stack([_solve(gram - g, cross - b, penalty) for g, b in zip(*moments[:2], strict=True)])
        left_out = self._basis(left_out)
        residual = torch.empty_like(x)
        for k, rows, features in self._pieces(c, covariate, folds):
            residual[rows] = (x[rows] - self.offset - features @ left_out[k]).to(x.dtype)
        return residual

    def _moments(self, x: Tensor, c: Tensor, covariate: Tensor, folds: Tensor) -> _Moments:
        n_features, n_outputs = len(self.landmarks) + c.shape[1] + covariate.shape[1], x.shape[1]
        gram = torch.zeros(N_FOLDS, n_features, n_features, dtype=torch.float64, device=x.device)
        cross = torch.zeros(N_FOLDS, n_features, n_outputs, dtype=torch.float64, device=x.device)
        squares = torch.zeros(N_FOLDS, n_outputs, dtype=torch.float64, device=x.device)
        for k, rows, features in self._pieces(c, covariate, folds):
            target = (x[rows] - self.offset).double()
            gram[k].addmm_(features.T, features)
            cross[k].addmm_(features.T, target)
            squares[k] += target.square().sum(dim=0)
        for k in range(N_FOLDS):
            # The products of phi are those of the kernel between two roots: cheaper than phi of every cell.
            gram[k] = self._basis(self._basis(gram[k]).mT)
        return _Moments(gram, self._basis(cross), squares)

    def _pieces(self, c: Tensor, covariate: Tensor, folds: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Fold, rows of some of its cells, and their features in double precision."""
        landmarks, rate = self.landmarks.double(), self.rate.double()
        for k in range(N_FOLDS):
            for rows in (folds == k).nonzero()[:, 0].split(_PIECE_CELLS):
                yield k, rows, self._features(c[rows].double(), covariate[rows].double(), landmarks, rate)


def _errors(moments: _Moments) -> list[tuple[float, float]]:
    """Sum over outputs of the log of the error left out, for each penalty, and the penalty."""
    gram, cross = moments.gram.sum(dim=0), moments.cross.sum(dim=0)
    error = torch.zeros(len(_PENALTIES), cross.shape[1], dtype=torch.float64, device=cross.device)
    for k in range(_FOLDS_TO_CHOOSE):
        values, vectors = torch.linalg.eigh(gram - moments.gram[k])
        known = vectors.T @ (cross - moments.cross[k])
        own_gram = vectors.T @ moments.gram[k] @ vectors
        own_cross = vectors.T @ moments.cross[k]
        for a, penalty in enumerate(_PENALTIES):
            weight = known / (values.clamp_min(0.0) + penalty)[:, None]
            explained = 2.0 * (weight * own_cross).sum(dim=0) - (weight * (own_gram @ weight)).sum(dim=0)
            error[a] += moments.squares[k] - explained
    scores = error.clamp_min(1e-12).log().sum(dim=1)
    return list(zip(scores.tolist(), _PENALTIES, strict=True))


def _solve(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)


def _square_distance(a: Tensor, b: Tensor) -> Tensor:
    squares = torch.addmm(b.square().sum(dim=1), a, b.T, alpha=-2.0)
    return squares.add_(a.square().sum(dim=1)[:, None]).clamp_min_(0.0)
