"""Labels that the second stage learns: what is taken and refused, kept, read again, and what it is good for."""

from __future__ import annotations

from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from model_contract import At, assert_content, assert_same, content, latents, weights
from mosaic import mosaic
from mudata import MuData
from sklearn.linear_model import LogisticRegression
from small import SIZES, SMALL, Killed, pair

from indiseek import simulation
from indiseek.data import Scale, open_mudata
from indiseek.metrics import explained
from indiseek.models import CoMMModel, DisentangledSSLModel, Flow, IndiSeekModel, NCEClub

FAST = {"max_epochs": 2, "batch_size": 50, "accelerator": "cpu", "show_progress": False}
N_UNKNOWN = 40


def labelled(mdata: MuData, names: tuple[Any, ...] = ("T", "B", "NK"), unknown: Any = "Unknown") -> MuData:
    """Cells with labels in turn, of which 40 have none."""
    column = np.array([names[i % len(names)] for i in range(mdata.n_obs)], dtype=object)
    column[np.random.default_rng(0).permutation(mdata.n_obs)[:N_UNKNOWN]] = unknown
    mdata.obs["type"] = column
    return mdata


def registered(mdata: MuData, **more: Any) -> MuData:
    IndiSeekModel.setup_mudata(mdata, **{"labels_key": "type", "unlabeled_category": "Unknown"} | more)
    return mdata


def fitted(mdata: MuData, **train: Any) -> IndiSeekModel:
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST | train)
    return model


@pytest.fixture(scope="module")
def model(make_mdata) -> IndiSeekModel:
    return fitted(registered(labelled(make_mdata(150))))


def test_labels_are_predicted_by_cell_and_the_history_has_held_out_figures(model):
    table = model.predict_labels()
    assert list(table) == ["label", "probability"] and list(table.index) == list(model.adata.obs_names)
    soft = model.predict_labels(soft=True)
    assert list(soft) == ["B", "NK", "T"] and soft.shape == (150, 3)
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    assert (soft.idxmax(axis=1) == table["label"].astype(object)).all()
    np.testing.assert_array_equal(soft.max(axis=1), table["probability"])
    some = model.predict_labels(indices=[5, 2])
    np.testing.assert_allclose(some["probability"], table["probability"].iloc[[5, 2]], atol=1e-6)
    for part in ("train", "validation"):
        for term in ("cross_entropy", "accuracy"):
            values = model.history[f"specific/{part}_{term}"]
            assert len(values) == 2 and np.isfinite(values.to_numpy()).all()


def test_the_held_out_figures_are_those_of_the_predictions(model):
    rows = model.validation_indices
    truth = model.adata.obs["type"].to_numpy()[rows]
    rows, truth = rows[truth != "Unknown"], truth[truth != "Unknown"]
    soft = model.predict_labels(soft=True, indices=rows)
    right = (soft.idxmax(axis=1) == truth).mean()
    nats = -np.mean([np.log(soft.iloc[i][name]) for i, name in enumerate(truth)])
    last = {
        term: model.history[f"specific/validation_{term}"].to_numpy()[-1, 0] for term in ("cross_entropy", "accuracy")
    }
    assert last["accuracy"] == pytest.approx(right, abs=1e-6)
    assert last["cross_entropy"] == pytest.approx(nats, abs=1e-5)


def test_labels_of_cells_that_are_not_for_training_change_nothing(make_mdata, model):
    mdata = labelled(make_mdata(150))
    column = mdata.obs["type"].to_numpy(dtype=object).copy()
    away = np.concatenate([model.validation_indices, model.test_indices])
    column[away] = "T"
    mdata.obs["type"] = column
    assert_same(weights(fitted(registered(mdata))), weights(model))


def test_missing_labels_and_a_word_for_them_are_one(make_mdata, model):
    mdata = labelled(make_mdata(150), unknown=None)
    mdata.obs["type"] = pd.Categorical(mdata.obs["type"])
    other = fitted(registered(mdata, unlabeled_category=None))
    assert_same(weights(other), weights(model))


@pytest.mark.parametrize(("names", "unknown"), [((3, 1, 2), -1), ((True, False), None), ((1.0, 2.0), None)])
def test_labels_keep_their_type_when_saved_and_loaded(make_mdata, tmp_path, names, unknown):
    mdata = labelled(make_mdata(150), names, unknown)
    # Objects of mixed types cannot be written.
    mdata.obs["type"] = mdata.obs["type"].astype("category" if unknown is None else int)
    model = fitted(registered(mdata, unlabeled_category=unknown), max_epochs=1)
    found = model.predict_labels()
    assert list(found["label"].cat.categories) == sorted(names)
    model.save(tmp_path / "model", save_mdata=True)
    for loaded in (IndiSeekModel.load(tmp_path / "model"), IndiSeekModel.load(tmp_path / "model", mdata)):
        pd.testing.assert_frame_equal(loaded.predict_labels(), found)


def test_a_saved_model_labels_cells_that_have_none_and_trains_on(make_mdata, model, tmp_path):
    model.save(tmp_path / "model")
    found = model.predict_labels()
    plain = make_mdata(150)
    loaded = IndiSeekModel.load(tmp_path / "model", plain)
    pd.testing.assert_frame_equal(loaded.predict_labels(), found)
    with pytest.raises(ValueError, match=r"expected training cells of every label in 'type', got none of \['B', 'NK'"):
        loaded.train(**FAST)
    strange = labelled(make_mdata(150), ("T", "B", "other"))
    pd.testing.assert_frame_equal(IndiSeekModel.load(tmp_path / "model").predict_labels(strange), found)
    again = IndiSeekModel.load(tmp_path / "model", registered(labelled(make_mdata(150))))
    again.train(**FAST)
    assert len(again.history["specific/validation_accuracy"]) == 4


def test_a_killed_fit_goes_on_to_the_same_result_but_not_with_other_labels(make_mdata, model, tmp_path):
    def kill(_: Any) -> None:
        raise Killed

    with pytest.raises(Killed):
        fitted(registered(labelled(make_mdata(150))), checkpoint_dir=tmp_path, callbacks=[At(1, kill, epoch=1)])
    other = labelled(make_mdata(150), ("T", "NK", "B"))
    with pytest.raises(ValueError, match="expected the data and arguments of the fit that .* labels="):
        fitted(registered(other), checkpoint_dir=tmp_path)
    resumed = fitted(registered(labelled(make_mdata(150))), checkpoint_dir=tmp_path)
    pd.testing.assert_frame_equal(resumed.predict_labels(), model.predict_labels())
    for key, table in model.history.items():
        pd.testing.assert_frame_equal(resumed.history[key], table)


def test_cells_on_disk_and_a_batch_give_the_same(make_mdata, tmp_path):
    mdata = labelled(make_mdata(150))
    mdata.obs["lane"] = ["ab"[i % 2] for i in range(150)]
    registered(mdata, batch_key="lane")
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    in_memory, on_disk = fitted(mdata), fitted(open_mudata(tmp_path / "cells.h5mu"))
    pd.testing.assert_frame_equal(on_disk.predict_labels(), in_memory.predict_labels(), check_names=False)
    assert on_disk.adata_manager.get_state_registry("labels").categorical_mapping.tolist() == [
        "B",
        "NK",
        "T",
        "Unknown",
    ]
    assert "3 labels of 110 in 'type'" in repr(in_memory)


def test_cells_that_lack_a_modality_have_no_prediction(make_mdata):
    mdata = mosaic(labelled(make_mdata(300)), 60)
    model = fitted(registered(mdata, unpaired="keep"))
    table = model.predict_labels()
    paired = np.isin(mdata.obs_names, mdata["rna"].obs_names) & np.isin(mdata.obs_names, mdata["prot"].obs_names)
    assert (table["label"].notna() == paired).all() and (table["probability"].notna() == paired).all()


def test_three_modalities(make_mdata):
    mdata = make_mdata(150)
    third = mdata["prot"].copy()
    third.var_names = [f"other_{name}" for name in third.var_names]
    three = labelled(pair(rna=mdata["rna"].copy(), prot=mdata["prot"].copy(), third=third))
    model = fitted(registered(three, modalities=["rna", "prot", "third"]))
    assert model.module.objective("specific").head[0].in_features == 3 * 4 + 3 * 3
    assert model.predict_labels()["label"].notna().all()


def test_nothing_of_the_user_changes_but_codes(make_mdata):
    mdata = registered(labelled(make_mdata(150)))
    before = content(mdata)
    model = fitted(mdata, write_latents=False)
    model.predict_labels()
    assert_content(content(mdata), before)


def test_without_supervision_labels_are_not_seen(make_mdata):
    silent = SIZES | {"specific": NCEClub(critic_hidden=(16,), supervision=0.0)}
    model = IndiSeekModel(registered(labelled(make_mdata(150))), **silent)
    model.train(**FAST)
    assert_same(latents(model), latents(fitted(make_mdata(150))))
    with pytest.raises(ValueError, match=r"expected a model that has learned labels.*transfer_labels"):
        model.predict_labels()


def test_what_cannot_work_is_refused_before_training(make_mdata):
    mdata = registered(labelled(make_mdata(150)))
    for word in ("closed-form", "flow", Flow()):
        with pytest.raises(ValueError, match=r"expected specific=indiseek.NCEClub\(\) with labels_key='type', got"):
            IndiSeekModel(mdata, specific=word)
    with pytest.raises(ValueError, match="expected labels for supervision=2, got a set-up without; call"):
        IndiSeekModel(make_mdata(150), specific=NCEClub(supervision=2.0))
    with pytest.raises(ValueError, match="expected supervision"):
        NCEClub(supervision=-1.0)
    for other in (DisentangledSSLModel, CoMMModel):
        with pytest.raises(ValueError, match="expected no labels for .*, which learns none, got labels_key='type'"):
            other.setup_mudata(mdata, labels_key="type")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["Unknown"] * 150, "expected at least two labels in 'type', got none: they are missing or 'Unknown'"),
        (["T"] * 149 + ["Unknown"], "expected at least two labels in 'type', got 'T' alone"),
        (["T"] * 100 + ["B"] * 49 + ["rare"], r"expected at least 3 cells of each label.*\('rare' with 1\).*'Unknown'"),
        (np.linspace(0, 1, 150), "expected labels in 'type', got float64 values with fractions"),
    ],
)
def test_labels_of_which_nothing_can_be_learned_are_refused(make_mdata, column, message):
    mdata = make_mdata(150)
    mdata.obs["type"] = column
    registered(mdata)
    with pytest.raises(ValueError, match=message):
        IndiSeekModel(mdata, **SMALL)


def test_a_set_up_that_is_none_is_refused(make_mdata):
    mdata = labelled(make_mdata(150))
    with pytest.raises(KeyError, match="expected a column 'types' in .obs"):
        IndiSeekModel.setup_mudata(mdata, labels_key="types")
    with pytest.raises(TypeError, match="expected labels_key to be the name of a column"):
        IndiSeekModel.setup_mudata(mdata, labels_key=["type"])
    with pytest.raises(ValueError, match="expected labels_key beside unlabeled_category='Unknown'"):
        IndiSeekModel.setup_mudata(mdata, unlabeled_category="Unknown")
    with pytest.raises(TypeError, match="expected unlabeled_category to be a word or a whole number"):
        IndiSeekModel.setup_mudata(mdata, labels_key="type", unlabeled_category=["Unknown"])
    with pytest.raises(ValueError, match="expected labels_key to be another column than the covariates"):
        IndiSeekModel.setup_mudata(mdata, labels_key="type", batch_key="type")


def test_a_label_without_training_cells_is_refused_before_training(make_mdata):
    mdata = registered(labelled(make_mdata(150)))
    rows = np.arange(150)
    is_nk = (mdata.obs["type"] == "NK").to_numpy()
    model = IndiSeekModel(mdata, **SMALL)
    with pytest.raises(ValueError, match=r"expected training cells of every label in 'type', got none of \['NK'\]"):
        model.train(**FAST, external_indexing=[rows[~is_nk], rows[is_nk]])
    assert not model.is_trained


def test_codes_may_be_tuned_with_labels(make_mdata, monkeypatch):
    monkeypatch.setattr("indiseek.models._indiseek.MIN_HELD_OUT_CELLS", 20)
    model = IndiSeekModel(registered(labelled(make_mdata(300))), **SMALL)
    split = {"train_size": 0.6, "validation_size": 0.4}
    model.tune(
        n_shared=(3,), alignment=(1.0,), lam=(1.0, 2.0), max_epochs=1, **split, accelerator="cpu", show_progress=False
    )
    model.train(**FAST, **split)
    assert model.predict_labels()["label"].notna().all()


def test_a_private_factor_that_drives_the_label_survives_with_the_head():
    # Of four private factors of RNA a code of one dimension cannot hold all; the first says what a cell is.
    n_cells, n_labelled, split = 1000, 300, [np.arange(400), np.arange(400, 500), np.arange(500, 1000)]
    truth = simulation.simulate_factors(n_cells, 2, (4, 2), (30, 20), seed=0)
    mdata = pair(
        **{
            name: AnnData(x.astype(np.float32), var=pd.DataFrame(index=[f"{name}{i}" for i in range(x.shape[1])]))
            for name, x in truth.features.items()
        }
    )
    label = np.where(truth.specific["rna"][:, 0] > 0, "high", "low")
    mdata.obs["type"] = np.where(np.arange(n_cells) < n_labelled, label, "Unknown")
    registered(mdata)
    found, leaks = {}, {}
    for supervision in (0.0, 3.0):
        specific = NCEClub(critic_hidden=(32,), supervision=supervision)
        transforms = {"rna": Scale(), "prot": Scale()}
        model = IndiSeekModel(
            mdata, n_shared=3, n_specific=1, specific=specific, encoder=SIZES["encoder"], transforms=transforms
        )
        model.train(
            {"shared": 15, "specific": 45},
            batch_size=100,
            lr=3e-3,
            external_indexing=split,
            accelerator="cpu",
            show_progress=False,
            write_latents=False,
        )
        code = model.get_latent_representation(modality="rna", kind="specific")
        probe = LogisticRegression().fit(code[:n_labelled], label[:n_labelled])
        found[supervision] = probe.score(code[split[2]], label[split[2]])
        leaks[supervision] = explained(code[split[2]], truth.shared[split[2]]).total
    by_head = (model.predict_labels(indices=split[2])["label"] == label[split[2]]).mean()
    assert found[0.0] < 0.8
    assert found[3.0] > 0.88 and by_head > 0.88
    # What the label needs is private, so that nothing shared comes with it.
    assert leaks[3.0] < leaks[0.0] + 0.05
