"""Small real cells and a small trained model, made once a session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import mudata
import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData

from indiseek.datasets import pbmc10k_cite
from indiseek.models import IndiSeekModel, NCEClub
from indiseek.nn import Encoder

# The files that take longest, in the order in which ``make test`` hands them out.
LONGEST = (
    "train/test_distributed.py",
    "metrics/test_certify.py",
    "contracts/test_model_resume.py",
    "pl/test_umap.py",
    "models/test_results.py",
    "objectives/test_distance_info_nce.py",
    "tuning/test_search.py",
    "contracts/test_model_names.py",
    "contracts/test_model_tools.py",
    "test_cli.py",
)
TESTS = Path(__file__).parent
N_CELLS, N_GENES = 600, 300
SMALL = {
    "specific": NCEClub(critic_hidden=(16,)),
    "n_shared": 4,
    "n_specific": 3,
    "encoder": Encoder(hidden=(32,)),
}
FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "show_progress": False}


def pair(**modalities: AnnData) -> MuData:
    """Pair modalities without the warnings of mudata's coming defaults."""
    with mudata.set_options(pull_on_update=False):
        return MuData(modalities)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the work, they begin with the longest: none should be left to one of them."""
    if hasattr(config, "workerinput"):
        place = {TESTS / name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_runtest_setup() -> None:
    """Tiny matrices gain nothing from more threads, and a fixed number keeps sums in one order.

    Before every test, because scanpy's compiled functions set the number for the whole process, and before its
    fixtures, of which some train.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_cells() -> MuData:
    """600 PBMCs x (300 genes, raw CSR counts of density below .3; 14 proteins, dense counts). Copy before changing."""
    full = pbmc10k_cite()
    rows = np.sort(np.random.default_rng(0).choice(full.n_obs, N_CELLS, replace=False))
    detected = full["rna"].X[rows].getnnz(axis=0)
    genes = np.sort(np.argsort(-detected, kind="stable")[150 : 150 + N_GENES])
    return pair(rna=full["rna"][rows][:, genes].copy(), prot=full["prot"][rows].copy())


@pytest.fixture(scope="session")
def make_mdata(real_cells: MuData) -> Callable[[int], MuData]:
    """Fresh MuData of the first cells, free to be changed."""

    def make(n_cells: int = N_CELLS) -> MuData:
        return pair(**{name: adata[:n_cells].copy() for name, adata in real_cells.mod.items()})

    return make


@pytest.fixture
def mdata(make_mdata: Callable[[int], MuData]) -> MuData:
    """150 fresh cells."""
    return make_mdata(150)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the package says, which does not reach the root logger."""
    logger = logging.getLogger("indiseek")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def trained(make_mdata: Callable[[int], MuData]) -> tuple[IndiSeekModel, MuData]:
    """A small trained model and its 600 cells. Not to be changed."""
    cells = make_mdata()
    model = IndiSeekModel(cells, **SMALL)
    model.train(**FAST | {"max_epochs": 5})
    return model, cells
