"""The cells of the quality table: data, one split for all methods, and the features that all methods are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mudata
import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from indiseek import data, datasets, simulation
from indiseek.simulation import Simulation

Array = NDArray[np.floating]

# Principal components of a simulated modality, as many as carry the mixed factors.
_N_COMPONENTS = 15
# The probes are fitted on test cells too: with few of them they, not the codes, are what is measured.
_TRAIN, _VALIDATION, _TEST = 5000, 500, 6500
_SMOKE_CELLS = 1000


@dataclass(frozen=True, eq=False)
class Cells:
    """Paired cells with their split.

    Attributes
    ----------
    mdata
        What a model is given.
    features
        By modality what the package's default transform, fitted on the training cells, makes of all cells,
        ``(n_cells, n_features)``. Peers that take arrays get these; every method is certified on them.
    train, validation, test
        Sorted positions.
    truth
        True factors of simulated cells.
    """

    mdata: MuData
    features: dict[str, Array]
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    truth: Simulation | None = None

    @property
    def parts(self) -> list[NDArray[np.intp]]:
        """The split as models take it."""
        return [self.train, self.validation, self.test]

    def take(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        """Features of some cells by modality."""
        return {name: x[rows] for name, x in self.features.items()}


def _split(mdata: MuData, sizes: tuple[int, int], seed: int, truth: Simulation | None = None) -> Cells:
    """Split at random, fit the default transforms on the training cells."""
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    train, validation, test = (np.sort(part) for part in np.split(order, np.cumsum(sizes)))
    cells, transforms = data.Cells.to_train_on(mdata, data.make_setup(mdata), {})
    features = {}
    for name, matrix in cells.values.items():
        transforms[name].fit(matrix, train)
        features[name] = transforms[name].apply_to(matrix).numpy().astype(np.float64)
    return Cells(mdata, features, train, validation, test, truth)


def _sizes(n_cells: int, train: float, validation: float) -> tuple[int, int]:
    return round(train * n_cells), round(validation * n_cells)


def _real(mdata: MuData, seed: int, smoke: bool, train: float, validation: float) -> Cells:
    with mudata.set_options(pull_on_update=False):
        if smoke and mdata.n_obs > _SMOKE_CELLS:
            mdata = mdata[:_SMOKE_CELLS].copy()
        # A feature that no cell has is no feature.
        kept = {name: adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy() for name, adata in mdata.mod.items()}
        mdata = MuData(kept)
    return _split(mdata, _sizes(mdata.n_obs, train, validation), seed)


def pbmc(seed: int, shared: Path, smoke: bool) -> Cells:
    """Blood cells that ship with the package: 4,500 / 500 / 1,855."""
    return _real(datasets.pbmc10k_cite(), seed, smoke, 4500 / 6855, 500 / 6855)


def _file(path: Path) -> MuData:
    with mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(path)


def atac(seed: int, shared: Path, smoke: bool) -> Cells:
    """RNA and open chromatin of mouse cortex: seven tenths, a tenth, the rest."""
    return _real(_file(shared / "mop_snareseq_multiome.h5mu"), seed, smoke, 0.7, 0.1)


def bmmc(seed: int, shared: Path, smoke: bool) -> Cells:
    """600 bone marrow cells with 134 proteins: 400 / 50 / 150, too few for a verdict."""
    return _real(_file(shared / "bmmc_cite_starter.h5mu"), seed, smoke, 2 / 3, 1 / 12)


def _components(truth: Simulation, seed: int, n_train: int) -> MuData:
    """Leading principal components of each modality, their mean variance 1, axes from the training cells."""
    rows = np.random.default_rng(seed).permutation(len(truth.shared))[:n_train]
    modalities = {}
    for name, x in truth.features.items():
        axes = PCA(_N_COMPONENTS, random_state=0).fit(x[rows])
        components = axes.transform(x) / np.sqrt(axes.explained_variance_.mean())
        modalities[name] = AnnData(components.astype(np.float32))
        modalities[name].obs_names = [f"cell_{i}" for i in range(len(x))]
        modalities[name].var_names = [f"{name}_PC{i + 1}" for i in range(_N_COMPONENTS)]
    with mudata.set_options(pull_on_update=False):
        return MuData(modalities)


def _simulated(truth: Simulation, seed: int) -> Cells:
    n_cells = _TRAIN + _VALIDATION + _TEST
    sizes = _sizes(len(truth.shared), _TRAIN / n_cells, _VALIDATION / n_cells)
    return _split(_components(truth, seed, sizes[0]), sizes, seed, truth)


def clusters(seed: int, shared: Path, smoke: bool) -> Cells:
    """Simulated cells: 5 shared factors, a modality 3 private ones and a private state of 3 clusters."""
    n_cells = _SMOKE_CELLS if smoke else _TRAIN + _VALIDATION + _TEST
    return _simulated(simulation.simulate_factors(n_cells, 5, (3, 3), n_clusters=3, seed=seed), seed)


def factors(seed: int, shared: Path, smoke: bool) -> Cells:
    """Simulated cells: 5 shared factors and 5 private ones a modality."""
    n_cells = _SMOKE_CELLS if smoke else _TRAIN + _VALIDATION + _TEST
    return _simulated(simulation.simulate_factors(n_cells, 5, (5, 5), seed=seed), seed)


FILES = {"atac": "mop_snareseq_multiome.h5mu", "bmmc": "bmmc_cite_starter.h5mu"}
DATA = {"pbmc": pbmc, "clusters": clusters, "factors": factors, "atac": atac, "bmmc": bmmc}
