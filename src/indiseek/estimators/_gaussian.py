"""Closed forms for correlated Gaussian pairs, to test estimators against."""

from __future__ import annotations

import math


def _check(rho: float, n_dims: int) -> None:
    if not -1.0 < rho < 1.0:
        raise ValueError(f"expected a correlation rho with |rho| < 1, got {rho}; choose one inside (-1, 1).")
    if n_dims < 1:
        raise ValueError(f"expected n_dims of at least 1, got {n_dims}; give a positive integer.")


def gaussian_mutual_information(rho: float, n_dims: int = 1) -> float:
    r"""Mutual information of `n_dims` independent bivariate Gaussian pairs of correlation `rho`.

    .. math:: I = -\tfrac{d}{2} \log(1 - \rho^2)

    Parameters
    ----------
    rho
        Correlation within each pair.
    n_dims
        Number of pairs :math:`d`.

    Returns
    -------
    Nats.

    Raises
    ------
    ValueError
        If ``|rho| >= 1`` or ``n_dims < 1``.
    """
    _check(rho, n_dims)
    return -0.5 * n_dims * math.log1p(-rho * rho)


def gaussian_nce_club(rho: float, n_dims: int = 1) -> float:
    r"""NCE-CLUB and vCLUB of the same Gaussian pairs at the optimal critic: their Jeffreys divergence.

    .. math:: J = d \, \rho^2 / (1 - \rho^2)

    Parameters
    ----------
    rho
        Correlation within each pair.
    n_dims
        Number of pairs :math:`d`.

    Returns
    -------
    Nats. At ``rho = 0.9`` it is 4.26 where the mutual information is 0.83.

    Raises
    ------
    ValueError
        If ``|rho| >= 1`` or ``n_dims < 1``.
    """
    _check(rho, n_dims)
    return n_dims * rho * rho / (1.0 - rho * rho)
