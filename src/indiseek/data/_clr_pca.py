"""Principal components of centred log-ratios: for many antibodies, of which some tell the same and some nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indiseek._checks import check_number
from indiseek.data._disk import Values, row_chunks
from indiseek.data._transforms import Transform, log_ratio, to_tensor


@final
class CLRPCA(Transform):
    r"""Centred log-ratio within each cell, scaling of each feature, and principal components.

    What :class:`CLR` gives, on its leading principal axes. The components keep their relative variances and are
    divided by one common factor, so that their mean variance in the training cells is 1. The fit is one pass over the
    training cells.

    Parameters
    ----------
    n_components
        Number of principal components; fewer where the data have fewer cells or features. The log-ratios of a cell
        add up to 0, so that p features have at most p - 1.

    References
    ----------
    Stoeckius et al. (2017), Nature Methods 14, 865-868 (centred log-ratio of antibody counts).
    """

    name = "clr-pca"
    needs_counts = True
    loadings: Tensor

    def __init__(self, *, n_components: int = 50) -> None:
        super().__init__()
        check_number("n_components", n_components, low=1, whole=True)
        self.n_components = n_components

    def config(self) -> dict[str, Any]:
        """The constructor's argument."""
        return {"n_components": self.n_components}

    def max_output(self, n_input: int) -> int:
        """The number of components, or what the features allow."""
        return max(1, min(self.n_components, n_input - 1))

    def output_names(self, names: Sequence[str]) -> list[str]:
        """``PC1``, ``PC2``, ..."""
        return [f"PC{i + 1}" for i in range(self.n_output)]

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers ``loadings`` ``(n_input, n_output)`` and ``center`` ``(n_output,)``."""
        self._set_buffers(loadings=np.zeros((n_input, n_output)), center=np.zeros(n_output))

    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """One pass: sums and products of the log-ratios, from which mean, scale and axes follow."""
        n, p = len(rows), values.shape[1]
        total = np.zeros(p)
        gram = np.zeros((p, p))
        for chunk in row_chunks(values, rows):
            ratios = log_ratio(to_tensor(chunk, torch.device("cpu"))).double()
            total += ratios.sum(dim=0).numpy()
            gram += (ratios.T @ ratios).numpy()
        mean = total / n
        covariance = (gram - n * np.outer(mean, mean)) / (n - 1)
        variance = np.diagonal(covariance)
        # A feature that varies only outside the training cells has nothing to be scaled by.
        varies = variance > 1e-10 * (1.0 + mean**2)
        inverse = np.where(varies, 1.0 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
        variances, axes = np.linalg.eigh(covariance * np.outer(inverse, inverse))
        n_components = min(self.max_output(p), max(1, n - 1))
        variances, axes = variances[::-1][:n_components], axes[:, ::-1][:, :n_components]
        # The sign of an eigenvector is arbitrary; fixed, the components do not depend on the solver.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
        loadings = axes * inverse[:, None] / np.sqrt(variances.mean())
        self._set_buffers(loadings=loadings, center=mean @ loadings)

    def forward(self, values: Tensor) -> Tensor:
        """Principal components ``(n_cells, n_components)``."""
        return log_ratio(values) @ self.loadings - self.center
