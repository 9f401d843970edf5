"""Every test that asks for a case runs over every model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from model_contract import FAST, MODELS, Case, latents
from mudata import MuData

from indiseek.objectives import ClosedFormFlowObjective


@contextmanager
def _steps_taken() -> Iterator[None]:
    """Whatever a closed form has left: a stage that is computed has no epochs in which anything could happen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClosedFormFlowObjective, "most_told", -math.inf)
        yield


@pytest.fixture(scope="module", autouse=True)
def steps_taken() -> Iterator[None]:
    with _steps_taken():
        yield


@pytest.fixture(scope="session", params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="session")
def fitted(case: Case, make_mdata: Callable[[int], MuData]) -> tuple[Any, MuData]:
    """A trained model and its cells. Not to be changed."""
    mdata = make_mdata(200)
    model = case.new(mdata)
    with _steps_taken():
        model.train(**FAST | {"max_epochs": 2})
    return model, mdata


@pytest.fixture(scope="session")
def reference(case: Case, make_mdata: Callable[[int], MuData]) -> dict[str, np.ndarray]:
    model = case.new(make_mdata(150))
    with _steps_taken():
        model.train(**FAST)
    return latents(model)
