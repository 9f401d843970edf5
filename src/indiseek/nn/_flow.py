"""Conditional normalising flow: an invertible map of one modality for each state of another."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import MonotonicRQSTransform

from indiseek.nn._mlp import MLP

_N_BINS = 8


class ConditionalFlow(nn.Module):
    r"""Invertible map :math:`z = T(x; c)` with a density of :math:`x` given :math:`c`.

    .. math:: \log p(x \mid c) = \log p_{base}(T(x; c)) + \log \lvert \det \partial T / \partial x \rvert

    The base density does not see :math:`c`: at the maximum likelihood :math:`z` is independent of
    :math:`c`, and because :math:`T` is invertible, :math:`(z, c)` holds all of :math:`x`.

    The base is free (an unconditional autoregressive flow), so that clusters survive in :math:`z`. A free
    base tempts the condition to idle: it can model the marginal of :math:`x` alone. So :math:`T` begins
    with what a condition most needs, in closed form, before the autoregressive layers:

    .. math:: u = e^{-s(c)} \odot L(c)\, (x - m(c)), \qquad L(c) = I - A_0 - \sum_k a_k(c) A_k

    with strictly lower triangular :math:`A_k`: mean, covariance and scale given :math:`c`. All this happens on
    the principal axes of :math:`x`, which :meth:`fit_scales` finds; directions without variance, along which
    the density would be unbounded, are left out.

    Parameters
    ----------
    n_features
        Dimension of :math:`x`.
    n_axes
        Dimension of :math:`z`: the rank of :math:`x`.
    n_condition
        Dimension of :math:`c`.
    n_layers
        Conditional autoregressive layers.
    n_hidden
        Width of their two hidden layers and of the network of :math:`m, s, a`.
    n_mixed
        Number of matrices :math:`A_k`.
    n_base_hidden
        Width of the networks of the base density: an affine, a monotonic spline and an affine
        autoregressive layer over the standard normal.
    dropout
        Dropout in every conditional network.
    condition_noise
        Standard deviation of the noise on the condition in training, relative to its entries.

    References
    ----------
    Papamakarios et al. (2017), arXiv 1705.07057; Durkan et al. (2019), arXiv 1906.04032 (splines).
    """

    below: Tensor
    center: Tensor
    axes: Tensor
    condition_center: Tensor
    condition_scale: Tensor

    def __init__(
        self,
        n_features: int,
        n_axes: int,
        n_condition: int,
        *,
        n_layers: int = 3,
        n_hidden: int = 256,
        n_mixed: int = 16,
        n_base_hidden: int = 128,
        dropout: float = 0.1,
        condition_noise: float = 0.05,
    ) -> None:
        super().__init__()
        self.n_axes = n_axes
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("axes", torch.eye(n_features, n_axes))
        self.condition_noise = condition_noise
        self.register_buffer("condition_center", torch.zeros(n_condition))
        self.register_buffer("condition_scale", torch.ones(n_condition))
        self.head = MLP(n_condition, 2 * n_axes + n_mixed, hidden=(n_hidden, n_hidden), dropout=dropout)
        last = cast(nn.Linear, self.head[-1])
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.mixed = nn.Parameter(0.02 * torch.randn(n_mixed, n_axes, n_axes))
        self.constant = nn.Parameter(torch.zeros(n_axes, n_axes))
        self.register_buffer("below", torch.ones(n_axes, n_axes).tril(-1), persistent=False)
        self.layers = nn.ModuleList(
            _autoregressive(n_axes, n_condition, n_hidden, reverse=bool(i % 2), dropout=dropout)
            for i in range(n_layers)
        )
        self.base = nn.ModuleList(
            _autoregressive(n_axes, 0, n_base_hidden, reverse=bool(i % 2), n_bins=_N_BINS if i == 1 else 0)
            for i in range(3)
        )
        self.base_center = nn.Parameter(torch.zeros(n_axes))
        self.base_log_scale = nn.Parameter(torch.zeros(n_axes))

    @torch.no_grad()
    def fit_scales(self, x: Tensor, c: Tensor) -> None:
        """Find centre and principal axes of the features, and centre and scale of the condition.

        Parameters
        ----------
        x
            Training cells, ``(n_cells, n_features)``.
        c
            Their condition, ``(n_cells, n_condition)``.
        """
        center = x.mean(dim=0)
        centred = (x - center).double()
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : self.n_axes]
        # The sign of an eigenvector is arbitrary; fixed, a second fit finds the same axes.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        self.center.copy_(center)
        self.axes.copy_(axes)
        self.condition_center.copy_(c.mean(dim=0))
        self.condition_scale.copy_(c.std(dim=0).clamp_min(1e-6))

    def transform(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code, log-determinant and residual.

        Parameters
        ----------
        x
            ``(n_cells, n_features)``.
        c
            ``(n_cells, n_condition)``.

        Returns
        -------
        ``T(x; c)`` ``(n_cells, n_axes)``, ``log |det|`` ``(n_cells,)`` and, on the axes, ``x - m(c)``
        ``(n_cells, n_axes)``.
        """
        c = self._condition(c)
        mean, log_scale, gate = self._head(c)
        residual = (x - self.center) @ self.axes - mean
        u = residual - residual @ (self.constant * self.below).T
        mixed = (residual @ (self.mixed * self.below).flatten(0, 1).T).unflatten(-1, (-1, self.n_axes))
        u = (u - (mixed * gate[..., None]).sum(dim=-2)) * torch.exp(-log_scale)
        z, log_det = _through(self.layers, u, c)
        return z, log_det - log_scale.sum(dim=-1), residual

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Code ``T(x; c)``, ``(n_cells, n_axes)``."""
        return self.transform(x, c)[0]

    def inverse(self, z: Tensor, c: Tensor) -> Tensor:
        """Features ``T^{-1}(z; c)``, ``(n_cells, n_features)``."""
        c = self._condition(c)
        mean, log_scale, gate = self._head(c)
        u = z
        for layer in reversed(self.layers):
            u = layer(c).inv(u)
        u = u * torch.exp(log_scale)
        mixed = torch.einsum("nk,kij->nij", gate, self.mixed * self.below)
        triangular = torch.eye(self.n_axes, device=z.device, dtype=z.dtype) - self.constant * self.below - mixed
        residual = torch.linalg.solve_triangular(triangular, u[..., None], upper=False)[..., 0]
        return (residual + mean) @ self.axes.T + self.center

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Log density of the codes under the base, ``(n_cells,)`` nats."""
        u, log_det = _through(self.base, (z - self.base_center) * torch.exp(-self.base_log_scale), None)
        normal = -0.5 * (u.square() + math.log(2.0 * math.pi)).sum(dim=-1)
        return normal + log_det - self.base_log_scale.sum()

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """``log p(x | c)`` on the principal axes, ``(n_cells,)`` nats."""
        z, log_det, _ = self.transform(x, c)
        return self.base_log_prob(z) + log_det

    def _condition(self, c: Tensor) -> Tensor:
        c = (c - self.condition_center) / self.condition_scale
        return c + self.condition_noise * torch.randn_like(c) if self.training else c

    def _head(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale, gate = self.head(c).split([self.n_axes, self.n_axes, len(self.mixed)], dim=-1)
        # Bounded, so that one unlucky step cannot blow the likelihood up.
        return mean, 1.5 * torch.tanh(log_scale / 1.5), gate


def _autoregressive(
    n_features: int, n_condition: int, n_hidden: int, *, reverse: bool, n_bins: int = 0, dropout: float = 0.0
) -> MaskedAutoregressiveTransform:
    """One layer, near the identity at first: affine, or a monotonic spline of `n_bins` bins."""
    order = torch.arange(n_features)
    spline = {"univariate": MonotonicRQSTransform, "shapes": [(n_bins,), (n_bins,), (n_bins - 1,)]} if n_bins else {}

    def activation() -> nn.Module:
        return nn.Sequential(nn.ELU(), nn.Dropout(dropout))

    layer = MaskedAutoregressiveTransform(
        n_features,
        n_condition,
        order=order.flip(0) if reverse else order,
        hidden_features=(n_hidden, n_hidden),
        activation=activation,
        **spline,
    )
    with torch.no_grad():
        last = cast(nn.Linear, layer.hyper[-1])
        last.weight.mul_(0.1)
        last.bias.mul_(0.1)
    return layer


def _through(layers: nn.ModuleList, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output of layers in turn and the sum of their log-determinants."""
    total = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    for layer in layers:
        x, log_det = layer(condition).call_and_ladj(x)
        total = total + log_det
    return x, total
