"""Cells of which some lack a modality."""

from __future__ import annotations

import mudata
import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from small import pair


def parted(mdata: MuData, n_alone: int, seed: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of so many cells that keep their RNA only, and of as many that keep their protein only."""
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    return np.sort(order[:n_alone]), np.sort(order[n_alone : 2 * n_alone])


def mosaic(mdata: MuData, n_alone: int, seed: int = 0) -> MuData:
    """The same cells, of which some are in one modality; the proteins' cells in an order of their own."""
    rna_only, prot_only = parted(mdata, n_alone, seed)
    every = np.arange(mdata.n_obs)
    with_prot = np.setdiff1d(every, rna_only)[::-1]
    found = pair(rna=mdata["rna"][np.setdiff1d(every, prot_only)].copy(), prot=mdata["prot"][with_prot].copy())
    # As they were: paired cells and others among each other.
    with mudata.set_options(pull_on_update=False):
        found = found[found.obs_names.get_indexer(mdata.obs_names)].copy()
    found.obs = mdata.obs.loc[found.obs_names].copy()
    return found


def masked(mdata: MuData, n_alone: int, seed: int = 0) -> MuData:
    """The same cells with all values, and columns ``has_rna`` and ``has_prot`` that say which are to be seen."""
    found = pair(**{name: adata.copy() for name, adata in mdata.mod.items()})
    found.obs = mdata.obs.copy()
    for name, without in zip(("prot", "rna"), parted(mdata, n_alone, seed), strict=True):
        found.obs[f"has_{name}"] = ~np.isin(np.arange(mdata.n_obs), without)
    return found


COLUMNS = {"rna": "has_rna", "prot": "has_prot"}
