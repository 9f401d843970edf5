"""Von Mises-Fisher: the normal distribution's counterpart on the unit sphere."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond it the start of the recurrence is exact to 1e-9 by itself.
_LARGE_KAPPA: Final = 1e5

# At once for each cell; two in three are accepted, so that few cells need more.
_N_PROPOSALS: Final = 8


def _check(n_dims: int, kappa: float) -> None:
    if n_dims < 2:
        raise ValueError(f"expected directions in at least 2 dimensions, got {n_dims}; a sphere in one is two points.")
    if not 0 < kappa < math.inf:
        raise ValueError(f"expected kappa above 0 and finite, got {kappa}; a concentration is a positive number.")


def bessel_ratio(n_dims: int, kappa: float) -> float:
    r"""Mean cosine to the mean direction, :math:`A_m(\kappa) = I_{m/2}(\kappa) / I_{m/2-1}(\kappa)`.

    The Bessel functions themselves under- or overflow at moderate arguments. Their ratio obeys

    .. math:: A_m(\kappa) = \frac{\kappa}{m + \kappa\, A_{m+2}(\kappa)}

    which forgets its start at every step; it is started from Amos' lower bound on the ratio in a
    dimension far above :math:`m`.

    Parameters
    ----------
    n_dims
        Dimension :math:`m` of the space that holds the sphere.
    kappa
        Concentration :math:`\kappa`.

    Returns
    -------
    Between 0 (uniform) and 1 (a point), with a relative error below 1e-9.

    Raises
    ------
    ValueError
        If `n_dims` is below 2 or `kappa` not a positive number.

    References
    ----------
    Amos (1974), Mathematics of Computation 28, 239-251, equation 9.
    """
    _check(n_dims, kappa)
    # An error shrinks by the squared ratio at each step, so that sqrt(kappa) steps are needed.
    n_steps = 10 + round(5.0 * math.sqrt(min(kappa, _LARGE_KAPPA)))
    top = n_dims + 2 * n_steps
    ratio = kappa / (0.5 * (top - 1) + math.hypot(0.5 * (top + 1), kappa))
    for m in range(top - 2, n_dims - 2, -2):
        ratio = kappa / (m + kappa * ratio)
    return ratio


def von_mises_fisher_kl(mean_p: Tensor, mean_q: Tensor, kappa: float) -> Tensor:
    r"""Kullback-Leibler divergence between two of one concentration.

    .. math:: KL = \kappa A_m(\kappa) (1 - \mu_p^\top \mu_q)

    Parameters
    ----------
    mean_p, mean_q
        ``(n_cells, m)`` mean directions, rows of unit length.
    kappa
        Concentration of both.

    Returns
    -------
    ``(n_cells,)`` nats, at most ``2 * kappa``.

    Raises
    ------
    ValueError
        If the directions have fewer than 2 dimensions or `kappa` is not a positive number.
    """
    # Half the squared distance is 1 - cos without its cancellation.
    return kappa * bessel_ratio(mean_p.shape[-1], kappa) * 0.5 * (mean_p - mean_q).square().sum(dim=-1)


def sample_von_mises_fisher(mean: Tensor, kappa: float) -> Tensor:
    r"""One draw around each mean direction, differentiable in it.

    A draw is :math:`w \mu + \sqrt{1 - w^2}\, v` with :math:`v` uniform among the directions orthogonal to
    :math:`\mu` and :math:`w` by Ulrich's rejection from a transformed beta distribution, as corrected by
    Wood. With :math:`b = (m-1) / (2\kappa + \sqrt{4\kappa^2 + (m-1)^2})`, :math:`\epsilon \sim
    \mathrm{Beta}(\tfrac{m-1}{2}, \tfrac{m-1}{2})` and :math:`D = 1 - \epsilon + b\epsilon`,

    .. math::
        w = 1 - 2b\epsilon / D, \quad \sqrt{1 - w^2} = 2 \sqrt{b\,\epsilon (1-\epsilon)} / D, \quad
        \text{accepted if}\; (m-1)(\log s - s + 1) > \log u, \; s = (1+b) / (2D)

    These forms subtract no nearly equal numbers at large :math:`\kappa`, so single precision is enough.

    Parameters
    ----------
    mean
        ``(n_cells, m)``, rows of unit length.
    kappa
        Concentration.

    Returns
    -------
    ``(n_cells, m)``, rows of unit length, drawn from torch's random state.

    Raises
    ------
    ValueError
        If the directions have fewer than 2 dimensions or `kappa` is not a positive number.

    References
    ----------
    Ulrich (1984), Applied Statistics 33, 158-163; Wood (1994), Communications in Statistics 23, 157-164; Devroye
    (1986), Non-uniform random variate generation, section IX.4 (draws of the symmetric beta distribution).
    """
    n_cells, n_dims = mean.shape
    _check(n_dims, kappa)
    along, across = _cosine_and_sine(n_cells, n_dims, kappa, mean)
    tangent = torch.randn_like(mean)
    tangent = F.normalize(tangent - (tangent * mean).sum(dim=-1, keepdim=True) * mean, dim=-1)
    # In few dimensions a tangent can be orthogonal up to rounding only.
    return F.normalize(along[:, None] * mean + across[:, None] * tangent, dim=-1)


@torch.no_grad()
def _cosine_and_sine(n_cells: int, n_dims: int, kappa: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, ``(n_cells,)`` each, of the angle to the mean direction."""
    b = (n_dims - 1) / (2.0 * kappa + math.hypot(2.0 * kappa, n_dims - 1))
    cosine, sine = like.new_empty(n_cells), like.new_empty(n_cells)
    waiting = torch.arange(n_cells, device=like.device)
    while len(waiting):
        epsilon = _symmetric_beta((len(waiting), _N_PROPOSALS), n_dims, like)
        denominator = 1.0 - epsilon + b * epsilon
        s = 0.5 * (1.0 + b) / denominator
        accepted = (n_dims - 1) * (torch.log(s) - s + 1.0) > torch.rand_like(s).log()
        done, first = accepted.max(dim=1)
        rows, picked = waiting[done], (done, first[done])
        cosine[rows] = (1.0 - 2.0 * b * epsilon / denominator)[picked]
        sine[rows] = (2.0 * (b * epsilon * (1.0 - epsilon)).sqrt() / denominator)[picked]
        waiting = waiting[~done]
    return cosine, sine


def _symmetric_beta(shape: tuple[int, int], n_dims: int, like: Tensor) -> Tensor:
    """Draws of ``Beta((m - 1) / 2, (m - 1) / 2)`` by Ulrich's polar method."""
    power = 2.0 / (n_dims - 2) if n_dims > 2 else math.inf
    log_uniform = like.new_empty(shape).uniform_().log()
    angle = 2.0 * math.pi * torch.rand_like(log_uniform)
    return 0.5 + 0.5 * (-torch.expm1(power * log_uniform)).sqrt() * torch.cos(angle)
