"""Prediction of the codes of absent modalities from a present one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CodeBridge(nn.Module):
    """Linear maps between the codes of modalities, fitted in closed form.

    Codes of shared stages are aligned, so that a linear map with a constant is enough to bring one
    modality's code to where the other's would lie on average.

    Parameters
    ----------
    n_modalities
        Number of modalities.
    n_shared
        Dimension of the codes.
    """

    maps: Tensor

    def __init__(self, n_modalities: int, n_shared: int) -> None:
        super().__init__()
        self.register_buffer("maps", torch.zeros(n_modalities, n_modalities, n_shared + 1, n_shared))

    @torch.no_grad()
    def fit(self, codes: tuple[Tensor, ...], ridge: float = 1e-3) -> None:
        """Least squares from each modality's code to each other's.

        Parameters
        ----------
        codes
            ``(n_cells, n_shared)`` for each modality, training cells.
        ridge
            Penalty relative to the number of cells.
        """
        for i, source in enumerate(codes):
            inputs = _with_constant(source)
            gram = inputs.T @ inputs + ridge * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
            for j, target in enumerate(codes):
                self.maps[i, j] = torch.linalg.solve(gram, inputs.T @ target)

    def forward(self, modality: int, code: Tensor) -> tuple[Tensor, ...]:
        """Codes of all modalities, ``(n_cells, n_shared)`` each: the given one, and predictions."""
        inputs = _with_constant(code)
        return tuple(code if j == modality else inputs @ self.maps[modality, j] for j in range(self.maps.shape[1]))


def _with_constant(code: Tensor) -> Tensor:
    return torch.cat([code, torch.ones(len(code), 1, device=code.device)], dim=-1)
