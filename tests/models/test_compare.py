"""The condition's effects by space, of a trained model and donors that are made up."""

from __future__ import annotations

import numpy as np
import pytest
from mudata import MuData
from small import SMALL, cells

from indiseek import IndiSeekModel
from indiseek.data import Scale

CHOSEN = {"groupby": "condition", "replicate": "donor", "n_permutations": 99}
_FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False, "write_latents": False}


def made_up(mdata: MuData) -> MuData:
    """Twelve donors in two batches; those with odd numbers have twice as much of the first two proteins."""
    donor = np.arange(mdata.n_obs) % 12
    mdata.obs["donor"] = [f"D{d}" for d in donor]
    mdata.obs["batch"] = np.where(donor < 6, "x", "y")
    mdata.obs["condition"] = np.where(donor % 2, "ill", "healthy")
    counts = mdata["prot"].X.copy()
    counts[np.ix_(donor % 2 == 1, range(2))] *= 2
    mdata["prot"].X = counts
    return mdata


@pytest.fixture(scope="module")
def model() -> IndiSeekModel:
    mdata = made_up(cells())
    IndiSeekModel.setup_mudata(mdata, batch_key="batch")
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**_FAST)
    return model


def test_the_model_names_what_was_changed_within_its_batch(model: IndiSeekModel):
    found = model.compare(**CHOSEN)
    assert found.effects["least_pvalue"].eq(1 / 100).all()
    assert found.calls == {"all cells": ("prot",)}
    best = found.features.sort_values("pvalue").head(2)
    assert set(best["feature"]) == set(model.adata["prot"].var_names[:2])
    assert (best["private"] > 0.3).all()
    assert found.thinned is None


def test_the_model_changes_nothing_and_repeats_itself(model: IndiSeekModel):
    before = model.adata.obs.copy(), model.adata["rna"].X.copy()
    one, other = model.compare(**CHOSEN, seed=5), model.compare(**CHOSEN, seed=5, thin_depth=True)
    assert one.effects.equals(other.effects) and one.features.equals(other.features)
    assert not other.thinned.features.equals(other.features)
    assert "at one depth" in other.summary()
    assert model.adata.obs.equals(before[0])
    assert (model.adata["rna"].X != before[1]).nnz == 0


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"groupby": "disease"}, KeyError, "expected a column 'disease' in .obs"),
        ({"within": "disease"}, KeyError, "expected a column 'disease' in .obs"),
        ({"replicate": 3}, TypeError, "expected groupby, replicate and within to be a list of names, got 3 in it"),
        ({"groupby": "batch"}, ValueError, "cannot be told from the batch"),
        ({"thin_depth": 1}, TypeError, "expected thin_depth to be True or False, got 1"),
    ],
)
def test_what_the_model_cannot_compare_is_refused(model: IndiSeekModel, changed, error, words):
    with pytest.raises(error, match=words):
        model.compare(**CHOSEN | changed)


def test_an_untrained_model_and_one_of_values_that_are_no_counts_are_refused(mdata: MuData):
    made_up(mdata)
    model = IndiSeekModel(mdata, **SMALL, transforms={"prot": Scale()})
    with pytest.raises(RuntimeError, match="expected a trained model"):
        model.compare(**CHOSEN)
    model.train(**_FAST)
    with pytest.raises(ValueError, match=r"expected counts of both modalities, got other values of \['prot'\]"):
        model.compare(**CHOSEN)
