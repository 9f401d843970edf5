"""The contract between an objective and the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from indiseek.data import CellTensors


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
    """Networks and losses of one stage of training: what a new method declares.

    A method says how a code is made (:meth:`encode`) and what is minimised (:meth:`loss`). The rest has defaults, and
    the training loop knows nothing else of it.

    Attributes
    ----------
    monitor
        Name of the term of :meth:`validate` by which training stops early; lower is better.
    sees_others
        Whether the code of a modality is a function of the other modalities' codes too.
    ramp
        Weight in [0, 1] of terms that are phased in. The training loop sets it before each step, and to 1 for held-out
        cells, so that a method need not count steps.
    starts_fitted
        Whether what :meth:`start` leaves is a result already: early stopping keeps it where no epoch is better.
    least_gain
        By how much the monitored value of an epoch must then be lower.
    uses_unpaired
        Whether :meth:`start_with` takes training cells that lack a modality.
    """

    monitor: str = "loss"
    sees_others: bool = False
    ramp: float = 1.0
    starts_fitted: bool = False
    least_gain: float = 0.0
    uses_unpaired: bool = False

    @abstractmethod
    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Code of one modality.

        Parameters
        ----------
        modality
            Its position.
        cells
            What is known of the cells; of another modality's features, none may be needed here.

        Returns
        -------
        ``(n_cells, n_latent)``.
        """

    @abstractmethod
    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Loss of the encoders on a batch of cells."""

    def latents(self, cells: CellTensors) -> tuple[Tensor, ...]:
        """Codes of this stage, one ``(n_cells, n_latent)`` tensor for each modality."""
        return tuple(self.encode(i, cells) for i in range(len(cells.features)))

    def joint(self, cells: CellTensors) -> Tensor:
        """Code of all modalities together, ``(n_cells, n_latent)``: here :func:`joint_code` of :meth:`latents`."""
        return joint_code(self.latents(cells))

    def reconstruct(self, modality: int, cells: CellTensors) -> Tensor | None:
        """Features of one modality as the codes give them back, ``(n_cells, n_features)``; None without a decoder."""
        del modality, cells
        return None

    def label_scores(self, cells: CellTensors) -> Tensor | None:
        """Scores of the labels, ``(n_cells, n_labels)``, probabilities after a softmax; None where none are learned."""
        del cells
        return None

    def validate(self, cells: CellTensors) -> dict[str, Tensor]:
        """Terms on held-out cells, each a mean over the batch: here the loss and its parts."""
        output = self.loss(cells)
        return {"loss": output.loss, **output.terms}

    def critic_loss(self, cells: CellTensors) -> Tensor | None:
        """Loss of the critics; None where the objective has none."""
        del cells
        return None

    def follow(self, earlier: Sequence[Objective]) -> None:
        """Called before a stage is trained, with the trained objectives whose frozen codes are its condition.

        By default codes of the cells as they are suffice; a method that encodes them otherwise copies the weights here.
        """
        del earlier

    def start(self, cells: CellTensors) -> None:
        """Called before training with all training cells, without gradients; a stage in closed form is fitted here."""
        del cells

    def needs_steps(self, train: CellTensors, validation: CellTensors) -> bool:
        """Whether gradient steps are worth taking from where it starts; asked once, of what `starts_fitted`.

        Parameters
        ----------
        train, validation
            All cells of each part.
        """
        del train, validation
        return True

    def start_with(self, cells: CellTensors, unpaired: Sequence[CellTensors]) -> None:
        """As :meth:`start`, where there are further training cells that have one modality each, one bundle for each.

        By default they are left out: what relates modalities can only be learned from cells that have all.
        """
        del unpaired
        self.start(cells)

    def prepared(self, cells: CellTensors) -> CellTensors:
        """Cells as :meth:`loss` is given them, made once after :meth:`start`, with what each step needs of them."""
        return cells

    def finish(self, cells: CellTensors) -> None:
        """Called after training with all training cells, in eval mode and without gradients."""
        del cells

    def critic_parameters(self) -> Iterator[Parameter]:
        """Parameters that only :meth:`critic_loss` trains; nothing where the objective has no critics."""
        return iter(())

    def encoder_parameters(self) -> Iterator[Parameter]:
        """Parameters that only :meth:`loss` trains: all that are not the critics'."""
        critics = {id(parameter) for parameter in self.critic_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in critics)
