"""Principal components of both modalities on one scale, what every joint baseline starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
from mudata import MuData
from numpy.typing import NDArray

from indiseek.data import CLRPCA, LogNormalizePCA

Array = NDArray[Any]
_N_COMPONENTS = 30


def components(mdata: MuData, rows: Array, *, second: str = "prot") -> dict[str, Array]:
    """Thirty components of RNA and of the second modality, axes from the cells at `rows`, ``(n_cells, 30)`` each."""
    other = CLRPCA if second == "prot" else LogNormalizePCA
    parts = {}
    for name, transform in (("rna", LogNormalizePCA), (second, other)):
        fitted = transform(n_components=_N_COMPONENTS)
        values = mdata[name].X
        fitted.fit(values, rows)
        parts[name] = fitted.apply_to(values).numpy()
    return parts


def standardised(x: Array, rows: Array) -> Array:
    """Columns with mean 0 and variance 1 over the cells at `rows`."""
    return (x - x[rows].mean(axis=0)) / x[rows].std(axis=0)


def as_one_block(x: Array, rows: Array) -> Array:
    """Columns with mean 0 and a total variance of 1 over the cells at `rows`, in the proportions that they have."""
    return (x - x[rows].mean(axis=0)) / np.sqrt(x[rows].var(axis=0).sum())
