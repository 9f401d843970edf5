"""Values of a modality in one canonical form, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from indiseek.data._disk import DiskMatrix, Matrix, Values, mostly_zero, rounded, row_chunks
from indiseek.data._summary import Facts, Summary, n_bad, summarise

MIN_CELLS = 100
_NAMES_SHOWN = 5


def canonical_values(
    adata: AnnData,
    layer: str | None,
    where: str,
    *,
    as_sparse: bool | None = None,
    cells: NDArray[np.intp] | None = None,
) -> Values:
    """Take ``X`` or a layer as float32, CSR where most values are zero and dense elsewhere.

    The form depends on the values alone, so that CSR, CSC, dense, integer, double-precision and backed
    input give the same features to the last bit. Memory is shared with the input where it already
    has this form; what lies on disk stays there.

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
    cells
        Positions of the cells wanted; None for all.

    Returns
    -------
    ``(n_cells, n_features)``.

    Raises
    ------
    KeyError
        If the layer does not exist.
    TypeError
        If the values are not a numeric matrix, or lie on disk as CSC.
    """
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"expected layer {layer!r} in modality {where!r}, got layers {sorted(adata.layers)}; "
            "name one of them in layers, or None for X."
        )
    values = stored_values(adata, layer)
    if values is None:
        raise TypeError(f"expected values in modality {where!r}, got X = None; name a layer that holds them in layers.")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"expected a value for every cell and feature in modality {where!r}, got {np.ma.count_masked(values)} that "
            "are masked; remove or impute them, and store a plain array."
        )
    if isinstance(values, anndata.abc.CSCDataset):
        raise TypeError(
            f"expected CSR or dense values on disk in modality {where!r}, got CSC, of which no cell can be read "
            "without reading all; write the file again with indiseek convert, or read it into memory."
        )
    on_disk = lies_on_disk(values)
    if not on_disk and not sparse.issparse(values):
        values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(
            f"expected a numeric matrix in modality {where!r}, got {type(values).__name__} of dtype {values.dtype}; "
            "store counts as CSR or dense numbers."
        )
    if on_disk:
        return DiskMatrix(values, where, as_sparse=as_sparse, cells=cells)
    if cells is not None:
        values = (values.tocsr() if sparse.issparse(values) else values)[cells]
    if sparse.issparse(values) and not _is_canonical(values):
        values = sparse.csr_matrix(values, dtype=np.float32, copy=True)
        values.sum_duplicates()
        values.eliminate_zeros()
    return _in_form(values, as_sparse)


def stored_values(adata: AnnData, layer: str | None) -> Any:
    """``X`` or a layer as it is stored."""
    return adata.X if layer is None else adata.layers[layer]


def lies_on_disk(values: Any) -> bool:
    """Whether stored values are read when they are asked for."""
    return isinstance(values, anndata.abc.CSRDataset | h5py.Dataset | zarr.Array)


def as_counts(values: Values, *, as_sparse: bool | None = None) -> Values:
    """Values that are nearly whole numbers, rounded, in the form that whole numbers have."""
    if isinstance(values, DiskMatrix):
        return values.rounded(as_sparse)
    whole = rounded(values)
    if not isinstance(whole, np.ndarray):
        whole.eliminate_zeros()
    return _in_form(whole, as_sparse)


def with_features(values: Values, kept: NDArray[np.intp], *, as_sparse: bool) -> Values:
    """The features at sorted positions `kept`, as CSR or dense.

    Where the others are 0 in every cell, CSR shares its values with the input.
    """
    if isinstance(values, DiskMatrix):
        picked = values.ordered(kept)
        picked.as_sparse = as_sparse
        return picked
    if isinstance(values, np.ndarray):
        return _in_form(values[:, kept], as_sparse)
    place = np.full(values.shape[1], -1, dtype=values.indices.dtype)
    place[kept] = np.arange(len(kept), dtype=place.dtype)
    indices = place[values.indices]
    if (indices < 0).any():
        return _in_form(values[:, kept], as_sparse)
    picked = sparse.csr_matrix((values.data, indices, values.indptr), shape=(values.shape[0], len(kept)))
    picked.has_canonical_format = True
    return _in_form(picked, as_sparse)


def _in_form(values: Any, as_sparse: bool | None) -> Matrix:
    """Canonical CSR or any dense values as CSR or dense float32; None decides by the values."""
    if as_sparse is None:
        n_stored = int(values.nnz if sparse.issparse(values) else np.count_nonzero(values))
        as_sparse = mostly_zero(n_stored, values.shape)
    if as_sparse:
        return values if sparse.issparse(values) else sparse.csr_matrix(values, dtype=np.float32)
    return np.ascontiguousarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)


def _is_canonical(values: Any) -> bool:
    # The exact type, because a view of an AnnData would be kept alive by its matrix. Not .count_nonzero(), because
    # it sorts the user's matrix in place.
    exact = type(values) is sparse.csr_matrix and values.dtype == np.float32
    return exact and values.has_canonical_format and np.count_nonzero(values.data) == values.nnz


def summary_of(values: Values) -> Summary:
    """What the checks need to know of values in canonical form."""
    return values.summary if isinstance(values, DiskMatrix) else summarise(row_chunks(values), values.shape[1])


def n_not_finite(values: Values) -> int:
    """How many values are NaN or infinite."""
    return sum(n_bad(chunk) for chunk in row_chunks(values))


def check_finite(n_bad: int, where: str) -> None:
    """Raise ValueError if one or more values are NaN or infinite."""
    if n_bad:
        raise ValueError(
            f"expected finite values in modality {where!r}, got {n_bad} that are NaN or infinite; "
            "remove or impute them before registering. Features that a whole batch has not measured may be NaN in all "
            "of its cells, where setup_mudata(mdata, batch_key=...) names the batch."
        )


def check_cells(empty: NDArray[np.bool_], cells: pd.Index, where: str) -> None:
    """Raise ValueError if a cell has no counts.

    Parameters
    ----------
    empty
        ``(n_cells,)``: whether the counts of a cell add up to 0.
    cells
        Names, for messages.
    where
        Name of the modality, for messages.
    """
    if empty.any():
        raise ValueError(
            f"expected counts in every cell, got only zeros in modality {where!r} in {some_of(cells, empty)}"
            "; filter these cells out of every modality first."
        )


def check_counts(summary: Summary | Facts, where: str) -> None:
    """Raise ValueError if the values are not counts, that is whole numbers that are not negative."""
    if summary.lowest < 0:
        raise ValueError(
            f"expected counts of at least 0 in modality {where!r}, got {summary.lowest:g}; name the layer of raw "
            f"counts, or pass transforms={{{where!r}: indiseek.data.Scale()}} for values that are not counts."
        )
    if not summary.whole:
        raise ValueError(
            f"expected whole-number counts in modality {where!r}, got fractions; name the layer of raw counts, "
            "round counts that a correction such as SoupX has left with fractions, or pass "
            f"transforms={{{where!r}: indiseek.data.Scale()}} for values that are not counts."
        )


def some_of(names: pd.Index, mask: NDArray[np.bool_]) -> str:
    """A few of the names at a mask, and how many more there are."""
    shown = ", ".join(map(repr, names[mask][:_NAMES_SHOWN].tolist()))
    more = int(mask.sum()) - _NAMES_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
