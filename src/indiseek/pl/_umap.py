from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata
import numpy as np
import scanpy as sc

from indiseek._checks import check_number, check_seed, check_strings

from ._figure import check_mdata

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mudata import MuData


# UMAP's own choice for large data; its 500 for small data take 2.5 times as long and look the same.
_N_EPOCHS = 200


def latent(mdata: MuData, key: str) -> np.ndarray:
    """The latent codes ``mdata.obsm[key]``, shape ``(n_cells, n_latent)``, or a clear error."""
    if key not in mdata.obsm:
        # mudata keeps a mask of cells under each modality's name, which is no latent space.
        present = [name for name in mdata.obsm if name not in mdata.mod]
        raise KeyError(
            f"expected latents in mdata.obsm[{key!r}], got the keys {present}; "
            "call model.train() or model.write_latents(mdata) first"
        )
    codes = np.asarray(mdata.obsm[key])
    if codes.ndim != 2:
        raise ValueError(f"expected mdata.obsm[{key!r}] of shape (n_cells, n_latent), got {codes.shape}; give codes.")
    if not np.isfinite(codes).all():
        n_bad = int((~np.isfinite(codes).all(axis=1)).sum())
        raise ValueError(
            f"expected finite latents in mdata.obsm[{key!r}], got {n_bad} cells with NaN or inf; drop them"
        )
    return codes


def umap_coordinates(
    mdata: MuData, keys: Iterable[str], *, seed: int = 0, n_neighbors: int = 15, min_dist: float = 0.4
) -> dict[str, np.ndarray]:
    """Two-dimensional UMAP of latent spaces, for plotting.

    scanpy's neighbours and UMAP run on a temporary object; nothing is written into ``mdata``.

    Parameters
    ----------
    mdata
        Holds the latents in ``.obsm``.
    keys
        Keys of ``mdata.obsm``, such as ``"X_indiseek_shared"``.
    seed
        Makes the coordinates reproducible on one machine.
    n_neighbors
        Neighbours of each cell in the graph; reduced for fewer cells than that.
    min_dist
        UMAP's smallest distance between embedded points.

    Returns
    -------
    dict
        For each key an array of shape ``(n_cells, 2)``, float32, in the order of the cells.

    Raises
    ------
    KeyError
        If a key is not in ``mdata.obsm``.
    ValueError
        If latents are not two-dimensional or not finite, or there are fewer than four cells.

    References
    ----------
    McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection", arXiv 1802.03426 (2018).
    """
    check_mdata(mdata)
    check_seed("seed", seed)
    check_number("n_neighbors", n_neighbors, low=2, whole=True)
    check_number("min_dist", min_dist, low=0, high=1)
    codes = {key: latent(mdata, key) for key in check_strings("keys", keys)}
    if mdata.n_obs < 4:
        raise ValueError(f"expected at least 4 cells for a UMAP, got {mdata.n_obs}; take more.")
    return {key: _umap(x, seed, min(n_neighbors, mdata.n_obs - 1), min_dist) for key, x in codes.items()}


def _umap(codes: np.ndarray, seed: int, n_neighbors: int, min_dist: float) -> np.ndarray:
    adata = anndata.AnnData(obsm={"latent": codes.astype(np.float32)})
    with warnings.catch_warnings():
        # A fixed seed costs UMAP its threads, and it says so at each call.
        warnings.filterwarnings("ignore", message=".*n_jobs value", category=UserWarning)
        sc.pp.neighbors(adata, n_neighbors=n_neighbors, use_rep="latent", random_state=seed)
        sc.tl.umap(adata, min_dist=min_dist, maxiter=_N_EPOCHS, random_state=seed)
    return np.asarray(adata.obsm["X_umap"], dtype=np.float32)
