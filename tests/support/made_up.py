"""Counts of features that follow shared and private factors, with the shares of their variance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class MadeUp(NamedTuple):
    """Counts and what is true of them.

    Attributes
    ----------
    counts
        ``(n_cells, 40)``.
    shared, private
        Factors, ``(n_cells, 2)`` and ``(n_cells, 3)``.
    weights
        Of the factors, shared ones first, on the logarithm of each feature's rate, ``(5, 40)``.
    told
        What the shared factors tell of ``log1p`` of the counts, ``(n_cells, 40)``.
    shares
        Columns ``shared``, ``specific`` and ``noise`` of the variance of ``log1p`` of the counts.
    """

    counts: np.ndarray
    shared: np.ndarray
    private: np.ndarray
    weights: np.ndarray
    told: np.ndarray
    shares: pd.DataFrame


def made_up(n_cells: int, *, seed: int = 0, n_again: int = 100_000) -> MadeUp:
    """Draw cells; the shares by further draws with the same shared factors, and with all factors the same."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, 40)) * 0.4
    weights[:2, 30:] = 0.0
    weights[2:, :10] = 0.0
    base = rng.uniform(1.0, 4.0, size=40)

    def draw(shared, private):
        return rng.poisson(np.exp(base + shared @ weights[:2] + private @ weights[2:])).astype(np.float64)

    def correlated(a, b):
        return ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / np.sqrt(a.var(0) * b.var(0))

    shared, private = rng.normal(size=(n_again, 2)), rng.normal(size=(n_again, 3))
    one = np.log1p(draw(shared, private))
    repeated = correlated(one, np.log1p(draw(shared, private)))
    told = correlated(one, np.log1p(draw(shared, rng.normal(size=(n_again, 3)))))
    told[30:], told[:10] = 0.0, repeated[:10]
    shares = pd.DataFrame({"shared": told, "specific": repeated - told, "noise": 1.0 - repeated})

    shared, private = rng.normal(size=(n_cells, 2)), rng.normal(size=(n_cells, 3))
    counts = draw(shared, private)
    mean = np.mean([np.log1p(draw(shared, rng.normal(size=(n_cells, 3)))) for _ in range(100)], axis=0)
    return MadeUp(counts, shared, private, weights, mean, shares)
