"""Certificates of refits, by which every cell is a test cell once."""

from __future__ import annotations

import numpy as np
import pytest

from indiseek import IndiSeekModel

FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "show_progress": False}
FEW = {"max_epochs": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def model(make_mdata):
    mdata = make_mdata(250)
    mdata.obs["donor"] = np.repeat(["a", "b", "c", "d", "e"], 50)
    made = IndiSeekModel(mdata, specific="nce-club")
    made.train(**FAST)
    return made


def test_every_cell_is_tested_once_by_a_fit_that_has_not_seen_it(model, monkeypatch):
    seen = []
    train = IndiSeekModel.train

    def watched(self, **arguments):
        seen.append(arguments)
        train(self, **arguments)

    monkeypatch.setattr(IndiSeekModel, "train", watched)
    before, codes = model.fitted, model.adata.obsm["X_indiseek_shared"].copy()
    found = model.certify(cross_fit=2, n_permutations=0, train_kwargs=FEW)
    assert found.n_fits == 2 and found.n_cells == 250
    assert found.table("independence")["n_cells"].tolist() == [250] * 4
    tested = np.concatenate([arguments["external_indexing"][2] for arguments in seen])
    np.testing.assert_array_equal(np.sort(tested), np.arange(250))
    assert all(arguments["max_epochs"] == 1 and arguments["seed"] == 0 for arguments in seen)
    assert model.fitted is before
    np.testing.assert_array_equal(model.adata.obsm["X_indiseek_shared"], codes)
    again = model.certify(cross_fit=2, n_permutations=0, train_kwargs=FEW)
    assert again.to_json() == found.to_json()


def test_groups_of_the_split_stay_whole(make_mdata):
    mdata = make_mdata(250)
    donor = mdata.obs["donor"] = np.repeat(["a", "b", "c", "d", "e"], 50)
    model = IndiSeekModel(mdata, specific="nce-club")
    model.train(**FAST, split_by="donor")
    found = model.certify(cross_fit=2, n_permutations=0, train_kwargs=FEW)
    assert "donor" in set(found.table("covariates")["covariate"])
    assert found.n_cells == len(donor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_fit": 1}, "expected cross_fit"),
        (
            {"cross_fit": 3},
            "expected at least 100 cells in each fold, got 250 cells for 3 folds; take",
        ),
        ({"train_kwargs": FEW}, "expected train_kwargs together with cross_fit, got them alone"),
        (
            {"cross_fit": 2, "train_kwargs": {"train_size": 0.5, "write_latents": True}},
            r"expected train_kwargs without \['train_size', 'write_latents'\], which the folds settle",
        ),
    ],
)
def test_what_cannot_be_is_named_before_any_fit(model, monkeypatch, arguments, message):
    monkeypatch.setattr(IndiSeekModel, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        model.certify(**arguments)


def test_other_cells_have_no_folds(model, make_mdata):
    with pytest.raises(ValueError, match="expected cross_fit of the cells of training, got other cells as mdata too"):
        model.certify(make_mdata(150), cross_fit=2)


def test_cells_that_lack_a_modality_are_never_tested(make_mdata, monkeypatch):
    mdata = make_mdata(300)
    has = mdata.obs["has_prot"] = np.arange(300) % 4 > 0
    IndiSeekModel.setup_mudata(mdata, present={"prot": "has_prot"})
    model = IndiSeekModel(mdata, specific="nce-club")
    model.train(**FAST)
    seen = []
    train = IndiSeekModel.train

    def watched(self, **arguments):
        seen.append(arguments["external_indexing"])
        train(self, **arguments)

    monkeypatch.setattr(IndiSeekModel, "train", watched)
    assert model.certify(cross_fit=2, n_permutations=0, train_kwargs=FEW).n_cells == has.sum()
    np.testing.assert_array_equal(np.sort(np.concatenate([split[2] for split in seen])), np.flatnonzero(has))
    assert all(np.isin(np.flatnonzero(~has), split[0]).all() for split in seen)
