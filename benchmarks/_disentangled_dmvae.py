"""DMVAE, with which DisentangledSSL is compared, from its equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from _disentangled_baselines import Baseline, Codes, Form, Halves, output_of
from torch import Tensor, nn

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.objectives import ObjectiveOutput


class Gaussians(NamedTuple):
    """Independent normal distributions: means and logarithms of variances, ``(n_cells, n_code)`` each."""

    mean: Tensor
    log_variance: Tensor

    def kl(self) -> Tensor:
        """Divergence from the standard normal distribution in nats, mean over cells."""
        each = self.mean.square() + self.log_variance.exp() - self.log_variance - 1.0
        return 0.5 * each.sum(dim=-1).mean()


def product_of_experts(experts: Sequence[Gaussians], *, prior: bool) -> Gaussians:
    """Normalised product of normal densities: precisions add up, and weigh the means.

    Parameters
    ----------
    experts
        The factors.
    prior
        Whether the standard normal density is one more of them.
    """
    precisions = [torch.exp(-expert.log_variance) for expert in experts]
    total = torch.stack(precisions).sum(dim=0) + float(prior)
    weighted = [p * expert.mean for p, expert in zip(precisions, experts, strict=True)]
    return Gaussians(torch.stack(weighted).sum(dim=0) / total, -total.log())


class DMVAEObjective(Baseline):
    r"""A variational autoencoder with a shared latent that both modalities tell of, and a specific one of each.

    .. math::
        L = \sum_i \sum_s E\, \Big[ \tfrac12 \lVert x_i - D_i(z_i, c_s) \rVert^2
            + w \big( KL(q(z_i) \Vert N) + KL(q(c_s) \Vert N) \big) \Big], \qquad
        z_i \sim q(z_i \mid x_i), \; c_s \sim q_s(c)

    The sources :math:`s` of the shared latent are the modality itself, the other one, and the product of both with the
    prior :math:`N(0, I)`. The program of Wang et al. leaves out the modality itself, and the prior in the
    product; its squared errors are means over the features, and its divergences sums over the batch, so that its
    weight is that of the equation divided by half the cells of a batch times the features. Codes are means.

    Parameters
    ----------
    n_features, n_code, encoder
        As in JointOpt; decoders have the form of encoders.
    form
        ``"program"`` of Wang et al., or ``"paper"`` of Lee and Pavlovic.
    weight
        Weight w of the divergences, as the form has it.

    References
    ----------
    Lee and Pavlovic (2021), Private-Shared Disentangled Multimodal VAE; the first version is arXiv 2012.13024.
    """

    def __init__(
        self, n_features: Mapping[str, int], n_code: int, *, encoder: Encoder, form: Form, weight: float
    ) -> None:
        # Means and logarithms of variances are the halves of a code of twice the length.
        super().__init__(Halves(n_features, 2 * n_code, encoder))
        self.decoders = nn.ModuleList(encoder.network(2 * n_code, n) for n in n_features.values())
        self.form = form
        self.weight = weight

    def codes(self, features: Sequence[Tensor]) -> Codes:
        """Means of the shared and of the specific latents by modality."""
        shared, specific = self.latent_distributions(features)
        return [q.mean for q in shared], [q.mean for q in specific]

    def latent_distributions(self, features: Sequence[Tensor]) -> tuple[list[Gaussians], list[Gaussians]]:
        """Of the shared and of the specific latents by modality."""
        shared, specific = self.networks(features)
        return [Gaussians(*q.chunk(2, dim=-1)) for q in shared], [Gaussians(*q.chunk(2, dim=-1)) for q in specific]

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Negative evidence lower bound; in evaluation latents are their means."""
        program = self.form == "program"
        features = self.augmented(cells.features) if program else cells.features
        shared, specific = self.latent_distributions(features)
        joint = product_of_experts(shared, prior=not program)
        specific_draws = [self._draw(q) for q in specific]
        shared_draws = [self._draw(q) for q in shared]
        joint_draw = self._draw(joint)
        error = divergence = torch.zeros((), device=features[0].device)
        for i, decoder in enumerate(self.decoders):
            sources = [(joint, joint_draw), (shared[1 - i], shared_draws[1 - i])]
            if not program:
                sources.append((shared[i], shared_draws[i]))
            for q, draw in sources:
                squares = (features[i] - decoder(torch.cat([specific_draws[i], draw], dim=-1))).square()
                error = error + (squares.mean() if program else 0.5 * squares.sum(dim=-1).mean())
                divergence = divergence + specific[i].kl() + q.kl()
        weight = self.weight * (cells.n_cells if program else 1.0)
        return output_of(error + weight * divergence, error=error, kl=divergence)

    def _draw(self, q: Gaussians) -> Tensor:
        return q.mean + torch.exp(0.5 * q.log_variance) * torch.randn_like(q.mean) if self.training else q.mean
