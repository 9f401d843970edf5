"""Small real cells and a small trained model, made once a session."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mudata import MuData
from small import N_CELLS, SMALL, cells, pair

from indiseek.models import IndiSeekModel

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
FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "show_progress": False}


def pytest_configure(config: pytest.Config) -> None:
    """A process that a shell has put into the background ignores Ctrl-C, of which tests want to see what it does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """The small real cells. Copy before changing."""
    return cells()


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
