"""A trained model predicts one modality from the other: tables, batches, files, and what it refuses."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from model_contract import FAST, assert_content, assert_same, content, weights
from small import SMALL, pair

from indiseek.data import ScalePCA
from indiseek.models import IndiSeekModel, _indiseek
from indiseek.prediction import Prediction, Predictor, _network, _predictor


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few landmarks and steps, so that a fit takes a moment."""
    monkeypatch.setattr(_predictor, "_N_LANDMARKS", 150)
    monkeypatch.setattr(_network, "_LEAST_STEPS", 50)
    monkeypatch.setattr(_network, "_N_EPOCHS", 1)
    monkeypatch.setattr(_predictor, "_N_LANDMARKS_NOISE", 60)


def _study(real_cells):
    """600 real cells of 12 donors in 2 lanes; the second doubles every third protein."""
    mdata = pair(**{name: part.copy() for name, part in real_cells.mod.items()})
    donor = np.random.default_rng(0).integers(12, size=600)
    prot = np.array(mdata["prot"].X, dtype=np.float32)
    prot[np.ix_(donor % 2 == 1, np.arange(0, 14, 3))] *= 2
    mdata["prot"].X = prot
    mdata.obs["lane"], mdata.obs["donor"] = [f"lane{d % 2}" for d in donor], [f"d{d}" for d in donor]
    mdata.obs["kind"] = np.where(prot[:, 8] > np.median(prot[:, 8]), "high", "low")
    return mdata


@pytest.fixture(scope="module")
def study(real_cells):
    mdata = _study(real_cells)
    IndiSeekModel.setup_mudata(mdata, batch_key="lane")
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST, split_by="donor", write_latents=False)
    return model, mdata


def _rna_only(mdata, rows=slice(None), **columns):
    alone = pair(rna=mdata["rna"][rows].copy())
    for key, column in columns.items():
        alone.obs[key] = column
    return alone


def test_tables_have_the_names_of_cells_and_features_and_are_near_the_truth(study):
    model, mdata = study
    before = content(mdata)
    table = model.predict()
    assert table.index.equals(mdata.obs_names) and list(table) == list(mdata["prot"].var_names)
    logs = np.log1p(mdata["prot"].X)
    logs -= logs.mean(axis=1, keepdims=True)
    test = model.test_indices
    r = [np.corrcoef(table.iloc[test, j], logs[test, j])[0, 1] for j in range(14)]
    assert np.mean(r) > 0.5
    pd.testing.assert_frame_equal(model.predict(scale="clr"), table)
    pd.testing.assert_frame_equal(model.predict(scale="log"), table)
    found = model.predict(interval=0.9)
    assert isinstance(found, Prediction)
    pd.testing.assert_frame_equal(found.value, table)
    covered = (found.lower <= logs) & (found.upper >= logs)
    assert 0.8 < covered.iloc[test].to_numpy().mean() < 0.97
    assert_content(content(mdata), before)


def test_of_very_many_training_cells_some_are_drawn(real_cells, monkeypatch, log):
    monkeypatch.setattr(_indiseek, "_MOST_FOR_PREDICTION", 200)
    mdata = _study(real_cells)
    IndiSeekModel.setup_mudata(mdata, batch_key="lane")
    found = []
    for _ in range(2):
        model = IndiSeekModel(mdata, **SMALL)
        model.train(**FAST, split_by="donor", write_latents=False)
        found.append(model.predict(interval=0.9))
    assert len(model.train_indices) > 200 and "fitted to 200 training cells" in log.text
    for one, other in zip(*found, strict=True):
        pd.testing.assert_frame_equal(one, other)
    test = mdata[model.test_indices]
    r = np.corrcoef(np.log1p(test["prot"].X[:, 8]), found[0].value.iloc[model.test_indices, 8])[0, 1]
    assert r > 0.3


def test_counts_are_those_of_the_logarithms_at_the_median_depth(study):
    model, mdata = study
    logs, counts = model.predict(interval=0.8), model.predict(interval=0.8, scale="counts")
    depth = np.median(mdata["prot"].X[model.train_indices].sum(axis=1))
    assert np.median(counts.value.sum(axis=1)) == pytest.approx(depth, rel=0.01)
    assert ((counts.lower <= counts.value) & (counts.value <= counts.upper)).to_numpy().all()
    assert (counts.lower >= 0).to_numpy().all()
    back = np.log1p(counts.value)
    back = back.sub(back.mean(axis=1), axis=0)
    # A cell where none is cut off at 0.
    whole = (counts.value > 0).all(axis=1)
    assert whole.mean() > 0.5
    np.testing.assert_allclose(
        back[whole], logs.value[whole] - logs.value[whole].mean(axis=1).to_numpy()[:, None], atol=1e-3
    )


def test_one_modality_is_enough_in_any_order(study):
    model, mdata = study
    alone = _rna_only(mdata, slice(50), lane=mdata.obs["lane"].to_numpy()[:50])
    shuffled = pair(rna=alone["rna"][:, ::-1].copy())
    shuffled.obs["lane"] = alone.obs["lane"].to_numpy()
    expected = model.predict().iloc[:50]
    for cells in (alone, shuffled):
        before = content(cells)
        pd.testing.assert_frame_equal(model.predict(cells), expected, atol=1e-5)
        assert_content(content(cells), before)


def test_all_cells_can_be_predicted_as_of_one_batch(study):
    model, mdata = study
    first, second = (model.predict(transform_batch=name) for name in ("lane0", "lane1"))
    changed = np.arange(14) % 3 == 0
    shift = (second - first).mean().to_numpy()
    # Log-ratios: what the others lose is the mean of what these gain.
    assert shift[changed].mean() - shift[~changed].mean() == pytest.approx(np.log(2), abs=0.15)
    lane = mdata.obs["lane"].to_numpy()
    pd.testing.assert_frame_equal(model.predict()[lane == "lane1"], second[lane == "lane1"])
    # Whatever batch other cells have, or none.
    for columns in ({}, {"lane": "new"}, {"lane": lane}):
        alone = _rna_only(mdata, **columns)
        before = content(alone)
        pd.testing.assert_frame_equal(model.predict(alone, transform_batch="lane1"), second, atol=1e-5)
        assert_content(content(alone), before)


def test_genes_are_predicted_from_proteins(study):
    model, mdata = study
    found = model.predict(modality="rna", given="prot", interval=0.9)
    assert found.value.shape == (600, 300) and (found.lower >= 0).to_numpy().all()
    table = model.predictability(modality="rna", given="prot")
    assert table["r"].mean() > 0.05 and list(table.index) == list(mdata["rna"].var_names)
    counts = model.predict(modality="rna", given="prot", scale="counts")
    depth = np.median(np.asarray(mdata["rna"].X[model.train_indices].sum(axis=1)))
    np.testing.assert_allclose(counts, np.expm1(found.value) * depth / 1e4, rtol=1e-3, atol=1e-6)


def test_how_well_it_predicts_is_told_of_test_cells(study):
    model, mdata = study
    table = model.predictability(groupby="kind")
    assert list(table) == ["r", "r2", "r_within_batches", "r_within_groups", "ceiling", "of_ceiling"]
    assert list(table.index) == list(mdata["prot"].var_names)
    test = model.test_indices
    logs = np.log1p(mdata["prot"].X)
    logs -= logs.mean(axis=1, keepdims=True)
    expected = [np.corrcoef(model.predict().iloc[test, j], logs[test, j])[0, 1] for j in range(14)]
    np.testing.assert_allclose(table["r"], expected, atol=1e-5)
    assert table["ceiling"].between(0.5, 1).all()
    # The protein by which the groups were made.
    assert table["r_within_groups"].iloc[8] < table["r"].iloc[8] - 0.1
    with pytest.raises(KeyError, match="expected a column 'plate' in .obs"):
        model.predictability(groupby="plate")


def test_of_very_many_held_out_cells_some_are_drawn_with_their_groups(study, monkeypatch):
    model, mdata = study
    asked = []
    measure = _indiseek.predictability_table
    monkeypatch.setattr(_indiseek, "MOST_HELD_OUT_CELLS", 110)
    monkeypatch.setattr(
        _indiseek,
        "predictability_table",
        lambda *given, groups, seed: asked.append((given[2], groups)) or measure(*given, groups=groups, seed=seed),
    )
    table = model.predictability(mdata, groupby="kind")
    ((rows, groups),) = asked
    assert len(set(rows)) == len(rows) == 110 and table["r"].notna().all()
    np.testing.assert_array_equal(groups, mdata.obs["kind"].to_numpy()[rows])


def test_a_model_that_was_asked_once_predicts_without_its_cells(study, tmp_path, monkeypatch):
    model, mdata = study
    expected = model.predict(interval=0.9)
    model.save(tmp_path / "model")
    monkeypatch.setattr(Predictor, "fit", None)
    loaded = IndiSeekModel.load(tmp_path / "model", accelerator="cpu")
    alone = _rna_only(mdata, lane=mdata.obs["lane"].to_numpy())
    for table, same in zip(loaded.predict(alone, interval=0.9), expected, strict=True):
        pd.testing.assert_frame_equal(table, same, atol=1e-5)
    assert_same(weights(IndiSeekModel.load(tmp_path / "model", mdata, accelerator="cpu")), weights(model))


def test_one_that_was_not_asked_says_what_it_needs(real_cells, tmp_path):
    mdata = _study(real_cells)
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST)
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", accelerator="cpu")
    with pytest.raises(RuntimeError, match="expected the cells that the model was trained on, to learn 'prot' from"):
        loaded.predict(_rna_only(mdata))
    with pytest.raises(RuntimeError, match="expected a MuData, got none from a model loaded without data; pass mdata"):
        loaded.predict()
    with pytest.raises(ValueError, match="expected transform_batch=None for a model without a batch, got 'lane0'; le"):
        model.predict(transform_batch="lane0")
    first = model.predict()
    # A later training goes on from the same split, of which the prediction stays.
    model.train(**FAST)
    pd.testing.assert_frame_equal(model.predict(), first)


def test_values_that_are_no_counts_are_predicted_as_they_are(real_cells):
    mdata = _study(real_cells)
    mdata["prot"].X = np.sqrt(mdata["prot"].X) * np.linspace(1, 50, 14, dtype=np.float32) - 3
    model = IndiSeekModel(mdata, **SMALL, transforms={"prot": ScalePCA(n_components=5)})
    model.train(**FAST, write_latents=False)
    table, test = model.predict(), model.test_indices
    r = [np.corrcoef(table.iloc[test, j], mdata["prot"].X[test, j])[0, 1] for j in range(14)]
    assert np.mean(r) > 0.5
    np.testing.assert_allclose(table.mean(), mdata["prot"].X.mean(axis=0), rtol=0.1, atol=1)
    assert list(model.predictability()) == ["r", "r2"]
    with pytest.raises(ValueError, match="expected scale=None for 'prot', whose values are no counts, got 'log'; leav"):
        model.predict(scale="log")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "atac"}, KeyError, r"expected modality to be one of \['rna', 'prot'\], got 'atac'; use its name"),
        ({"given": "atac"}, KeyError, r"expected given to be one of \['rna', 'prot'\], got 'atac'; use its name"),
        ({"given": "prot"}, ValueError, r"expected given to be another modality than 'prot', got 'prot'; choose one"),
        ({"scale": "raw"}, ValueError, r"expected scale to be one of \['log', 'clr', 'counts'\] for 'prot', got 'raw'"),
        ({"interval": 0}, ValueError, "expected interval to be a number above 0 and below 1, got 0; choose a larger"),
        (
            {"interval": 1.0},
            ValueError,
            "expected interval to be a number above 0 and below 1, got 1.0; choose a small",
        ),
        ({"interval": "90%"}, TypeError, "expected interval to be a number above 0 and below 1, got '90%'"),
        ({"transform_batch": "new"}, ValueError, r"expected transform_batch to be one of \['lane0', 'lane1'\], got 'n"),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_any_work(study, monkeypatch, arguments, error, message):
    model, mdata = study
    before, state = content(mdata), weights(model)
    monkeypatch.setattr(Predictor, "fit", None)
    monkeypatch.setattr(Predictor, "forward", None)
    with pytest.raises(error, match=message):
        model.predict(**arguments)
    assert_content(content(mdata), before)
    assert_same(weights(model), state)


def test_cells_that_cannot_be_predicted_are_refused_before_any_work(study, monkeypatch):
    model, mdata = study
    monkeypatch.setattr(Predictor, "fit", None)
    monkeypatch.setattr(Predictor, "forward", None)
    new = r"expected in 'lane' batches that the model was trained with, \['lane0', 'lane1'\], got \['new'\]; name wi"
    with pytest.raises(ValueError, match=new):
        model.predict(_rna_only(mdata, lane="new"))
    with pytest.raises(KeyError, match="expected a column 'lane' in .obs, got .*name with transform_batch the batch"):
        model.predict(_rna_only(mdata))
    with pytest.raises(KeyError, match=r"expected cells with modality 'rna', got \['prot'\]; predict from another"):
        model.predict(pair(prot=mdata["prot"].copy()))
    with pytest.raises(TypeError, match="expected a MuData with two modalities, got AnnData"):
        model.predict(mdata["rna"])
    fewer = pair(rna=mdata["rna"][:, :100].copy())
    fewer.obs["lane"] = "lane0"
    with pytest.raises(ValueError, match="expected"):
        model.predict(fewer)


def test_an_untrained_model_does_not_predict(real_cells):
    with mudata.set_options(pull_on_update=False):
        model = IndiSeekModel(_study(real_cells), **SMALL)
    for call in (model.predict, model.predictability):
        with pytest.raises(RuntimeError, match="expected a trained model, got one that is not; call train"):
            call()


def _new_lane(mdata, rows=slice(None)):
    """Cells as of a lane that no model has seen, in which every second protein has another level."""
    new = pair(**{name: part[rows].copy() for name, part in mdata.mod.items()})
    prot = np.array(new["prot"].X, dtype=np.float32)
    prot[:, ::2] *= 8
    new["prot"].X = prot
    new.obs = mdata.obs[rows].assign(lane="lane9")
    return new


def test_some_cells_of_a_new_batch_set_levels_and_intervals_right(study):
    model, mdata = study
    helpers = mdata.obs["donor"].isin(["d0", "d1", "d2"]).to_numpy()
    few, rest = _new_lane(mdata, helpers), _new_lane(mdata, ~helpers)
    before, truth = content(few), np.log1p(rest["prot"].X)
    truth -= truth.mean(axis=1, keepdims=True)
    alone = model.predict(rest, transform_batch="lane0")
    value, lower, upper = model.predict(rest, transform_batch="lane0", interval=0.9, recalibrate=few)
    assert_content(content(few), before)
    errors = [np.sqrt(np.square(each.to_numpy() - truth).mean()) for each in (alone, value)]
    assert errors[1] < 0.8 * errors[0]
    moved = (value - alone).to_numpy()
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:1], moved.shape), atol=1e-5)
    inside = (lower.to_numpy() <= truth) & (truth <= upper.to_numpy())
    assert 0.84 < inside.mean() < 0.96
    counts = model.predict(rest, transform_batch="lane0", scale="counts", recalibrate=few)
    assert (counts.to_numpy() >= 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda mdata: mdata["rna"],
            TypeError,
            "expected recalibrate to be a MuData of cells with both modalities, got",
        ),
        (_rna_only, KeyError, "expected recalibrate with 'rna' and 'prot', got it without"),
        (lambda mdata: _new_lane(mdata, slice(60)), ValueError, "expected at least 100 cells with 'rna' and 'prot' in"),
    ],
)
def test_what_cannot_recalibrate_is_refused(study, change, error, message):
    model, mdata = study
    with pytest.raises(error, match=message):
        model.predict(mdata, transform_batch="lane0", recalibrate=change(mdata))
