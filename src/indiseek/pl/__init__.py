"""Figures of latent spaces and training runs. All functions return a matplotlib figure and draw on nothing else."""

from __future__ import annotations

from ._certificate import certificate
from ._curves import training_curves
from ._estimators import estimators
from ._loadings import loadings
from ._private import pairs, private
from ._shares import features
from ._spaces import check_colors, spaces
from ._structure import Structure, structure, tested_map
from ._tuning import tuning
from ._umap import umap_coordinates

__all__ = [
    "Structure",
    "certificate",
    "check_colors",
    "estimators",
    "features",
    "loadings",
    "pairs",
    "private",
    "spaces",
    "structure",
    "tested_map",
    "training_curves",
    "tuning",
    "umap_coordinates",
]
