"""Moderated t: the variance of each feature shrunk towards that of the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
_TINY = 1e-12


def moderated_t(effect: Array, variance: Array, scale: float, n_free: int) -> Array:
    r"""Two-sided p values of effects whose variances are estimated of few donors.

    .. math::
        t_j = \frac{\beta_j}{\tilde s_j \sqrt{v}}, \qquad
        \tilde s_j^2 = \frac{d_0 s_0^2 + d s_j^2}{d_0 + d}

    with :math:`d_0 + d` degrees of freedom, where :math:`d_0` and :math:`s_0^2` are found of all features by the
    moments of :math:`\log s_j^2`.

    Parameters
    ----------
    effect
        Effects, ``(n_features,)``.
    variance
        Residual variances, ``(n_features,)``, above 0.
    scale
        The factor v: variance of an effect where that of a donor is 1.
    n_free
        Degrees of freedom d of the residual variances.

    Returns
    -------
    P values, ``(n_features,)``.

    References
    ----------
    Smyth (2004), Statistical Applications in Genetics and Molecular Biology 3, article 3.
    """
    prior_free, prior = _prior(variance, n_free)
    if np.isinf(prior_free):
        t, free = effect / np.sqrt(prior * scale), np.inf
    else:
        shrunk = (prior_free * prior + n_free * variance) / (prior_free + n_free)
        # As limma does it: no more degrees of freedom than all features have together.
        t, free = effect / np.sqrt(shrunk * scale), min(prior_free + n_free, n_free * len(variance))
    pvalues: Array = 2 * (stats.norm.sf(np.abs(t)) if np.isinf(free) else stats.t.sf(np.abs(t), free))
    return pvalues


def permuted_t(centered: Array, contrasts: Array, n_free: int) -> Array:
    """Moderated t of every labelling, with one prior for all of them: that of the variances without the condition.

    Parameters
    ----------
    centered
        Means of donors less those of their batch, ``(n_donors, n_features)``.
    contrasts
        As of ``Labels.contrasts``, ``(n_labellings, n_donors)``.
    n_free
        Degrees of freedom beside batch and condition.

    Returns
    -------
    ``(n_labellings, n_features)``.
    """
    squares = np.maximum((centered**2).sum(axis=0), _TINY)
    prior_free, prior = _prior(squares / (n_free + 1), n_free + 1)
    weight = 1 / float(contrasts[0] @ contrasts[0])
    effects = contrasts @ centered
    if np.isinf(prior_free):
        return np.asarray(effects * np.sqrt(weight / prior))
    residual = np.maximum(squares - weight * effects**2, 0.0)
    variance = (prior_free * prior + residual) / (prior_free + n_free)
    return np.asarray(effects * np.sqrt(weight / np.maximum(variance, _TINY)))


def _prior(variance: Array, n_free: int) -> tuple[float, float]:
    """Degrees of freedom and location of the scaled F distribution of the variances."""
    half = n_free / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    location = float(logs.mean())
    if len(logs) < 2:
        return 0.0, float(np.exp(location))
    excess = float(logs.var(ddof=1) - special.polygamma(1, half))
    if excess <= 0:
        return np.inf, float(np.exp(location))
    prior_half = _inverse_trigamma(excess)
    return 2 * prior_half, float(np.exp(location + special.digamma(prior_half) - np.log(prior_half)))


def _inverse_trigamma(value: float) -> float:
    """Where the trigamma function has a value above 0, by Newton's method on its inverse."""
    if value > 1e7:
        return float(1 / np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-10:
            break
    return x
