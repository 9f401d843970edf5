from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from indiseek.datasets import bmcite

N_CELLS, N_GENES, N_PROTEINS = 11, 6, 3
CELLS = [f"cell{i}" for i in range(N_CELLS)]


def _counts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"RNA": rng.poisson(2.0, (N_CELLS, N_GENES)), "ADT": rng.poisson(9.0, (N_CELLS, N_PROTEINS))}


def _as_seurat(**names: str) -> mudata.MuData:
    """Cells as Seurat's object is written: normalised values in X, counts in a layer by columns, CD14 in both."""
    parts = {}
    for name, counts in _counts().items():
        features = ["CD14", *(f"{name}{i}" for i in range(1, counts.shape[1]))]
        part = anndata.AnnData(
            sparse.csc_matrix(np.log1p(counts.astype(np.float64))),
            obs=pd.DataFrame(index=CELLS),
            var=pd.DataFrame({"vst.mean": 1.0}, index=features),
            layers={"counts": sparse.csc_matrix(counts.astype(np.float64))},
            obsm={"X_spca": np.ones((N_CELLS, 2))},
        )
        parts[names.get(name, name)] = part
    with mudata.set_options(pull_on_update=False), pytest.warns(UserWarning, match="not unique"):
        mdata = mudata.MuData(parts)
        mdata.obs = pd.DataFrame(
            {"celltype.l2": pd.Categorical(["NK", "GMP"] * 5 + ["NK"]), "lane": "HumanHTO3"}, index=CELLS
        )
    return mdata


def _written(mdata, path):
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(path)
    return path


@pytest.mark.parametrize("names", [{}, {"RNA": "rna", "ADT": "prot"}])
def test_counts_and_types_are_read_and_nothing_else(names, tmp_path):
    written = _as_seurat(**names)
    mdata = bmcite(_written(written, tmp_path / "bmcite.h5mu"))
    assert list(mdata.mod) == ["rna", "prot"]
    for name, counts in zip(mdata.mod, _counts().values(), strict=True):
        part = mdata[name]
        assert isinstance(part.X, sparse.csr_matrix) and part.X.dtype == np.float32
        np.testing.assert_array_equal(part.X.toarray(), counts)
        assert not part.layers and not part.obsm and part.var.empty and "CD14" in part.var_names
        assert list(part.obs_names) == CELLS
    pd.testing.assert_frame_equal(mdata.obs, written.obs, check_dtype=False, check_categorical=False)


def test_counts_in_x_are_taken(tmp_path):
    mdata = _as_seurat()
    for name, counts in _counts().items():
        mdata[name].X = counts.astype(np.float32)
        del mdata[name].layers["counts"]
    read = bmcite(str(_written(mdata, tmp_path / "plain.h5mu")))
    np.testing.assert_array_equal(read["prot"].X, _counts()["ADT"])


def test_errors_say_how_the_file_is_had(tmp_path):
    had = r'; in R, MuDataSeurat::WriteH5MU\(SeuratData::LoadData\("bmcite"\)'
    with pytest.raises(FileNotFoundError, match=f"expected a file with the cells, got .*none.h5mu.*{had}"):
        bmcite(tmp_path / "none.h5mu")
    (tmp_path / "bmcite.rds").write_text("")
    with pytest.raises(ValueError, match=f"expected an .h5mu, got 'bmcite.rds'{had}"):
        bmcite(tmp_path / "bmcite.rds")

    some = _as_seurat(ADT="HTO")
    del some.obs["celltype.l2"]
    with pytest.raises(ValueError, match=rf"got 'some.h5mu' without \['ADT', 'celltype.l2'\]{had}"):
        bmcite(_written(some, tmp_path / "some.h5mu"))
    normalised = _as_seurat()
    del normalised["RNA"].layers["counts"]
    with pytest.raises(ValueError, match=f"expected raw counts in the layer 'counts' or in .X of 'rna', got .*{had}"):
        bmcite(_written(normalised, tmp_path / "normalised.h5mu"))
    with mudata.set_options(pull_on_update=False), pytest.warns(UserWarning, match="not unique"):
        fewer = mudata.MuData({"RNA": _as_seurat()["RNA"], "ADT": _as_seurat()["ADT"][:-1].copy()})
        fewer.obs = _as_seurat().obs
    with pytest.raises(ValueError, match=f"expected the same cells in the same order .* with 11 and 10 cells{had}"):
        bmcite(_written(fewer, tmp_path / "fewer.h5mu"))
