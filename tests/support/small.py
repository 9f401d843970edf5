"""Small real cells, sizes of a small model, and the end of a process: one place for what many tests need."""

from __future__ import annotations

import mudata
import numpy as np
from anndata import AnnData
from mudata import MuData

from indiseek.datasets import pbmc10k_cite
from indiseek.models import NCEClub
from indiseek.nn import Encoder

N_CELLS, N_GENES = 600, 300
SIZES = {"n_shared": 4, "n_specific": 3, "encoder": Encoder(hidden=(32,))}
SMALL = SIZES | {"specific": NCEClub(critic_hidden=(16,))}


class Killed(BaseException):
    """Nothing catches it, as nothing catches the end of a process."""


def pair(**modalities: AnnData) -> MuData:
    """Pair modalities without the warnings of mudata's coming defaults."""
    with mudata.set_options(pull_on_update=False):
        return MuData(modalities)


def cells() -> MuData:
    """600 PBMCs x (300 genes, raw CSR counts of density below .3; 14 proteins, dense counts)."""
    full = pbmc10k_cite()
    rows = np.sort(np.random.default_rng(0).choice(full.n_obs, N_CELLS, replace=False))
    detected = full["rna"].X[rows].getnnz(axis=0)
    genes = np.sort(np.argsort(-detected, kind="stable")[150 : 150 + N_GENES])
    return pair(rna=full["rna"][rows][:, genes].copy(), prot=full["prot"][rows].copy())
