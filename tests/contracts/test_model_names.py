"""Every public name of every model works on a trained model, and the set-up of one class is its own."""

from __future__ import annotations

import inspect

import mudata
import numpy as np
import pytest
from anndata import ImplicitModificationWarning
from model_contract import FAST, MODELS, assert_same, copy_of, latents, once

from indiseek.models import CoMMModel, DisentangledSSLModel, IndiSeekModel

# What a call needs; a name that is not here is called without arguments, or read.
CALLS = {
    "attribution": lambda model, mdata, path: model.attribution("shared"),
    "axes": lambda model, mdata, path: model.axes("shared"),
    "certify": lambda model, mdata, path: model.certify(n_permutations=0),
    "compare": lambda model, mdata, path: model.compare(groupby="side", replicate="donor", n_permutations=19),
    "counterfactual": lambda model, mdata, path: model.counterfactual(modality="prot", indices=[1, 2], donors=[3, 4]),
    "feature_names": lambda model, mdata, path: model.feature_names("rna"),
    "get_features": lambda model, mdata, path: model.get_features(modality="prot"),
    "load": lambda model, mdata, path: (model.save(path / "a"), model.load(path / "a", mdata, accelerator="cpu")),
    "map_query": lambda model, mdata, path: model.map_query(copy_of(mdata)),
    "private_parts": lambda model, mdata, path: model.private_parts([f"prot:{mdata['prot'].var_names[0]}"]),
    "report": lambda model, mdata, path: model.report(path / "report.html", certificate=_certificate(model)),
    "save": lambda model, mdata, path: model.save(path / "b"),
    "setup_mudata": lambda model, mdata, path: model.setup_mudata(copy_of(mdata)),
    "to_device": lambda model, mdata, path: model.to_device("cpu"),
    "train": lambda model, mdata, path: model.train(**FAST),
    "transfer_labels": lambda model, mdata, path: model.transfer_labels(copy_of(mdata), "kind"),
}
# By their purpose these say what to do instead.
REFUSALS = {
    "setup_anndata": TypeError,
    "tune": RuntimeError,
    "counterfactual": ValueError,
    "predict_labels": ValueError,
}


def _certificate(model):
    return model.certify(n_permutations=0, show_progress=False)


def test_every_public_name_works_on_a_trained_model(case, make_mdata, tmp_path):
    mdata = make_mdata(250)
    mdata.obs["kind"] = np.where(np.arange(250) % 2, "odd", "even")
    mdata.obs["donor"] = [f"d{i % 8}" for i in range(250)]
    mdata.obs["side"] = np.where(np.arange(250) % 8 < 4, "ill", "well")
    model = case.new(mdata)
    model.train(**FAST, train_size=0.5)
    names = [name for name in dir(model) if not name.startswith("_")]
    assert {"train", "get_latent_representation", "save", "load", "history", "setup_mudata", "adata_manager"} <= set(
        names
    )
    for name in names:
        static = inspect.getattr_static(type(model), name)
        assert (static.__doc__ or "").strip(), f"{name} has no docstring"
        refuses = name in REFUSALS and not (name == "counterfactual" and case.widths.get("components"))
        if refuses:
            call = CALLS.get(
                name, lambda model, mdata, path, name=name: getattr(model, name)(*_first(model, name, mdata))
            )
            with pytest.raises(REFUSALS[name], match="expected"):
                call(model, mdata, tmp_path)
        elif name in CALLS:
            CALLS[name](model, mdata, tmp_path)
        else:
            value = getattr(model, name)
            assert value is not None, name
            if inspect.isroutine(value):
                value()


def _first(model, name, mdata):
    return (mdata["rna"],) if name == "setup_anndata" else ()


def test_the_set_up_of_one_class_does_not_touch_another(mdata):
    classes = (CoMMModel, DisentangledSSLModel, IndiSeekModel)
    CoMMModel.setup_mudata(mdata, modalities=["prot", "rna"])
    DisentangledSSLModel.setup_mudata(mdata, modalities=["rna", "prot"])
    assert [cls(mdata).modalities[0] for cls in classes] == ["prot", "rna", "rna"]


@once
def test_a_set_up_goes_with_copies_subsets_and_files(case, make_mdata, tmp_path):
    mdata = make_mdata(200)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 0.5
    mdata.obs["lane"] = np.random.default_rng(0).choice(["a", "b"], 200)
    case.model.setup_mudata(mdata, modalities=["prot", "rna"], layers={"rna": "counts"}, batch_key="lane")
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
        read = mudata.read_h5mu(tmp_path / "cells.h5mu")
        copies = mdata.copy(), mdata[:150].copy()
    for cells in (mdata, mdata[:150], *copies, read):
        model = case.new(cells)
        assert model.modalities == ("prot", "rna")
        assert "layer 'counts'" in repr(model)
        assert model._schema.setup.batch_key == "lane"


@once
def test_a_set_up_on_a_view_is_the_views_own(case, make_mdata):
    parent = make_mdata(200)
    view = parent[:150]
    # What is written to a view makes it an object of its own, of which its makers warn.
    with mudata.set_options(pull_on_update=False), pytest.warns(ImplicitModificationWarning):
        case.model.setup_mudata(view, modalities=["prot", "rna"])
    assert case.new(view).modalities == ("prot", "rna")
    assert case.new(parent).modalities == ("rna", "prot")


@once
def test_what_is_not_used_is_said_in_the_one_line(case, mdata, log):
    with mudata.set_options(pull_on_update=False):
        hto = mdata["prot"].copy()
        hto.var_names = [f"hto{i}" for i in range(14)]
        three = mudata.MuData({**copy_of(mdata).mod, "hto": hto})
    model = case.new(three)
    assert "not used: ['hto'] (setup_mudata chooses)" in log.records[-1].getMessage()
    model.train(**FAST)
    two = case.new(mdata)
    two.train(**FAST)
    assert_same(latents(model), latents(two))


def test_all_models_are_under_contract():
    assert {param.values[0].model for param in MODELS} == {CoMMModel, DisentangledSSLModel, IndiSeekModel}
