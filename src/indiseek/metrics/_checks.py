"""What an array of cells must look like, for all metrics; numbers and words are checked by ``indiseek._checks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def as_cells(values: ArrayLike, name: str, *, min_cells: int = 2) -> NDArray[np.float64]:
    """Return ``values`` as a finite float64 matrix with one row a cell.

    Parameters
    ----------
    values
        Array of shape ``(n_cells, n_columns)``; a vector of shape ``(n_cells,)`` becomes one column.
    name
        What the array is called in error messages.
    min_cells
        Smallest number of rows accepted.

    Returns
    -------
    Array of shape ``(n_cells, n_columns)``, float64.

    Raises
    ------
    TypeError
        If the values are not numbers.
    ValueError
        If the array is not a matrix, is empty, too short, or holds NaN or inf.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected {name} to be a dense array of numbers, got {type(values).__name__}; "
            "do .toarray() on a sparse matrix, or .to_numpy() on a table, first"
        ) from error
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(
            f"expected {name} of shape (n_cells, n_columns), got shape {array.shape}; do reshape it to two dimensions"
        )
    if array.shape[1] == 0:
        raise ValueError(f"expected {name} with at least 1 column, got shape {array.shape}; do pass non-empty codes")
    if array.shape[0] < min_cells:
        raise ValueError(
            f"expected {name} with at least {min_cells} cells, got {array.shape[0]}; do pass more held-out cells"
        )
    if not np.isfinite(array).all():
        n_bad = int((~np.isfinite(array)).any(axis=1).sum())
        raise ValueError(
            f"expected finite values in {name}, got NaN or inf in {n_bad} of {array.shape[0]} cells; "
            "do remove or impute these cells"
        )
    return array


def check_paired(arrays: Sequence[NDArray[np.float64]], names: Sequence[str]) -> None:
    """Raise a ValueError unless all arrays have the same number of cells."""
    if len({len(array) for array in arrays}) > 1:
        counts = ", ".join(f"{name} {len(array)}" for name, array in zip(names, arrays, strict=True))
        raise ValueError(f"expected the same cells in the same order in all arrays, got {counts}; do subset them alike")
