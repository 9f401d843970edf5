"""Modality-specific codes by the paper's second stage: independence and reconstruction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from indiseek.data import CellTensors
from indiseek.estimators import info_nce, nce_club, vclub
from indiseek.nn import ConcatCritic, Critic, Encoder, GaussianCritic, SeparableCritic
from indiseek.objectives._base import Objective, ObjectiveOutput
from indiseek.objectives._gather import gather, gathered_sum, own_share

Independence = Literal["nce-club", "vclub"]
IndependentOf = Literal["other", "own"]


@final
class NCEClubObjective(Objective):
    r"""Specific codes :math:`Z_i = h_i(X_i)`, independent of the shared codes and complete with them.

    For each modality :math:`i`, with :math:`j` every other modality and the shared codes frozen:

    .. math::
        \min_{h_i, g_i}\; w\, I_{NCE-CLUB}(Z_i; C_j)
        + \frac{\lambda}{2 E\lVert X_i \rVert^2} E \lVert g_i(Z_i, C_i) - X_i \rVert^2

    A critic on :math:`(Z_i, C_j)` maximises InfoNCE in its own steps; the weight :math:`w` rises from 0
    to 1 after the critic's warm-up where the schedule has one. :math:`Z_i` is standardised before critic and decoder
    see it, unless `batch_norm` says otherwise, because a code that merely shrinks would fool a lagging critic. A low
    value of the term in training proves nothing: only fresh probes on held-out cells do.

    With labels :math:`Y` of some cells a head :math:`p_w` on the codes of all modalities is trained with them (ours,
    not the paper's), and the loss has a further term

    .. math::
        \mu\, E_{Y\,known} \bigl[ -\log p_w(Y \mid C_1, \ldots, C_k, Z_1, \ldots, Z_k) \bigr]
        \ge \mu\, H(Y \mid C, Z) = \mu\, \bigl( H(Y \mid C) - I(Y; Z \mid C) \bigr) ,

    which asks of the specific codes what the frozen shared ones do not tell of the label.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_shared
        Dimension of the frozen shared codes.
    n_specific
        Dimension of the specific code by modality name.
    lam
        Weight :math:`\lambda` of the reconstruction; the paper recommends 0.1 to 10.
    independence
        ``"nce-club"`` (the paper's) or ``"vclub"`` (Gaussian :math:`q(z \mid c)` fitted by maximum likelihood).
    independent_of
        ``"other"``: the shared codes of the other modalities. ``"own"``: the modality's own shared code,
        the ablation that the paper calls IndiSeek0.
    independence_weight
        Further factor on the independence term; 0 switches it off.
    critic
        Of ``"nce-club"``: ``"separable"``, or ``"concat"`` for one network on the concatenated pair.
    critic_hidden
        Widths of the hidden layers of critics.
    batch_norm
        Whether codes are standardised over the batch (batch normalisation without a scale of its own).
    encoder
        Form of the encoders, and but for those widths of decoders, critics and head.
    n_labels
        Number of labels; 0 for no head.
    supervision
        Weight :math:`\mu` of their cross-entropy, in nats.

    References
    ----------
    Gui et al. (2025), arXiv 2509.21584, stage 2; Liang et al. (2023), arXiv 2306.05268.
    """

    monitor = "reconstruction"

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_shared: int,
        n_specific: Mapping[str, int],
        *,
        lam: float = 10.0,
        independence: Independence = "nce-club",
        independent_of: IndependentOf = "other",
        independence_weight: float = 1.0,
        critic: Critic = "separable",
        critic_hidden: Sequence[int] = (256,),
        batch_norm: bool = True,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
        n_labels: int = 0,
        supervision: float = 1.0,
    ) -> None:
        super().__init__()
        self.lam = lam
        self.supervision = supervision
        self.independence = independence
        self.independent_of = independent_of
        self.independence_weight = independence_weight
        self.names = tuple(n_features)
        n_against = n_shared if independent_of == "own" else n_shared * (len(n_features) - 1)
        self.encoders = nn.ModuleList(encoder.of(name, n, n_specific[name]) for name, n in n_features.items())
        self.standardise = nn.ModuleList(
            nn.BatchNorm1d(n_specific[name], affine=False) if batch_norm else nn.Identity() for name in self.names
        )
        self.decoders = nn.ModuleList(encoder.network(n_specific[name] + n_shared, n) for name, n in n_features.items())
        scorer: type[SeparableCritic | ConcatCritic | GaussianCritic] = GaussianCritic
        if independence == "nce-club":
            scorer = SeparableCritic if critic == "separable" else ConcatCritic
        form: dict[str, Any] = {
            "hidden": critic_hidden,
            "activation": encoder.activation,
            "layer_norm": encoder.layer_norm,
        }
        self.critics = nn.ModuleList(scorer(n_specific[name], n_against, **form) for name in self.names)
        n_codes = len(self.names) * n_shared + sum(n_specific[name] for name in self.names)
        # Last, so that all others begin as they do without it.
        self.head = encoder.network(n_codes, n_labels) if n_labels else None

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Specific code ``(n_cells, n_specific)``, standardised but without `batch_norm`; of the modality alone."""
        # Mean and variance are those of the whole batch, wherever its cells are.
        return own_share(self.standardise[modality](gather(self.encoders[modality](cells.features[modality]))))

    def _against(self, modality: int, cells: CellTensors) -> Tensor:
        return cells.condition[modality] if self.independent_of == "own" else cells.condition_of_others(modality)

    def _scores(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        scores: Tensor = self.critics[modality](gather(code), gather(self._against(modality, cells)))
        return scores

    def _reconstruction(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        x = cells.features[modality]
        decoded = self._decoded(modality, code, cells)
        return gathered_sum((decoded - x).square().sum()) / gathered_sum(x.square().sum())

    def reconstruct(self, modality: int, cells: CellTensors) -> Tensor:
        """Features as the decoder makes them of specific and shared code."""
        return self._decoded(modality, self.encode(modality, cells), cells)

    def _decoded(self, modality: int, code: Tensor, cells: CellTensors) -> Tensor:
        decoded: Tensor = self.decoders[modality](torch.cat([code, cells.condition[modality]], dim=-1))
        return decoded

    def label_scores(self, cells: CellTensors) -> Tensor | None:
        """Scores of the labels by the head."""
        return None if self.head is None else self._label_scores(self.latents(cells), cells)

    def _label_scores(self, codes: Sequence[Tensor], cells: CellTensors) -> Tensor:
        scores: Tensor = cast(nn.Module, self.head)(torch.cat([*cells.condition, *codes], dim=-1))
        return scores

    def prepared(self, cells: CellTensors) -> CellTensors:
        """Cells with a weight beside each one's label; without labels where no cell has any, or none are learned."""
        if self.head is None or not cells.labels:
            return cells._replace(labels=())
        weights = _weights_of_labels(cells.labels[0], cells.features[0])
        return cells._replace(labels=(cells.labels[0], weights) if weights.any() else ())

    def _supervised(self, codes: Sequence[Tensor], cells: CellTensors) -> dict[str, Tensor]:
        """Cross-entropy and accuracy of the head, of cells that have a label; nothing without a head or labels."""
        if self.head is None or not cells.labels:
            return {}
        labels = cells.labels[0]
        # Weights of all cells: a batch with few labels then counts for less, and means over batches are those of cells.
        weights = cells.labels[1] if len(cells.labels) > 1 else _weights_of_labels(labels, codes[0])
        scores = self._label_scores(codes, cells)
        losses = F.cross_entropy(scores, labels.clamp(min=0), reduction="none")
        right = (scores.argmax(dim=-1) == labels).to(weights.dtype)
        n_cells = gathered_sum(torch.ones_like(weights).sum())
        return {
            "cross_entropy": gathered_sum((weights * losses).sum()) / n_cells,
            "accuracy": gathered_sum((weights * right).sum()) / n_cells,
        }

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum over modalities of ``ramp * independence + lam / 2 * reconstruction``, and the labels' cross-entropy."""
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=cells.features[0].device)
        weight = self.ramp * self.independence_weight
        bound = nce_club if self.independence == "nce-club" else vclub
        codes = self.latents(cells)
        for i, code in enumerate(codes):
            reconstruction = self._reconstruction(i, code, cells)
            total = total + 0.5 * self.lam * reconstruction
            terms[f"reconstruction_{self.names[i]}"] = reconstruction.detach()
            if weight > 0:
                dependence = bound(self._scores(i, code, cells))
                total = total + weight * dependence
                terms[f"independence_{self.names[i]}"] = dependence.detach()
        supervised = self._supervised(codes, cells)
        if supervised:
            total = total + self.supervision * supervised["cross_entropy"]
        return ObjectiveOutput(total, terms | {name: value.detach() for name, value in supervised.items()})

    def critic_loss(self, cells: CellTensors) -> Tensor | None:
        """Negative InfoNCE bound (or negative log-likelihood of the Gaussian critic), summed over modalities."""
        if self.independence_weight == 0:
            return None
        with torch.no_grad():
            codes = self.latents(cells)
        total = torch.zeros((), device=cells.features[0].device)
        for i, code in enumerate(codes):
            scores = self._scores(i, code, cells)
            total = total - (info_nce(scores) if self.independence == "nce-club" else scores.diagonal().mean())
        return total

    def validate(self, cells: CellTensors) -> dict[str, Tensor]:
        """Held-out relative reconstruction error by modality, and their mean as ``reconstruction``.

        Of a head the cross-entropy and accuracy of the cells that have a label too.
        """
        codes = self.latents(cells)
        parts = {
            f"reconstruction_{self.names[i]}": self._reconstruction(i, code, cells) for i, code in enumerate(codes)
        }
        mean = torch.stack(list(parts.values())).mean()
        return {"reconstruction": mean, **parts, **self._supervised(codes, cells)}

    def critic_parameters(self) -> Iterator[Parameter]:
        """Parameters of the critics."""
        return self.critics.parameters()


def _weights_of_labels(labels: Tensor, like: Tensor) -> Tensor:
    """Weights whose mean over all cells is 1, the same for each cell with a label and 0 without; 0 where none has."""
    known = (labels >= 0).to(like.dtype)
    n_cells, n_known = gathered_sum(torch.ones_like(known).sum()), gathered_sum(known.sum())
    return known * (n_cells / n_known.clamp(min=1))
