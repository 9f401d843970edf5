"""Augmented views of cells by noise and zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def augmented_view(
    features: Tensor, *, noise: float, masked: float, generator: torch.Generator | None = None
) -> Tensor:
    """A copy of the cells, a third of them with noise, a third with features set to zero.

    Parameters
    ----------
    features
        ``(n_cells, n_features)``.
    noise
        Standard deviation of the Gaussian noise.
    masked
        Fraction of the features that are set to zero, rounded to a whole number of them.
    generator
        Where the random numbers come from, on the device of `features`; by default torch's random state.

    Returns
    -------
    ``(n_cells, n_features)``.

    Raises
    ------
    ValueError
        If `masked` is negative or would zero every feature.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, experiments (noise 0.01, a tenth of the features).
    """
    n_masked = n_masked_features(features.shape[1], masked)
    drawn: dict[str, Any] = {"generator": generator, "device": features.device}
    noised, zeroed, _ = torch.randperm(len(features), **drawn).tensor_split(3)
    view = features.clone()
    view[noised] += noise * torch.randn(view[noised].shape, dtype=view.dtype, **drawn)
    # The features at which random numbers of each cell's own are largest.
    picked = torch.rand(view[zeroed].shape, **drawn).topk(n_masked, dim=1).indices
    view[zeroed[:, None], picked] = 0.0
    return view


def n_masked_features(n_features: int, masked: float) -> int:
    """Number of features that :func:`augmented_view` sets to zero in a cell.

    Parameters
    ----------
    n_features
        Number of features.
    masked
        Fraction to be set to zero.

    Raises
    ------
    ValueError
        If `masked` is negative or no feature would be left.
    """
    if not (0 <= masked <= 1 and round(masked * n_features) < n_features):
        raise ValueError(
            f"expected masked to leave at least one of {n_features} features, got {masked}; choose a smaller fraction."
        )
    return round(masked * n_features)
