"""One code of all modalities by contrastive learning between views of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import Encoder, FusionTransformer
from indiseek.objectives._base import Objective, ObjectiveOutput
from indiseek.objectives._clip import clip_loss
from indiseek.objectives._gather import gather

Form = Literal["paper", "code"]
Negatives = Literal["both", "cross"]
Augment = Callable[[Tensor, torch.Generator | None], Tensor]
"""Called with features ``(n_cells, n_features)`` and a generator, None for torch's own; gives as many, changed."""


def nt_xent(codes_a: Tensor, codes_b: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE between two sets of unit codes with negatives out of both.

    .. math::
        L = \frac{1}{2N} \sum_k \Big[ -\frac{a_k \cdot b_k}{\tau}
            + \log \Big( \sum_j e^{a_k \cdot b_j / \tau} + \sum_{j \ne k} e^{a_k \cdot a_j / \tau} \Big) \Big]
            + (a \leftrightarrow b)

    Parameters
    ----------
    codes_a, codes_b
        ``(n_cells, n_latent)`` each, rows of unit length, the same cells in the same order.
    temperature
        :math:`\tau`.

    Returns
    -------
    Scalar in nats; ``log(2 * n_cells - 1)`` at chance, lower is better.

    References
    ----------
    Chen et al. (2020), arXiv 2002.05709, equation 1.
    """
    codes = torch.cat([codes_a, codes_b])
    logits = codes @ codes.T / temperature
    # Minus infinity is right in any precision, where a large number may be none in half precision.
    logits = logits.masked_fill(torch.eye(len(codes), dtype=torch.bool, device=codes.device), -math.inf)
    return F.cross_entropy(logits, torch.arange(len(codes), device=codes.device).roll(len(codes_a)))


@final
class CoMMObjective(Objective):
    r"""Fused code :math:`Z = f(X_1, \dots, X_n)` that agrees between two views of a cell, and with each modality's own.

    With :math:`X', X''` two augmentations of a cell, drawn independently for each modality, and :math:`X_i` the cell
    with the tokens of all modalities but :math:`i` dropped, :math:`Z', Z'', Z_i` the codes of these by the same
    network, and :math:`I` the InfoNCE bound behind a projection head that is used in the loss alone:

    .. math::
        \min_f \; -w\, I(Z', Z'') - u \sum_{i=1}^{n} \tfrac12 \big( I(Z_i, Z') + I(Z_i, Z'') \big)

    The first term can hold what is redundant, unique and synergistic; the terms of single modalities what is
    redundant, and unique to each. ``form="code"`` takes instead the projections of the two views, each
    against the other view's fused code, :math:`\tfrac12 ( I(Z_i', Z'') + I(Z_i'', Z') )`, and the mean over the
    :math:`n + 1` terms, as the authors' program does.

    A view is noised, and some of its features are set to 0, their mean in the training cells; the rate is drawn
    anew for each cell, and one feature at least is kept. Where the batch has ``views``, one of them is drawn first.

    In eval mode the views are fixed, so that held-out losses of two epochs can be compared and do not depend on the
    order of the cells: the first and the last of ``views``, without noise, each with a fixed set of features dropped,
    as many as in training on average. An augmentation of your own is then given a generator that starts anew each time.

    Parameters
    ----------
    n_features
        Number of features by modality name; their order is that of ``CellTensors.features``.
    n_latent
        Dimension of the codes.
    n_tokens, n_layers, n_heads, encoder
        As in :class:`indiseek.nn.FusionTransformer`.
    head_hidden, n_head
        Widths of the hidden layers and of the output of the projection head.
    form
        ``"paper"`` or ``"code"``.
    negatives
        ``"both"``: the other cells in both of the sets compared, ``2 * n_cells - 1`` candidates, as in the authors'
        program (:func:`nt_xent`). ``"cross"``: those of the other set, ``n_cells`` candidates, as printed in the
        paper (:func:`clip_loss`).
    temperature
        Of InfoNCE; fixed.
    joint_weight, unimodal_weight
        :math:`w` and :math:`u`; 0 leaves the terms out.
    feature_dropout
        Highest rate of dropped features, for all modalities or by name.
    noise
        Standard deviation of the noise, for all modalities or by name.
    augment
        Augmentations of your own by modality, such as crops of an image: called with features and a generator, see
        ``Augment``. They take the place of noise and of dropped features.
    head
        Projection head of your own, a module that maps ``(n_cells, n_latent)`` to any width; it sees one set of codes
        at a time. None for a perceptron of `head_hidden` and `n_head`.

    Raises
    ------
    ValueError
        If both weights are 0 or one is negative, or an augmentation would drop every feature.

    References
    ----------
    Dufumier et al. (2025), arXiv 2409.07402.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_latent: int,
        *,
        n_tokens: int = 2,
        n_layers: int = 1,
        n_heads: int = 4,
        head_hidden: Sequence[int] = (256,),
        n_head: int = 128,
        form: Form = "paper",
        negatives: Negatives = "cross",
        temperature: float = 0.1,
        joint_weight: float = 1.0,
        unimodal_weight: float = 1.0,
        feature_dropout: float | Mapping[str, float] = 0.3,
        noise: float | Mapping[str, float] = 0.2,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
        augment: Mapping[str, Augment] | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if min(joint_weight, unimodal_weight) < 0 or joint_weight + unimodal_weight == 0:
            raise ValueError(
                f"expected joint_weight and unimodal_weight of at least 0 and not both 0, got {joint_weight} and "
                f"{unimodal_weight}; nothing would be trained."
            )
        self.names = tuple(n_features)
        self.form = form
        self.negatives = negatives
        self.temperature = temperature
        self.joint_weight = joint_weight
        self.unimodal_weight = unimodal_weight
        self.noise = _by_name(noise, self.names)
        self.feature_dropout = _by_name(feature_dropout, self.names)
        for name, rate in zip(self.names, self.feature_dropout, strict=True):
            if not 0 <= rate < 1:
                raise ValueError(
                    f"expected feature_dropout in [0, 1), got {rate} for {name!r}; at 1 every feature could be dropped."
                )
        self.fusion = FusionTransformer(
            n_features, n_latent, n_tokens=n_tokens, n_layers=n_layers, n_heads=n_heads, encoder=encoder
        )
        self.own_head = head is not None
        self.head = encoder.network(n_latent, n_head, head_hidden) if head is None else head
        augment = augment or {}
        if not set(augment) <= set(self.names):
            raise ValueError(
                f"expected augment by the modalities {list(self.names)}, got {list(augment)}; use their names."
            )
        self.augment = [augment.get(name) for name in self.names]
        generator = torch.Generator().manual_seed(0)
        for i, n in enumerate(n_features.values()):
            draws = torch.rand(2, n, generator=generator)
            kept = _kept(draws, torch.full((2, 1), self.feature_dropout[i] / 2))
            self.register_buffer(f"kept_{i}", kept, persistent=False)

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Projection ``(n_cells, n_latent)``: the code of one modality's tokens alone."""
        return self.fusion.fuse([self.fusion.tokens(modality, cells.features[modality])])

    def joint(self, cells: CellTensors) -> Tensor:
        """Fused code ``(n_cells, n_latent)`` of all modalities."""
        code: Tensor = self.fusion(cells.features)
        return code

    def view(self, cells: CellTensors, number: int) -> tuple[Tensor, ...]:
        """One augmentation of the cells, ``(n_cells, n_features)`` for each modality.

        Parameters
        ----------
        cells
            Cells.
        number
            0 or 1; which of the two fixed views in eval mode.
        """
        return tuple(self._view(i, cells, number) for i in range(len(self.names)))

    def _view(self, modality: int, cells: CellTensors, number: int) -> Tensor:
        x = cells.features[modality]
        augment = self.augment[modality]
        if augment is not None:
            fixed = None if self.training else torch.Generator(x.device).manual_seed(number)
            return augment(x, fixed)
        if not self.training:
            if cells.views:
                x = cells.views[modality][:, -number]
            return x * self.get_buffer(f"kept_{modality}")[number]
        if cells.views:
            views = cells.views[modality]
            drawn = torch.randint(views.shape[1], (len(x),), device=x.device)
            x = views[torch.arange(len(x), device=x.device), drawn]
        if self.noise[modality]:
            x = x + self.noise[modality] * torch.randn_like(x)
        if self.feature_dropout[modality]:
            rate = self.feature_dropout[modality] * torch.rand(len(x), 1, device=x.device)
            x = x * _kept(torch.rand(x.shape, device=x.device), rate)
        return x

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Weighted sum (``form="code"``: mean) of the joint term and one term for each modality.

        Named ``infonce_joint`` and ``infonce_<modality>`` in the history, in nats: lower is better.
        """
        n = cells.n_cells
        # One pass of each network over all views: small products cost little more when there are more rows.
        seen = [self.view(cells, 0), self.view(cells, 1)]
        if self.unimodal_weight and self.form == "paper":
            seen.append(cells.features)
        tokens = [self.fusion.tokens(i, torch.cat(x)) for i, x in enumerate(zip(*seen, strict=True))]
        codes = [self.fusion.fuse([t[: 2 * n] for t in tokens])]
        if self.unimodal_weight:
            alone = slice(2 * n, None) if self.form == "paper" else slice(None)
            codes.append(self.fusion.fuse([torch.cat([t[alone] for t in tokens])]))
        stacked = torch.cat(codes)
        if self.own_head:
            # One set at a time: it may normalise over its cells.
            headed = torch.cat([self.head(code) for code in stacked.split(n)])
        else:
            headed = self.head(stacked)
        first, second, *alone_codes = map(gather, F.normalize(headed, dim=-1).split(n))

        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=first.device)
        if self.joint_weight:
            terms["joint"] = self._infonce(first, second)
            total = total + self.joint_weight * terms["joint"]
        if self.unimodal_weight:
            n_each = len(alone_codes) // len(self.names)
            for i, name in enumerate(self.names):
                own = alone_codes[i * n_each : (i + 1) * n_each]
                # Of a projected view only the other view's fused code is no function.
                pairs = [(own[0], second), (own[-1], first)]
                terms[name] = torch.stack([self._infonce(a, b) for a, b in pairs]).mean()
                total = total + self.unimodal_weight * terms[name]
        if self.form == "code":
            total = total / (len(self.names) + 1)
        return ObjectiveOutput(total, {f"infonce_{name}": term.detach() for name, term in terms.items()})

    def _infonce(self, a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, self.temperature) if self.negatives == "both" else clip_loss(a, b, 1.0 / self.temperature)


def _kept(draws: Tensor, rate: Tensor) -> Tensor:
    """Which features are kept, from uniform draws; the one with the highest draw always is."""
    return draws >= torch.minimum(rate, draws.amax(dim=-1, keepdim=True))


def _by_name(value: float | Mapping[str, float], names: Sequence[str]) -> list[float]:
    return [value[name] for name in names] if isinstance(value, Mapping) else [value] * len(names)
