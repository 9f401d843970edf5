"""Networks whose outputs for one dimension see only the earlier dimensions, and a condition."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Brings an interval of 100 below the precision of double.
_N_HALVINGS = 60


class AutoregressiveNet(nn.Module):
    """Masked multilayer perceptron: `n_outputs` numbers for each dimension, from the dimensions before it.

    Near zero at first, so that layers built on it start near the identity.

    Parameters
    ----------
    n_axes
        Number of dimensions.
    n_condition
        Dimension of a condition that every output may see; 0 for none.
    n_outputs
        Numbers given for each dimension.
    hidden
        Widths of the hidden layers.
    reverse
        Whether a dimension sees those after it instead.

    References
    ----------
    Germain et al. (2015), arXiv 1502.03509, equations 12 and 13.
    """

    def __init__(
        self,
        n_axes: int,
        n_condition: int,
        n_outputs: int,
        *,
        hidden: tuple[int, ...],
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.n_axes = n_axes
        rank = torch.arange(1, n_axes + 1)
        rank = rank.flip(0) if reverse else rank
        # A hidden unit of degree k sees the dimensions of rank 1 to k; of degree 0, the condition alone.
        degrees = [
            torch.cat([rank, torch.zeros(n_condition, dtype=torch.long)]),
            *(torch.linspace(0 if n_condition else 1, max(1, n_axes - 1), n).round().long() for n in hidden),
        ]
        layers: list[nn.Module] = []
        for lower, upper in itertools.pairwise(degrees):
            layers += [_MaskedLinear(upper[:, None] >= lower), nn.ELU()]
        last = _MaskedLinear((rank[:, None] > degrees[-1]).repeat(n_outputs, 1))
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.mul_(0.1)
        self.net = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Outputs, ``(n_cells, n_outputs, n_axes)``."""
        output: Tensor = self.net(x if c is None else torch.cat([x, c], dim=-1))
        return output.unflatten(-1, (self.n_outputs, self.n_axes))


class MonotoneAutoregressive(nn.Module):
    r"""Invertible layer: each dimension is shifted, scaled, and bent by smooth steps that only go up.

    .. math::
        u_d = (x_d - \mu_d)\, e^{-s_d}, \qquad
        z_d = u_d + \sum_k a_{dk} \tanh \frac{u_d - t_{dk}}{h_{dk}}, \qquad a_{dk}, h_{dk} > 0

    with :math:`\mu, s, a, t` functions of :math:`x_{<d}` and c, and h constant. Shift and scale alone cannot bring
    modes that move against each other to one place.

    Parameters
    ----------
    n_axes, n_condition, hidden, reverse
        As in :class:`AutoregressiveNet`.
    n_steps
        Number of steps k of each dimension.

    References
    ----------
    Snelson et al. (2003), Warped Gaussian processes, NeurIPS 16, section 4 (the steps); Papamakarios et al. (2017),
    arXiv 1705.07057, equations 4 to 6, and Huang et al. (2018), arXiv 1804.00779 (monotone autoregressive maps).
    """

    def __init__(
        self, n_axes: int, n_condition: int, *, hidden: tuple[int, ...], reverse: bool = False, n_steps: int = 3
    ) -> None:
        super().__init__()
        self.net = AutoregressiveNet(n_axes, n_condition, 2 + 2 * n_steps, hidden=hidden, reverse=reverse)
        self.reverse = reverse
        self.n_steps = n_steps
        # Low steps: close to the identity. Steps that started at one place would stay together.
        self.place = nn.Parameter(torch.linspace(-1.5, 1.5, n_steps)[:, None].repeat(1, n_axes))
        self.log_width = nn.Parameter(torch.zeros(n_steps, n_axes))
        self.start_height = nn.Parameter(torch.full((n_steps, 1), -3.0))

    def forward(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transformed ``(n_cells, n_axes)`` and ``log |det|`` ``(n_cells,)``."""
        shift, log_scale, *steps = self._shape_of(x, c)
        z, log_slope = _bend((x - shift) * torch.exp(-log_scale), *steps)
        return z, (log_slope - log_scale).sum(dim=-1)

    @torch.no_grad()
    def inverse(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Features ``(n_cells, n_axes)``, one dimension after the other."""
        x = torch.zeros_like(z)
        n_axes = z.shape[1]
        for d in reversed(range(n_axes)) if self.reverse else range(n_axes):
            shift, log_scale, *steps = (parameter[..., d : d + 1] for parameter in self._shape_of(x, c))
            x[:, d : d + 1] = _unbend(z[:, d : d + 1], *steps) * torch.exp(log_scale) + shift
        return x

    def _shape_of(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
        """Shift, log scale ``(n_cells, n_axes)``, height, place ``(n_cells, n_steps, n_axes)`` and ``1 / h`` of one."""
        output = self.net(x, c)
        raw, place = output[:, 2:].split(self.n_steps, dim=1)
        height = F.softplus(raw + self.start_height)
        sharpness = torch.exp(-soft_clip(self.log_width, 2.0))
        return output[:, 0], soft_clip(output[:, 1]), height, place + self.place, sharpness


def _bend(u: Tensor, height: Tensor, place: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of `u` and its steps, and the log of its slope, ``(n_cells, n_axes)``."""
    step = torch.tanh((u[:, None] - place) * sharpness)
    slope = (height * sharpness * (1.0 - step.square())).sum(dim=1)
    return u + (height * step).sum(dim=1), torch.log1p(slope)


def _unbend(z: Tensor, height: Tensor, place: Tensor, sharpness: Tensor) -> Tensor:
    """What :func:`_bend` made `z` of, by bisection: the steps together are never higher than the sum of heights."""
    reach = height.sum(dim=1)
    low, high = z - reach, z + reach
    for _ in range(_N_HALVINGS):
        middle = 0.5 * (low + high)
        above = _bend(middle, height, place, sharpness)[0] > z
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)


class AutoregressiveMixture(nn.Module):
    r"""Density :math:`p(z) = \prod_d \sum_k w_{dk} N(z_d; \mu_{dk}, s_{dk})`, all three functions of :math:`z_{<d}`.

    Parameters
    ----------
    n_axes
        Dimension of :math:`z`.
    n_components
        Normal components of each conditional density.
    hidden
        Widths of the network's hidden layers.

    References
    ----------
    Uria et al. (2013), arXiv 1306.0186 (mixtures); Germain et al. (2015), arXiv 1502.03509 (masks).
    """

    def __init__(self, n_axes: int, *, n_components: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = AutoregressiveNet(n_axes, 0, 3 * n_components, hidden=hidden)
        # Components that start at one place would stay together.
        means = torch.linspace(-1.0, 1.0, n_components)
        self.start = nn.Parameter(torch.stack([torch.zeros(n_components), means, torch.zeros(n_components)]).ravel())
        self.n_components = n_components

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density ``(n_cells,)``, nats."""
        parts = self.net(z, None) + self.start[:, None]
        logit, mean, log_scale = parts.split(self.n_components, dim=1)
        log_scale = soft_clip(log_scale, 4.0)
        log_weight = F.log_softmax(logit, dim=1)
        normal = -0.5 * ((z[:, None] - mean) * torch.exp(-log_scale)).square() - log_scale
        density = torch.logsumexp(log_weight + normal, dim=1)
        return density.sum(dim=-1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)


def soft_clip(log_scale: Tensor, bound: float = 1.5) -> Tensor:
    """Bring log scales smoothly into ``(-bound, bound)``: one unlucky step cannot blow the likelihood up."""
    return bound * torch.tanh(log_scale / bound)


class _MaskedLinear(nn.Linear):
    """Linear layer of which only the weights in `mask`, ``(n_outputs, n_inputs)``, exist."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)
