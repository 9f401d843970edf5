from __future__ import annotations

import re

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from indiseek.data import make_setup

BARCODES = [f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{i:04d}" for i in range(120)]


def _modality(names: list[str]) -> AnnData:
    values = 1 + np.random.default_rng(0).poisson(3.0, (len(names), 4)).astype(np.float32)
    return AnnData(values, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list("abcd")))


def _pair(a: list[str], b: list[str]) -> mudata.MuData:
    second = _modality(b)
    second.var_names = list("efgh")
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"rna": _modality(a), "prot": second})


SUFFIX, ORDER = "names differ by a suffix", "the same cells in another order"
# Names of the cells in both modalities, and what is said, one after another until nothing is left to say.
CASES = {
    "order": (BARCODES, BARCODES[::-1], ORDER),
    "suffix": (
        [f"{name}-1" for name in BARCODES],
        BARCODES,
        f"{SUFFIX}, as 'AA0000-1' in 'rna' and 'AA0000' in 'prot'",
    ),
    "suffix on the other": (BARCODES, [f"{name}-1" for name in BARCODES], SUFFIX),
    "two suffixes": ([f"{x}-1" for x in BARCODES], [f"{x}-2" for x in BARCODES], SUFFIX),
    "prefix": ([f"lane1_{name}" for name in BARCODES], BARCODES, "names differ by a prefix, as 'lane1_AA0000'"),
    "case": ([name.lower() for name in BARCODES], BARCODES, "names differ by upper and lower case"),
    "both": ([f"s#{name}-1" for name in BARCODES], BARCODES, "names differ by a prefix and a suffix"),
    "suffix and order": ([f"{name}-1" for name in BARCODES], BARCODES[::-1], SUFFIX, ORDER),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_advice_can_be_followed_and_then_it_works(kind):
    first, second, *messages = CASES[kind]
    mdata = _pair(first, second)
    for said in messages:
        with pytest.raises(ValueError, match="expected paired cells, .*got in 'prot' ") as error:
            make_setup(mdata)
        assert said in str(error.value)
        names = {"mudata": mudata, "mdata": mdata}
        with mudata.set_options(pull_on_update=False):
            exec(
                re.search(
                    r"[;:] ((?:add it|take it away|put them in order and build the MuData again): )(.*)\.$",
                    str(error.value),
                ).group(2),
                names,
            )
        mdata = names["mdata"]
    assert make_setup(mdata).modalities == ("rna", "prot")


def test_other_differences_have_other_advice():
    with pytest.raises(
        ValueError,
        match=r"10 cells without it; keep .* muon.pp.intersect_obs\(mdata\), or train with all .*unpaired='keep'\)\.",
    ):
        make_setup(_pair(BARCODES, BARCODES[:110]))
    with pytest.raises(ValueError, match="got in 'prot' 10 cells more than in 'rna'; keep the paired cells with muon"):
        make_setup(_pair(BARCODES[:110], BARCODES))
    with pytest.raises(
        ValueError, match="no name is in both, as 'AA0000' in 'rna' and 'cell0' in 'prot'; give the same"
    ):
        make_setup(_pair(BARCODES, [f"cell{i}" for i in range(120)]))
    stale = _pair(BARCODES, BARCODES)
    for name in ("rna", "prot"):
        stale.mod[name] = stale[name][:110].copy()
    with pytest.raises(
        ValueError, match=r"expected paired cells.* than in .obs of the MuData; call mdata.update\(\)\."
    ):
        make_setup(stale)
    with mudata.set_options(pull_on_update=False):
        stale.update()
        make_setup(stale)
        hto = _modality(BARCODES)
        hto.var_names = list("ijkl")
        three = mudata.MuData({**_pair(BARCODES[:110], BARCODES[:110]).mod, "hto": hto})
    with pytest.raises(ValueError, match=r"got in 'rna' 10 cells without it; keep the paired cells with muon"):
        make_setup(three, ["rna", "prot"])
