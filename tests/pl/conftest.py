from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def mdata() -> mudata.MuData:
    """120 cells with made-up latents, counts, labels, and one name that both modalities have."""
    rng = np.random.default_rng(0)
    cells = [f"cell_{i}" for i in range(120)]
    rna = anndata.AnnData(rng.poisson(2.0, (120, 4)).astype(np.float32), obs=pd.DataFrame(index=cells))
    rna.var_names = ["CD4", "MS4A1", "LYZ", "NKG7"]
    prot = anndata.AnnData(rng.poisson(30.0, (120, 3)).astype(np.float32), obs=pd.DataFrame(index=cells))
    prot.var_names = ["CD3_TotalSeqB", "CD19_TotalSeqB", "CD45RA_TotalSeqB"]
    prot.obs["size"] = rng.normal(size=120)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"rna": rna, "prot": prot})
    mdata.obs["type"] = pd.Categorical(rng.choice(["T", "B", "unassigned"], 120))
    for key, width in (("shared", 5), ("rna", 4), ("prot", 3)):
        mdata.obsm[f"X_indiseek_{key}"] = rng.normal(size=(120, width)).astype(np.float32)
    return mdata


@pytest.fixture
def coordinates() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {f"X_indiseek_{key}": rng.normal(size=(120, 2)) for key in ("shared", "rna", "prot")}
