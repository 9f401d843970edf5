"""Figures of latent spaces and training runs. All functions return a matplotlib figure and draw on nothing else."""

from __future__ import annotations

from ._certificate import certificate
from ._curves import training_curves
from ._estimators import estimators
from ._spaces import check_colors, spaces
from ._tuning import tuning
from ._umap import umap_coordinates

__all__ = ["certificate", "check_colors", "estimators", "spaces", "training_curves", "tuning", "umap_coordinates"]
