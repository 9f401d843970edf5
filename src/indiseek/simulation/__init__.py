"""Data with a known truth: latents, private states and, where it has a closed form, mutual information."""

from __future__ import annotations

from ._content_style import ContentStyleProcess
from ._disentangled import simulate_disentangled
from ._factors import simulate_factors
from ._gaussian import simulate_gaussian
from ._simulation import Simulation
from ._trifeature import simulate_trifeature
from ._trifeature_images import TrifeatureImages, TrifeaturePairs

__all__ = [
    "ContentStyleProcess",
    "Simulation",
    "TrifeatureImages",
    "TrifeaturePairs",
    "simulate_disentangled",
    "simulate_factors",
    "simulate_gaussian",
    "simulate_trifeature",
]
