from __future__ import annotations

from importlib.resources import files

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from indiseek.datasets import PBMC_THRESHOLDS, gate_pbmc, pbmc10k_cite


@pytest.fixture(scope="module")
def mdata() -> mudata.MuData:
    return pbmc10k_cite()


def _column(mdata: mudata.MuData, gene: str) -> np.ndarray:
    return mdata["rna"][:, gene].X.toarray().ravel()


def test_sample_holds_paired_raw_counts(mdata):
    assert list(mdata.mod) == ["rna", "prot"]
    assert mdata["rna"].shape == (6855, 4000)
    assert mdata["prot"].shape == (6855, 14)
    assert sparse.issparse(mdata["rna"].X) and mdata["rna"].X.format == "csr"
    for values in (mdata["rna"].X.data, mdata["prot"].X):
        assert values.dtype == np.float32
        assert (values >= 0).all() and (values == np.rint(values)).all()
    assert mdata["rna"].obs_names.equals(mdata["prot"].obs_names)
    assert mdata.obs_names.is_unique
    assert "CD3_TotalSeqB" in mdata["prot"].var_names


def test_counts_are_those_of_the_original_file(mdata):
    # Totals of the file before it was recompressed.
    assert mdata["rna"].X.nnz == 2_518_605
    assert mdata["rna"].X.astype(np.float64).sum() == 7_637_545
    assert mdata["prot"].X.astype(np.float64).sum() == 40_167_067


def test_each_call_returns_a_fresh_object_and_keeps_the_users_option(mdata):
    before = mudata._core.config.OPTIONS["pull_on_update"]
    other = pbmc10k_cite()
    other["prot"].X[0, 0] = -1
    other.obs["note"] = 1
    assert mdata["prot"].X[0, 0] >= 0
    assert "note" not in pbmc10k_cite().obs
    assert mudata._core.config.OPTIONS["pull_on_update"] is before


def test_attribution_is_shipped_beside_the_file():
    text = (files("indiseek.datasets") / "PBMC10K_LICENSE.md").read_text()
    assert "10x Genomics" in text and "CC BY 4.0" in text and "27d65a9c" in text


def test_gates_agree_with_marker_genes(mdata):
    # The labels never see RNA, so the highest mean of a lineage's marker gene is an independent check of each gate.
    labels = gate_pbmc(mdata)
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert labels.index.equals(mdata.obs_names)
    assert labels.value_counts().min() > 50
    assert (labels == "unassigned").mean() < 0.1
    for gene, label in {"CD8B": "CD8 T", "GNLY": "NK", "MS4A1": "B", "LYZ": "CD14 mono", "FCGR3A": "CD16 mono"}.items():
        means = pd.Series(np.log1p(_column(mdata, gene)), index=labels.index).groupby(labels, observed=True).mean()
        assert means.idxmax() == label, gene
    cd3d = pd.Series(_column(mdata, "CD3D"), index=labels.index).groupby(labels, observed=True).mean()
    assert cd3d[["CD4 T", "CD8 T"]].min() > 10 * cd3d[["NK", "B", "CD14 mono", "CD16 mono"]].max()


def test_thresholds_are_at_valleys(mdata):
    names = [name.removesuffix("_TotalSeqB") for name in mdata["prot"].var_names]
    for protein, thresholds in PBMC_THRESHOLDS.items():
        logs = np.log10(1 + mdata["prot"].X[:, names.index(protein)])
        for threshold in thresholds:
            centre = np.log10(1 + threshold)
            near = (np.abs(logs - centre) < 0.1).sum()
            assert near < 0.35 * max((np.abs(logs - centre - shift) < 0.1).sum() for shift in np.arange(-1, 0, 0.1))
            assert near < max((np.abs(logs - centre - shift) < 0.1).sum() for shift in np.arange(0.1, 1.6, 0.1))


def test_gates_follow_the_table_cell_by_cell():
    #        CD3   CD4  CD8a CD14 CD16 CD19 CD56
    table = {
        "CD4 T": (250, 1000, 299, 199, 0, 39, 500),
        "CD8 T": (250, 999, 300, 199, 0, 39, 500),
        "NK": (249, 99, 800, 199, 5000, 39, 100),
        "B": (249, 99, 0, 199, 0, 40, 99),
        "CD14 mono": (249, 50, 0, 200, 299, 39, 99),
        "CD16 mono": (249, 100, 0, 0, 300, 39, 99),
        "unassigned": (250, 1000, 300, 0, 0, 0, 0),
    }
    labels = gate_pbmc(_proteins(np.array(list(table.values())), list(PBMC_THRESHOLDS)))
    assert labels.tolist() == list(table)
    doublets = np.array([(250, 1000, 0, 200, 0, 0, 0), (250, 1000, 0, 0, 0, 40, 0), (0, 0, 0, 200, 0, 40, 0)])
    assert set(gate_pbmc(_proteins(doublets, list(PBMC_THRESHOLDS)))) == {"unassigned"}


def test_gates_do_not_depend_on_the_other_cells_nor_on_the_order_of_proteins(mdata):
    labels = gate_pbmc(mdata)
    assert gate_pbmc(mdata[100:300]).tolist() == labels.iloc[100:300].tolist()
    reverse = _proteins(mdata["prot"].X[:200, ::-1], list(mdata["prot"].var_names[::-1]))
    assert gate_pbmc(reverse).tolist() == labels.iloc[:200].tolist()
    csc = _proteins(sparse.csc_matrix(mdata["prot"].X[:200]), list(mdata["prot"].var_names))
    assert gate_pbmc(csc).tolist() == labels.iloc[:200].tolist()


def test_gate_errors_say_what_to_do(mdata):
    with pytest.raises(KeyError, match="expected a protein modality 'adt'.*pass modality="):
        gate_pbmc(mdata, modality="adt")
    few = _proteins(np.zeros((3, 2)), ["CD3", "CD4"])
    with pytest.raises(KeyError, match="got none called .*'CD8a'"):
        gate_pbmc(few)
    normalised = _proteins(np.full((3, 7), 0.5), list(PBMC_THRESHOLDS))
    with pytest.raises(ValueError, match="expected raw counts.*gate before normalising"):
        gate_pbmc(normalised)


def _proteins(x, names):
    adata = anndata.AnnData(x if sparse.issparse(x) else x.astype(np.float32))
    adata.var_names = names
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"prot": adata})
