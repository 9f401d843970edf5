"""JointOpt and FOCAL, with which DisentangledSSL is compared, from their equations; a baseline trained and probed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from _certified import Figures
from _disentangled import Cells, FirstStep, train
from torch import Tensor, nn

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.distributions import sample_von_mises_fisher
from indiseek.objectives import Objective, ObjectiveOutput, augmented_view, clip_loss, orthogonality_loss
from indiseek.train import seeded

Form = Literal["program", "paper"]
Codes = tuple[list[Tensor], list[Tensor]]
_NOISE, _MASKED, _TEMPERATURE, _KAPPA = 0.01, 0.1, 0.07, 1000.0


class Chained(nn.Module):
    """A network for each code; that of the specific one is given the shared code beside the features."""

    def __init__(self, n_features: Mapping[str, int], n_code: int, encoder: Encoder) -> None:
        super().__init__()
        self.shared = nn.ModuleList(encoder.of(name, n, n_code) for name, n in n_features.items())
        self.specific = nn.ModuleList(encoder.of(name, n + n_code, n_code) for name, n in n_features.items())

    def forward(self, features: Sequence[Tensor]) -> Codes:
        """Shared and specific codes by modality."""
        shared = [network(x) for network, x in zip(self.shared, features, strict=True)]
        given = [torch.cat(both, dim=-1) for both in zip(features, shared, strict=True)]
        return shared, [network(x) for network, x in zip(self.specific, given, strict=True)]


class Halves(nn.Module):
    """One network for each modality; its output is the shared code and, beside it, the specific one."""

    def __init__(self, n_features: Mapping[str, int], n_code: int, encoder: Encoder) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoder.of(name, n, 2 * n_code) for name, n in n_features.items())

    def forward(self, features: Sequence[Tensor]) -> Codes:
        """Shared and specific codes by modality."""
        codes = [network(x).chunk(2, dim=-1) for network, x in zip(self.encoders, features, strict=True)]
        return [c for c, _ in codes], [z for _, z in codes]


class Baseline(Objective):
    """A shared and a specific code of both modalities, learned together.

    Parameters
    ----------
    networks
        Gives shared and specific codes by modality, ``(n_cells, n_code)`` each, of any length.
    """

    def __init__(self, networks: nn.Module) -> None:
        super().__init__()
        self.networks = networks

    def codes(self, features: Sequence[Tensor]) -> Codes:
        """Shared and specific codes by modality, as they are probed."""
        found: Codes = self.networks(features)
        return found

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Shared code and, beside it, specific code of one modality, ``(n_cells, 2 * n_code)``."""
        return torch.cat([codes[modality] for codes in self.codes(cells.features)], dim=-1)

    def augmented(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Cells as the program trains on them; in evaluation as they are."""
        if not self.training:
            return list(features)
        return [augmented_view(x, noise=_NOISE, masked=_MASKED) for x in features]

    def with_views(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Augmented cells and, below them, augmented views of these."""
        cells = self.augmented(features)
        return [torch.cat(both) for both in zip(cells, self.augmented(cells), strict=True)]


class JointOptObjective(Baseline):
    r"""Both steps of DisentangledSSL at once: the shared codes are not frozen, and have no bottleneck.

    .. math::
        L = \frac{2}{1 + a} L_{shared} + \frac{a}{1 + a} L_{specific}
            + \lambda \sum_i \lVert Z_i^\top C_i \rVert_F

    The first term is InfoNCE between draws of both shared codes; the others are those of step 2 in ``form="code"``, but
    shared codes have a gradient in them too. The first and the last are means of those of the cells and of their views.

    Parameters
    ----------
    n_features
        Number of features by modality name.
    n_code
        Dimension of each code.
    encoder
        Form of the networks.
    lam
        Weight of the orthogonality.
    a
        How much what is specific counts against what is shared.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996.
    """

    def __init__(
        self, n_features: Mapping[str, int], n_code: int, *, encoder: Encoder, lam: float, a: float = 1.0
    ) -> None:
        super().__init__(Chained(n_features, n_code, encoder))
        self.lam = lam
        self.a = a

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """The weighted sum; in evaluation nothing is drawn, and a cell is its own view."""
        shared, specific = self.codes(self.with_views(cells.features))
        means = _units(shared)
        drawn = list(sample_von_mises_fisher(torch.cat(means), _KAPPA).chunk(2)) if self.training else means
        between = 0.5 * _between(drawn)
        # Beside the other modality's shared code; the pair has unit length as a whole.
        pairs = [torch.cat(both, dim=-1) for both in zip(specific, reversed(shared), strict=True)]
        within = _within(_units(pairs))
        penalties = [
            orthogonality_loss(z, c, "published")
            for both in zip(_units(specific), means, strict=True)
            for z, c in zip(*(codes.chunk(2) for codes in both), strict=True)
        ]
        penalty = 0.5 * torch.stack(penalties).sum()
        total = (2.0 * between + self.a * within) / (1.0 + self.a) + self.lam * penalty
        return output_of(total, shared=between, specific=within, orthogonality=penalty)


class FOCALObjective(Baseline):
    r"""Contrasts the modalities in the shared codes, and the views of a cell in the specific ones.

    .. math::
        L = \sum_{k} L_{InfoNCE}(C_1^k, C_2^k) + a \sum_i L_{InfoNCE}(Z_i^1, Z_i^2)
            + \lambda \sum_k E \big[ h(Z_1^k \cdot C_1^k) + h(Z_2^k \cdot C_2^k) + h(Z_1^k \cdot Z_2^k) \big]

    for codes of unit length and the views k = 1, 2. The paper has :math:`h(t) = \max(0, t)`, and both codes are halves
    of what one network gives. The program of Wang et al. has :math:`h(t) = t`, which is lowest for codes that point in
    opposite directions, and networks as JointOpt has them.

    Parameters
    ----------
    n_features, n_code, encoder, lam
        As in :class:`JointOptObjective`.
    form
        ``"program"`` of Wang et al., or ``"paper"`` of Liu et al. but for its constraint on neighbours in time, which
        cells do not have.
    a
        Weight of the contrast between views.

    References
    ----------
    Liu et al. (2023), arXiv 2310.20071.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_code: int,
        *,
        encoder: Encoder,
        form: Form,
        lam: float,
        a: float = 1.0,
    ) -> None:
        super().__init__((Chained if form == "program" else Halves)(n_features, n_code, encoder))
        self.form = form
        self.lam = lam
        self.a = a

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """The weighted sum; in evaluation a cell is its own view."""
        shared, specific = (_units(codes) for codes in self.codes(self.with_views(cells.features)))
        between, within = _between(shared), _within(specific)
        pairs = [*zip(specific, shared, strict=True), tuple(specific)]
        cosines = torch.stack([(u * w).sum(dim=-1) for u, w in pairs])
        # A mean over cells and views, of which there are two.
        penalty = 2.0 * (cosines if self.form == "program" else cosines.clamp(min=0.0)).mean(dim=-1).sum()
        total = between + self.a * within + self.lam * penalty
        return output_of(total, shared=between, specific=within, orthogonality=penalty)


def _units(codes: Sequence[Tensor]) -> list[Tensor]:
    return [F.normalize(c, dim=-1) for c in codes]


def _infonce(codes_a: Tensor, codes_b: Tensor) -> Tensor:
    return clip_loss(codes_a, codes_b, 1.0 / _TEMPERATURE)


def _between(codes: Sequence[Tensor]) -> Tensor:
    """Contrast between the modalities, sum of that of the cells and that of the views below them."""
    a, b = (c.chunk(2) for c in codes)
    return torch.stack([_infonce(*both) for both in zip(a, b, strict=True)]).sum()


def _within(codes: Sequence[Tensor]) -> Tensor:
    """Contrast between the cells and the views below them, sum over modalities."""
    return torch.stack([_infonce(*c.chunk(2)) for c in codes]).sum()


def output_of(total: Tensor, **terms: Tensor) -> ObjectiveOutput:
    """An objective's value and its parts by name."""
    return ObjectiveOutput(total, {name: value.detach() for name, value in terms.items()})


@dataclass(frozen=True)
class BaselinePoint:
    """A baseline and its settings.

    Attributes
    ----------
    make
        Called with numbers of features, ``n_code`` and ``encoder``.
    step
        Sizes and training; `beta` and the epochs of a second step have no meaning here. By default as in the program:
        two hidden layers, where DisentangledSSL has one, and 50 epochs.
    """

    make: Callable[..., Baseline]
    step: FirstStep = FirstStep(beta=0.0, as_published=True, initial_sd=0.01, n_validation=256, hidden=(512, 512))


def fit_baseline(cells: Cells, point: BaselinePoint, seed: int, smoke: bool) -> Figures:
    """Train a baseline, and probe all its codes."""
    step = point.step
    batch = CellTensors(tuple(map(torch.from_numpy, cells.simulated.features.values())))
    with seeded(seed):
        objective = point.make(cells.n_features, step.n_code, encoder=step.encoder)
    train(objective, batch, cells, step, 1 if smoke else step.epochs[0], seed)
    with torch.no_grad():
        shared, specific = objective.codes(batch.features)
    published = {"as_published": step.as_published}
    return cells.of_shared(torch.cat(shared, dim=-1).numpy(), **published) | cells.of_specific(
        specific[0].numpy(), **published
    )
