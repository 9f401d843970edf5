"""Modality-specific codes by a conditional flow: independent of the other modality's code, and invertible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, final

import torch
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import ConditionalFlow
from indiseek.objectives._base import ObjectiveOutput
from indiseek.objectives._invertible import InvertibleObjective


@final
class ConditionalFlowObjective(InvertibleObjective):
    r"""Specific codes :math:`Z_i = T_i(X_i; C_j)`, a map of a modality that is also given the others' codes.

    A code that is a function of its own modality alone can in general not be both independent of
    :math:`C_j` and complete. A map that also sees :math:`C_j` can (functional representation lemma).
    Maximum likelihood of a conditional flow whose base density does not see :math:`C_j` has exactly
    that optimum: for each modality

    .. math::
        \min_{T_i} \; -\tfrac{1}{d_i} E \log p(X_i \mid C_j)
        + \tau\, \tfrac{1}{d_i} E \lVert T_i(X_i; C_j) - (X_i - m(C_j)) \rVert^2
        + \rho\, \tfrac{1}{d_i} E \lVert X_i - m(C_j) \rVert^2

    The last term makes :math:`m`, the first thing that the map subtracts, the conditional mean: likelihood
    alone lets it drift, because the later layers can make up for it on the training cells. The second,
    small term picks among the many optima one that stays close to the residual, so that each
    dimension of :math:`Z_i` goes with one principal axis of :math:`X_i`; :math:`d_i` is their number.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_axes
        Rank of the features by modality name, the dimension of the full code: smaller where a transform
        leaves a direction without variance.
    n_shared
        Dimension of the frozen codes in ``CellTensors.condition``.
    n_specific
        How many dimensions of the code to give out, by modality name: those that carry most of the modality.
    transport
        Weight :math:`\tau`.
    regression
        Weight :math:`\rho`.
    feature_noise
        Standard deviation of the noise on the features in training.
    n_layers, n_hidden, condition_noise
        As in :class:`indiseek.nn.ConditionalFlow`.

    References
    ----------
    El Gamal and Kim (2011), Network Information Theory, appendix B (functional representation lemma).
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_axes: Mapping[str, int],
        n_shared: int,
        n_specific: Mapping[str, int],
        *,
        transport: float = 0.08,
        regression: float = 2.0,
        n_layers: int = 2,
        n_hidden: int = 128,
        condition_noise: float = 0.15,
        feature_noise: float = 0.05,
    ) -> None:
        super().__init__({name: n_axes[name] for name in n_features}, n_specific)
        self.transport = transport
        self.regression = regression
        self.feature_noise = feature_noise
        n_condition = n_shared * (len(n_features) - 1)
        self.flows = nn.ModuleList(
            ConditionalFlow(
                n, n_axes[name], n_condition, n_layers=n_layers, n_hidden=n_hidden, condition_noise=condition_noise
            )
            for name, n in n_features.items()
        )

    def inverse(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        """Features ``(n_cells, n_features)`` of one modality from its full code and the others' codes of `cells`."""
        return self._flow(modality).inverse(code, cells.condition_of_others(modality))

    def start(self, cells: CellTensors) -> None:
        """Find the principal axes of the features and the scale of the conditions."""
        for i, x in enumerate(cells.features):
            self._flow(i).fit_scales(x, cells.condition_of_others(i))

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum over modalities of likelihood, transport and regression, each per axis."""
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=cells.features[0].device)
        for i, name in enumerate(self.names):
            flow, x = self._flow(i), cells.features[i]
            if self.training:
                x = x + self.feature_noise * torch.randn_like(x)
            z, log_det, residual = flow.transform(x, cells.condition_of_others(i))
            nll = -(flow.base_log_prob(z) + log_det).mean() / z.shape[1]
            transport = (z - residual).square().mean()
            total = total + nll + self.transport * transport + self.regression * residual.square().mean()
            terms |= {f"nll_{name}": nll.detach(), f"transport_{name}": transport.detach()}
        return ObjectiveOutput(total, terms)

    def _code_and_residual(self, modality: int, cells: CellTensors) -> tuple[Tensor, Tensor]:
        z, _, residual = self._flow(modality).transform(cells.features[modality], cells.condition_of_others(modality))
        return z, residual

    def _flow(self, modality: int) -> ConditionalFlow:
        return cast(ConditionalFlow, self.flows[modality])
