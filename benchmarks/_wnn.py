"""Weight of the RNA in the weighted nearest neighbours of a cell, as muon computes it."""

from __future__ import annotations

import warnings
from typing import Any

import mudata
import numpy as np
import scanpy as sc
from _peers import require
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

# As in Seurat's walk through its weighted neighbours, whose 18 components of 25 proteins are few for a large panel.
_N_COMPONENTS = 30
_N_NEIGHBORS = 20


def rna_weight(mdata: MuData, seed: int = 0) -> NDArray[np.float64]:
    """Weight of RNA of each cell, between 0 and 1; that of protein is what is left to 1.

    RNA as log of counts per 10,000 and protein as centred log ratios; of each, scaled features, 30 principal components
    of length 1 and 20 neighbours.

    Parameters
    ----------
    mdata
        Raw counts of the modalities rna and prot.
    seed
        Of the principal components and of the search for neighbours.
    """
    require("muon")
    # Its import changes settings of scanpy's figures, so it is left to those who ask for weights.
    import muon

    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts: dict[str, Any] = {}
        for name in ("rna", "prot"):
            # Names of its own: a gene and a protein may have one.
            part = AnnData(mdata[name].X.copy())
            part.obs_names, part.var_names = mdata.obs_names, [f"{name}:{i}" for i in range(part.n_vars)]
            if name == "rna":
                sc.pp.normalize_total(part, target_sum=1e4)
                sc.pp.log1p(part)
            else:
                x = np.log1p(part.X.toarray() if sparse.issparse(part.X) else np.asarray(part.X))
                part.X = x - x.mean(axis=1, keepdims=True)
            sc.pp.scale(part, max_value=10)
            sc.pp.pca(part, n_comps=min(_N_COMPONENTS, part.n_vars - 1), random_state=seed)
            part.obsm["X_pca"] /= np.linalg.norm(part.obsm["X_pca"], axis=1, keepdims=True)
            sc.pp.neighbors(part, n_neighbors=_N_NEIGHBORS, use_rep="X_pca", random_state=seed)
            parts[name] = part
        both = MuData(parts)
        muon.pp.neighbors(both, random_state=seed)
    weight: NDArray[np.float64] = both.obs["rna:mod_weight"].to_numpy(dtype=np.float64)
    return weight
