"""Random MuDatas: what is taken gives codes that are finite and the cells' own, and what is refused is refused well.

``make test`` tries 18 that are taken and 2 of each fault, the same ones each time; ``INDISEEK_EXAMPLES=340`` ten times
as many others.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData
from scipy import sparse
from small import pair

from indiseek.models import Flow, IndiSeekModel
from indiseek.nn import Encoder

N_EXAMPLES = os.environ.get("INDISEEK_EXAMPLES")
N_TAKEN, N_REFUSED, N_DEFAULT = 18, 2, 34
# Codes of the same cells in other batches.
ATOL = 2e-4
TINY = {"n_shared": 2, "specific": Flow(n_context=0), "encoder": Encoder(hidden=(4,))}
FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}

FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}
DTYPES = ("float32", "float64", "int32", "int64", "uint16")
NAMES = {
    "plain": "{}",
    "markup": "[bold]{} [/foo]",
    "mathematics": r"$\foo_{}$",
    "escapes": "\x1b[31m{}",
    "path": "a/b.{}",
    "unicode": "β{}-Δ",
}
PAIRS = (("rna", "prot"), ("adt", "GEX"), ("first", "second one"), ("[bold]", "$x$"))

Spoil = Callable[[np.random.Generator, AnnData], AnnData]
# What is wrong with the second modality, and what is then said.
FAULTS: dict[str, tuple[Spoil, str]] = {
    "negative": (lambda rng, a: _with(a, rng.integers(a.n_obs), 0, -1.0), "counts of at least 0"),
    "nan": (lambda rng, a: _with(a, rng.integers(a.n_obs), 0, np.nan), "finite values"),
    "empty cell": (lambda rng, a: _with(a, rng.integers(a.n_obs), slice(None), 0.0), "counts in every cell"),
    "constant": (lambda rng, a: _with(a, slice(None), slice(None), 3.0), "features that vary"),
    "other order": (lambda rng, a: a[np.roll(np.arange(a.n_obs), 1)].copy(), "paired cells.*in another order; put"),
    "suffix": (
        lambda rng, a: _renamed(a, [f"{name}-1" for name in a.obs_names]),
        "paired cells.*by a suffix, as .*add",
    ),
    "fewer": (lambda rng, a: a[: a.n_obs - 3].copy(), "paired cells.*3 cells without it; .*intersect_obs"),
    "same names": (lambda rng, a: _renamed(a, ["x", "x", *a.obs_names[2:]]), "unique cell names"),
}


def _with(adata: AnnData, rows: Any, columns: Any, value: float) -> AnnData:
    x = np.array(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, dtype=np.float32)
    x[rows, columns] = value
    return AnnData(x, obs=adata.obs, var=adata.var)


def _renamed(adata: AnnData, names: list[str]) -> AnnData:
    with warnings.catch_warnings(action="ignore"):
        adata.obs_names = names
    return adata


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Any]:
    """What is drawn; the numbers come from a seed, so that an example is small to print."""
    return {
        "seed": draw(st.integers(0, 2**16)),
        "n_cells": draw(st.integers(100, 130)),
        "n_features": (draw(st.integers(4, 40)), draw(st.integers(2, 12))),
        "n_zero": (draw(st.integers(0, 5)), draw(st.integers(0, 2))),
        "density": (draw(st.sampled_from((0.1, 0.5, 0.9))), draw(st.sampled_from((0.5, 1.0)))),
        "form": (draw(st.sampled_from(list(FORMS))), draw(st.sampled_from(list(FORMS)))),
        "dtype": (draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))),
        "names": draw(st.sampled_from(list(NAMES))),
        "pair": draw(st.sampled_from(PAIRS)),
        "in_layer": draw(st.booleans()),
    }


def _modality(rng: np.random.Generator, drawn: dict[str, Any], i: int) -> AnnData:
    n_cells, n_features = drawn["n_cells"], drawn["n_features"][i]
    x = rng.poisson(rng.gamma(2.0, 4.0, n_features), (n_cells, n_features)) * (
        rng.random((n_cells, n_features)) < drawn["density"][i]
    )
    # Every cell has counts, and every feature varies.
    x[np.arange(n_cells), rng.integers(n_features, size=n_cells)] += 1
    x[0] += 1
    x[np.arange(n_features) + 1, np.arange(n_features)] += 2
    x = np.insert(x, rng.integers(n_features + 1, size=drawn["n_zero"][i]), 0, axis=1)
    names = pd.DataFrame(index=[NAMES[drawn["names"]].format(f"{i}_{j}") for j in range(x.shape[1])])
    cells = pd.DataFrame(index=[NAMES[drawn["names"]].format(f"c{j}") for j in range(n_cells)])
    return AnnData(FORMS[drawn["form"][i]](x.astype(drawn["dtype"][i])), obs=cells, var=names)


def _make(drawn: dict[str, Any], spoil: Spoil = lambda rng, a: a) -> MuData:
    rng = np.random.default_rng(drawn["seed"])
    parts = [_modality(rng, drawn, i) for i in (0, 1)]
    parts[1] = spoil(rng, parts[1])
    if drawn["in_layer"]:
        parts[0].layers["counts"] = parts[0].X
        parts[0].X = np.log1p(np.asarray(parts[0].X.toarray() if sparse.issparse(parts[0].X) else parts[0].X))
    with warnings.catch_warnings(action="ignore"):
        return pair(**dict(zip(drawn["pair"], parts, strict=True)))


def _model(drawn: dict[str, Any], mdata: MuData) -> IndiSeekModel:
    layers = {drawn["pair"][0]: "counts"} if drawn["in_layer"] else None
    IndiSeekModel.setup_mudata(mdata, modalities=drawn["pair"], layers=layers)
    return IndiSeekModel(mdata, **TINY)


def _codes(model: IndiSeekModel, mdata: MuData | None = None) -> list[np.ndarray]:
    own = [model.get_latent_representation(mdata, modality=name, kind="specific") for name in model.modalities]
    return [model.get_latent_representation(mdata), *own]


def _tried(n: int) -> settings:
    """As many examples of one kind in ``make test``, or that part of those that are asked for."""
    return settings(
        max_examples=n if N_EXAMPLES is None else max(1, n * int(N_EXAMPLES) // N_DEFAULT),
        derandomize=N_EXAMPLES is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@_tried(N_TAKEN)
@given(inputs())
def test_random_cells_are_taken_and_have_codes_of_their_own(drawn: dict[str, Any]) -> None:
    mdata = _make(drawn)
    model = _model(drawn, mdata)
    model.train(**FAST)
    codes = _codes(model)
    for code in codes:
        assert len(code) == drawn["n_cells"] and np.isfinite(code).all()
        # Else the codes of other cells would do as well.
        assert np.ptp(code, axis=0).max() > 100 * ATOL
    rng = np.random.default_rng(drawn["seed"])
    rows = rng.permutation(drawn["n_cells"])
    moved = pair(**{name: a[rows][:, rng.permutation(a.n_vars)].copy() for name, a in mdata.mod.items()})
    for code, other in zip(codes, _codes(model, moved), strict=True):
        np.testing.assert_allclose(other, code[rows], rtol=0, atol=ATOL)


# Every one of them, where a draw among all would leave some out.
@pytest.mark.parametrize("fault", FAULTS)
@_tried(N_REFUSED)
@given(drawn=inputs())
def test_random_cells_with_a_fault_are_refused_well(fault: str, drawn: dict[str, Any]) -> None:
    spoil, expected = FAULTS[fault]
    mdata = _make(drawn, spoil)
    with pytest.raises(ValueError, match=expected) as error:
        _model(drawn, mdata)
    assert re.fullmatch(r"expected .*, got .*; .*\.", str(error.value), re.DOTALL), str(error.value)
