"""The contract between an objective and the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter


class Batch(NamedTuple):
    """Cells of one step: the same rows of every tensor.

    Attributes
    ----------
    features
        One ``(n_cells, n_features)`` tensor for each modality.
    shared
        One ``(n_cells, n_shared)`` tensor of frozen shared codes for each modality; empty while the
        shared codes are still being learned.
    views
        One ``(n_cells, n_views, n_features)`` tensor of augmented features for each modality, made before
        training, for objectives that compare views of a cell; empty where there are none. Takes ``4 * n_views``
        bytes for each feature and cell.
    """

    features: tuple[Tensor, ...]
    shared: tuple[Tensor, ...] = ()
    views: tuple[Tensor, ...] = ()

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.features[0])

    def take(self, rows: Tensor) -> Batch:
        """The same rows of every tensor."""
        return Batch(*(tuple(t.index_select(0, rows) for t in tensors) for tensors in self))

    def split(self, n_cells: int) -> tuple[Batch, Batch]:
        """The first `n_cells` and the others, in the same memory."""
        return (
            Batch(*(tuple(t[:n_cells] for t in tensors) for tensors in self)),
            Batch(*(tuple(t[n_cells:] for t in tensors) for tensors in self)),
        )

    def to(self, device: torch.device) -> Batch:
        """Every tensor on `device`."""
        return Batch(*(tuple(t.to(device) for t in tensors) for tensors in self))


def joint_code(codes: Sequence[Tensor]) -> Tensor:
    """Mean of the modalities' unit codes, brought back to unit length.

    Parameters
    ----------
    codes
        One ``(n_cells, n_shared)`` tensor for each modality.

    Returns
    -------
    ``(n_cells, n_shared)``.
    """
    return F.normalize(torch.stack(tuple(codes)).mean(dim=0), dim=-1)


@dataclass(frozen=True)
class ObjectiveOutput:
    """Value of an objective on a batch.

    Attributes
    ----------
    loss
        Scalar that the encoders minimise.
    terms
        Detached parts by name, for the history.
    """

    loss: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """Networks and losses of one stage of training.

    The training loop knows nothing else of a method than these declarations.

    Attributes
    ----------
    monitor
        Name of the term of :meth:`validate` by which training stops early; lower is better.
    sees_others
        Whether the code of a modality is a function of the other modalities' codes too.
    """

    monitor: str
    sees_others: bool = False

    @abstractmethod
    def encode(self, modality: int, features: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        """Code of one modality.

        Parameters
        ----------
        modality
            Its position.
        features
            ``(n_cells, n_features)``.
        shared
            Frozen codes of all modalities, or nothing for a stage that learns them.

        Returns
        -------
        ``(n_cells, n_latent)``.
        """

    def latents(self, batch: Batch) -> tuple[Tensor, ...]:
        """Codes of this stage, one ``(n_cells, n_latent)`` tensor for each modality."""
        return tuple(self.encode(i, x, batch.shared) for i, x in enumerate(batch.features))

    def joint(self, batch: Batch) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``: here :func:`joint_code` of :meth:`latents`."""
        return joint_code(self.latents(batch))

    @abstractmethod
    def loss(self, batch: Batch, *, ramp: float = 1.0) -> ObjectiveOutput:
        """Loss of the encoders; `ramp` in [0, 1] scales the terms that must be phased in."""

    @abstractmethod
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Terms on held-out cells, each a mean over the batch."""

    def critic_loss(self, batch: Batch) -> Tensor | None:
        """Loss of the critics; None where the objective has none."""
        del batch
        return None

    def start(self, batch: Batch) -> None:
        """Called before training with all training cells, without gradients."""
        del batch

    def finish(self, batch: Batch) -> None:
        """Called after training with all training cells, in eval mode and without gradients."""
        del batch

    def critic_parameters(self) -> Iterator[Parameter]:
        """Parameters that only :meth:`critic_loss` trains; nothing where the objective has no critics."""
        return iter(())

    def encoder_parameters(self) -> Iterator[Parameter]:
        """Parameters that only :meth:`loss` trains: all that are not the critics'."""
        critics = {id(parameter) for parameter in self.critic_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in critics)
