"""Shared codes by a conditional entropy bottleneck on the sphere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.distributions import bessel_ratio, sample_von_mises_fisher, von_mises_fisher_kl
from indiseek.nn import Encoder
from indiseek.objectives._augmented_view import augmented_view, n_masked_features
from indiseek.objectives._base import Objective, ObjectiveOutput
from indiseek.objectives._clip import clip_loss
from indiseek.objectives._gather import gather

Bottleneck = Literal["kl", "cosine"]


@final
class DisentangledSharedObjective(Objective):
    r"""Random shared codes :math:`C_i \sim vMF(\mu_i(X_i), \kappa)` that know what the other modality knows.

    Maximises :math:`I(C_1; X_2) - \beta I(C_1; X_1 \mid X_2)` and the same with the modalities exchanged. The first
    term is bounded by InfoNCE between one draw of each code, the second by the divergence between the
    two encoders, which for one concentration and :math:`m` dimensions is exact:

    .. math::
        L = L_{InfoNCE}(c_1, c_2; \tau) + \beta\, E\, KL, \qquad
        KL = \kappa A_m(\kappa) (1 - \mu_1^\top \mu_2)

    The published experiments leave out the factor :math:`\kappa A_m(\kappa)`: their :math:`\beta` is that many
    times ours, about 952 times at the published :math:`\kappa = 1000` and :math:`m = 100`.

    In evaluation a code is its mean direction of the cell as it is, and so the loss draws nothing.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension :math:`m`. A code on the sphere has ``n_shared - 1`` degrees of freedom.
    beta
        Weight :math:`\beta` of the bottleneck.
    bottleneck
        What `beta` weighs: ``"kl"``, the divergence in nats, or ``"cosine"``, the published
        :math:`1 - \mu_1^\top \mu_2`.
    kappa
        Concentration :math:`\kappa`.
    temperature
        Temperature :math:`\tau` of InfoNCE.
    augment
        Whether the cells of training are augmented, as in the authors' program; the equation has no augmentation.
    noise, masked
        That augmentation, see :func:`augmented_view`.
    encoder
        Form of the encoders.

    Raises
    ------
    ValueError
        If the augmentation would zero every feature of a modality.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, step 1; Fischer (2020), arXiv 2002.05379 (conditional entropy bottleneck).
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_shared: int,
        *,
        beta: float = 0.01,
        bottleneck: Bottleneck = "kl",
        kappa: float = 1000.0,
        temperature: float = 0.07,
        augment: bool = False,
        noise: float = 0.01,
        masked: float = 0.1,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        for n in n_features.values():
            n_masked_features(n, masked if augment else 0.0)
        self.beta = beta
        self.bottleneck = bottleneck
        self.kappa = kappa
        self.temperature = temperature
        self.augment = augment
        self.noise = noise
        self.masked = masked
        self.encoders = nn.ModuleList(encoder.of(name, n, n_shared) for name, n in n_features.items())

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Mean direction ``(n_cells, n_shared)`` of one modality's code, of unit length."""
        return F.normalize(self.encoders[modality](cells.features[modality]), dim=-1)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """InfoNCE plus the bottleneck, each the mean over pairs of modalities."""
        if self.augment and self.training:
            views = (augmented_view(x, noise=self.noise, masked=self.masked) for x in cells.features)
            cells = cells._replace(features=tuple(views))
        means = self.latents(cells)
        n, pairs = cells.n_cells, list(itertools.combinations(range(len(means)), 2))
        drawn = sample_von_mises_fisher(torch.cat(means), self.kappa).split(n) if self.training else means
        codes, directions = tuple(map(gather, drawn)), tuple(map(gather, means))
        info = torch.stack([clip_loss(codes[i], codes[j], 1.0 / self.temperature) for i, j in pairs]).mean()
        divergences = [von_mises_fisher_kl(directions[i], directions[j], self.kappa).mean() for i, j in pairs]
        divergence = torch.stack(divergences).mean()
        # 1 - cos
        misalignment = divergence / (self.kappa * bessel_ratio(means[0].shape[1], self.kappa))
        penalty = divergence if self.bottleneck == "kl" else misalignment
        terms = {"infonce": info.detach(), "kl": divergence.detach(), "misalignment": misalignment.detach()}
        return ObjectiveOutput(info + self.beta * penalty, terms)
