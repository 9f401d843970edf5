"""Principal axes of a scatter matrix, the same in every fit."""

from __future__ import annotations

import torch
from torch import Tensor


def leading_axes(scatter: Tensor, n_axes: int) -> Tensor:
    """Axes of the largest eigenvalues, ``(n_features, n_axes)``.

    Parameters
    ----------
    scatter
        Symmetric matrix ``(n_features, n_features)``.
    n_axes
        How many.
    """
    axes = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, :n_axes]
    # The sign of an eigenvector is arbitrary; fixed, a second fit finds the same axes.
    return axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
