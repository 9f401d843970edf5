"""Codes by contrastive learning on distances, the form for which content is known to be identifiable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.estimators import info_nce
from indiseek.nn import Encoder
from indiseek.objectives._base import Objective, ObjectiveOutput
from indiseek.objectives._gather import gather


def distance_info_nce_loss(
    codes_a: Tensor, codes_b: Tensor, temperature: float = 1.0, *, others: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    r"""Symmetric InfoNCE loss with the negative squared distance as similarity.

    .. math::
        L = -\frac{1}{2N} \sum_i \Big[ \log \frac{e^{-\lVert a_i - b_i \rVert^2 / \tau}}
            {\sum_k e^{-\lVert a_i - b_k \rVert^2 / \tau}}
            + \log \frac{e^{-\lVert a_i - b_i \rVert^2 / \tau}}{\sum_k e^{-\lVert a_k - b_i \rVert^2 / \tau}} \Big]

    For many cells it tends, up to ``log(n_cells)``, to the alignment of the codes less their mean entropy.

    Negatives are codes of the other modality, the sums over k of the equation. The authors' program takes codes of the
    same modality, of a second batch of cells, beside the partner; `others` does so. Where codes agree across
    modalities, that is the same but for the cells that were drawn. Where they do not, only the program's loss minds a
    modality that is moved as a whole: its negatives do not move along.

    Parameters
    ----------
    codes_a, codes_b
        ``(n_cells, n_shared)`` each, of any length, the same cells in the same order.
    temperature
        :math:`\tau`.
    others
        Codes of a second batch of cells, ``(n_others, n_shared)`` for each modality. With them the first denominator is
        the partner's term and :math:`\sum_k e^{-\lVert a_i - a'_k \rVert^2 / \tau}`, the second likewise with b.

    Returns
    -------
    Scalar in nats; lower is better. At chance ``log(n_cells)``, or ``log(n_others + 1)``, which the program takes off.

    References
    ----------
    Daunhawer et al. (2023), arXiv 2303.09166, equations 1 and 2.
    """
    if others is None:
        scores = _scores(codes_a, codes_b, temperature)
        return math.log(len(scores)) - 0.5 * (info_nce(scores) + info_nce(scores.T))
    partner = -(codes_a - codes_b).square().sum(dim=1) / temperature
    terms = [
        torch.logsumexp(torch.cat([partner[:, None], _scores(codes, second, temperature)], dim=1), dim=1)
        for codes, second in zip((codes_a, codes_b), others, strict=True)
    ]
    return (0.5 * (terms[0] + terms[1]) - partner).mean()


def _scores(codes_a: Tensor, codes_b: Tensor, temperature: float) -> Tensor:
    squares = codes_a.square().sum(dim=1)[:, None] + codes_b.square().sum(dim=1)[None, :]
    return (2.0 * codes_a @ codes_b.T - squares) / temperature


@final
class DistanceInfoNCEObjective(Objective):
    """Shared codes without normalisation, aligned by distance over all pairs of modalities.

    With as many dimensions as there is content, infinite data and invertible features without noise, each
    encoder finds the content up to an invertible function, and nothing modality-specific.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the codes.
    temperature
        Squared distance that counts as one nat.
    encoder
        Form of the encoders. Layers are not normalised by default: that removes the size of an input, which is content
        like any other.

    References
    ----------
    Daunhawer et al. (2023), arXiv 2303.09166, theorem 1.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_shared: int,
        *,
        temperature: float = 1.0,
        encoder: Encoder = Encoder(layer_norm=False),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoders = nn.ModuleList(encoder.of(name, n, n_shared) for name, n in n_features.items())

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Code ``(n_cells, n_shared)`` of one modality."""
        code: Tensor = self.encoders[modality](cells.features[modality])
        return code

    def joint(self, cells: CellTensors) -> Tensor:
        """Mean of the modalities' codes, ``(n_cells, n_shared)``; their length means something here."""
        return torch.stack(self.latents(cells)).mean(dim=0)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Symmetric InfoNCE, the mean over pairs of modalities."""
        pairs = itertools.combinations(map(gather, self.latents(cells)), 2)
        info = torch.stack([distance_info_nce_loss(a, b, self.temperature) for a, b in pairs]).mean()
        return ObjectiveOutput(info, {"infonce": info.detach()})
