"""Invertible layers that start as the identity, and a density of what they give."""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor, nn

from indiseek.nn._autoregressive import MonotoneAutoregressive
from indiseek.nn._mixture import NormalMixture

# Of the outputs at first: not quite nothing, as layers below get their gradient through them.
_START = 1e-4
# Steps of a height that does not bend yet; AdamW moves them all the same.
_START_HEIGHT = -8.0
_N_COMPONENTS = 8


@final
class RefiningFlow(nn.Module):
    r"""Invertible map :math:`u = T(z; c)`, the identity at first, and a density of z given c.

    .. math:: \log p(z \mid c) = \log p_{base}(T(z; c)) + \log \lvert \det \partial T / \partial z \rvert

    For codes z that are almost independent of c already. The base is a mixture of normals that does not see c, fitted
    to z before training: the likelihood of a map that changes nothing is then known from the start, and training is
    worth what it adds to it on cells held out. It may stretch and shear what it gives at will, as the base learns to
    follow; :meth:`settle` takes that back, so that codes keep mean and covariance of z.

    Parameters
    ----------
    n_axes
        Dimension of z.
    n_condition
        Dimension of c.
    n_layers
        Conditional autoregressive layers, in alternating orders of the dimensions.
    n_hidden
        Width of the two hidden layers of their networks.
    condition_noise
        Standard deviation of the noise on the standardised condition in training.

    References
    ----------
    Papamakarios et al. (2017), arXiv 1705.07057.
    """

    condition_center: Tensor
    condition_scale: Tensor
    center: Tensor
    unstretch: Tensor

    def __init__(
        self, n_axes: int, n_condition: int, *, n_layers: int = 2, n_hidden: int = 128, condition_noise: float = 0.15
    ) -> None:
        super().__init__()
        self.condition_noise = condition_noise
        self.register_buffer("condition_center", torch.zeros(n_condition))
        self.register_buffer("condition_scale", torch.ones(n_condition))
        self.register_buffer("center", torch.zeros(2, n_axes))
        self.register_buffer("unstretch", torch.eye(n_axes))
        self.layers = nn.ModuleList(
            MonotoneAutoregressive(n_axes, n_condition, hidden=(n_hidden, n_hidden), reverse=bool(i % 2))
            for i in range(n_layers)
        )
        with torch.no_grad():
            for layer in self.layers:
                last = cast(MonotoneAutoregressive, layer).net.net[-1]
                for parameter in last.parameters():
                    parameter.mul_(_START)
                cast(MonotoneAutoregressive, layer).start_height.fill_(_START_HEIGHT)
        self.base = NormalMixture(_N_COMPONENTS, n_axes, trainable=True)

    @torch.no_grad()
    def start(self, z: Tensor, c: Tensor, *, seed: int = 0) -> None:
        """Fit the base and the scale of the condition.

        Parameters
        ----------
        z
            Codes of the training cells, ``(n_cells, n_axes)``.
        c
            Their condition, ``(n_cells, n_condition)``.
        seed
            Seed of the base.
        """
        self.condition_center.copy_(c.mean(dim=0))
        self.condition_scale.copy_(c.std(dim=0).clamp_min(1e-6))
        self.base.fit(z, n_components=min(_N_COMPONENTS, len(z)), seed=seed, regularisation=3e-2)

    @torch.no_grad()
    def settle(self, z: Tensor, c: Tensor) -> None:
        """Find the linear map that gives refined codes mean and covariance of the codes before.

        Parameters
        ----------
        z, c
            Of training cells, as in :meth:`start`.
        """
        before, after = z.double(), self.transform(z, c)[0].double()
        roots = []
        for codes in (after, before):
            centred = codes - codes.mean(dim=0)
            values, vectors = torch.linalg.eigh(centred.T @ centred / len(codes))
            roots.append((vectors * values.clamp_min(1e-12).sqrt()) @ vectors.T)
        self.center.copy_(torch.stack([after.mean(dim=0), before.mean(dim=0)]))
        # Both roots are symmetric, so that a dimension stays what it was.
        self.unstretch.copy_(torch.linalg.solve(*roots))

    def transform(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Refined codes ``(n_cells, n_axes)``, as they were trained, and ``log |det|`` ``(n_cells,)``."""
        c = self._condition(c)
        log_det = z.new_zeros(len(z))
        for layer in self.layers:
            z, change = layer(z, c)
            log_det = log_det + change
        return z, log_det

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Refined codes ``(n_cells, n_axes)`` with mean and covariance of z."""
        return (self.transform(z, c)[0] - self.center[0]) @ self.unstretch + self.center[1]

    def inverse(self, u: Tensor, c: Tensor) -> Tensor:
        """Codes ``(n_cells, n_axes)`` before the refinement."""
        c = self._condition(c)
        u = torch.linalg.solve(self.unstretch, u - self.center[1], left=False) + self.center[0]
        for layer in reversed(self.layers):
            u = cast(MonotoneAutoregressive, layer).inverse(u, c)
        return u

    def log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        """``log p(z | c)``, ``(n_cells,)`` nats."""
        refined, log_det = self.transform(z, c)
        return self.base.log_prob(refined) + log_det

    def _condition(self, c: Tensor) -> Tensor:
        c = (c - self.condition_center) / self.condition_scale
        return c + self.condition_noise * torch.randn_like(c) if self.training else c
