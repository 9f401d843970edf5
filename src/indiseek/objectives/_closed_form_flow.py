"""Modality-specific codes in closed form, and a short flow on top for what mean and covariance leave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import ConditionalGaussian, ConditionalQuantiles, NystromRidge, RefiningFlow
from indiseek.objectives._base import ObjectiveOutput
from indiseek.objectives._invertible import InvertibleObjective

# Cells that are enough for a probe, and for moments of the codes.
_FEW_CELLS = 8192
_PROBE_LANDMARKS, _PROBE_FOLDS = 300, 5


@final
class ClosedFormFlowObjective(InvertibleObjective):
    r"""Specific codes :math:`Z_i = T_i(X_i; C_j)` that start as what can be computed, and are trained from there.

    A map of a modality that is also given what the other modalities say of a cell can be independent of it and lose
    nothing (functional representation lemma). Three steps, each invertible:

    1. mean and covariance of :math:`X_i` given the condition, :class:`indiseek.nn.ConditionalGaussian`;
    2. the distribution of each dimension given the condition, :class:`indiseek.nn.ConditionalQuantiles`;
    3. a conditional flow, the identity at first, :class:`indiseek.nn.RefiningFlow`, by maximum likelihood

    .. math:: \min_{T_i} \; -\tfrac{1}{d_i} E \log p(X_i \mid C_j)

    of which 1 and 2 are computed in :meth:`start` and stay. The flow is for what mean, covariance and single dimensions
    do not tell: it is trained where a kernel ridge regression, on cells held out, predicts more than 5 % of the others'
    shared code from the code in closed form. How far it then goes is a matter of the likelihood of cells held out: an
    untrained objective is the closed form, and the value that training has to beat by `least_gain`.

    ``CellTensors.condition`` holds for each modality all that the others are conditioned on: first its components, then
    its shared code. Categorical covariates are one more index of mean and covariance: each of their combinations is a
    category, and the codes are independent of it by the same construction. Covariates of numbers, standardised, stand
    beside the components.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_axes
        Rank of the features by modality name, the dimension of the full code.
    n_condition
        Dimension of ``CellTensors.condition`` by modality name.
    n_shared
        How many of its last entries are the shared code; they make the states that have a covariance each.
    n_specific
        How many dimensions of the code to give out, by modality name: those that carry most of the modality.
    n_categories
        Number of categories of each covariate, in the order of ``CellTensors.covariates``; 0 for one of numbers.
    n_landmarks
        Landmarks of the conditional mean.
    feature_noise
        Standard deviation of the noise on the codes in training.
    n_layers, n_hidden, condition_noise
        As in :class:`indiseek.nn.RefiningFlow`.
    seed
        Seed of all that the closed form draws.

    References
    ----------
    El Gamal and Kim (2011), Network Information Theory, appendix B (functional representation lemma).
    """

    starts_fitted = True
    # Nats per axis, added up over modalities: blood cells gain up to .05 and leak no less, strong mixing .05 to .17.
    least_gain = 0.04
    # What the certificate allows a specific code to explain of the others' shared code; a probe sees a part of it.
    most_told = 0.05
    numbers_center: Tensor
    numbers_scale: Tensor

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_axes: Mapping[str, int],
        n_condition: Mapping[str, int],
        n_shared: int,
        n_specific: Mapping[str, int],
        *,
        n_categories: Sequence[int] = (),
        n_landmarks: int = 600,
        feature_noise: float = 0.05,
        n_layers: int = 2,
        n_hidden: int = 128,
        condition_noise: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__({name: n_axes[name] for name in n_features}, n_specific)
        self.n_components = tuple(n_condition[name] - n_shared for name in self.names)
        self.n_shared = n_shared
        self._n_state = n_shared * (len(self.names) - 1)
        self.n_categories = tuple(n_categories)
        n_covariate = math.prod(n for n in n_categories if n) if any(n_categories) else 0
        self.n_covariate = n_covariate
        self.n_landmarks = n_landmarks
        self.feature_noise = feature_noise
        self.seed = seed
        self.numbers = tuple(i for i, n in enumerate(n_categories) if not n)
        if self.numbers:
            self.register_buffer("numbers_center", torch.zeros(len(self.numbers)))
            self.register_buffer("numbers_scale", torch.ones(len(self.numbers)))
        n_others = {name: sum(n_condition.values()) - n_condition[name] + len(self.numbers) for name in self.names}
        self.flows = nn.ModuleList(
            RefiningFlow(
                n_axes[name],
                n_others[name] + n_covariate,
                n_layers=n_layers,
                n_hidden=n_hidden,
                condition_noise=condition_noise,
            )
            for name in self.names
        )
        self.gaussians = nn.ModuleList(
            ConditionalGaussian(
                n_features[name],
                n_axes[name],
                n_others[name],
                n_state=self._n_state,
                n_covariate=n_covariate,
            )
            for name in self.names
        )
        self.quantiles = nn.ModuleList(ConditionalQuantiles(n_axes[name]) for name in self.names)

    def closed_code(self, modality: int, cells: CellTensors) -> Tensor:
        """What the flow is given, ``(n_cells, n_axes)``: the code in closed form."""
        return self._closed(modality, cells.features[modality], *self._given(modality, cells))[0]

    def inverse(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        """Features ``(n_cells, n_features)`` of one modality from its full code and what the others say of `cells`."""
        condition, covariate = self._given(modality, cells)
        z = self._flow(modality).inverse(code, self._all(condition, covariate))
        gaussian = self._gaussian(modality)
        z = self._quantile(modality).inverse(z, gaussian.state_weights(condition, covariate))
        return gaussian.inverse(z, condition, covariate)

    @torch.no_grad()
    def start(self, cells: CellTensors) -> None:
        """Compute the closed form, choosing on folds of the cells, and the base of the flow."""
        if self.numbers:
            numbers = self._numbers(cells)
            self.numbers_center.copy_(numbers.mean(dim=0))
            self.numbers_scale.copy_(numbers.std(dim=0).clamp_min(1e-6))
        for i, x in enumerate(cells.features):
            condition, covariate = self._given(i, cells)
            gaussian = self._gaussian(i)
            z = gaussian.fit(x, condition, covariate, n_landmarks=self.n_landmarks, seed=self.seed)
            weights = gaussian.state_weights(condition, covariate)
            self._quantile(i).fit(z, weights)
            pieces = zip(z.split(self._piece_cells), weights.split(self._piece_cells), strict=True)
            matched = torch.cat([self._quantile(i)(*piece) for piece in pieces])
            self._flow(i).start(matched, self._all(condition, covariate), seed=self.seed)

    @torch.no_grad()
    def finish(self, cells: CellTensors) -> None:
        """Take back how the flow has stretched the codes as a whole, and order the dimensions."""
        few = self._drawn(cells)
        for i in range(len(self.names)):
            z = torch.cat([self.closed_code(i, piece) for piece in self._pieces(few)])
            self._flow(i).settle(z, self._all(*self._given(i, few)))
        super().finish(cells)

    @torch.no_grad()
    def needs_steps(self, train: CellTensors, validation: CellTensors) -> bool:
        """Whether the code in closed form of any modality still tells the others' shared code."""
        return any(self.told(i, train, validation) > self.most_told for i in range(len(self.names)))

    @torch.no_grad()
    def told(self, modality: int, train: CellTensors, validation: CellTensors) -> float:
        """Share of the others' shared code that kernel ridge regression predicts from a modality's code in closed form.

        Parameters
        ----------
        modality
            Its position.
        train, validation
            Cells to learn from and cells to predict, of each of which at most 8,192 are drawn.
        """
        (z, target), (z_held_out, truth) = (self._probed(modality, cells) for cells in (train, validation))
        ridge = NystromRidge(z.shape[1], 0, target.shape[1]).to(z.device)
        folds = torch.arange(len(z), device=z.device) % _PROBE_FOLDS
        ridge.fit(target, z, z[:, :0], folds, n_landmarks=_PROBE_LANDMARKS, seed=self.seed)
        error = (truth - ridge(z_held_out, z_held_out[:, :0])).square().sum()
        return 1.0 - float(error / (truth - target.mean(dim=0)).square().sum().clamp_min(1e-12))

    def _probed(self, modality: int, cells: CellTensors) -> tuple[Tensor, Tensor]:
        """Code in closed form, and the others' shared code, of some cells."""
        few = self._drawn(cells)
        z = torch.cat([self.closed_code(modality, piece) for piece in self._pieces(few)])
        return z, self._given(modality, few)[0][:, -self._n_state :]

    def _drawn(self, cells: CellTensors) -> CellTensors:
        drawn = torch.randperm(cells.n_cells, generator=torch.Generator().manual_seed(self.seed))[:_FEW_CELLS]
        return cells.take(drawn.to(cells.device))

    @torch.no_grad()
    def prepared(self, cells: CellTensors) -> CellTensors:
        """The cells with their codes in closed form and log-determinants as views, once: what a step needs of them.

        Without them :meth:`loss` computes both anew in each step, which takes longer than the step.
        """
        views = []
        for i in range(len(self.names)):
            parts = []
            for piece in self._pieces(cells):
                z, log_det = self._closed(i, piece.features[i], *self._given(i, piece))
                parts.append(torch.cat([z, log_det[:, None]], dim=1)[:, None])
            views.append(torch.cat(parts))
        return cells._replace(views=tuple(views))

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum over modalities of the negative log-likelihood per axis."""
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=cells.device)
        for i, name in enumerate(self.names):
            condition, covariate = self._given(i, cells)
            if cells.views:
                z, log_det = cells.views[i][:, 0, :-1], cells.views[i][:, 0, -1]
            else:
                with torch.no_grad():
                    z, log_det = self._closed(i, cells.features[i], condition, covariate)
            if self.training:
                z = z + self.feature_noise * torch.randn_like(z)
            log_prob = self._flow(i).log_prob(z, self._all(condition, covariate)) + log_det
            nll = -log_prob.mean() / z.shape[1]
            total = total + nll
            terms[f"nll_{name}"] = nll.detach()
        return ObjectiveOutput(total, terms)

    def _closed(
        self, modality: int, features: Tensor, condition: Tensor, covariate: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Code and log-determinant of the closed form."""
        z, log_det, weights = self._gaussian(modality).transform(features, condition, covariate)
        z, change = self._quantile(modality).transform(z, weights)
        return z, log_det + change

    def _code_and_residual(self, modality: int, cells: CellTensors) -> tuple[Tensor, Tensor]:
        condition, covariate = self._given(modality, cells)
        features = cells.features[modality]
        z, residual, weights = self._gaussian(modality).code_and_residual(features, condition, covariate)
        z = self._quantile(modality)(z, weights)
        return self._flow(modality)(z, self._all(condition, covariate)), residual

    def _given(self, modality: int, cells: CellTensors) -> tuple[Tensor, Tensor | None]:
        """What the code is to be independent of.

        Components of the other modalities, covariates of numbers, then the others' shared codes; and the categorical
        covariates' combinations, one-hot.
        """
        others = [j for j in range(len(self.names)) if j != modality]
        parts = [cells.condition[j][:, : self.n_components[j]] for j in others]
        if self.numbers:
            parts.append((self._numbers(cells) - self.numbers_center) / self.numbers_scale)
        parts += [cells.condition[j][:, self.n_components[j] :] for j in others]
        return torch.cat(parts, dim=1), self._combination(cells) if self.n_covariate else None

    def _numbers(self, cells: CellTensors) -> Tensor:
        """Covariates of numbers as they are, ``(n_cells, n_numbers)``."""
        return torch.stack([cells.covariates[i] for i in self.numbers], dim=1)

    def _combination(self, cells: CellTensors) -> Tensor:
        """Which combination of categories a cell has, ``(n_cells, n_covariate)``, one-hot."""
        number = torch.zeros(cells.n_cells, dtype=torch.long, device=cells.device)
        for codes, n in zip(cells.covariates, self.n_categories, strict=True):
            if n:
                number = number * n + codes
        return F.one_hot(number, self.n_covariate)

    @staticmethod
    def _all(condition: Tensor, covariate: Tensor | None) -> Tensor:
        return condition if covariate is None else torch.cat([condition, covariate.to(condition.dtype)], dim=1)

    def _flow(self, modality: int) -> RefiningFlow:
        return cast(RefiningFlow, self.flows[modality])

    def _gaussian(self, modality: int) -> ConditionalGaussian:
        return cast(ConditionalGaussian, self.gaussians[modality])

    def _quantile(self, modality: int) -> ConditionalQuantiles:
        return cast(ConditionalQuantiles, self.quantiles[modality])
