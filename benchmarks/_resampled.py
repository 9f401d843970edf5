"""Cells of any number: real ones of the sample, resampled with fresh Poisson noise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset
from mudata import MuData
from scipy import sparse

from indiseek import datasets

N_GENES, N_PROTEINS = 2000, 100
BLOCK_CELLS = 10_000
DESCRIPTION = (
    f"Real cells resampled with fresh Poisson noise: the {N_GENES:,} genes of highest mean and {N_PROTEINS} "
    "proteins drawn from the sample's 14, each with noise of its own."
)


def resampled(n_cells: int, n_genes: int, n_proteins: int, *, n_threads: int) -> MuData:
    """`n_cells` cells in memory; the same ones whatever the number of threads."""
    mdata = datasets.pbmc10k_cite()
    rna, prot = mdata["rna"].X, mdata["prot"].X
    genes = _genes(rna, n_genes)
    rna = rna[:, genes].tocsr()
    starts = range(0, n_cells, BLOCK_CELLS)
    rng, *block_rngs = np.random.default_rng(0).spawn(1 + len(starts))
    proteins = rng.integers(prot.shape[1], size=n_proteins)

    def block(start: int) -> tuple[sparse.csr_matrix, np.ndarray]:
        rng = block_rngs[start // BLOCK_CELLS]
        rows = rng.integers(rna.shape[0], size=min(BLOCK_CELLS, n_cells - start))
        counts = rna[rows]
        counts.data = rng.poisson(counts.data).astype(np.float32)
        counts.eliminate_zeros()
        return counts, rng.poisson(prot[rows][:, proteins]).astype(np.float32)

    with ThreadPoolExecutor(n_threads) as pool:
        counts, proteins_of = zip(*pool.map(block, starts), strict=True)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    var = {"rna": mdata["rna"].var_names[genes], "prot": [f"protein{j}" for j in range(n_proteins)]}
    values = {"rna": sparse.vstack(counts, format="csr"), "prot": np.concatenate(proteins_of)}
    with mudata.set_options(pull_on_update=False):
        return MuData({name: AnnData(x, obs, pd.DataFrame(index=var[name])) for name, x in values.items()})


def _genes(rna: sparse.csr_matrix, n_genes: int) -> np.ndarray:
    """Positions of the genes of highest mean."""
    return np.sort(np.argsort(-np.asarray(rna.mean(axis=0)).ravel(), kind="stable")[:n_genes])


def write_resampled(path: Path, n_cells: int) -> None:
    """Write `n_cells` cells to an h5mu, block by block, never all in memory."""
    mdata = datasets.pbmc10k_cite()
    rna, prot = mdata["rna"].X, mdata["prot"].X
    genes = _genes(rna, N_GENES)
    rna, rng = rna[:, genes], np.random.default_rng(0)
    proteins = rng.integers(prot.shape[1], size=N_PROTEINS)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    var = {"rna": mdata["rna"].var_names[genes], "prot": [f"protein{j}" for j in range(N_PROTEINS)]}
    with mudata.set_options(pull_on_update=False):
        empty = {
            k: AnnData(sparse.csr_matrix((n_cells, len(v)), dtype=np.float32), obs, pd.DataFrame(index=v))
            for k, v in var.items()
        }
        MuData(empty).write(path)
    with h5py.File(path, "r+") as file:
        groups = {name: file[f"mod/{name}"] for name in var}
        del groups["prot"]["X"]
        chunks = (min(1000, n_cells), N_PROTEINS)
        dense = groups["prot"].create_dataset("X", (n_cells, N_PROTEINS), np.float32, chunks=chunks)
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        del groups["rna"]["X"]
        group = groups["rna"].create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [0, N_GENES]})
        for key, dtype in {"data": np.float32, "indices": np.int32, "indptr": np.int64}.items():
            n = int(key == "indptr")
            group.create_dataset(key, data=np.zeros(n, dtype), maxshape=(None,), chunks=(2**17,), compression="lzf")
        for start in range(0, n_cells, BLOCK_CELLS):
            rows = rng.integers(rna.shape[0], size=min(BLOCK_CELLS, n_cells - start))
            counts = rna[rows]
            counts.data = rng.poisson(counts.data).astype(np.float32)
            counts.eliminate_zeros()
            sparse_dataset(group).append(counts)
            dense[start : start + len(rows)] = rng.poisson(prot[rows][:, proteins])
