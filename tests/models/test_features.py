"""Features behind the spaces of a trained model."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from small import SIZES, cells

from indiseek import IndiSeekModel
from indiseek.data import Scale

_FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "show_progress": False, "write_latents": False}


def _trained(mdata: MuData, **options) -> IndiSeekModel:
    model = IndiSeekModel(mdata, **SIZES, **options)
    model.train(**_FAST, train_size=0.6, validation_size=0.1)
    return model


@pytest.fixture(scope="module")
def model() -> IndiSeekModel:
    mdata = cells()
    names = [*mdata["prot"].var_names[:-1], "IgG1_control_TotalSeqB"]
    mdata["prot"].var_names = names
    mdata.obs["lane"] = np.where(np.arange(mdata.n_obs) % 2, "x", "y")
    mdata.obs["kind"] = np.where(mdata["prot"].X[:, 0] > np.median(mdata["prot"].X[:, 0]), "high", "low")
    IndiSeekModel.setup_mudata(mdata, batch_key="lane")
    return _trained(mdata)


def _some(model: IndiSeekModel, n_cells: int) -> MuData:
    with mudata.set_options(pull_on_update=False):
        return model.adata[:n_cells].copy()


def _before(model: IndiSeekModel) -> tuple[pd.DataFrame, set[str], float]:
    mdata = model.adata
    return mdata.obs.copy(), {*mdata.obsm, *mdata["rna"].obsm}, float(mdata["rna"].X.sum())


def _unchanged(model: IndiSeekModel, before: tuple[pd.DataFrame, set[str], float]) -> bool:
    obs, keys, total = _before(model)
    return obs.equals(before[0]) and keys == before[1] and total == before[2]


def test_the_table_has_a_row_for_every_gene_and_protein_and_repeats_itself(model: IndiSeekModel):
    before = _before(model)
    table = model.feature_table(n_bootstrap=50)
    assert len(table) == 314 and set(table["modality"]) == {"rna", "prot"}
    assert list(table["feature"]) == [*model.adata["rna"].var_names, *model.adata["prot"].var_names]
    known = table.dropna(subset=["shared"])
    assert len(known) > 250
    assert known[["shared", "specific", "noise"]].sum(axis=1).between(0.9999, 1.0001).all()
    for part in ("shared", "specific", "noise"):
        assert (known[f"{part}_low"] <= known[part]).all() and (known[part] <= known[f"{part}_high"]).all()
    assert np.allclose(known["in_code"] + known["left_out"], known["specific"])
    assert table.loc[table["is_control"], "feature"].tolist() == ["IgG1_control_TotalSeqB"]
    assert set(table["n_cells"]) == {len(model.test_indices)}
    of = table.groupby("modality")
    assert of["noise"].mean()["rna"] > 0.3 > of["noise"].mean()["prot"]
    assert table.equals(model.feature_table(n_bootstrap=50))
    assert _unchanged(model, before)


def test_values_without_counts_have_no_noise_and_it_is_said(caplog: pytest.LogCaptureFixture):
    mdata = cells()
    mdata["prot"].X = np.log1p(mdata["prot"].X) + 0.25
    model = _trained(mdata, transforms={"prot": Scale()})
    table = model.feature_table(n_bootstrap=50).query("modality == 'prot'")
    assert table["noise"].isna().all() and table["specific"].notna().all()
    assert "the values of 'prot' are no counts" in caplog.text
    assert (model.attribution("prot")["loading"].abs() <= 1.0).all()


def test_axes_are_a_rotation_with_names_and_codes_come_back(model: IndiSeekModel):
    axes = model.axes("prot")
    codes = model.get_latent_representation(modality="prot", kind="specific")
    n_dims = codes.shape[1]
    assert np.allclose(axes.rotation.T @ axes.rotation, np.eye(n_dims), atol=1e-8)
    assert np.allclose(axes.coordinates(codes, with_noise=True) @ axes.rotation.T, codes, atol=1e-5)
    assert axes.coordinates(codes).shape == (model.adata.n_obs, axes.n_axes)
    assert list(axes.table["dimension"]) == list(range(1, n_dims + 1))
    assert all(name.startswith(f"prot {k}: ") for k, name in enumerate(axes.names, start=1))
    assert axes.table["share"].sum() == pytest.approx(1.0)
    plain = model.axes("prot", rotation="none")
    assert np.array_equal(plain.rotation, np.eye(n_dims))


def test_the_axes_are_written_for_maps_without_noise(model: IndiSeekModel):
    before = _before(model)
    found = model.write_axes()
    for name, axes in found.items():
        if axes.n_axes:
            assert model.adata.obsm[f"X_indiseek_{name}_axes"].shape == (model.adata.n_obs, axes.n_axes)
    everything = model.write_axes(with_noise=True)
    assert model.adata.obsm["X_indiseek_prot_axes"].shape[1] == len(everything["prot"].table)
    for key in ("X_indiseek_rna_axes", "X_indiseek_prot_axes"):
        del model.adata.obsm[key]
    assert _unchanged(model, before)


def test_loadings_are_correlations_within_batches(model: IndiSeekModel):
    before = _before(model)
    table = model.attribution("shared", rotation="none")
    assert list(table.columns) == [
        "dimension", "name", "is_noise", "modality", "feature", "loading", "stability", "rank"
    ]  # fmt: skip
    code = model.get_latent_representation().astype(np.float64)
    logs = np.log1p(model.adata["prot"].X).astype(np.float64)
    logs -= logs.mean(axis=1, keepdims=True)
    lane = model.adata.obs["lane"].to_numpy()
    for array in (code, logs):
        for value in np.unique(lane):
            array[lane == value] -= array[lane == value].mean(axis=0)
    expected = np.corrcoef(code[:, 1], logs[:, 2])[0, 1]
    row = table.query("dimension == 2 and feature == @model.adata['prot'].var_names[2]")
    assert row["loading"].item() == pytest.approx(expected, abs=2e-3)
    assert table["stability"].between(0, 1).all()
    of_one = table.query("dimension == 1 and modality == 'rna'")
    assert of_one["rank"].tolist() == list(range(1, len(of_one) + 1))
    assert of_one["loading"].abs().is_monotonic_decreasing
    pivoted = table.query("modality == 'rna'").pivot(index="name", columns="feature", values="loading")
    assert pivoted.shape[0] == code.shape[1] and pivoted.notna().all(axis=None)
    assert _unchanged(model, before)


def test_a_direction_is_that_dimension_and_groups_are_told_by_what_made_them(model: IndiSeekModel):
    n_dims = model.get_latent_representation().shape[1]
    along = model.attribution("shared", direction=np.eye(n_dims)[1] * 3).set_index("feature")["loading"]
    dimension = model.attribution("shared", rotation="none").query("dimension == 2").set_index("feature")["loading"]
    assert np.allclose(along, dimension[along.index])
    groups = model.attribution("everything", groupby="kind")
    assert set(groups["group"]) == {"high", "low"}
    best = groups.query("group == 'high' and modality == 'prot' and rank == 1")
    assert best["feature"].item() == model.adata["prot"].var_names[0] and best["loading"].item() > 1.0
    one = model.attribution("everything", groupby="kind", group="low")
    assert set(one["group"]) == {"low"}


def test_private_parts_are_what_prediction_leaves(model: IndiSeekModel):
    first = str(model.adata["prot"].var_names[0])
    gene = str(model.adata["rna"].var_names[0])
    table = model.private_parts([first.removesuffix("_TotalSeqB"), f"rna:{gene}"])
    assert list(table.columns) == [first.removesuffix("_TotalSeqB"), f"rna:{gene}"]
    assert table.index.equals(model.adata.obs_names)
    logs = np.log1p(model.adata["prot"].X)
    left = (logs - logs.mean(axis=1, keepdims=True))[:, 0] - model.predict()[first].to_numpy()
    lane = model.adata.obs["lane"].to_numpy()
    left = left - pd.Series(left).groupby(lane).transform("mean").to_numpy()
    assert np.allclose(table.iloc[:, 0], left, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.attribution("protein"), ValueError, "expected space to be one of .*'shared'.*got 'protein'"),
        (lambda m: m.attribution("prot", rotation="promax"), ValueError, "expected rotation to be one of"),
        (lambda m: m.attribution("prot", direction=[1.0]), ValueError, "expected direction as 3 finite numbers"),
        (lambda m: m.attribution("prot", groupby="nothing"), KeyError, "nothing"),
        (lambda m: m.attribution("prot", groupby="kind", group="x"), ValueError, "expected group to be one of"),
        (lambda m: m.attribution("prot", group="x"), ValueError, "expected groupby beside group='x'"),
        (
            lambda m: m.attribution("prot", groupby="kind", direction=[1, 0, 0]),
            ValueError,
            "expected a direction or groups",
        ),
        (lambda m: m.axes("x"), ValueError, "expected space to be one of"),
        (lambda m: m.private_parts(["CD999"]), KeyError, "expected a feature of .*'CD999'"),
        (lambda m: m.private_parts("CD3"), TypeError, "expected features to be a list"),
        (lambda m: m.feature_table(n_bootstrap=1), ValueError, "expected n_bootstrap"),
        (lambda m: m.feature_table(_some(m, 99)), ValueError, "expected at least 100 held-out cells, got 99"),
        (lambda m: m.axes("prot", _some(m, 99)), ValueError, "expected at least 100 cells, got 99"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_changes(model: IndiSeekModel, call, error, words):
    before = _before(model)
    with pytest.raises(error, match=words):
        call(model)
    assert _unchanged(model, before)


def test_an_untrained_model_says_so():
    model = IndiSeekModel(cells(), **SIZES)
    for call in (model.feature_table, lambda: model.attribution("prot"), lambda: model.private_parts(["CD3"])):
        with pytest.raises(RuntimeError, match="expected a trained model"):
            call()


def test_what_is_read_of_a_space_is_kept_for_its_cells_alone(model: IndiSeekModel, monkeypatch: pytest.MonkeyPatch):
    some = _some(model, 300)
    whole, part = model.attribution("shared"), model.attribution("shared", some)
    assert not whole["loading"].equals(part["loading"])
    again = model.attribution("shared")
    assert again.equals(whole)
    monkeypatch.setattr("indiseek.models._indiseek.seen", lambda *_: pytest.fail("read again"))
    assert model.attribution("shared").equals(whole)


def test_cells_that_lack_a_modality_tell_nothing_and_get_none(make_mdata):
    mdata = make_mdata(600)
    has = mdata.obs["has_prot"] = np.arange(600) % 5 > 0
    mdata.obs["half"] = np.where(np.arange(600) % 2, "a", "b")
    IndiSeekModel.setup_mudata(mdata, present={"prot": "has_prot"})
    model = IndiSeekModel(mdata)
    model.train(2, batch_size=64, accelerator="cpu", show_progress=False)
    table = model.feature_table(n_bootstrap=20)
    assert set(table["n_cells"]) == {len(model.test_indices)}
    protein = str(mdata["prot"].var_names[0])
    private = model.private_parts([f"prot:{protein}"])
    np.testing.assert_array_equal(private.notna().to_numpy()[:, 0], has)
    model.write_axes(with_noise=True)
    np.testing.assert_array_equal(np.isfinite(mdata.obsm["X_indiseek_prot_axes"]).all(axis=1), has)
    groups = model.attribution("shared", groupby="half")
    assert set(groups["group"]) == {"a", "b"} and np.isfinite(groups["loading"]).any()
