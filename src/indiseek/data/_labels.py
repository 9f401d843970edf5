"""Labels of cells, of which some may have none: what a supervised stage learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from indiseek.data._presence import Presence
from indiseek.data._setup import Setup, column_of, required_column

# Of fewer a random split may leave none for training.
_LEAST_OF_A_LABEL = 3


def read_labels(
    mdata: MuData, setup: Setup, known: Sequence[Any] | None = None
) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
    """Labels of all cells, as positions among their names.

    Parameters
    ----------
    mdata
        The cells.
    setup
        Names the column, and the value that stands for no label.
    known
        Names of the labels that the cells of training have; of new cells any others, and a missing column, are no
        labels. None for cells of training.

    Returns
    -------
    ``(n_cells,)``, -1 for cells without a label; and the names.

    Raises
    ------
    KeyError
        If cells of training have no such column.
    ValueError
        If it holds numbers with fractions.
    """
    key = str(setup.labels_key)
    if known is not None and column_of(mdata, key, setup.modalities) is None:
        return np.full(mdata.n_obs, -1, dtype=np.int64), tuple(known)
    column = required_column(mdata, key, setup.modalities)
    if pd.api.types.is_float_dtype(column) and not (column.dropna() % 1 == 0).all():
        raise ValueError(
            f"expected labels in {key!r}, got {column.dtype} values with fractions such as "
            f"{column.dropna().iloc[0]!r}; name a column of categories."
        )
    values = column.astype(object)
    has = values.notna() & (values != setup.unlabeled_category)
    # Plain Python values can be saved; numpy's own scalars cannot.
    plain = [value.item() if isinstance(value, np.generic) else value for value in values[has]]
    names = tuple(sorted(set(plain), key=str)) if known is None else tuple(known)
    codes = np.full(len(values), -1, dtype=np.int64)
    codes[has.to_numpy()] = pd.Index(names, dtype=object).get_indexer(pd.Index(plain, dtype=object))
    return codes, names


def check_labels(
    labels: NDArray[np.int64], names: Sequence[Any], setup: Setup, presence: Presence | None = None
) -> None:
    """Check that a classifier can learn from labels.

    Parameters
    ----------
    labels, names
        As :func:`read_labels` gives them.
    setup
        Names the column.
    presence
        Which cells have which modality, where some lack one: only those with all are learned from.

    Raises
    ------
    ValueError
        If no cell has a label, all have the same one, or fewer than 3 cells have one of them.
    """
    key, unlabeled = setup.labels_key, setup.unlabeled_category
    found = labels if presence is None else labels[presence.with_all]
    what = "cells" if presence is None else f"cells with all of {list(setup.modalities)}"
    n_labels = int((np.bincount(found[found >= 0], minlength=len(names)) > 0).sum())
    if n_labels < 2:
        one = "none: they are " + ("missing" if unlabeled is None else f"missing or {unlabeled!r}")
        if n_labels:
            one = f"{names[int(found.max())]!r} alone"
        raise ValueError(
            f"expected at least two labels in {key!r}, got {one} in all {len(found)} {what}; name a column that tells "
            "cells apart, or leave labels_key out of the set-up."
        )
    sizes = np.bincount(found[found >= 0], minlength=len(names))
    few = [(name, int(n)) for name, n in zip(names, sizes, strict=True) if n < _LEAST_OF_A_LABEL]
    if few:
        listed = ", ".join(f"{name!r} with {n}" for name, n in few[:5])
        raise ValueError(
            f"expected at least {_LEAST_OF_A_LABEL} {what} of each label in {key!r}, got {len(few)} with fewer "
            f"({listed}); join them to other labels, or make them cells without one: "
            + ("NaN." if unlabeled is None else f"{unlabeled!r}.")
        )


def check_labels_of_training(labels: NDArray[np.int64], names: Sequence[Any], key: str, rows: NDArray[np.intp]) -> None:
    """Raise ValueError if a label has no cell among those at `rows`, the training cells that have all modalities."""
    missing = [name for code, name in enumerate(names) if not (labels[rows] == code).any()]
    if missing:
        raise ValueError(
            f"expected training cells of every label in {key!r}, got none of {missing} among {len(rows)}; split by "
            "another seed or other groups of cells, or take these labels away."
        )


def text_of_labels(labels: NDArray[np.int64], names: Sequence[Any], setup: Setup) -> tuple[NDArray[Any], str]:
    """Labels as scvi-tools registers them, ``(n_cells,)`` strings, and the one that stands for none."""
    words = [str(name) for name in names]
    unlabeled = "Unknown" if setup.unlabeled_category is None else str(setup.unlabeled_category)
    while unlabeled in words:
        unlabeled += "_"
    return np.array([*words, unlabeled], dtype=object)[labels], unlabeled
