"""Critics: networks that score every pair of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.nn._mlp import MLP, Activation

Critic = Literal["separable", "concat"]


class SeparableCritic(nn.Module):
    r"""Critic :math:`f(z, c) = g(z)^\top h(c) / \sqrt{d}`.

    All pairs of a batch cost two forward passes and one matrix product, where a network on the
    concatenated pair costs ``n_cells ** 2`` passes.

    Parameters
    ----------
    n_z, n_c
        Dimensions of the two inputs; they may differ.
    hidden
        Widths of the hidden layers of both towers.
    n_embedding
        Dimension :math:`d` in which the towers meet.
    activation
        Nonlinearity.
    layer_norm
        Whether hidden layers are normalised.
    """

    def __init__(
        self,
        n_z: int,
        n_c: int,
        *,
        hidden: Sequence[int] = (256,),
        n_embedding: int = 64,
        activation: Activation = "gelu",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.tower_z = MLP(n_z, n_embedding, hidden=hidden, activation=activation, layer_norm=layer_norm)
        self.tower_c = MLP(n_c, n_embedding, hidden=hidden, activation=activation, layer_norm=layer_norm)
        self.scale = 1.0 / math.sqrt(n_embedding)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Score every pair.

        Parameters
        ----------
        z
            ``(n_cells, n_z)``.
        c
            ``(n_cells, n_c)``.

        Returns
        -------
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``f(z_i, c_k)``.
        """
        return self.tower_z(z) @ self.tower_c(c).T * self.scale


class ConcatCritic(nn.Module):
    r"""Critic :math:`f(z, c)`, one network on the concatenated pair.

    It can tell more dependence than a :class:`SeparableCritic` of the same width, and a batch costs ``n_cells ** 2``
    passes but for the first layer: that one is linear in `z` and `c`, and is computed once for each of them.

    Parameters
    ----------
    n_z, n_c
        Dimensions of the two inputs; they may differ.
    hidden
        Widths of the hidden layers.
    activation
        Nonlinearity.
    layer_norm
        Whether hidden layers are normalised.

    References
    ----------
    Poole et al. (2019), arXiv 1905.06922, has both kinds of critics.
    """

    def __init__(
        self,
        n_z: int,
        n_c: int,
        *,
        hidden: Sequence[int] = (256,),
        activation: Activation = "gelu",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.n_z = n_z
        self.net = MLP(n_z + n_c, 1, hidden=hidden, activation=activation, layer_norm=layer_norm)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Score every pair.

        Parameters
        ----------
        z
            ``(n_cells, n_z)``.
        c
            ``(n_cells, n_c)``.

        Returns
        -------
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``f(z_i, c_k)``.
        """
        first, *rest = self.net
        weight, bias = cast(nn.Linear, first).weight, cast(nn.Linear, first).bias
        pairs = F.linear(z, weight[:, : self.n_z], bias)[:, None] + F.linear(c, weight[:, self.n_z :])
        for layer in rest:
            pairs = layer(pairs)
        return pairs.squeeze(-1)


class GaussianCritic(nn.Module):
    r"""Critic :math:`f(z, c) = \log q(z \mid c)` with a diagonal Gaussian :math:`q`.

    Trained by maximum likelihood it is the variational network of vCLUB.

    Parameters
    ----------
    n_z, n_c
        Dimensions of the two inputs; they may differ.
    hidden
        Widths of the hidden layers.
    activation
        Nonlinearity.
    layer_norm
        Whether hidden layers are normalised.
    """

    def __init__(
        self,
        n_z: int,
        n_c: int,
        *,
        hidden: Sequence[int] = (256,),
        activation: Activation = "gelu",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.net = MLP(n_c, 2 * n_z, hidden=hidden, activation=activation, layer_norm=layer_norm)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Score every pair.

        Parameters
        ----------
        z
            ``(n_cells, n_z)``.
        c
            ``(n_cells, n_c)``.

        Returns
        -------
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``log q(z_i | c_k)`` in nats.
        """
        mean, raw_log_variance = self.net(c).chunk(2, dim=-1)
        # Bounded, because an early step with a tiny variance gives gradients that Adam never forgets.
        log_variance = 4.0 * torch.tanh(raw_log_variance / 4.0)
        precision = torch.exp(-log_variance)
        quadratic = z.square() @ precision.T - 2.0 * z @ (mean * precision).T + (mean.square() * precision).sum(-1)
        n_z = z.shape[-1]
        return -0.5 * (quadratic + log_variance.sum(-1) + n_z * math.log(2.0 * math.pi))
