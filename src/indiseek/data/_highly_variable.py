"""Highly variable features from streamed moments."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


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
