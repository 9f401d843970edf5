"""Data with a known truth: latents, private states and, where it has a closed form, mutual information."""

from __future__ import annotations

from ._factors import simulate_factors
from ._gaussian import simulate_gaussian
from ._simulation import Simulation

__all__ = ["Simulation", "simulate_factors", "simulate_gaussian"]
