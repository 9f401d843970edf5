from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import indiseek
from indiseek.data import Setup, how_to_build, isotype_controls, make_setup, mudata_of
from indiseek.models import CoMMModel, IndiSeekModel

N_CELLS, N_GENES = 120, 30
PROTEINS = ["CD3", "CD4", "IgG1"]


def _counts(n_features: int, seed: int = 0) -> np.ndarray:
    return 1 + np.random.default_rng(seed).poisson(3.0, (N_CELLS, n_features)).astype(np.float32)


@pytest.fixture
def totalvi() -> AnnData:
    adata = AnnData(
        sparse.csr_matrix(_counts(N_GENES)),
        obs=pd.DataFrame({"batch": list("ab") * 60}, index=[f"c{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[f"g{j}" for j in range(N_GENES)]),
        layers={"counts": _counts(N_GENES)},
    )
    adata.obsm["protein_expression"] = pd.DataFrame(_counts(3, 1), index=adata.obs_names, columns=PROTEINS)
    adata.obsm["X_umap"] = np.zeros((N_CELLS, 2))
    return adata


@pytest.fixture
def tenx() -> AnnData:
    adata = AnnData(
        sparse.csr_matrix(np.hstack([_counts(2, 1), _counts(N_GENES), _counts(1, 2)])),
        obs=pd.DataFrame({"batch": list("ab") * 60}, index=[f"c{i}" for i in range(N_CELLS)]),
    )
    adata.var_names = ["CD3", "CD4", *(f"g{j}" for j in range(N_GENES)), "IgG1"]
    adata.var["feature_types"] = pd.Categorical(
        ["Antibody Capture"] * 2 + ["Gene Expression"] * N_GENES + ["Antibody Capture"]
    )
    return adata


@pytest.mark.parametrize("key", [None, "protein_expression"])
def test_proteins_in_obsm(totalvi, key):
    before = totalvi.copy()
    mdata = mudata_of(totalvi, key)
    assert list(mdata.mod) == ["rna", "prot"]
    assert mdata["prot"].var_names.tolist() == PROTEINS
    np.testing.assert_array_equal(mdata["prot"].X, totalvi.obsm["protein_expression"])
    np.testing.assert_array_equal(mdata["rna"].layers["counts"], totalvi.layers["counts"])
    assert "X_umap" in mdata.obsm and "protein_expression" not in mdata.obsm
    IndiSeekModel.setup_mudata(mdata, layers={"rna": "counts"}, batch_key="batch")
    assert IndiSeekModel(mdata, n_shared=2).modalities == ("rna", "prot")
    assert set(totalvi.obsm) == set(before.obsm) and not totalvi.uns
    pd.testing.assert_frame_equal(totalvi.obs, before.obs)


def test_an_array_of_proteins_has_the_names_that_totalvi_notes(totalvi):
    totalvi.obsm["protein_expression"] = totalvi.obsm["protein_expression"].to_numpy()
    assert mudata_of(totalvi)["prot"].var_names.tolist() == ["protein_0", "protein_1", "protein_2"]
    totalvi.uns["protein_names"] = PROTEINS
    assert mudata_of(totalvi)["prot"].var_names.tolist() == PROTEINS


def test_types_of_features(tenx):
    mdata = mudata_of(tenx)
    assert {name: a.var_names.tolist() for name, a in mdata.mod.items()} == {
        "rna": [f"g{j}" for j in range(N_GENES)],
        "prot": PROTEINS,
    }
    assert mdata.obs["batch"].tolist() == tenx.obs["batch"].tolist()
    assert make_setup(mdata, batch_key="batch") == Setup(
        modalities=("rna", "prot"), layers={"rna": None, "prot": None}, batch_key="batch"
    )
    IndiSeekModel(mdata, n_shared=2)


def test_where_there_are_no_proteins_it_says_so(totalvi):
    with pytest.raises(KeyError, match=r"expected proteins in .obsm\['adt'\], got keys \['X_umap', 'protein_expr"):
        mudata_of(totalvi, "adt")
    totalvi.obsm["adt"] = totalvi.obsm["protein_expression"]
    with pytest.raises(ValueError, match=r"got several keys .*\['protein_expression', 'adt'\]; name the key"):
        mudata_of(totalvi)
    del totalvi.obsm["adt"], totalvi.obsm["protein_expression"]
    with pytest.raises(ValueError, match=r"expected proteins in .obsm, or two types .* got keys \['X_umap'\]; name"):
        mudata_of(totalvi)
    with pytest.raises(TypeError, match="expected an AnnData or a dict of arrays, got MuData"):
        mudata_of(indiseek.datasets.pbmc10k_cite())


def test_messages_show_the_line_for_this_very_object(totalvi, tenx):
    line = r"mdata = indiseek.data.mudata_of\(adata, protein_obsm_key='protein_expression'\)"
    split = r"mdata = indiseek.data.mudata_of\(adata\), which splits it by .var\['feature_types'\]"
    plain = r"mudata.MuData\({'rna': rna, 'prot': protein}\)"
    for adata, expected in ((totalvi, line), (tenx, split), (AnnData(_counts(4)), plain)):
        for call in (IndiSeekModel, CoMMModel.setup_mudata, make_setup):
            with pytest.raises(
                TypeError, match=f"expected a MuData with two modalities, got AnnData; build .*{expected}"
            ):
                call(adata)
    with pytest.raises(TypeError, match=f"{line}, and call CoMMModel.setup_mudata"):
        CoMMModel.setup_anndata(totalvi, protein_expression_obsm_key="protein_expression", batch_key="batch")
    totalvi.obsm["other"] = totalvi.obsm["protein_expression"]
    assert "protein_obsm_key='other'" in how_to_build(totalvi, "other")


def test_totalvis_set_up_is_answered_with_the_line_to_write(totalvi):
    mdata = mudata_of(totalvi)
    with pytest.raises(TypeError) as error:
        IndiSeekModel.setup_mudata(
            mdata,
            rna_layer="counts",
            protein_layer=None,
            batch_key="batch",
            modalities={"rna_layer": "rna", "protein_layer": "prot"},
        )
    line = "IndiSeekModel.setup_mudata(mdata, modalities=['rna', 'prot'], layers={'rna': 'counts'}, batch_key='batch')"
    assert str(error.value).endswith(f"got ['protein_layer', 'rna_layer']; write {line}.")
    # It works as it stands there.
    eval(line, {"IndiSeekModel": IndiSeekModel, "mdata": mdata})
    assert IndiSeekModel(mdata, n_shared=2)._schema.setup.layers == {"rna": "counts", "prot": None}
    with pytest.raises(TypeError, match=r"got \['size_factor_key'\]; write CoMMModel.setup_mudata\(mdata, modalities="):
        CoMMModel.setup_mudata(mdata, size_factor_key="size")


def test_scvis_name_of_the_argument_saves_the_cells(totalvi, tmp_path):
    model = IndiSeekModel(mudata_of(totalvi), n_shared=2)
    model.train(1, accelerator="cpu", show_progress=False)
    model.save(tmp_path / "model", save_anndata=True)
    assert IndiSeekModel.load(tmp_path / "model", accelerator="cpu").adata.n_obs == N_CELLS


def test_isotype_controls_are_said_in_the_line_of_the_set_up(totalvi, log):
    IndiSeekModel(mudata_of(totalvi), n_shared=2)
    assert "'prot' (3 features, clr, 1 of them isotype controls: ['IgG1'])" in log.records[-1].getMessage()
    names = ["IgG1_control_TotalSeqB", "MouseIgG2bkIsotype_PROT", "Rat IgG2a", "isotype_MOPC-21", "CD3", "IgM", "IgD"]
    assert isotype_controls("ADT", names) == names[:4]
    assert isotype_controls("rna", ["IGHG1", "IgG1"]) == []
