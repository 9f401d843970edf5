"""Transforms from stored values to model features: fitted on training cells, saved with the model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from indiseek._checks import check_number
from indiseek.data._disk import CHUNK_CELLS, Matrix, Values, row_chunks

# Cells that are transformed at once: what is computed on the way takes several times the memory of the values.
_STEP_CELLS = CHUNK_CELLS // 4
_TINY = 1e-30


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
            for piece in row_chunks(chunk, size=_STEP_CELLS):
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
    return _csr(crow, column, torch.from_numpy(chunk.data), chunk.shape).to(device)


def _csr(crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        # Only the product with a dense matrix is used, which is covered by tests.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
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
        mean, variance = _moments(_dense(chunk) for chunk in row_chunks(values, rows))
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
        ratios = (log_ratio(torch.from_numpy(_dense(chunk))).numpy() for chunk in row_chunks(values, rows))
        mean, variance = _moments(ratios)
        self._set_buffers(center=mean, spread=np.sqrt(np.where(variance > 0, variance, 1.0)))

    def forward(self, values: Tensor) -> Tensor:
        """Scaled log-ratios ``(n_cells, n_features)``."""
        return (log_ratio(values) - self.center) / self.spread


@final
class LogNormalizePCA(Transform):
    """Library-size normalisation, logarithm, highly variable features, scaling and principal components.

    The components keep their relative variances and are divided by one common factor, so that their
    mean variance in the training cells is 1. Sparse counts stay sparse: the transform is one sparse
    product, the fit needs two passes over the training cells and never holds them dense.

    Parameters
    ----------
    n_top_features
        Number of highly variable features.
    n_components
        Number of principal components; fewer where the data have fewer cells or features.
    target_sum
        Library size to which each cell is normalised.
    """

    name = "log-normalize-pca"
    needs_counts = True
    loadings: Tensor

    def __init__(self, *, n_top_features: int = 2000, n_components: int = 50, target_sum: float = 1e4) -> None:
        super().__init__()
        for key, value in {"n_top_features": n_top_features, "n_components": n_components}.items():
            check_number(key, value, low=1, whole=True)
        check_number("target_sum", target_sum, above=0)
        self.n_top_features = n_top_features
        self.n_components = n_components
        self.target_sum = target_sum

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "n_top_features": self.n_top_features,
            "n_components": self.n_components,
            "target_sum": self.target_sum,
        }

    def max_output(self, n_input: int) -> int:
        """The number of components, or what the features allow."""
        return min(self.n_components, self.n_top_features, n_input)

    def output_names(self, names: Sequence[str]) -> list[str]:
        """``PC1``, ``PC2``, ..."""
        return [f"PC{i + 1}" for i in range(self.n_output)]

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers ``loadings`` ``(n_input, n_output)`` and ``center`` ``(n_output,)``."""
        self._set_buffers(loadings=np.zeros((n_input, n_output)), center=np.zeros(n_output))

    def fit(self, values: Values, rows: NDArray[np.intp]) -> None:
        """Two passes: moments for the highly variable features, then their covariance."""
        normalised = (self._normalise(chunk) for chunk in row_chunks(values, rows))
        picked = highly_variable(*_sparse_moments(normalised), self.n_top_features)
        n = len(rows)
        total = np.zeros(len(picked))
        gram = np.zeros((len(picked), len(picked)))
        for chunk in row_chunks(values, rows):
            dense = _dense(self._normalise(chunk)[:, picked])
            np.log1p(dense, out=dense)
            total += dense.sum(axis=0, dtype=np.float64)
            gram += dense.T @ dense
            # The next chunk needs its room.
            del dense
        mean = total / n
        # In place, as each of these matrices can have the size of a chunk of cells.
        outer = np.outer(mean, mean)
        outer *= n
        gram -= outer
        gram /= n - 1
        spread = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
        # A feature that varies only outside the training cells has nothing to be scaled by.
        inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-8)
        gram *= np.outer(inverse, inverse, out=outer)
        n_components = min(self.n_components, len(picked), n - 1)
        # LAPACK takes columns one after the other; other matrices would be copied.
        variances, axes = scipy.linalg.eigh(
            gram.T, subset_by_index=[len(picked) - n_components, len(picked) - 1], overwrite_a=True
        )
        variances, axes = variances[::-1], axes[:, ::-1]
        # The sign of an eigenvector is arbitrary; fixed, the components do not depend on the solver.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
        # Where nothing varies, the axes are 0 already.
        axes = axes * inverse[:, None] / np.sqrt(max(variances.mean(), _TINY))
        loadings = np.zeros((values.shape[1], n_components))
        loadings[picked] = axes
        self._set_buffers(loadings=loadings, center=mean @ axes)

    def forward(self, values: Tensor) -> Tensor:
        """Principal components ``(n_cells, n_components)``."""
        if values.layout != torch.sparse_csr:
            library = values.sum(dim=1, keepdim=True).clamp_min(1e-8)
            return torch.log1p(values * (self.target_sum / library)) @ self.loadings - self.center
        crow = values.crow_indices()
        counts = values.values()
        cell = torch.repeat_interleave(torch.arange(len(crow) - 1, device=crow.device), crow.diff())
        library = (
            torch.zeros(len(crow) - 1, dtype=counts.dtype, device=crow.device)
            .index_add_(0, cell, counts)
            .clamp_min(1e-8)
        )
        logs = torch.log1p(counts * (self.target_sum / library)[cell])
        return _csr(crow, values.col_indices(), logs, values.shape) @ self.loadings - self.center

    def _normalise(self, chunk: Matrix) -> sparse.csr_matrix:
        counts = sparse.csr_matrix(chunk)
        library = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1e-8)
        return (sparse.diags(self.target_sum / library) @ counts).astype(np.float32).tocsr()


def log_ratio(values: Tensor) -> Tensor:
    """Centred log-ratio of each cell, dense, of ``(n_cells, n_features)`` dense or sparse CSR counts."""
    logs = torch.log1p(values.to_dense() if values.layout == torch.sparse_csr else values)
    return logs - logs.mean(dim=1, keepdim=True)


def _dense(chunk: Matrix) -> NDArray[np.float32]:
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


def _sparse_moments(chunks: Iterator[sparse.csr_matrix]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = 0
    total = squares = np.zeros(1)
    for chunk in chunks:
        n += chunk.shape[0]
        total = total + np.asarray(chunk.sum(axis=0, dtype=np.float64)).ravel()
        squares = squares + np.asarray(chunk.power(2).sum(axis=0, dtype=np.float64)).ravel()
    mean = np.asarray(total / n)
    return mean, (np.asarray(squares / n) - mean**2) * (n / (n - 1))


def highly_variable(mean: NDArray[np.float64], variance: NDArray[np.float64], n_top: int) -> NDArray[np.intp]:
    """Pick the features of highest normalised dispersion.

    The dispersion (variance over mean) of each feature is compared with that of features of similar
    mean expression. Needs only the two moments, so that one pass over the cells is enough; picks the
    same features as :func:`scanpy.pp.highly_variable_genes` with ``flavor="seurat"``.

    Parameters
    ----------
    mean, variance
        ``(n_features,)`` each: of the library-size normalised counts on the scale before the logarithm.
    n_top
        How many features to pick.

    Returns
    -------
    ``(min(n_top, n_features),)`` sorted positions.

    References
    ----------
    Satija et al. (2015), Nature Biotechnology 33, 495-502.
    """
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    dispersion[dispersion == 0] = np.nan
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": np.log(dispersion)})
    groups = table.groupby(pd.cut(table["mean"], bins=20), observed=True)["dispersion"]
    center, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()
    # A feature alone in its bin has nothing to be compared with: normalised dispersion 1.
    spread = spread.where(~alone, center)
    center = center.where(~alone, 0.0)
    score = ((table["dispersion"] - center) / spread).fillna(-np.inf).to_numpy()
    return np.sort(np.argsort(-score, kind="stable")[:n_top])
