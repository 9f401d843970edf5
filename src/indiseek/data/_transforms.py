"""Transforms from stored values to model features: fitted on training cells, saved with the model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indiseek.data._disk import CHUNK_CELLS, Matrix, Values, row_chunks

# Cells that are transformed at once: what is computed on the way takes several times the memory of the values.
STEP_CELLS = CHUNK_CELLS // 4


class Transform(nn.Module, ABC):
    """Map from the stored values of one modality to the features a model sees.

    Attributes
    ----------
    name
        Word by which a saved model finds the class again.
    needs_counts
        Whether the input must be non-negative integer counts.
    n_constraints
        Linear relations that hold between the features of every cell.
    """

    name: ClassVar[str]
    needs_counts: ClassVar[bool]
    n_constraints: ClassVar[int] = 0
    center: Tensor

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the unfitted transform."""

    @abstractmethod
    def max_output(self, n_input: int) -> int:
        """Most features that the transform can give for `n_input` stored ones."""

    @abstractmethod
    def allocate(self, n_input: int, n_output: int) -> None:
        """Create empty buffers, so that a saved state can be loaded into them."""

    @abstractmethod
    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """Fit on the training cells `rows` of `values`."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Features ``(n_cells, n_output)`` of ``(n_cells, n_input)`` dense or sparse CSR values."""

    def output_names(self, names: Sequence[str]) -> list[str]:
        """Names of the features after the transform, given those before."""
        return list(names)

    @property
    def n_output(self) -> int:
        """Number of features after the transform."""
        return len(self.center)

    @property
    def rank(self) -> int:
        """Dimension of the space in which the features lie."""
        return self.n_output - self.n_constraints

    @property
    def device(self) -> torch.device:
        """Device of the buffers."""
        return self.center.device

    @torch.inference_mode()
    def apply_to(self, values: Values, rows: NDArray[np.intp] | None = None) -> Tensor:
        """Transform cells chunk by chunk; the result, ``(n_cells, n_output)``, stays on the device.

        Cells `rows`, in whatever order, are read in that of `values`, so that a file is read once, front to back.
        """
        wanted = np.arange(values.shape[0]) if rows is None else rows
        order = np.argsort(wanted, kind="stable")
        result = torch.empty((len(wanted), self.n_output), dtype=torch.float32, device=self.device)
        places = torch.from_numpy(order).to(self.device)
        for chunk in row_chunks(values, wanted[order]):
            for piece in row_chunks(chunk, size=STEP_CELLS):
                here, places = places.split([piece.shape[0], len(places) - piece.shape[0]])
                result[here] = self(to_tensor(piece, self.device))
        return result

    def _set_buffers(self, **buffers: NDArray[Any]) -> None:
        for key, value in buffers.items():
            self.register_buffer(key, torch.from_numpy(np.asarray(value, dtype=np.float32)))


def to_tensor(chunk: Matrix, device: torch.device) -> Tensor:
    """Tensor of a chunk on `device`: sparse CSR stays sparse CSR."""
    if isinstance(chunk, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(chunk)).to(device)
    crow, column = (torch.from_numpy(index.astype(np.int64)) for index in (chunk.indptr, chunk.indices))
    return csr(crow, column, torch.from_numpy(chunk.data), chunk.shape).to(device)


def csr(crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sparse CSR tensor."""
    with warnings.catch_warnings():
        # Only the product with a dense matrix is used, which is covered by tests. Some torch (2.11) also warns that
        # invariants are not checked, though that is what is asked for here.
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)", category=UserWarning)
        return torch.sparse_csr_tensor(crow, column, values, size=shape, check_invariants=False)


@final
class Scale(Transform):
    """Centre and scale each feature by its mean and standard deviation in the training cells."""

    name = "scale"
    needs_counts = False
    spread: Tensor

    def config(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def max_output(self, n_input: int) -> int:
        """As many as there are."""
        return n_input

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers of shape ``(n_input,)``."""
        self._set_buffers(center=np.zeros(n_input), spread=np.ones(n_input))

    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """Mean and standard deviation; a feature constant in the training cells is left unscaled."""
        mean, variance = _moments(dense(chunk) for chunk in row_chunks(values, rows))
        self._set_buffers(center=mean, spread=np.sqrt(np.where(variance > 0, variance, 1.0)))

    def forward(self, values: Tensor) -> Tensor:
        """Scaled values ``(n_cells, n_features)``."""
        dense = values.to_dense() if values.layout == torch.sparse_csr else values
        return (dense - self.center) / self.spread


@final
class CLR(Transform):
    r"""Centred log-ratio within each cell, then centring and scaling of each feature.

    .. math:: \mathrm{clr}(x)_j = \log(1 + x_j) - \frac1p \sum_k \log(1 + x_k)

    The usual transform for antibody counts: it takes out a cell's overall protein signal, which is
    mostly technical.

    References
    ----------
    Stoeckius et al. (2017), Nature Methods 14, 865-868.
    """

    name = "clr"
    needs_counts = True
    # The log-ratios of a cell add up to 0.
    n_constraints = 1
    spread: Tensor

    def config(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def max_output(self, n_input: int) -> int:
        """As many as there are."""
        return n_input

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers of shape ``(n_input,)``."""
        self._set_buffers(center=np.zeros(n_input), spread=np.ones(n_input))

    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """Mean and standard deviation of the log-ratios; a constant feature is left unscaled."""
        ratios = (log_ratio(torch.from_numpy(dense(chunk))).numpy() for chunk in row_chunks(values, rows))
        mean, variance = _moments(ratios)
        self._set_buffers(center=mean, spread=np.sqrt(np.where(variance > 0, variance, 1.0)))

    def forward(self, values: Tensor) -> Tensor:
        """Scaled log-ratios ``(n_cells, n_features)``."""
        return (log_ratio(values) - self.center) / self.spread


def log_ratio(values: Tensor) -> Tensor:
    """Centred log-ratio of each cell, dense, of ``(n_cells, n_features)`` dense or sparse CSR counts."""
    logs = torch.log1p(values.to_dense() if values.layout == torch.sparse_csr else values)
    return logs - logs.mean(dim=1, keepdim=True)


def dense(chunk: Matrix) -> NDArray[np.float32]:
    """A chunk as an array; of one that is sparse, a new one."""
    return chunk if isinstance(chunk, np.ndarray) else np.asarray(chunk.toarray(), dtype=np.float32)


def _moments(chunks: Iterator[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = 0
    total = squares = np.zeros(1)
    for chunk in chunks:
        wide = chunk.astype(np.float64)
        n += len(wide)
        total = total + wide.sum(axis=0)
        squares = squares + np.square(wide).sum(axis=0)
    mean = np.asarray(total / n)
    variance = np.asarray(squares / n) - mean**2
    # What rounding leaves of a constant feature's variance is not variance.
    return mean, np.where(variance > 1e-10 * (1.0 + mean**2), variance, 0.0)
