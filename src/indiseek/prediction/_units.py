"""On what scales a modality is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from indiseek.data import LogNormalizePCA, Transform


class Units(ABC):
    """How stored values are brought to the scale on which they are predicted, and predictions to other scales.

    Attributes
    ----------
    scales
        Words for the scales that a user may ask for, the first for that of the predictions; none where there are no
        counts.
    """

    scales: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, values: Tensor) -> Tensor:
        """Dense ``(n_cells, n_features)`` on the scale of the predictions, of stored values, dense or CSR."""

    def bounded(self, predicted: Tensor) -> Tensor:
        """Predictions without what no cell can have."""
        return predicted

    @abstractmethod
    def counts(self, predicted: Tensor, of: Tensor, depth: float) -> Tensor:
        """Counts ``(n_cells, n_features)`` of cells that have `depth` counts in all.

        Parameters
        ----------
        predicted
            What is to be brought to counts: predictions, or bounds of them.
        of
            Predictions of the same cells, which say what a cell's depth means on their scale.
        depth
            Counts of a cell.
        """

    def check(self, modality: str, scale: str | None) -> None:
        """Raise ValueError if a scale does not apply."""
        if scale is None or scale in self.scales:
            return
        if not self.scales:
            raise ValueError(
                f"expected scale=None for {modality!r}, whose values are no counts, got {scale!r}; leave it out: "
                "predictions are on the scale of the values."
            )
        raise ValueError(
            f"expected scale to be one of {list(self.scales)} for {modality!r}, got {scale!r}; choose one of them."
        )


@final
class LogRatios(Units):
    r"""Of counts of a panel: ``log1p`` less the cell's mean, which is the centred log-ratio of :class:`CLR`.

    A cell of N counts of p features whose log-ratios are r has the counts
    :math:`(N + p) \, e^{r_j} / \sum_k e^{r_k} - 1`.
    """

    scales = ("log", "clr", "counts")

    def read(self, values: Tensor) -> Tensor:
        """Centred log-ratios."""
        logs = torch.log1p(_dense(values))
        return logs - logs.mean(dim=1, keepdim=True)

    def counts(self, predicted: Tensor, of: Tensor, depth: float) -> Tensor:
        """Counts, 0 where the formula gives less."""
        total = torch.logsumexp(of, dim=1, keepdim=True)
        return (torch.exp(predicted - total) * (depth + of.shape[1]) - 1.0).clamp_min(0.0)


@final
class LogNormalized(Units):
    """Of counts of genes: ``log1p`` of counts that are normalised to one library size.

    Parameters
    ----------
    target_sum
        The library size.
    """

    scales = ("log", "counts")

    def __init__(self, target_sum: float) -> None:
        self.target_sum = target_sum

    def read(self, values: Tensor) -> Tensor:
        """Logarithms of normalised counts."""
        counts = _dense(values)
        return torch.log1p(counts * (self.target_sum / counts.sum(dim=1, keepdim=True).clamp_min(1e-8)))

    def bounded(self, predicted: Tensor) -> Tensor:
        """At least 0."""
        return predicted.clamp_min(0.0)

    def counts(self, predicted: Tensor, of: Tensor, depth: float) -> Tensor:
        """Counts in a library of `depth`."""
        return torch.expm1(predicted).clamp_min(0.0) * (depth / self.target_sum)


@final
class Plain(Units):
    """Of values that are no counts: as they are."""

    def read(self, values: Tensor) -> Tensor:
        """The values."""
        return _dense(values)

    def counts(self, predicted: Tensor, of: Tensor, depth: float) -> Tensor:
        """The values: of these no counts can be asked for."""
        return predicted


def units_of(transform: Transform) -> Units:
    """Units of a modality that a model reads by `transform`."""
    if isinstance(transform, LogNormalizePCA):
        return LogNormalized(transform.target_sum)
    return LogRatios() if transform.needs_counts else Plain()


def _dense(values: Tensor) -> Tensor:
    return values.to_dense() if values.layout == torch.sparse_csr else values
