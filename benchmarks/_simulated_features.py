"""Counts of genes and proteins that follow shared and private factors, with what is true of every feature."""

from __future__ import annotations

from typing import NamedTuple

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
N_SHARED, N_PRIVATE = 4, 3
_N_AGAIN = 10_000
_DEPTH = {"rna": 5_000.0, "prot": 4_000.0}


class Truth(NamedTuple):
    """Cells and what is true of them.

    Attributes
    ----------
    mdata
        Modalities rna and prot. Every twentieth protein is an isotype control: it follows no factor.
    factors
        Private factors by modality and shared ones by ``"shared"``, ``(n_cells, n_factors)``.
    features
        One row for each feature: ``modality``, ``feature`` and the true ``shared``, ``specific``, ``noise``.
    loadings
        By modality the true correlations of its features with its private factors, measured values without counting
        noise, ``(n_features, n_private)``.
    observed_loadings
        Likewise with the counting noise.
    """

    mdata: MuData
    factors: dict[str, Array]
    features: pd.DataFrame
    loadings: dict[str, Array]
    observed_loadings: dict[str, Array]


def simulate(n_cells: int, *, n_genes: int = 2000, n_proteins: int = 200, seed: int = 0) -> Truth:
    """Draw cells, and as many others as tell the truth of every feature.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_genes, n_proteins
        Number of features.
    seed
        Seed of all.
    """
    rng = np.random.default_rng(seed)
    layers = {"rna": _Layer(rng, "rna", n_genes), "prot": _Layer(rng, "prot", n_proteins)}
    shared = rng.normal(size=(n_cells, N_SHARED))
    factors, parts = {"shared": shared}, {}
    for name, layer in layers.items():
        factors[name] = rng.normal(size=(n_cells, N_PRIVATE))
        counts = layer.draw(rng, shared, factors[name], layer.depths(rng, n_cells))
        parts[name] = AnnData(
            sparse.csr_matrix(counts, dtype=np.float32) if name == "rna" else counts.astype(np.float32),
            obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]),
            var=pd.DataFrame(index=layer.names),
        )
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(parts)
    tables, loadings, observed = [], {}, {}
    for name, layer in layers.items():
        table, loadings[name], observed[name] = layer.truth(rng)
        tables.append(table)
    return Truth(mdata, factors, pd.concat(tables, ignore_index=True), loadings, observed)


class _Layer:
    def __init__(self, rng: np.random.Generator, name: str, n_features: int) -> None:
        self.name = name
        self.base = rng.normal(0.0, 1.2, size=n_features)
        # Heavy tails, as few features make a programme and many follow it a little.
        self.weights = rng.laplace(0.0, 0.25, size=(N_SHARED + N_PRIVATE, n_features))
        self.names = [f"{name}{j}" for j in range(n_features)]
        if name == "prot":
            for j in range(0, n_features, 20):
                self.weights[:, j] = 0.0
                self.names[j] = f"IgG{j // 20}_isotype_control"

    def depths(self, rng: np.random.Generator, n_cells: int) -> Array:
        return _DEPTH[self.name] * np.exp(rng.normal(0.0, 0.3, size=(n_cells, 1)))

    def draw(self, rng: np.random.Generator, shared: Array, private: Array, depth: Array) -> Array:
        logs = self.base + np.hstack([shared, private]) @ self.weights
        rates = np.exp(logs)
        # The depth of a panel is that of its antibodies, not of all that the cell has.
        total = rates.sum(axis=1, keepdims=True) if self.name == "rna" else np.exp(self.base).sum()
        return rng.poisson(depth * rates / total).astype(np.float64)

    def read(self, counts: Array) -> Array:
        if self.name == "rna":
            return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0))
        logs = np.log1p(counts)
        return logs - logs.mean(axis=1, keepdims=True)

    def truth(self, rng: np.random.Generator) -> tuple[pd.DataFrame, Array, Array]:
        n = _N_AGAIN
        shared, private, depth = rng.normal(size=(n, N_SHARED)), rng.normal(size=(n, N_PRIVATE)), self.depths(rng, n)
        one, again = (self.read(self.draw(rng, shared, private, depth)) for _ in range(2))
        repeated = _correlation(one, again)
        told = np.zeros(len(self.names))
        for _ in range(2):
            other = self.draw(rng, shared, rng.normal(size=private.shape), self.depths(rng, n))
            told += _correlation(one, self.read(other)) / 2
        observed = _correlations(one, private)
        table = pd.DataFrame({"modality": self.name, "feature": self.names})
        table["shared"], table["specific"], table["noise"] = told, repeated - told, 1.0 - repeated
        free = observed / np.sqrt(np.maximum(repeated, 1e-3))[:, None]
        return table, free, observed


def _correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).mean(axis=0) / np.maximum(np.sqrt((a * a).mean(axis=0) * (b * b).mean(axis=0)), 1e-12)


def _correlations(values: Array, factors: Array) -> Array:
    values, factors = values - values.mean(axis=0), factors - factors.mean(axis=0)
    product = values.T @ factors / len(values)
    return np.asarray(product / np.maximum(values.std(axis=0)[:, None] * factors.std(axis=0), 1e-12))
