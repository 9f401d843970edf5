"""Coarse cell labels for the PBMC sample, gated on its raw protein counts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping

PBMC_THRESHOLDS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "CD3": (250,),
        "CD4": (100, 1000),
        "CD8a": (300,),
        "CD14": (200,),
        "CD16": (300,),
        "CD19": (40,),
        "CD56": (100,),
    }
)
"""Raw counts at which a protein of :func:`pbmc10k_cite` counts as present; CD4 has an intermediate and a high level."""

_LABELS = ("CD4 T", "CD8 T", "NK", "B", "CD14 mono", "CD16 mono", "unassigned")


def gate_pbmc(mdata: MuData, *, modality: str = "prot") -> pd.Series:
    """Coarse cell types of the PBMC sample from its raw protein counts.

    A protein is present where its count is at least the threshold in :data:`PBMC_THRESHOLDS`. Each threshold is the
    valley between the two modes (three for CD4) of the histogram of log counts over all cells of :func:`pbmc10k_cite`.

    =============  ====  ======  =====  =====  =====  =====  =====
    label          CD3   CD4     CD8a   CD14   CD16   CD19   CD56
    =============  ====  ======  =====  =====  =====  =====  =====
    ``CD4 T``      yes   high    no     no            no
    ``CD8 T``      yes   < high  yes    no            no
    ``NK``         no    no             no            no     yes
    ``B``          no    no             no            yes    no
    ``CD14 mono``  no                   yes    no     no     no
    ``CD16 mono``  no    >= mid                yes    no     no
    =============  ====  ======  =====  =====  =====  =====  =====

    An empty entry is not looked at. Every other cell is ``unassigned``: doublets, T cells with neither or both of CD4
    and CD8a, dendritic cells, platelets.

    Parameters
    ----------
    mdata
        The object from :func:`pbmc10k_cite`, or a subset of its cells. The thresholds depend on the sequencing depth
        and do not carry over to other data.
    modality
        Name of the protein modality, which holds raw counts in ``.X``.

    Returns
    -------
    pandas.Series
        Categorical of length n_cells, indexed by the cell names of the modality, named ``"gate"``.

    Raises
    ------
    KeyError
        If the modality or one of the seven proteins is missing.
    ValueError
        If the proteins are not raw counts.

    Notes
    -----
    The labels are functions of the protein modality alone. They colour plots and check that structure survives, but
    they are no neutral truth: protein carries them by construction, so they cannot tell what either modality adds.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"expected a MuData, got {type(mdata).__name__}; give the cells with their proteins.")
    if not isinstance(modality, str) or modality not in mdata.mod:
        raise KeyError(f"expected a protein modality {modality!r}, got {list(mdata.mod)}; pass modality=...")
    adata = mdata.mod[modality]
    columns = {str(name).removesuffix("_TotalSeqB"): i for i, name in enumerate(adata.var_names)}
    missing = [name for name in PBMC_THRESHOLDS if name not in columns]
    if missing:
        raise KeyError(f"expected the proteins {list(PBMC_THRESHOLDS)}, got none called {missing} in {modality!r}")
    x = adata.X[:, [columns[name] for name in PBMC_THRESHOLDS]]
    counts = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts == np.rint(counts)).all()):
        raise ValueError(
            f"expected raw counts in mdata[{modality!r}].X, got values that are negative or not whole; "
            "gate before normalising"
        )
    # 0 absent, 1 present; CD4: 1 intermediate, 2 high.
    levels = (
        np.searchsorted(thresholds, counts[:, i], side="right") for i, thresholds in enumerate(PBMC_THRESHOLDS.values())
    )
    cd3, cd4, cd8a, cd14, cd16, cd19, cd56 = levels
    t_cell = (cd3 == 1) & (cd14 == 0) & (cd19 == 0)
    myeloid = (cd3 == 0) & (cd19 == 0) & (cd56 == 0)
    gates = [
        t_cell & (cd4 == 2) & (cd8a == 0),
        t_cell & (cd4 < 2) & (cd8a == 1),
        (cd3 == 0) & (cd4 == 0) & (cd14 == 0) & (cd19 == 0) & (cd56 == 1),
        (cd3 == 0) & (cd4 == 0) & (cd14 == 0) & (cd19 == 1) & (cd56 == 0),
        myeloid & (cd14 == 1) & (cd16 == 0),
        myeloid & (cd4 >= 1) & (cd16 == 1),
    ]
    codes = np.select(gates, range(len(gates)), default=len(gates))
    labels = pd.Categorical.from_codes(codes, categories=list(_LABELS))
    return pd.Series(labels, index=adata.obs_names.copy(), name="gate")
