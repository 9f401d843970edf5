"""Specific codes in closed form, alone and with a flow on top."""

from __future__ import annotations

import math

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from anndata import AnnData
from small import Killed, pair

from indiseek.data import LogNormalizePCA, Scale
from indiseek.metrics import explained
from indiseek.models import ClosedForm, IndiSeekModel
from indiseek.nn import Encoder
from indiseek.objectives import ClosedFormFlowObjective

SMALL = {"n_shared": 4, "encoder": Encoder(hidden=(32,)), "specific": ClosedForm(n_landmarks=60, refine=False)}
FAST = {"accelerator": "cpu", "show_progress": False, "max_epochs": {"shared": 5}, "batch_size": {"shared": 64}}


def _model(mdata, **more):
    transforms = {"rna": LogNormalizePCA(n_components=6, n_top_features=200)}
    return IndiSeekModel(mdata, **SMALL | more, transforms=transforms)


@pytest.fixture(scope="module")
def closed(make_mdata):
    """A model of 600 cells. Not to be changed."""
    mdata = make_mdata()
    model = _model(mdata)
    model.train(**FAST)
    return model, mdata


def test_codes_are_computed_saved_and_inverted(closed, tmp_path):
    model, mdata = closed
    assert list(model.stage_seconds) == ["shared", "everything", "components", "specific"]
    assert {key.split("/")[0] for key in model.history} == {"shared"}
    # As many as 390 training cells can whiten.
    assert mdata.obsm["X_indiseek_rna"].shape == mdata.obsm["X_indiseek_prot"].shape == (600, 2)
    assert mdata.obsm["X_indiseek"].shape == (600, 6 + 14 + 4)
    assert all(np.isfinite(mdata.obsm[f"X_indiseek_{name}"]).all() for name in ("rna", "prot"))
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", mdata, accelerator="cpu")
    for name in ("rna", "prot"):
        codes = loaded.get_latent_representation(modality=name, kind="specific")
        np.testing.assert_array_equal(codes, mdata.obsm[f"X_indiseek_{name}"])
    cells = np.arange(20)
    features = model.get_features(modality="prot", indices=cells)
    back = model.counterfactual(modality="prot", indices=cells, donors=cells)
    np.testing.assert_allclose(back, features, atol=1e-3)


def test_dimensions_are_counted_from_the_cells_that_specific_codes_are_learned_from(make_mdata, monkeypatch, tmp_path):
    monkeypatch.setattr("indiseek.models._indiseek._MOST_FOR_SPECIFIC", 160)
    # Of the 390 training cells.
    monkeypatch.setattr("indiseek.models._indiseek.whitenable_axes", lambda n: 2 if n <= 160 else 3)
    mdata = make_mdata()
    model = _model(mdata)
    model.train(**FAST)
    assert mdata.obsm["X_indiseek_rna"].shape == mdata.obsm["X_indiseek_prot"].shape == (600, 2)
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", mdata, accelerator="cpu")
    codes = loaded.get_latent_representation(modality="rna", kind="specific")
    np.testing.assert_array_equal(codes, mdata.obsm["X_indiseek_rna"])


def test_the_shared_code_has_at_most_one_dimension_more_than_the_poorest_modality(make_mdata, tmp_path):
    mdata = make_mdata(200)
    few = mdata["prot"][:, :4].copy()  # CLR: they lie in 3 dimensions
    mdata = pair(rna=mdata["rna"], prot=few)
    found = {}
    for n_shared in (None, 6):
        model = _model(mdata, n_shared=n_shared)
        model.train(**FAST)
        found[n_shared] = mdata.obsm["X_indiseek_shared"]
        model.save(tmp_path / str(n_shared))
        loaded = IndiSeekModel.load(tmp_path / str(n_shared), mdata, accelerator="cpu")
        np.testing.assert_array_equal(loaded.get_latent_representation(), found[n_shared])
    assert found[None].shape == (200, 4) and found[6].shape == (200, 6)
    rest = _model(make_mdata(200), n_shared=None)
    rest.train(**FAST)
    assert rest.get_latent_representation().shape == (200, 6)


def test_more_dimensions_than_hold_signal_are_made_where_they_are_asked_for(mdata, log):
    model = IndiSeekModel(mdata, **SMALL, n_specific={"rna": 17, "prot": 2})
    model.train(**FAST)
    assert mdata.obsm["X_indiseek_rna"].shape == (150, 17) and mdata.obsm["X_indiseek_prot"].shape == (150, 2)
    assert model.get_features(modality="rna").shape == (150, 17)
    assert "components that hold signal in 98 training cells: 17 of 'rna'" in log.text


def test_codes_are_of_the_scale_of_new_cells_and_tell_less_of_the_other_modality(closed):
    model, mdata = closed
    test = np.concatenate([model.validation_indices, model.test_indices])
    z = mdata.obsm["X_indiseek_rna"][test]
    assert 0.7 < z.std(axis=0).mean() < 1.4
    known = model.get_latent_representation(modality="prot", indices=test)
    raw = model.get_features(modality="rna", indices=test)
    assert explained(z, known).total < 0.5 * explained(raw, known).total


def test_one_seed_gives_one_result_and_another_another(make_mdata, closed):
    again, other = _model(make_mdata()), _model(make_mdata())
    again.train(**FAST)
    np.testing.assert_array_equal(again.adata.obsm["X_indiseek_prot"], closed[1].obsm["X_indiseek_prot"])
    other.train(**FAST, seed=1)
    assert not np.allclose(other.adata.obsm["X_indiseek_prot"], closed[1].obsm["X_indiseek_prot"])


def test_a_batch_leaves_the_codes(make_mdata):
    """Proteins of one lane are higher by half; the codes of cells held out do not tell the lane where it is set up."""
    told = []
    for batch_key in (None, "lane"):
        mdata = make_mdata()
        lane = np.random.default_rng(0).integers(2, size=600)
        mdata.obs["lane"] = np.where(lane, "a", "b")
        x = mdata["prot"].X
        x = x.toarray() if hasattr(x, "toarray") else np.array(x)
        x[lane == 1, :5] = np.rint(1.6 * x[lane == 1, :5])
        mdata["prot"].X = x.astype(np.float32)
        IndiSeekModel.setup_mudata(mdata, batch_key=batch_key)
        model = _model(mdata, n_specific={"rna": 3, "prot": 13})
        model.train(**FAST)
        rows = np.concatenate([model.validation_indices, model.test_indices])
        label = np.eye(2)[lane[rows]]
        told.append(explained(mdata.obsm["X_indiseek_prot"][rows], label).map)
    assert told[0] > 0.3 and told[1] < 0.3 * told[0]


@pytest.fixture
def tried(monkeypatch):
    """A flow is trained whatever the closed form has left."""
    monkeypatch.setattr(ClosedFormFlowObjective, "most_told", -math.inf)


@pytest.mark.usefixtures("tried")
def test_a_flow_on_top_is_kept_only_where_validation_cells_like_it(mdata):
    model = _model(mdata, specific=ClosedForm(n_landmarks=60, refine=True))
    epochs = {"shared": 5, "specific": 3}
    model.train(**FAST | {"max_epochs": epochs}, lr={"specific": 0.5})
    # With such a rate no epoch is better than the closed form, which is kept.
    plain = _model(mdata)
    plain.train(**FAST)
    for name in ("rna", "prot"):
        codes = [m.get_latent_representation(modality=name, kind="specific") for m in (model, plain)]
        np.testing.assert_array_equal(codes[0], codes[1])
    assert len(model.history["specific/validation_nll"]) == 3


def test_no_flow_is_trained_where_the_closed_form_leaves_nothing(make_mdata, closed, log):
    model = _model(make_mdata(), specific=ClosedForm(n_landmarks=60))
    model.train(**FAST)
    assert "stage 'specific': computed, needs no training" in log.text
    assert {key.split("/")[0] for key in model.history} == {"shared"}
    for name in ("rna", "prot"):
        codes = [m.get_latent_representation(modality=name, kind="specific") for m in (model, closed[0])]
        np.testing.assert_array_equal(*codes)
    # Who asks for epochs gets them.
    model.train(**FAST | {"max_epochs": {"shared": 5, "specific": 2}}, early_stopping={"specific": False})
    assert len(model.history["specific/validation_nll"]) == 2


def _bent_cells(n=600):
    """Features of one modality of which one is the size of another: mean and covariance do not tell of it."""
    rng = np.random.default_rng(0)
    state, own = rng.standard_normal((2, n))
    noise = rng.standard_normal((4, n))
    rna = np.column_stack([state + 0.3 * noise[0], own, np.abs(own) + 0.1 * noise[1]])
    prot = np.column_stack([state + 0.3 * noise[2], noise[3]])
    cells = {"rna": AnnData(rna.astype(np.float32)), "prot": AnnData(prot.astype(np.float32))}
    for name, adata in cells.items():
        adata.var_names = [f"{name}{j}" for j in range(adata.n_vars)]
    return pair(**cells)


def _refined_on_bent_cells(lr):
    model = IndiSeekModel(
        _bent_cells(),
        n_shared=2,
        encoder=SMALL["encoder"],
        specific=ClosedForm(n_landmarks=60, refine=True),
        transforms={"rna": Scale(), "prot": Scale()},
    )
    model.train(**FAST | {"max_epochs": {"shared": 5, "specific": 12}, "batch_size": 64}, lr={"specific": lr})
    return model


@pytest.mark.usefixtures("tried")
def test_a_flow_that_gains_less_than_is_asked_is_left_out_and_that_is_said(monkeypatch, log):
    closed = _refined_on_bent_cells(0.5)
    monkeypatch.setattr(ClosedFormFlowObjective, "least_gain", 5.0)
    log.clear()
    model = _refined_on_bent_cells(0.01)
    assert "stage 'specific': its epochs have gained too little" in log.text
    # They were better: only the size of the gain speaks against them.
    assert model.history["specific/validation_nll"].to_numpy().min() < _validation_nll(closed) - 0.02
    for name in ("rna", "prot"):
        codes = [m.get_latent_representation(modality=name, kind="specific") for m in (model, closed)]
        np.testing.assert_array_equal(codes[0], codes[1])


@pytest.mark.usefixtures("tried")
def test_a_flow_on_top_is_kept_where_validation_cells_like_it():
    models = {lr: _refined_on_bent_cells(lr) for lr in (0.5, 0.01)}
    nll = {lr: _validation_nll(model) for lr, model in models.items()}
    # The first is the closed form, which no epoch of such steps beats.
    assert nll[0.01] < nll[0.5] - 0.02
    assert nll[0.01] == pytest.approx(models[0.01].history["specific/validation_nll"].to_numpy().min(), abs=1e-4)
    codes = [model.get_latent_representation(modality="rna", kind="specific") for model in models.values()]
    assert np.abs(codes[0] - codes[1]).max() > 0.2


def _validation_nll(model):
    """Of the validation cells, by the specific stage as it was kept."""
    pipeline, rows = model.module, model.validation_indices
    objective = pipeline.objective("specific")
    seen = objective.prepared(pipeline.inputs("specific", pipeline.tensors(model._unchanged_cells(), rows)))
    with torch.no_grad():
        return float(objective.validate(seen)["nll"])


class KillSecond(lightning.Callback):
    """Kill in the second epoch of the specific stage."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.objective.starts_fitted and trainer.current_epoch == 1:
            raise Killed


@pytest.mark.usefixtures("tried")
def test_a_killed_refinement_goes_on_to_the_same_result(make_mdata, tmp_path):
    train = FAST | {"max_epochs": {"shared": 3, "specific": 3}}
    refined = ClosedForm(n_landmarks=60, refine=True)
    whole = _model(make_mdata(200), specific=refined)
    whole.train(**train)
    with pytest.raises(Killed):
        _model(make_mdata(200), specific=refined).train(**train, checkpoint_dir=tmp_path, callbacks=[KillSecond()])
    model = _model(make_mdata(200), specific=refined)
    model.train(**train, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(model.adata.obsm["X_indiseek_rna"], whole.adata.obsm["X_indiseek_rna"])


def test_cells_with_one_modality_are_told_of_what_is_predicted(closed, log):
    model, mdata = closed
    only = pair(rna=mdata["rna"].copy())
    code = model.get_latent_representation(only, modality="rna", kind="specific")
    assert np.isfinite(code).all() and "predicted from 'rna' itself" in log.messages[-1]
