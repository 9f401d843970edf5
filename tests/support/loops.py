"""Losses cell by cell, as their equations are written: what those of the package are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def infonce(a: Sequence[np.ndarray], b: Sequence[np.ndarray], tau: float) -> float:
    """Mean of both directions, pair by pair."""
    n, total = len(a), 0.0
    for i in range(n):
        own = math.exp(float(a[i] @ b[i]) / tau)
        total -= math.log(own / sum(math.exp(float(a[i] @ b[k]) / tau) for k in range(n)))
        total -= math.log(own / sum(math.exp(float(a[k] @ b[i]) / tau) for k in range(n)))
    return total / (2 * n)


def of_unit_length(codes: np.ndarray) -> np.ndarray:
    """Each row divided by its length."""
    return np.stack([row / math.sqrt(sum(value**2 for value in row)) for row in codes])
