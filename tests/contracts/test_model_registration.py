"""What a model makes of a MuData, and what it refuses."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
from anndata import AnnData
from model_contract import FAST, assert_content, assert_same, content, copy_of, latents, once, weights, with_value
from small import pair

from indiseek.data import LogNormalizePCA, Scale


def test_modalities_are_detected_and_the_choice_is_said_in_one_line(case, mdata, log):
    model = case.new(mdata)
    assert model.modalities == ("rna", "prot")
    (record,) = log.records
    for word in ("150 cells", "'rna'", "300 features", "'prot'", "14 features", "clr", "log-normalize"):
        assert word in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "150 cells" in repr(model) and "none" in repr(model)
    assert repr(model).endswith("Next: model.train()")


def test_setup_decides_modalities_order_and_layers(case, mdata, log):
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 0.5
    case.model.setup_mudata(mdata, modalities=["prot", "rna"], layers={"rna": "counts"})
    model = case.new(mdata)
    assert model.modalities == ("prot", "rna")
    assert "layer 'counts'" in log.records[-1].getMessage() and "log-normalize" in log.records[-1].getMessage()
    model.train(**FAST)
    plain = copy_of(mdata, {"rna": lambda a: AnnData(a.layers["counts"], obs=a.obs, var=a.var)})
    case.model.setup_mudata(plain, modalities=["prot", "rna"])
    from_x = case.new(plain)
    from_x.train(**FAST)
    assert_same(weights(model), weights(from_x))


def test_other_names_work_when_there_are_two_or_they_are_chosen(case, mdata):
    a, b, c = mdata["rna"], mdata["prot"], mdata["prot"].copy()
    c.var_names = [f"other_{name}" for name in c.var_names]
    new = partial(case.new, transforms=None)
    assert new(pair(first=a.copy(), second=b.copy())).modalities == ("first", "second")
    three = pair(first=a.copy(), second=b.copy(), third=c)
    with pytest.raises(ValueError, match=r"setup_mudata\(mdata, modalities="):
        new(three)
    case.model.setup_mudata(three, modalities=["first", "second", "third"])
    model = new(three)
    model.train(**FAST)
    written = {case.joint_key, *case.more_keys.values(), *(case.key(name) for name in ("first", "second", "third"))}
    assert {key for key in three.obsm if key.startswith("X_")} == written
    for code in latents(model).values():
        assert code.shape[0] == 150 and np.isfinite(code).all()


def test_unknown_choices_are_named(case, mdata):
    with pytest.raises(KeyError, match=r"expected modality 'atac', got a MuData with \['rna', 'prot'\]"):
        case.model.setup_mudata(mdata, modalities=["rna", "atac"])
    case.model.setup_mudata(mdata, layers={"rna": "counts"})
    with pytest.raises(KeyError, match="expected layer 'counts' in modality 'rna'"):
        case.new(mdata)


def test_what_is_no_mudata_is_refused(case, mdata):
    for thing in (mdata["rna"], np.zeros((200, 3)), None):
        with pytest.raises(TypeError, match="expected a MuData with two modalities, got"):
            case.new(thing)


def test_setup_anndata_says_what_to_call(case, mdata):
    with pytest.raises(TypeError, match="expected a MuData.*setup_mudata"):
        case.model.setup_anndata(mdata["rna"])


@once
def test_a_mudata_that_was_changed_after_setup_is_checked_again(case, mdata):
    case.new(mdata)
    mdata.mod["prot"] = mdata["prot"][::-1].copy()
    with pytest.raises(ValueError, match="expected paired cells.*'prot'"):
        case.new(mdata)


@once
def test_a_gene_and_a_protein_may_have_one_name(case, mdata):
    def rename(adata: AnnData) -> AnnData:
        adata.var_names = [mdata["rna"].var_names[0], *adata.var_names[1:]]
        return adata

    with warnings.catch_warnings(action="ignore", category=UserWarning):
        both = copy_of(mdata, {"prot": rename})
    # mudata has warned the user once; the model must work, and not warn again.
    case.new(both).train(**FAST)
    assert case.joint_key in both.obsm


BAD = {
    "nan": ("rna", lambda a: with_value(a, 3, 4, np.nan), "expected finite values in modality 'rna'"),
    "inf": ("prot", lambda a: with_value(a, 3, 4, np.inf), "expected finite values in modality 'prot'"),
    "negative": ("prot", lambda a: with_value(a, 3, 4, -2), "expected counts of at least 0 in modality 'prot', got -2"),
    "empty cell": ("rna", lambda a: with_value(a, 7, slice(None), 0), "only zeros in modality 'rna' in '[ACGT]+"),
    "nothing varies": ("prot", lambda a: with_value(a, slice(None), slice(None), 9), "the same value in every cell in"),
    "few cells": (None, lambda a: a[:99].copy(), "expected at least 100 cells, got 99"),
    "unpaired": ("prot", lambda a: a[:120].copy(), "expected paired cells"),
    "reordered cells": ("prot", lambda a: a[::-1].copy(), "the same cells in another order"),
}


@once
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_and_left_as_it_was(case, mdata, kind):
    where, change, message = BAD[kind]
    bad = copy_of(mdata, {name: change for name in ("rna", "prot") if where in (name, None)})
    before = content(bad)
    with pytest.raises(ValueError, match=message):
        case.new(bad)
    assert_content(content(bad), before)


def test_the_users_transforms_are_used_and_stay_his_own(case, mdata, make_mdata):
    one, pca = Scale(), LogNormalizePCA(n_components=6, n_top_features=100)
    models = []
    for cells in (mdata, make_mdata(200)):
        model = case.new(cells, transforms={"prot": one, "rna": pca})
        model.train(**FAST)
        models.append((model, latents(model)))
    # A transform that is handed to two models is fitted by neither at the other's expense.
    for model, codes in models:
        assert model.get_features(modality="rna").shape[1] == 6
        assert_same(latents(model), codes)
    assert not one.state_dict() and not pca.state_dict()


@once
def test_one_transform_may_serve_two_modalities(case, mdata):
    shared = Scale()
    together, apart = case.new(mdata, transforms={"rna": shared, "prot": shared}), None
    together.train(**FAST)
    apart = case.new(copy_of(mdata), transforms={"rna": Scale(), "prot": Scale()})
    apart.train(**FAST)
    assert_same(latents(together), latents(apart))


def test_features_are_what_the_transforms_give_centred_on_training_cells(fitted):
    model, mdata = fitted
    for name in model.modalities:
        features = model.get_features(modality=name)
        assert features.shape == (mdata.n_obs, len(model.feature_names(name)))
        np.testing.assert_allclose(features[model.train_indices].mean(0), 0, atol=1e-3)
        np.testing.assert_array_equal(model.get_features(modality=name, indices=[3, 1]), features[[3, 1]])
    assert model.feature_names("prot") == mdata["prot"].var_names.tolist()


@once
def test_wrong_transforms_are_refused(case, mdata):
    with pytest.raises(KeyError, match=r"expected transforms for the modalities \['rna', 'prot'\], got .*\['x'\]"):
        case.new(mdata, transforms={"x": Scale()})
    message = "expected a transform for 'rna', got function; take one of .*'CLR'.* or derive your own"
    with pytest.raises(TypeError, match=message):
        case.new(mdata, transforms={"rna": lambda x: x})
