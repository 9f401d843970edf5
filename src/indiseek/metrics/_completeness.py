"""How much of every feature the shared and the specific code explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from indiseek._checks import check_choice

from ._checks import as_cells, check_paired
from ._probes import PROBES, Probe, feature_r2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


def completeness(
    features: ArrayLike,
    shared: ArrayLike,
    specific: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    probe: Probe = "nonlinear",
    n_splits: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of every feature the shared code, the specific code and both together explain.

    Parameters
    ----------
    features
        Transformed features of held-out cells of one modality, ``(n_cells, n_features)``.
    shared
        Shared codes of the same cells, ``(n_cells, n_shared)``: the modality's own or, for a specific code that is a
        map given the other modality, the other's.
    specific
        Specific codes of the same cells, ``(n_cells, n_specific)``.
    feature_names
        Index of the table; numbers if None.
    probe
        ``"nonlinear"`` (default; it contains the linear map) or ``"ridge"``, as in :func:`probe_r2`.
    n_splits
        Number of folds, default 5.
    seed
        Seed of folds and landmarks, default 0.

    Returns
    -------
    Table indexed by feature with the out-of-fold R2 ``shared``, ``specific``, ``both`` (higher is more complete; NaN
    for a constant feature).

    Raises
    ------
    ValueError
        If cells or names differ in number, values are not finite, or an option is out of range.
    """
    x = as_cells(features, "features")
    c, z = as_cells(shared, "shared"), as_cells(specific, "specific")
    check_paired((x, c, z), ("features", "shared", "specific"))
    if feature_names is not None and (isinstance(feature_names, str) or not isinstance(feature_names, Iterable)):
        raise TypeError(f"expected feature_names as a list of names, got {feature_names!r}; do pass a list")
    names = list(range(x.shape[1])) if feature_names is None else list(feature_names)
    if len(names) != x.shape[1]:
        raise ValueError(
            f"expected {x.shape[1]} feature_names, one for each column of features, got {len(names)}; do match them"
        )
    check_choice("probe", probe, PROBES)
    table = {
        name: feature_r2(codes, x, probe=probe, n_splits=n_splits, seed=seed)
        for name, codes in (("shared", c), ("specific", z), ("both", np.hstack([c, z])))
    }
    return pd.DataFrame(table, index=pd.Index(names, name="feature"))
