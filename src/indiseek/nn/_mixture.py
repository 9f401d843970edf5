"""Mixture of normal distributions: soft states of a condition, and a density of codes."""

from __future__ import annotations

import math
import warnings
from typing import final

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from indiseek.nn._fitted import FittedModule

# More cells do not make better starting values, only slower ones.
_MAX_CELLS = 5000
_PIECE_CELLS = 4096


@final
class NormalMixture(FittedModule):
    r"""Density :math:`p(z) = \sum_k w_k N(z; \mu_k, (R_k R_k^\top)^{-1})`.

    Parameters
    ----------
    n_components
        Number of components.
    n_features
        Dimension of z.
    trainable
        Whether weights, means and roots of the precision are parameters; otherwise buffers.

    References
    ----------
    Dempster, Laird and Rubin (1977), JRSS B 39, 1-38 (the fit).
    """

    logit: Tensor
    mean: Tensor
    root: Tensor

    def __init__(self, n_components: int, n_features: int, *, trainable: bool = False) -> None:
        super().__init__()
        start = {
            "logit": torch.zeros(n_components),
            "mean": torch.zeros(n_components, n_features),
            "root": torch.eye(n_features).repeat(n_components, 1, 1),
        }
        for key, value in start.items():
            if trainable:
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value)

    @torch.no_grad()
    def fit(self, z: Tensor, *, n_components: int, seed: int, regularisation: float = 1e-2) -> None:
        """Expectation maximisation on at most 5,000 of the cells.

        Parameters
        ----------
        z
            ``(n_cells, n_features)``.
        n_components
            Number of components.
        seed
            Seed of the cells and the starting values.
        regularisation
            What is added to the variances, so that no component shrinks to a point.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(z), generator=generator)[:_MAX_CELLS].to(z.device)
        mixture = GaussianMixture(
            n_components, reg_covar=regularisation, max_iter=30, tol=1e-2, random_state=seed, covariance_type="full"
        )
        with warnings.catch_warnings():
            # Starting values and soft states need no convergence to the last digit.
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            mixture.fit(z[rows].double().cpu().numpy())
        found = {
            "logit": torch.from_numpy(mixture.weights_).log(),
            "mean": torch.from_numpy(mixture.means_),
            "root": torch.from_numpy(mixture.precisions_cholesky_),
        }
        for key, value in found.items():
            own = getattr(self, key)
            own.data = value.to(own.device, own.dtype)

    def joint_log_prob(self, z: Tensor) -> Tensor:
        """``log w_k N(z; mu_k, ...)`` up to its constant, ``(n_cells, n_components)`` nats."""
        # One product for all components, as the loop over them or a tensor for each cell and component are slow.
        n_components, n_features = self.mean.shape
        flat = self.root.permute(1, 0, 2).reshape(n_features, -1)
        center = torch.einsum("kd,kde->ke", self.mean, self.root).reshape(-1)
        squares = (z @ flat - center).unflatten(-1, (n_components, n_features)).square().sum(dim=-1)
        return F.log_softmax(self.logit, dim=0) + torch.linalg.slogdet(self.root)[1] - 0.5 * squares

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density ``(n_cells,)``, nats."""
        return torch.logsumexp(self.joint_log_prob(z), dim=1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)

    def weights_of(self, z: Tensor) -> Tensor:
        """Posterior weights of the components, ``(n_cells, n_components)``; they add up to 1."""
        return torch.cat([self.joint_log_prob(piece).softmax(dim=1) for piece in z.split(_PIECE_CELLS)])
