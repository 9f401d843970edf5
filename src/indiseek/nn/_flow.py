"""Conditional normalising flow: an invertible map of one modality for each state of another."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from indiseek.nn._autoregressive import AutoregressiveMixture, MonotoneAutoregressive, soft_clip
from indiseek.nn._axes import leading_axes
from indiseek.nn._mlp import MLP

_PIECE_CELLS = 8192


class ConditionalFlow(nn.Module):
    r"""Invertible map :math:`z = T(x; c)` with a density of :math:`x` given :math:`c`.

    .. math:: \log p(x \mid c) = \log p_{base}(T(x; c)) + \log \lvert \det \partial T / \partial x \rvert

    The base density does not see :math:`c`: at the maximum likelihood :math:`z` is independent of
    :math:`c`, and because :math:`T` is invertible, :math:`(z, c)` holds all of :math:`x`.

    The base is free (an autoregressive mixture of normals), so that clusters survive in :math:`z`. A free
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
        Width of the two hidden layers of every network.
    n_mixed
        Number of matrices :math:`A_k`.
    n_components
        Normal components of each conditional density of the base.
    condition_noise
        Standard deviation of the noise on the condition in training, relative to its entries.

    References
    ----------
    Papamakarios et al. (2017), arXiv 1705.07057.
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
        n_layers: int = 2,
        n_hidden: int = 128,
        n_mixed: int = 16,
        n_components: int = 5,
        condition_noise: float = 0.15,
    ) -> None:
        super().__init__()
        self.n_axes = n_axes
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("axes", torch.eye(n_features, n_axes))
        self.condition_noise = condition_noise
        self.register_buffer("condition_center", torch.zeros(n_condition))
        self.register_buffer("condition_scale", torch.ones(n_condition))
        self.head = MLP(n_condition, 2 * n_axes + n_mixed, hidden=(n_hidden, n_hidden))
        last = cast(nn.Linear, self.head[-1])
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.mixed = nn.Parameter(0.02 * torch.randn(n_mixed, n_axes, n_axes))
        self.constant = nn.Parameter(torch.zeros(n_axes, n_axes))
        self.register_buffer("below", torch.ones(n_axes, n_axes).tril(-1), persistent=False)
        hidden = (n_hidden, n_hidden)
        self.layers = nn.ModuleList(
            MonotoneAutoregressive(n_axes, n_condition, hidden=hidden, reverse=bool(i % 2)) for i in range(n_layers)
        )
        self.base = AutoregressiveMixture(n_axes, n_components=n_components, hidden=hidden)
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
        scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        for piece in x.split(_PIECE_CELLS):
            centred = (piece - center).double()
            scatter += centred.T @ centred
        self.center.copy_(center)
        self.axes.copy_(leading_axes(scatter, self.n_axes))
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
        z = (u - torch.bmm(gate[:, None], mixed)[:, 0]) * torch.exp(-log_scale)
        log_det = -log_scale.sum(dim=-1)
        for layer in self.layers:
            z, change = layer(z, c)
            log_det = log_det + change
        return z, log_det, residual

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Code ``T(x; c)``, ``(n_cells, n_axes)``."""
        return self.transform(x, c)[0]

    def inverse(self, z: Tensor, c: Tensor) -> Tensor:
        """Features ``T^{-1}(z; c)``, ``(n_cells, n_features)``."""
        c = self._condition(c)
        mean, log_scale, gate = self._head(c)
        u = z
        for layer in reversed(self.layers):
            u = cast(MonotoneAutoregressive, layer).inverse(u, c)
        u = u * torch.exp(log_scale)
        mixed = torch.einsum("nk,kij->nij", gate, self.mixed * self.below)
        triangular = torch.eye(self.n_axes, device=z.device, dtype=z.dtype) - self.constant * self.below - mixed
        residual = torch.linalg.solve_triangular(triangular, u[..., None], upper=False)[..., 0]
        return (residual + mean) @ self.axes.T + self.center

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Log density of the codes under the base, ``(n_cells,)`` nats."""
        scaled = (z - self.base_center) * torch.exp(-self.base_log_scale)
        return self.base.log_prob(scaled) - self.base_log_scale.sum()

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """``log p(x | c)`` on the principal axes, ``(n_cells,)`` nats."""
        z, log_det, _ = self.transform(x, c)
        return self.base_log_prob(z) + log_det

    def _condition(self, c: Tensor) -> Tensor:
        c = (c - self.condition_center) / self.condition_scale
        return c + self.condition_noise * torch.randn_like(c) if self.training else c

    def _head(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale, gate = self.head(c).split([self.n_axes, self.n_axes, len(self.mixed)], dim=-1)
        return mean, soft_clip(log_scale), gate
