"""A MuData that changes under a model, and cells that are not what the model was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from model_contract import FAST, assert_close, assert_same, copy_of, latents, once, with_value
from mudata import MuData
from mudata import set_options as mudata_options
from scipy import sparse
from small import pair

from indiseek.data import Scale, open_mudata
from indiseek.models import ClosedForm, IndiSeekModel, embed

VERBS = {
    "codes": lambda model, path: model.get_latent_representation(),
    "features": lambda model, path: model.get_features(modality="prot"),
    "write_latents": lambda model, path: model.write_latents(),
    "certify": lambda model, path: model.certify(n_permutations=0),
    "train": lambda model, path: model.train(**FAST),
    "embed": lambda model, path: embed(model, None, path / "codes.zarr", show_progress=False),
    "save": lambda model, path: model.save(path / "model", save_mdata=True),
}


@pytest.fixture
def changing(case, mdata):
    """A trained model, and its cells in the form that the model shares: dense float32, and CSR float32."""
    mdata["prot"].X = np.ascontiguousarray(mdata["prot"].X, dtype=np.float32)
    model = case.new(mdata)
    model.train(**FAST, write_latents=False)
    return model, mdata


def _log1p(mdata):
    sc.pp.log1p(mdata["prot"])


def _scale(mdata):
    mdata["prot"].X -= mdata["prot"].X.mean(0)


def _one_cell(mdata):
    mdata["prot"].X[17, 3] += 4


def _csr(mdata):
    mdata["rna"].X.data[:] = np.log1p(mdata["rna"].X.data)


def _places(mdata):
    # Neither of the two is among the cells that are looked at one by one.
    mdata["prot"].X[[3, 6]] = mdata["prot"].X[[6, 3]]


CHANGES = {
    "places": (_places, "prot"),
    "log1p": (_log1p, "prot"),
    "scale": (_scale, "prot"),
    "one": (_one_cell, "prot"),
    "csr": (_csr, "rna"),
}


@once
@pytest.mark.parametrize("change", CHANGES)
def test_values_that_are_changed_in_place_are_noticed_and_can_be_put_back(case, changing, change, tmp_path):
    model, mdata = changing
    before = latents(model)
    function, name = CHANGES[change]
    counts = mdata[name].X.copy()
    function(mdata)
    for call in VERBS.values():
        with pytest.raises(ValueError, match=rf"expected in modality '{name}' the values with which .*put the counts"):
            call(model, tmp_path)
    assert not list(tmp_path.iterdir()) and case.joint_key not in mdata.obsm
    mdata[name].X = counts
    assert_same(latents(model), before)


@pytest.mark.parametrize(
    ("rows", "found"),
    [(np.arange(0, 150, 2), "75 of them and 0 others"), (np.arange(150)[::-1], "the same cells in another order")],
    ids=["filtered", "reordered"],
)
def test_cells_that_are_filtered_or_put_in_another_order_are_noticed(case, changing, rows, found, log):
    model, mdata = changing
    before = latents(model)
    for name in ("rna", "prot"):
        mdata.mod[name] = mdata[name][rows].copy()
    for update in (False, True):
        with mudata_options(pull_on_update=False):
            if update:
                mdata.update()
            anew = MuData({name: mdata[name] for name in ("rna", "prot")})
        for call in (model.get_latent_representation, model.write_latents):
            with pytest.raises(ValueError, match=f"expected the 150 cells with which .*{found}.*; pass .* as mdata"):
                call()
        assert_close(latents(model, anew), {key: code[rows] for key, code in before.items()})
    if len(rows) < 150:
        # Its cells as they are now, said.
        assert_close(latents(model, mdata), {key: code[rows] for key, code in before.items()})
        assert "the MuData of the model has changed since the model was made" in log.records[-1].getMessage()


@once
def test_covariates_that_change_are_other_cells_where_they_are_asked_for(mdata, case, log):
    mdata.obs["day"] = np.where(np.arange(mdata.n_obs) % 2, "first", "second")
    IndiSeekModel.setup_mudata(mdata, batch_key="day")
    model = IndiSeekModel(mdata, n_shared=4, specific=ClosedForm(n_landmarks=20))
    model.train(**FAST)
    before = latents(model)
    mdata.obs["day"] = mdata.obs["day"].to_numpy()[::-1]
    assert_same(latents(model), before)
    with mudata_options(pull_on_update=False):
        assert_same(latents(model, mdata), latents(model, mdata.copy()))
    assert "has changed since" in log.records[-1].getMessage()
    assert not np.array_equal(latents(model, mdata)["specific_prot"], before["specific_prot"])
    del mdata.obs["day"]
    with pytest.raises(KeyError, match="expected a column 'day' in .obs"):
        model.get_latent_representation(mdata)


CHANGED = {
    "values": (lambda m: m["prot"].layers.update(counts=m["prot"].layers["counts"] * 2), ValueError, "expected in the"),
    "names": (
        lambda m: setattr(m["rna"], "var_names", [f"g{i}" for i in range(m["rna"].n_vars)]),
        ValueError,
        "the 300",
    ),
    "features": (
        lambda m: m["rna"]._inplace_subset_var(np.arange(50)),
        ValueError,
        "expected in modality 'rna' the 300",
    ),
    "layer": (lambda m: m["prot"].layers.clear(), KeyError, "expected layer 'counts' in modality 'prot'"),
    "X": (lambda m: setattr(m["rna"], "X", None), TypeError, "expected values in modality 'rna', got X = None"),
}


@once
@pytest.mark.parametrize("change", CHANGED)
def test_a_mudata_that_has_changed_is_neither_saved_nor_taken_for_what_it_was(case, mdata, change, tmp_path):
    mdata["prot"].layers["counts"] = np.asarray(mdata["prot"].X).copy()
    case.model.setup_mudata(mdata, layers={"prot": "counts"})
    model = case.new(mdata)
    model.train(**FAST)
    before = latents(model)
    function, error, message = CHANGED[change]
    function(mdata)
    assert_same(latents(model), before)
    with pytest.raises(error, match=message):
        model.save(tmp_path / "model", save_mdata=True)
    assert not (tmp_path / "model").exists()
    if change == "values":
        assert not np.array_equal(latents(model, mdata)["specific_prot"], before["specific_prot"])
    else:
        with pytest.raises(error, match=message):
            model.get_latent_representation(mdata)
    model.save(tmp_path / "model")


@once
def test_a_modality_that_is_gone_is_noticed(case, changing):
    model, mdata = changing
    del mdata.mod["prot"]
    with pytest.raises(ValueError, match=r"expected the modalities .* got it without \['prot'\]; put them back"):
        model.write_latents()


@once
def test_what_changes_no_value_changes_nothing(case, changing, log):
    model, mdata = changing
    before = latents(model)
    mdata["rna"].obs["new"] = 1
    mdata["prot"].layers["log1p"] = np.log1p(mdata["prot"].X)
    mdata["rna"].X = sparse.csc_matrix(mdata["rna"].X.astype(np.float64))
    n_said = len(log.records)
    assert_same(latents(model), before)
    assert_same(latents(model, mdata), before)
    assert len(log.records) == n_said


@once
def test_values_that_are_replaced_are_other_cells_where_they_are_asked_for(case, changing, log):
    model, mdata = changing
    before = latents(model)
    mdata["prot"].X = mdata["prot"].X + 1
    assert_same(latents(model), before)
    new = latents(model, mdata)
    assert "has changed since" in log.records[-1].getMessage()
    assert_same(new, latents(model, copy_of(mdata)))
    mdata["prot"].X = np.log1p(mdata["prot"].X)
    with pytest.raises(ValueError, match="expected in modality 'prot' counts, .* got fractions; put the counts into X"):
        model.get_latent_representation(mdata)


@once
def test_a_file_that_is_written_again_is_the_same_and_one_with_other_values_is_not(case, mdata, tmp_path):
    with mudata_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    cells = open_mudata(tmp_path / "cells.h5mu")
    model = case.new(cells)
    model.train(**FAST)
    before = latents(model)
    (tmp_path / "cells.h5mu").touch()
    assert_same(latents(model), before)
    model._cells._held["prot"] = (("another file",), ["of other", "values", "than these"])
    assert model._cells.changed == "prot"


BAD_QUERY = {
    "log": (
        lambda a: AnnData(np.log1p(np.asarray(a.X)), obs=a.obs, var=a.var),
        "prot",
        "got fractions; put the counts",
    ),
    "negative": (lambda a: with_value(a, 2, 3, -500), "rna", "whole numbers of at least 0 .* got -500; put the counts"),
    "nan": (lambda a: with_value(a, 2, 3, np.nan), "rna", "expected finite values in modality 'rna', got 1 that are"),
    "empty": (
        lambda a: with_value(a, 2, slice(None), 0),
        "rna",
        "expected counts in every cell, got only zeros in mod",
    ),
}


@pytest.mark.parametrize("kind", BAD_QUERY)
def test_query_cells_are_checked_as_those_of_training_are(case, fitted, kind, tmp_path):
    model, mdata = fitted
    change, name, message = BAD_QUERY[kind]
    bad = copy_of(mdata, {name: change})
    for call in (
        lambda: model.get_latent_representation(bad),
        lambda: model.write_latents(bad),
        lambda: model.get_latent_representation(pair(**{name: bad[name]})),
        lambda: embed(model, bad, tmp_path / "codes.zarr", show_progress=False),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())


@once
def test_what_terminals_obey_is_not_in_the_names_of_a_message(case, fitted):
    model, mdata = fitted

    def coloured(adata):
        adata.var_names = [f"\x1b[31m{name}" for name in adata.var_names]
        return adata

    with pytest.raises(ValueError, match=r"14 extra \(\\x1b\[31mCD") as caught:
        model.get_latent_representation(copy_of(mdata, {"prot": coloured}))
    assert "\x1b" not in str(caught.value)


@once
def test_query_cells_that_are_nearly_counts_have_the_codes_of_counts(case, fitted):
    model, mdata = fitted
    near = copy_of(mdata, {"prot": lambda a: AnnData(np.expm1(np.log1p(np.asarray(a.X))), obs=a.obs, var=a.var)})
    assert not np.array_equal(near["prot"].X, mdata["prot"].X)
    assert_same(latents(model, near), latents(model, copy_of(mdata)))
    # A model of other numbers has nothing against them.
    scaled = case.new(copy_of(near), transforms={"prot": Scale()})
    scaled.train(**FAST)
    assert all(np.isfinite(code).all() for code in latents(scaled, near).values())


def test_empty_features_are_left_out_and_asked_of_nobody(case, mdata, make_mdata, tmp_path, log):
    def padded(adata: AnnData, value: float = 0) -> AnnData:
        x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
        wide = np.insert(x, [0, 5], value, axis=1)
        kind = "gene" if adata.n_vars > 100 else "protein"
        names = np.insert(adata.var_names.to_numpy(dtype=object), [0, 5], [f"empty {kind} 0", f"empty {kind} 1"])
        made = AnnData(type(adata.X)(wide) if sparse.issparse(adata.X) else wide, obs=adata.obs)
        made.var_names = names
        return made

    cells = copy_of(mdata, dict.fromkeys(("rna", "prot"), padded))
    model = case.new(cells)
    said = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
    assert said == [
        "'rna': left out of 302 features 2 with 0 in every cell ('empty gene 0', 'empty gene 1').",
        "'prot': left out of 16 features 2 with 0 in every cell ('empty protein 0', 'empty protein 1').",
    ]
    model.train(**FAST)
    plain = case.new(mdata)
    plain.train(**FAST)
    expected = latents(plain)
    assert_same(latents(model), expected)
    assert_same(latents(model, cells), expected)
    assert_same(latents(model, copy_of(cells)), expected)
    assert_same(latents(model, mdata), expected)
    # Other cells may well have counts there.
    assert_same(latents(model, copy_of(mdata, {"prot": lambda a: padded(a, 3)})), expected)
    model.save(tmp_path / "model")
    loaded = case.model.load(tmp_path / "model", copy_of(cells), accelerator="cpu")
    assert_same(latents(loaded), expected)
    with pytest.raises(ValueError, match=r"the 14 features .* got 1 extra \(unknown\)"):
        other = padded(mdata["prot"])
        other.var_names = [name.replace("empty protein 1", "unknown") for name in other.var_names]
        model.get_latent_representation(copy_of(mdata, {"prot": lambda _: other}))


@once
def test_masked_values_are_refused(case, fitted):
    model, mdata = fitted
    masked = copy_of(mdata)
    masked["prot"].layers["counts"] = np.asarray(mdata["prot"].X)
    masked["prot"].X = np.ma.masked_equal(np.asarray(mdata["prot"].X), 1)
    if not isinstance(masked["prot"].X, np.ma.MaskedArray):
        pytest.skip("this anndata keeps no masks")
    for call in (model.get_latent_representation, case.new):
        with pytest.raises(ValueError, match="expected a value for every cell and feature in modality 'prot', got"):
            call(masked)


@once
def test_a_modality_without_features_is_refused(case, mdata):
    with pytest.raises(ValueError, match="expected features that vary in modality 'prot', got .* in all 0; name the"):
        case.new(copy_of(mdata, {"prot": lambda a: a[:, :0].copy()}))


def test_one_protein_trains_and_every_verb_works(case, mdata, log):
    one = copy_of(mdata, {"prot": lambda a: a[:, [0]].copy()})
    by_modality = {"n_specific": {"rna": 3, "prot": 1}} if "n_specific" in case.arguments else {}
    if case.model.__name__ == "DisentangledSSLModel":
        by_modality = {}
    model = case.new(one, **by_modality)
    assert "'prot' has one feature, 'CD127_TotalSeqB'" in log.text
    model.train(**FAST)
    assert all(np.isfinite(code).all() for code in latents(model).values())
