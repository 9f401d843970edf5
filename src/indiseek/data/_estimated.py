"""Features of a fitted transform for cells of which only some of the stored features were measured."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data._components import ComponentTransform
from indiseek.data._disk import Values, is_sparse
from indiseek.data._transforms import Transform
from indiseek.data._values import with_features

# Components of what is there, so that what the model's components hold is among them.
_LEAST_COMPONENTS = 50
_RIDGE = 1e-3
_TINY = 1e-6


@final
class EstimatedTransform(Transform):
    r"""Least squares from what the features that are there say to all that the transform gives.

    .. math:: \hat T(x_o) = A\, T_o(x_o) + a, \qquad \min_{A, a} \sum_i \lVert T(x_i) - A\, T_o(x_{io}) - a \rVert^2

    with a transform :math:`T_o` of the same kind, fitted to the features o of the training cells that other cells have
    too. What is missing is so neither 0 nor the mean, but what goes with the rest; and library size and log-ratios are
    of the same features in both.

    Parameters
    ----------
    whole
        Fitted transform, T.
    kept
        Sorted positions of the features that are there.
    """

    name = "estimated"
    needs_counts = False

    def __init__(self, whole: Transform, kept: NDArray[np.intp]) -> None:
        super().__init__()
        config = whole.config()
        if isinstance(whole, ComponentTransform):
            config |= {"n_components": max(_LEAST_COMPONENTS, 2 * whole.n_output)}
        self.kept = kept
        self.part = type(whole)(**config)
        # In a list, so that it is no part of this one: it stays where the model has it.
        self._whole = [whole]
        self.register_buffer("center", torch.zeros_like(whole.center))

    def config(self) -> dict[str, Any]:
        """Those of the transform of the features that are there."""
        return self.part.config()

    def max_output(self, n_input: int) -> int:
        """As many as the whole transform gives."""
        return self.n_output

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers of the part."""
        self.part.allocate(n_input, n_output)

    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """Fit to the training cells `rows` of values with all features."""
        (whole,), some = self._whole, self.of(values)
        self.part.fit(some, rows)
        self.part.to(whole.device)
        self.estimate = LeastSquares(self.part.apply_to(some, rows), whole.apply_to(values, rows))

    def forward(self, values: Tensor) -> Tensor:
        """Features ``(n_cells, n_output)`` of values of the features that are there."""
        return self.estimate(self.part(values))

    def of(self, values: Values) -> Values:
        """The features that are there, of values with all."""
        return with_features(values, self.kept, as_sparse=is_sparse(values))


class LeastSquares:
    """Least squares with a constant, and a penalty that only matters where inputs are nearly one of the others.

    Parameters
    ----------
    x, y
        ``(n_cells, n_inputs)`` and ``(n_cells, n_outputs)``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.center, self.constant = x.mean(dim=0), y.mean(dim=0)
        self.scale = x.std(dim=0).clamp_min(_TINY)
        z = ((x - self.center) / self.scale).double()
        penalty = _RIDGE * len(x) * torch.eye(x.shape[1], dtype=z.dtype, device=z.device)
        self.slope = torch.linalg.solve(z.T @ z + penalty, z.T @ (y - self.constant).double()).to(y.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Estimates ``(n_cells, n_outputs)``."""
        return (x - self.center) / self.scale @ self.slope + self.constant
