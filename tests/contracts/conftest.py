"""Every test that asks for a case runs over every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from model_contract import FAST, MODELS, Case, latents
from mudata import MuData


@pytest.fixture(scope="session", params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="session")
def fitted(case: Case, make_mdata: Callable[[int], MuData]) -> tuple[Any, MuData]:
    """A trained model and its cells. Not to be changed."""
    mdata = make_mdata(200)
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 2})
    return model, mdata


@pytest.fixture(scope="session")
def reference(case: Case, make_mdata: Callable[[int], MuData]) -> dict[str, np.ndarray]:
    model = case.new(make_mdata(150))
    model.train(**FAST)
    return latents(model)
