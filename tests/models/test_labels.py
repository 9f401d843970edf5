"""Labels of new cells: right as often as is said, and flagged where they are unlike the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_contract import assert_content, content, copy_of
from mudata import MuData
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from small import pair

from indiseek.datasets import gate_pbmc, pbmc10k_cite
from indiseek.models import ClosedForm, IndiSeekModel
from indiseek.nn import Encoder

N_REFERENCE, N_NEW = 2400, 1600
SMALL = {"n_shared": 4, "encoder": Encoder(hidden=(32,)), "specific": ClosedForm(n_landmarks=100, refine=False)}
FIT = {"max_epochs": 25, "batch_size": 256, "accelerator": "cpu", "show_progress": False, "write_latents": False}


def _part(rows: np.ndarray) -> MuData:
    full = pbmc10k_cite()
    genes = np.sort(np.argsort(-full["rna"].X.getnnz(axis=0), kind="stable")[100:700])
    part = pair(rna=full["rna"][rows][:, genes].copy(), prot=full["prot"][rows].copy())
    part.obs["type"] = gate_pbmc(part).astype(str).to_numpy()
    return part


@pytest.fixture(scope="module")
def blood() -> tuple[MuData, MuData]:
    """Cells of training and new ones, with the types that their proteins tell."""
    rows = np.random.default_rng(0).permutation(pbmc10k_cite().n_obs)[: N_REFERENCE + N_NEW]
    return _part(np.sort(rows[:N_REFERENCE])), _part(np.sort(rows[N_REFERENCE:]))


@pytest.fixture(scope="module")
def trained(blood) -> IndiSeekModel:
    model = IndiSeekModel(blood[0], **SMALL)
    model.train(**FIT)
    return model


@pytest.fixture
def model(trained, blood):
    """The trained model, of which a test may change the labels."""
    labels = blood[0].obs["type"].copy()
    yield trained
    blood[0].obs = blood[0].obs[[]].assign(type=labels)


def _only(mdata: MuData, *names: str) -> MuData:
    return pair(**{name: mdata[name].copy() for name in names})


@pytest.mark.parametrize("names", [("rna",), ("prot",), ("rna", "prot")])
def test_labels_are_as_good_as_neighbours_in_features_and_probabilities_hold(model, blood, names):
    truth = blood[1].obs["type"].to_numpy()
    new = _only(blood[1], *names)
    before, reference = content(new), content(blood[0])
    found = model.transfer_labels(new, "type")
    assert_content(content(new), before)
    assert_content(content(blood[0]), reference)
    assert list(found.columns) == ["label", "probability", "unlike_reference"]
    assert found.index.equals(new.obs_names) and found["unlike_reference"].dtype == bool
    assert set(found["label"].cat.categories) == set(blood[0].obs["type"])
    train = model.train_indices
    both = [[model.get_features(cells, modality=name) for name in names] for cells in (None, blood[1])]
    known, features = (np.concatenate(parts, axis=1) for parts in both)
    plain = KNeighborsClassifier(15).fit(known[train], blood[0].obs["type"].to_numpy()[train]).predict(features)
    labels = found["label"].astype(str).to_numpy()
    assert f1_score(truth, labels, average="macro") > f1_score(truth, plain, average="macro") - 0.01
    # Of the cells with some probability, as many are right.
    for part in np.array_split(np.argsort(found["probability"].to_numpy(), kind="stable"), 3):
        assert np.mean(labels[part] == truth[part]) == pytest.approx(found["probability"].iloc[part].mean(), abs=0.06)
    assert 0.02 < found["unlike_reference"].mean() < 0.09


@pytest.mark.parametrize("kinds", [["B"], ["CD14 mono", "CD16 mono"]])
def test_a_type_of_which_no_cell_is_labelled_is_flagged(model, blood, kinds, log):
    # Of those that are not assigned, some are such cells.
    types, left_out = blood[0].obs["type"], [*kinds, "unassigned"]
    blood[0].obs["some"] = types.where(~types.isin(left_out))
    found = model.transfer_labels(blood[1], "some")
    assert f"{types.isin(left_out).sum():,} of 2,400 cells have no label in 'some': they are left out." in log.text
    assert not set(left_out) & set(found["label"].cat.categories)
    of_new = blood[1].obs["type"]
    assert found["unlike_reference"][of_new.isin(kinds).to_numpy()].mean() > 0.8
    assert found["unlike_reference"][~of_new.isin(left_out).to_numpy()].mean() < 0.1


def test_cells_of_another_experiment_are_flagged_and_what_helps_is_said(model, blood, log):
    model.transfer_labels(blood[1], "type")
    assert "unlike the reference" not in log.text
    shifted = copy_of(blood[1])
    shifted["prot"].X = shifted["prot"].X * np.where(np.arange(14) % 2, 8.0, 1.0).astype(np.float32)
    found = model.transfer_labels(shifted, "type")
    assert found["unlike_reference"].mean() > 0.5
    assert "of the cells are unlike the reference: cells of another experiment may be shifted as a whole" in log.text
    fitted = model.transfer_labels(shifted, "type", fit_batch=True)
    assert fitted["unlike_reference"].mean() < 0.12
    truth = blood[1].obs["type"].to_numpy()
    right = [np.mean(each["label"].astype(str).to_numpy() == truth) for each in (found, fitted)]
    assert right[1] > right[0]


def test_labels_of_a_modality_and_cells_with_fewer_features(model, blood):
    blood[0]["prot"].obs["number"] = pd.factorize(blood[0].obs["type"])[0]
    names = pd.Series(pd.factorize(blood[0].obs["type"])[1])
    found = model.transfer_labels(blood[1], "number")
    del blood[0]["prot"].obs["number"]
    by_name = model.transfer_labels(blood[1], "type")
    assert (names[found["label"].astype(int)].to_numpy() == by_name["label"].astype(str).to_numpy()).mean() > 0.999
    fewer = pair(rna=blood[1]["rna"][:, 100:].copy(), prot=blood[1]["prot"][:, ::2].copy())
    labels = model.transfer_labels(fewer, "type")
    assert 0.02 < labels["unlike_reference"].mean() < 0.09
    truth = blood[1].obs["type"].to_numpy()
    assert np.mean(labels["label"].astype(str).to_numpy() == truth) > 0.75


def test_more_neighbours_and_a_loaded_model(model, blood, tmp_path):
    new = _only(blood[1], "rna")
    found, more = model.transfer_labels(new, "type"), model.transfer_labels(new, "type", n_neighbors=60)
    assert 0.5 < (found["label"] == more["label"]).mean() < 1.0
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", blood[0], accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.transfer_labels(new, "type"), found)
    for other in (None, copy_of(blood[1])):
        alone = IndiSeekModel.load(tmp_path / "model", other, accelerator="cpu")
        with pytest.raises(RuntimeError, match=r"which transfer_labels needs, got a model loaded without them"):
            alone.transfer_labels(new, "type")


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no such column": (None, {}, KeyError, r"expected a column 'kind' in .obs of the cells that the model was trained"),
    "one label": (lambda cells: "a", {}, ValueError, r"expected in 'kind' at least two labels, .*, got 1 \(a\) in"),
    "no label": (lambda cells: np.nan, {}, ValueError, r"at least two labels, .*, got 0 \(none\) in 0 training cells"),
    "fractions": (
        lambda cells: np.linspace(0, 1, N_REFERENCE),
        {},
        ValueError,
        r"expected labels in 'kind', got float64 values with fractions such as",
    ),
    "few held-out cells": (
        lambda cells: np.where(np.arange(N_REFERENCE) < 200, cells.obs["type"].astype(object), None),
        {},
        ValueError,
        r"expected at least 100 validation and test cells with a label in 'kind', .*, got \d\d; train with smaller",
    ),
    "neighbours": (lambda cells: cells.obs["type"], {"n_neighbors": 0}, ValueError, r"expected n_neighbors to be"),
    "many neighbours": (
        lambda cells: cells.obs["type"],
        {"n_neighbors": 2000},
        ValueError,
        r"at least two labels, and 2000 training cells with one, got 7",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_columns_that_cannot_be_used_are_named_before_any_work(model, blood, name, monkeypatch):
    make, options, error, message = BAD[name]
    if make is not None:
        blood[0].obs["kind"] = make(blood[0])
    before = content(blood[0])
    # Work begins with reading.
    monkeypatch.setattr(type(model._schema), "read", None)
    with pytest.raises(error, match=message):
        model.transfer_labels(blood[1], "kind", **options)
    assert_content(content(blood[0]), before)


def test_the_name_of_the_column_is_a_string(model, blood):
    with pytest.raises(TypeError, match=r"expected labels to be the name of a column of .obs, got \['type'\]"):
        model.transfer_labels(blood[1], ["type"])
