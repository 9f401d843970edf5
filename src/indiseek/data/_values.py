"""Values of a modality in one canonical form, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from indiseek.data._transforms import Matrix

MIN_CELLS = 100
_SPARSE_BELOW_DENSITY = 0.3
_NAMES_SHOWN = 5


def canonical_values(adata: AnnData, layer: str | None, where: str, *, as_sparse: bool | None = None) -> Matrix:
    """Read ``X`` or a layer as float32, CSR where most values are zero and dense elsewhere.

    The form depends on the values alone, so that CSR, CSC, dense, integer, double-precision and backed
    input give the same features to the last bit. Memory is shared with the input where it already
    has this form.

    Parameters
    ----------
    adata
        One modality.
    layer
        Layer to read; None for ``X``.
    where
        Name of the modality, for messages.
    as_sparse
        Form to use instead of deciding.

    Returns
    -------
    ``(n_cells, n_features)``.

    Raises
    ------
    KeyError
        If the layer does not exist.
    TypeError
        If the values are not a numeric matrix.
    """
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"expected layer {layer!r} in modality {where!r}, got layers {sorted(adata.layers)}; "
            "name one of them in layers, or None for X."
        )
    values: Any = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise TypeError(f"expected values in modality {where!r}, got X = None; name a layer that holds them in layers.")
    if isinstance(values, anndata.abc.CSRDataset | anndata.abc.CSCDataset):
        values = values.to_memory()
    elif not sparse.issparse(values) and not isinstance(values, np.ndarray):
        values = values[:] if hasattr(values, "shape") and hasattr(values, "dtype") else np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(
            f"expected a numeric matrix in modality {where!r}, got {type(values).__name__} of dtype {values.dtype}; "
            "store counts as CSR or dense numbers."
        )
    if sparse.issparse(values) and not _is_canonical(values):
        values = sparse.csr_matrix(values, dtype=np.float32, copy=True)
        values.sum_duplicates()
        values.eliminate_zeros()
    if as_sparse is None:
        n_stored = values.nnz if sparse.issparse(values) else np.count_nonzero(values)
        as_sparse = n_stored < _SPARSE_BELOW_DENSITY * max(1, np.prod(values.shape))
    if as_sparse:
        return values if sparse.issparse(values) else sparse.csr_matrix(values, dtype=np.float32)
    return np.ascontiguousarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)


def _is_canonical(values: Any) -> bool:
    # The exact type, because a view of an AnnData would be kept alive by its matrix. Not .count_nonzero(), because
    # it sorts the user's matrix in place.
    exact = type(values) is sparse.csr_matrix and values.dtype == np.float32
    return exact and values.has_canonical_format and np.count_nonzero(values.data) == values.nnz


def _entries(values: Matrix) -> NDArray[np.float32]:
    return values if isinstance(values, np.ndarray) else values.data


def is_counts(values: Matrix) -> bool:
    """Whether every value is a whole number; says nothing about signs."""
    data = _entries(values)
    return bool(np.array_equal(data, np.rint(data)))


def check_finite(values: Matrix, where: str) -> None:
    """Raise ValueError if a value is NaN or infinite."""
    data = _entries(values)
    n_bad = int(np.size(data) - np.isfinite(data).sum())
    if n_bad:
        raise ValueError(
            f"expected finite values in modality {where!r}, got {n_bad} that are NaN or infinite; "
            "remove or impute them before registering."
        )


def check_training_values(values: Matrix, cells: pd.Index, features: pd.Index, where: str, *, counts: bool) -> None:
    """Raise ValueError if a model cannot be trained on these values.

    Parameters
    ----------
    values
        ``(n_cells, n_features)``.
    cells, features
        Names, for messages.
    where
        Name of the modality, for messages.
    counts
        Whether the modality's transform takes counts.
    """
    check_finite(values, where)
    low, high = _column_extremes(values)
    if counts:
        check_counts(values, where)
        empty_cells = np.asarray(values.sum(axis=1)).ravel() == 0
        if empty_cells.any():
            raise ValueError(
                f"expected counts in every cell, got only zeros in modality {where!r} in {_some(cells, empty_cells)}; "
                "filter these cells out of every modality first."
            )
    empty = (low == 0) & (high == 0)
    if empty.any():
        raise ValueError(
            f"expected every feature of modality {where!r} in at least one cell, got only zeros in "
            f"{_some(features, empty)}; filter them out first, for example with scanpy.pp.filter_genes(min_cells=1)."
        )
    constant = low == high
    if constant.any():
        raise ValueError(
            f"expected features that vary in modality {where!r}, got the same value in every cell in "
            f"{_some(features, constant)}; filter them out first."
        )


def check_counts(values: Matrix, where: str) -> None:
    """Raise ValueError if the values are not counts, that is whole numbers that are not negative."""
    data = _entries(values)
    if data.size and data.min() < 0:
        raise ValueError(
            f"expected counts of at least 0 in modality {where!r}, got {data.min():g}; name the layer of raw counts, "
            f"or pass transforms={{{where!r}: indiseek.data.Scale()}} for values that are not counts."
        )
    if not is_counts(values):
        raise ValueError(
            f"expected whole-number counts in modality {where!r}, got fractions; name the layer of raw counts, "
            f"or pass transforms={{{where!r}: indiseek.data.Scale()}} for values that are not counts."
        )


def _column_extremes(values: Matrix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if sparse.issparse(values):
        return values.min(axis=0).toarray().ravel(), values.max(axis=0).toarray().ravel()
    return values.min(axis=0), values.max(axis=0)


def _some(names: pd.Index, mask: NDArray[np.bool_]) -> str:
    shown = ", ".join(map(repr, names[mask][:_NAMES_SHOWN].tolist()))
    more = int(mask.sum()) - _NAMES_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
