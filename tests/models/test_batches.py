"""A study with batches and donors, end to end: corrected, split by donor, certified, resumed, tuned, read from disk."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from model_contract import At, copy_of, latents
from small import Killed, pair

from indiseek.data import open_mudata
from indiseek.models import ClosedForm, IndiSeekModel, _certificate

MODEL = {"n_shared": 4, "specific": ClosedForm(n_landmarks=60, refine=False)}
TRAIN = {"max_epochs": 3, "batch_size": 100, "accelerator": "cpu", "show_progress": False}


@pytest.fixture
def study(make_mdata):
    """600 cells of 12 donors in 3 lanes; a lane multiplies some proteins and genes."""
    mdata = make_mdata()
    donor = np.random.default_rng(0).integers(12, size=600)
    lane = donor % 3
    for name, factors in (("prot", (1, 3, 2)), ("rna", (1, 2, 1))):
        x = mdata[name].X.toarray() if hasattr(mdata[name].X, "toarray") else np.array(mdata[name].X)
        for b, factor in enumerate(factors):
            x[lane == b, ::3] *= factor
        mdata[name].X = x.astype(np.float32)
    mdata.obs["lane"], mdata.obs["donor"] = [f"lane{b}" for b in lane], [f"d{d}" for d in donor]
    IndiSeekModel.setup_mudata(mdata, batch_key="lane")
    return mdata


@pytest.fixture
def fitted(study):
    model = IndiSeekModel(study, **MODEL)
    model.train(**TRAIN, split_by="donor")
    return model


def test_donors_stay_whole_and_the_certificate_has_rows_for_them(fitted, study):
    donor, lane = (study.obs[key].to_numpy() for key in ("donor", "lane"))
    parts = [set(donor[part]) for part in (fitted.train_indices, fitted.validation_indices, fitted.test_indices)]
    assert all(parts) and sum(map(len, parts)) == 12 and len(set.union(*parts)) == 12
    assert set(lane[fitted.train_indices]) == set(lane)
    certificate = fitted.certify(n_permutations=0)
    assert set(certificate.table("independence")["new_groups"]) == {"donor"}
    table = certificate.table("covariates")
    assert {"donor", "lane"} <= set(table["covariate"])
    (row,) = table.query("covariate == 'lane' and code == 'specific' and modality == 'prot'").itertuples()
    assert row.ceiling > 0.2 and row.total < 0.5 * row.ceiling


def test_categories_are_labels_and_not_the_numbers_that_stand_for_them(fitted, study):
    everything = copy_of(study)
    everything.obs = study.obs.assign(renamed=study.obs["lane"].map({"lane0": "z", "lane1": "a", "lane2": "m"}))
    table = fitted.certify(everything, obs=["renamed"], n_permutations=0).table("covariates").set_index("covariate")
    assert everything.obs["lane"].nunique() == 3
    np.testing.assert_allclose(table.loc["renamed", "total"], table.loc["lane", "total"], atol=1e-6)


def test_donors_that_no_fit_has_seen_are_certified(fitted, study):
    new = copy_of(study[fitted.test_indices])
    new.obs = study.obs.iloc[fitted.test_indices]
    by_hand = fitted.certify(new, obs=["donor"], n_permutations=0)
    assert by_hand.n_cells == fitted.certify(n_permutations=0).n_cells == new.n_obs
    assert "donor" in set(by_hand.table("covariates")["covariate"])


def test_of_very_many_cells_some_are_drawn(fitted, study, monkeypatch):
    monkeypatch.setattr(_certificate, "MOST_HELD_OUT_CELLS", 400)
    everything = copy_of(study)
    everything.obs = study.obs
    found = fitted.certify(everything, obs=["donor"], n_permutations=0)
    # Of those drawn, the cells that training has seen are left out.
    assert 100 <= found.n_cells < 0.9 * (600 - len(fitted.train_indices))
    again = fitted.certify(everything, obs=["donor"], n_permutations=0)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)


def test_held_out_cells_of_one_batch_are_certified_without_it(study):
    test = np.flatnonzero((study.obs["lane"] == "lane0").to_numpy())[:120]
    validation, train = np.split(np.setdiff1d(np.arange(study.n_obs), test), [80])
    model = IndiSeekModel(study, **MODEL)
    model.train(**TRAIN, external_indexing=[train, validation, test])
    found = model.certify(n_permutations=0)
    assert found.n_cells == 120 and "lane" not in set(found.table("covariates")["covariate"])


def test_features_are_corrected_and_stages_come_in_their_order(fitted, study):
    assert list(fitted.module.objectives) == ["states", "corrected", "shared", "everything", "components", "specific"]
    assert fitted.module.default == "shared"
    lane = study.obs["lane"].to_numpy()
    before = fitted.get_features(modality="prot")
    after = fitted.get_latent_representation(modality="prot", kind="corrected")
    apart = [np.std([x[lane == b].mean(axis=0) for b in np.unique(lane)], axis=0).mean() for x in (before, after)]
    assert apart[1] < 0.5 * apart[0]
    # Nothing but the four spaces is written.
    assert set(study.obsm) - set(study.mod) == {"X_indiseek_shared", "X_indiseek", "X_indiseek_rna", "X_indiseek_prot"}


@pytest.mark.parametrize("name", ["rna", "prot"])
def test_cells_with_one_modality_have_its_codes(fitted, study, name):
    alone = pair(**{name: study[name].copy()})
    alone.obs["lane"] = study.obs["lane"].to_numpy()
    for kind in ("states", "corrected", "shared"):
        code = fitted.get_latent_representation(modality=name, kind=kind)
        np.testing.assert_allclose(fitted.get_latent_representation(alone, modality=name, kind=kind), code, atol=1e-5)
    np.testing.assert_allclose(
        fitted.get_latent_representation(alone), fitted.get_latent_representation(modality=name), atol=1e-5
    )
    own = fitted.get_latent_representation(alone, modality=name, kind="specific")
    assert (
        own.shape == fitted.get_latent_representation(modality=name, kind="specific").shape and np.isfinite(own).all()
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_killed_in_either_contrastive_stage_it_goes_on_to_the_same_codes(study, fitted, tmp_path, stage):
    def kill(_):
        raise Killed

    model = IndiSeekModel(study, **MODEL)
    with pytest.raises(Killed):
        model.train(**TRAIN, split_by="donor", checkpoint_dir=tmp_path, callbacks=[At(stage, kill, epoch=1)])
    again = IndiSeekModel(study, **MODEL)
    again.train(**TRAIN, split_by="donor", checkpoint_dir=tmp_path)
    for key, code in latents(fitted).items():
        np.testing.assert_array_equal(latents(again)[key], code, err_msg=key)


def test_it_is_saved_loaded_and_read_from_disk(fitted, study, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", study, accelerator="cpu")
    assert loaded.test_indices.tolist() == fitted.test_indices.tolist()
    with mudata.set_options(pull_on_update=False):
        study.write(tmp_path / "cells.h5mu")
    on_disk = IndiSeekModel(open_mudata(tmp_path / "cells.h5mu"), **MODEL)
    on_disk.train(**TRAIN, split_by="donor")
    for key, code in latents(fitted).items():
        np.testing.assert_array_equal(latents(loaded)[key], code, err_msg=key)
        np.testing.assert_allclose(latents(on_disk)[key], code, atol=1e-4, err_msg=key)


def test_it_is_tuned_on_donors_of_their_own(study):
    model = IndiSeekModel(study, **MODEL)
    found = model.tune(
        n_shared=(3, 4), alignment=(10.0,), max_epochs=2, validation_size=0.25, split_by="donor", show_progress=False
    )
    assert list(found.table.loc[found.table["stage"] == "shared", "n_shared"]) == [3, 4]
    with pytest.raises(ValueError, match="expected the split on which the model was tuned"):
        model.train(**TRAIN, validation_size=0.25)
    model.train(**TRAIN, validation_size=0.25, split_by="donor")
    donor = study.obs["donor"].to_numpy()
    assert not set(donor[model.validation_indices]) & set(donor[model.test_indices])


@pytest.mark.parametrize(
    ("split_by", "error", "message"),
    [
        ("plate", KeyError, "expected a column 'plate' in .obs"),
        (["donor"], TypeError, r"expected split_by to be the name of a column of .obs, got \['donor'\]; for example"),
        ("lane", ValueError, "expected in 'lane' groups enough .* got 3 groups; split by a finer column"),
    ],
)
def test_columns_that_cannot_split_are_refused_before_training(study, split_by, error, message):
    model = IndiSeekModel(study, **MODEL)
    with pytest.raises(error, match=message):
        model.train(**TRAIN, split_by=split_by)
    assert not model.is_trained and not set(study.obsm) - set(study.mod)


def test_another_split_is_refused_once_trained(fitted):
    with pytest.raises(ValueError, match=r"expected the split of the first training, .*'split_by': 'donor'.*, got"):
        fitted.train(**TRAIN, split_by="lane")
