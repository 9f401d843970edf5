"""Conditional normalising flow: an invertible map of one modality for each state of another."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from zuko.flows import MAF

from indiseek.nn._mlp import MLP


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
    the principal axes of :math:`x`, which :meth:`fit_axes` finds; directions without variance, along which
    the density would be unbounded, are left out.

    Parameters
    ----------
    n_features
        Dimension of :math:`x`.
    n_axes
        Dimension of :math:`z`: the rank of :math:`x`.
    n_condition
        Dimension of :math:`c`, a vector of unit length or several of them side by side.
    n_layers
        Conditional autoregressive layers.
    n_hidden
        Width of their two hidden layers and of the network of :math:`m, s, a`.
    n_mixed
        Number of matrices :math:`A_k`.
    n_base_layers, n_base_hidden
        Autoregressive layers of the base density and their width; no layers give the standard normal.
    dropout
        Dropout in every conditional network.
    condition_noise
        Standard deviation of the noise on the condition in training, relative to its entries.

    References
    ----------
    Papamakarios et al. (2017), arXiv 1705.07057 (autoregressive layers).
    """

    below: Tensor
    center: Tensor
    axes: Tensor

    def __init__(
        self,
        n_features: int,
        n_axes: int,
        n_condition: int,
        *,
        n_layers: int = 3,
        n_hidden: int = 256,
        n_mixed: int = 16,
        n_base_layers: int = 3,
        n_base_hidden: int = 128,
        dropout: float = 0.2,
        condition_noise: float = 0.05,
    ) -> None:
        super().__init__()
        self.n_axes = n_axes
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("axes", torch.eye(n_features, n_axes))
        self.condition_noise = condition_noise
        # Entries of a unit vector are small; the networks expect about unit variance.
        self.condition_scale = math.sqrt(n_condition)

        def activation() -> nn.Module:
            return nn.Sequential(nn.ELU(), nn.Dropout(dropout))

        self.head = MLP(n_condition, 2 * n_axes + n_mixed, hidden=(n_hidden, n_hidden), dropout=dropout)
        last = cast(nn.Linear, self.head[-1])
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.mixed = nn.Parameter(0.02 * torch.randn(n_mixed, n_axes, n_axes))
        self.constant = nn.Parameter(torch.zeros(n_axes, n_axes))
        self.register_buffer("below", torch.ones(n_axes, n_axes).tril(-1), persistent=False)
        self.layers = MAF(
            n_axes,
            n_condition,
            transforms=n_layers,
            hidden_features=(n_hidden, n_hidden),
            activation=activation,
        ).transform
        self.base = MAF(n_axes, 0, transforms=n_base_layers, hidden_features=(n_base_hidden, n_base_hidden))
        self.base_center = nn.Parameter(torch.zeros(n_axes))
        self.base_log_scale = nn.Parameter(torch.zeros(n_axes))
        for layer in (*self.layers.transforms, *self.base.transform.transforms):
            _start_near_identity(layer.hyper[-1])

    @torch.no_grad()
    def fit_axes(self, x: Tensor) -> None:
        """Find centre and principal axes of the training cells' features, ``(n_cells, n_features)``."""
        center = x.mean(dim=0)
        centred = (x - center).double()
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : self.n_axes]
        # The sign of an eigenvector is arbitrary; fixed, a second fit finds the same axes.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        self.center.copy_(center)
        self.axes.copy_(axes)

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
        z, log_det = self.layers(c).call_and_ladj(u)
        return z, log_det - log_scale.sum(dim=-1), residual

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Code ``T(x; c)``, ``(n_cells, n_axes)``."""
        return self.transform(x, c)[0]

    def inverse(self, z: Tensor, c: Tensor) -> Tensor:
        """Features ``T^{-1}(z; c)``, ``(n_cells, n_features)``."""
        c = self._condition(c)
        mean, log_scale, gate = self._head(c)
        u = self.layers(c).inv(z) * torch.exp(log_scale)
        mixed = torch.einsum("nk,kij->nij", gate, self.mixed * self.below)
        triangular = torch.eye(self.n_axes, device=z.device, dtype=z.dtype) - self.constant * self.below - mixed
        residual = torch.linalg.solve_triangular(triangular, u[..., None], upper=False)[..., 0]
        return (residual + mean) @ self.axes.T + self.center

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Log density of the codes under the base, ``(n_cells,)`` nats."""
        standard = (z - self.base_center) * torch.exp(-self.base_log_scale)
        log_prob: Tensor = self.base().log_prob(standard) - self.base_log_scale.sum()
        return log_prob

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """``log p(x | c)`` on the principal axes, ``(n_cells,)`` nats."""
        z, log_det, _ = self.transform(x, c)
        return self.base_log_prob(z) + log_det

    def _condition(self, c: Tensor) -> Tensor:
        c = c * self.condition_scale
        return c + self.condition_noise * torch.randn_like(c) if self.training else c

    def _head(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale, gate = self.head(c).split([self.n_axes, self.n_axes, len(self.mixed)], dim=-1)
        # Bounded, so that one unlucky step cannot blow the likelihood up.
        return mean, 1.5 * torch.tanh(log_scale / 1.5), gate


def _start_near_identity(last: nn.Linear) -> None:
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.mul_(0.1)
