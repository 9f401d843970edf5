"""The same values in every form in which they may be stored give the same latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mudata
import numpy as np
import pytest
from anndata import AnnData
from model_contract import (
    FAST,
    assert_content,
    assert_same,
    content,
    copy_of,
    latents,
    once,
)
from mudata import MuData
from scipy import sparse

from indiseek.data import convert, open_mudata


def _h5mu(mdata: MuData, tmp_path: Any, backed: str | None) -> MuData:
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
        return mudata.read_h5mu(tmp_path / "cells.h5mu", backed=backed)


def _zarr(mdata: MuData, tmp_path: Any) -> MuData:
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    convert(tmp_path / "cells.h5mu", tmp_path / "cells.zarr", show_progress=False)
    return open_mudata(tmp_path / "cells.zarr")


def _cast(change_values: Callable[[np.ndarray], Any]) -> Callable[..., MuData]:
    def change(adata: AnnData) -> AnnData:
        x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
        return AnnData(change_values(x), obs=adata.obs, var=adata.var)

    return lambda mdata, tmp_path: copy_of(mdata, dict.fromkeys(mdata.mod, change))


FORMS = {
    "dense": _cast(np.asarray),
    "csr_matrix": _cast(sparse.csr_matrix),
    "csc_matrix": _cast(sparse.csc_matrix),
    "csr_array": _cast(sparse.csr_array),
    "int": _cast(lambda x: x.astype(np.int64)),
    "sparse int": _cast(lambda x: sparse.csr_matrix(x.astype(np.int32))),
    "float64": _cast(lambda x: x.astype(np.float64)),
    "from file": lambda mdata, tmp_path: _h5mu(mdata, tmp_path, None),
    "backed": lambda mdata, tmp_path: _h5mu(mdata, tmp_path, "r"),
    "zarr": _zarr,
    "backed dense": lambda mdata, tmp_path: _h5mu(FORMS["dense"](mdata, tmp_path), tmp_path, "r"),
}


def _assert_reference(case, cells: MuData, reference: dict[str, np.ndarray]) -> None:
    model = case.new(cells)
    model.train(**FAST, write_latents=not cells.isbacked)
    assert_same(latents(model), reference)


@once
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_values_gives_the_same_latents(case, mdata, reference, form, tmp_path):
    _assert_reference(case, FORMS[form](mdata, tmp_path), reference)


@pytest.mark.parametrize("form", ["zarr", "backed dense"])
def test_cells_on_disk_give_every_model_the_same_latents(case, mdata, reference, form, tmp_path):
    _assert_reference(case, FORMS[form](mdata, tmp_path), reference)


def test_a_view_gives_the_same_latents_and_its_parent_stays_as_it_was(case, make_mdata, reference):
    parent = make_mdata(200)
    before = content(parent)
    view = parent[:150]
    model = case.new(view)
    model.train(**FAST, write_latents=False)
    assert_same(latents(model), reference)
    assert_content(content(parent), before)
