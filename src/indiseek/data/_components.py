"""Transforms to principal components, as many as hold signal where the user does not say how many."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self, final

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from indiseek._checks import check_number
from indiseek.data._disk import Matrix, Values, row_chunks
from indiseek.data._signal import LEAST_CELLS, count_components, reconstructed_components
from indiseek.data._transforms import STEP_CELLS, Transform, csr, dense, log_ratio, to_tensor

_MOST_COMPONENTS = 50
# Of more cells the products take minutes and the axes stay as they are.
_MOST_FOR_AXES = 200_000
_TINY = 1e-30
_BLOCK_FEATURES = 256


class ComponentTransform(Transform):
    """Base of the transforms whose features are principal components.

    The components keep their relative variances and are divided by one common factor, so that their mean variance in
    the training cells is 1. The features are standardised before, and never held for all cells.

    Parameters
    ----------
    n_components
        Number of principal components; fewer where the data have fewer cells or features. None takes as many as hold
        signal in the training cells, at most 50: :func:`count_components` for counts, and for other values
        :func:`reconstructed_components`.
    at_least
        Fewest components where their number is found.
    """

    loadings: Tensor

    def __init__(self, *, n_components: int | None = None, at_least: int = 2) -> None:
        super().__init__()
        for key, value in {"n_components": n_components, "at_least": at_least}.items():
            if value is not None or key == "at_least":
                check_number(key, value, low=1, whole=True)
        self.n_components = n_components
        self.at_least = at_least

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"n_components": self.n_components, "at_least": self.at_least}

    def max_output(self, n_input: int) -> int:
        """The number of components, or the most that it can be found to be, or what the features allow."""
        most = max(_MOST_COMPONENTS, self.at_least) if self.n_components is None else self.n_components
        return max(1, min(most, self._most_axes(n_input)))

    def output_names(self, names: Sequence[str]) -> list[str]:
        """``PC1``, ``PC2``, ..."""
        return [f"PC{i + 1}" for i in range(self.n_output)]

    def allocate(self, n_input: int, n_output: int) -> None:
        """Buffers ``loadings`` ``(n_input, n_output)`` and ``center`` ``(n_output,)``."""
        self._set_buffers(loadings=np.zeros((n_input, n_output)), center=np.zeros(n_output))

    def with_at_least(self, n: int) -> Self:
        """An unfitted copy that takes at least `n` components where their number is found."""
        return type(self)(**self.config() | {"at_least": max(n, self.at_least)})

    def fit(self, values: Values, rows: NDArray[np.intp], counted: NDArray[np.intp] | None = None) -> None:
        """Find the number of components, then their axes in one pass over the training cells after `_picked`'s own.

        Of more than 200,000 cells the axes are those of so many, taken evenly.
        The number is found in the cells `counted` where these are given: what is made of components may be learned
        from fewer cells than their axes are.
        """
        n_components = self._number(values, rows if counted is None else counted)
        picked = self._picked(values, rows)
        if len(rows) > _MOST_FOR_AXES:
            rows = rows[np.linspace(0, len(rows) - 1, _MOST_FOR_AXES).astype(np.intp)]
        n = len(rows)
        total = np.zeros(len(picked))
        gram = np.zeros((len(picked), len(picked)))
        for chunk in row_chunks(values, rows):
            for piece in row_chunks(chunk, size=STEP_CELLS):
                x = self._before(piece, picked)
                total += x.sum(axis=0, dtype=np.float64)
                gram += x.T @ x
                # The next piece needs its room.
                del x
        mean = total / n
        # A few rows at a time: each of these matrices can have the size of many cells.
        blocks = np.array_split(np.arange(len(picked)), max(1, len(picked) // _BLOCK_FEATURES))
        for block in blocks:
            gram[block] -= np.outer(mean[block], mean) * n
        gram /= n - 1
        variance = np.maximum(np.diagonal(gram), 0.0)
        # A feature that varies only outside the training cells has nothing to be scaled by.
        varies = variance > 1e-10 * (1.0 + mean**2)
        inverse = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(variance), where=varies)
        for block in blocks:
            gram[block] *= np.outer(inverse[block], inverse)
        n_components = min(n_components, len(picked))
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

    @abstractmethod
    def _most_axes(self, n_input: int) -> int:
        """Most components that so many features allow."""

    @abstractmethod
    def _before(self, chunk: Matrix, picked: NDArray[np.intp]) -> NDArray[np.float32]:
        """Dense values, ``(n_cells, n_picked)``, that are standardised and rotated next."""

    def _picked(self, values: Values, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Positions of the features that are used: all of them."""
        return np.arange(values.shape[1])

    def _number(self, values: Values, rows: NDArray[np.intp]) -> int:
        """How many components to take."""
        most = min(self.max_output(values.shape[1]), max(1, len(rows) - 1))
        if self.n_components is not None:
            return most
        if len(rows) < LEAST_CELLS or most <= self.at_least:
            return min(most, self.at_least)
        if self.needs_counts:
            signal = count_components(values, rows, type(self)(**self.config() | {"n_components": most}))
        else:
            signal = reconstructed_components(values, rows, n_max=most)
        return min(most, max(self.at_least, signal.n_components))


@final
class LogNormalizePCA(ComponentTransform):
    """Library-size normalisation, logarithm, highly variable features, scaling and principal components.

    Sparse counts stay sparse: the transform is one sparse product, the fit needs two passes over the training cells and
    never holds them dense.

    Parameters
    ----------
    n_top_features
        Number of highly variable features.
    n_components, at_least
        As in :class:`ComponentTransform`.
    target_sum
        Library size to which each cell is normalised.
    """

    name = "log-normalize-pca"
    needs_counts = True

    def __init__(
        self,
        *,
        n_top_features: int = 2000,
        n_components: int | None = None,
        at_least: int = 2,
        target_sum: float = 1e4,
    ) -> None:
        super().__init__(n_components=n_components, at_least=at_least)
        check_number("n_top_features", n_top_features, low=1, whole=True)
        check_number("target_sum", target_sum, above=0)
        self.n_top_features = n_top_features
        self.target_sum = target_sum

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return super().config() | {"n_top_features": self.n_top_features, "target_sum": self.target_sum}

    def forward(self, values: Tensor) -> Tensor:
        """Principal components ``(n_cells, n_components)``."""
        # A GPU adds up a sparse product in no fixed order: codes of one cell would differ from call to call.
        if values.layout != torch.sparse_csr or values.is_cuda:
            values = values.to_dense()
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
        return csr(crow, values.col_indices(), logs, values.shape) @ self.loadings - self.center

    def _most_axes(self, n_input: int) -> int:
        return min(self.n_top_features, n_input)

    def _picked(self, values: Values, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        normalised = (self._normalise(chunk) for chunk in row_chunks(values, rows))
        return highly_variable(*_sparse_moments(normalised), self.n_top_features)

    def _before(self, chunk: Matrix, picked: NDArray[np.intp]) -> NDArray[np.float32]:
        x = dense(self._normalise(chunk)[:, picked])
        np.log1p(x, out=x)
        return x

    def _normalise(self, chunk: Matrix) -> sparse.csr_matrix:
        counts = sparse.csr_matrix(chunk)
        library = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1e-8)
        return (sparse.diags(self.target_sum / library) @ counts).astype(np.float32).tocsr()


@final
class CLRPCA(ComponentTransform):
    r"""Centred log-ratio within each cell, scaling of each feature, and principal components.

    For many antibodies, of which some tell the same and some nothing: what :class:`CLR` gives, on its leading principal
    axes. The log-ratios of a cell add up to 0, so that p features have at most p - 1 components.

    Parameters
    ----------
    n_components, at_least
        As in :class:`ComponentTransform`.

    References
    ----------
    Stoeckius et al. (2017), Nature Methods 14, 865-868 (centred log-ratio of antibody counts).
    """

    name = "clr-pca"
    needs_counts = True

    def forward(self, values: Tensor) -> Tensor:
        """Principal components ``(n_cells, n_components)``."""
        return log_ratio(values) @ self.loadings - self.center

    def _most_axes(self, n_input: int) -> int:
        return n_input - 1

    def _before(self, chunk: Matrix, picked: NDArray[np.intp]) -> NDArray[np.float32]:
        ratios: NDArray[np.float32] = log_ratio(to_tensor(chunk, torch.device("cpu"))).numpy()
        return ratios[:, picked]


@final
class ScalePCA(ComponentTransform):
    """Scaling of each feature and principal components: for many features that are no counts.

    Parameters
    ----------
    n_components, at_least
        As in :class:`ComponentTransform`.
    """

    name = "scale-pca"
    needs_counts = False

    def forward(self, values: Tensor) -> Tensor:
        """Principal components ``(n_cells, n_components)``."""
        return values @ self.loadings - self.center

    def _most_axes(self, n_input: int) -> int:
        return n_input

    def _before(self, chunk: Matrix, picked: NDArray[np.intp]) -> NDArray[np.float32]:
        return dense(chunk)[:, picked]


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
