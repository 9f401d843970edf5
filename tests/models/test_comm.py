from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from model_contract import FAST
from small import pair

from indiseek.data import LogNormalizePCA
from indiseek.models import CoMMModel, IndiSeekModel
from indiseek.nn import Encoder
from indiseek.simulation import simulate_trifeature

SMALL = {"n_latent": 8, "encoder": Encoder(hidden=(32,)), "n_views": 2}


def test_fused_code_needs_both_modalities_and_projections_one(mdata):
    model = CoMMModel(mdata, **SMALL)
    model.train(**FAST)
    changed = pair(rna=mdata["rna"].copy(), prot=mdata["prot"][::-1].copy())
    changed["prot"].obs_names = mdata.obs_names
    changed = pair(**dict(changed.mod))
    np.testing.assert_array_equal(
        model.get_latent_representation(changed, modality="rna"), model.get_latent_representation(modality="rna")
    )
    assert not np.allclose(model.get_latent_representation(changed), model.get_latent_representation(), atol=1e-3)


def test_cells_with_one_modality_have_its_projection_as_fused_code(mdata):
    model = CoMMModel(mdata, **SMALL)
    model.train(**FAST)
    alone = pair(prot=mdata["prot"].copy())
    projection = model.get_latent_representation(modality="prot")
    np.testing.assert_allclose(model.get_latent_representation(alone), projection, atol=1e-5)


def test_one_modality_is_allowed_and_what_is_lost_is_said(mdata, log, tmp_path):
    alone = pair(rna=mdata["rna"].copy())
    with pytest.raises(ValueError, match="expected two modalities"):
        IndiSeekModel(alone)
    model = CoMMModel(alone, **SMALL)
    record = log.records[-1]
    assert record.levelno == logging.WARNING
    assert "no modality but 'rna'" in record.getMessage() and "redundant" in record.getMessage()
    model.train(**FAST)
    np.testing.assert_array_equal(alone.obsm["X_comm"], model.get_latent_representation())
    np.testing.assert_array_equal(alone.obsm["X_comm"], alone.obsm["X_comm_rna"])
    model.save(tmp_path / "model")
    loaded = CoMMModel.load(tmp_path / "model", alone, accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_one_chosen_modality_of_two_is_allowed_and_none_is_not(mdata):
    CoMMModel.setup_mudata(mdata, modalities=["prot"])
    assert CoMMModel(mdata, **SMALL).modalities == ("prot",)
    # The set-up of one class is not that of another.
    assert IndiSeekModel(mdata).modalities == ("rna", "prot")
    for wrong in ([], ["prot", "prot"]):
        with pytest.raises(ValueError, match="expected at least one modality, none twice, got"):
            CoMMModel.setup_mudata(mdata, modalities=wrong)


def test_genes_are_dropped_from_counts_and_components_are_not(mdata):
    def dropped(**options) -> dict[str, float]:
        model = CoMMModel(mdata, **SMALL | options)
        model.train(**FAST)
        return dict(zip(model.modalities, model.module.objective("fused").feature_dropout, strict=True))

    assert dropped(feature_dropout=0.25) == {"rna": 0.0, "prot": 0.25}
    assert dropped(feature_dropout={"rna": 0.4, "prot": 0.1}, n_views=0) == {"rna": 0.4, "prot": 0.1}


def test_views_are_of_training_and_validation_cells_with_the_memory_stated(mdata):
    model = CoMMModel(mdata, **SMALL | {"n_views": 3}, transforms={"rna": LogNormalizePCA(n_components=50)})
    model.train(**FAST)
    rows = model.train_indices
    rna, prot = model._views(model.fitted, rows, 0)
    assert rna.shape == (len(rows), 3, model.get_features(modality="rna").shape[1])
    assert rna.nbytes == len(rows) * 3 * rna.shape[2] * 4
    assert prot.shape == (len(rows), 1, 14)
    np.testing.assert_allclose(prot[:, 0], model.get_features(modality="prot", indices=rows), atol=1e-6)
    # Views scatter around the cell, and not around another one.
    own = torch.from_numpy(model.get_features(modality="rna", indices=rows))
    distance = (rna[:, 0] - own).square().sum(dim=1)
    assert (distance < (rna[:, 0] - own.roll(1, 0)).square().sum(dim=1)).float().mean() > 0.95
    assert (distance > 0).float().mean() > 0.95


def test_a_short_fit_tells_cells_apart_best_by_both_modalities():
    cells = simulate_trifeature(1500, (20, 15), n_states=3).to_mudata()
    model = CoMMModel(cells, n_latent=16, encoder=SMALL["encoder"])
    model.train(12, batch_size=128, accelerator="cpu", show_progress=False)
    found = model.history["fused/validation_infonce_joint"].to_numpy().ravel()
    assert found[-1] < 0.75 * found[0]
    # A projection does not know what only the other modality holds.
    for name in model.modalities:
        assert model.history[f"fused/validation_infonce_{name}"].iloc[-1].item() > found[-1]


def test_certificate_is_of_projections_and_fused_code(make_mdata):
    mdata = make_mdata(400)
    model = CoMMModel(mdata, **SMALL)
    model.train(**FAST, train_size=0.6)
    certificate = model.certify(n_permutations=0)
    assert set(certificate.verdicts["check"]) == {"duplicates", "excess", "completeness", "retrieval", "covariates"}
    assert "independence" not in certificate.tables
    assert set(certificate.content["code"]) == {"shared", "joint"}
    CoMMModel.setup_mudata(mdata, modalities=["prot"])
    alone = CoMMModel(mdata, **SMALL)
    alone.train(**FAST, train_size=0.6)
    with pytest.raises(ValueError, match=r"expected at least 2 modalities in features, got \['prot'\]"):
        alone.certify()


WRONG = [
    ({"n_latent": 6}, "expected n_latent to be a multiple of n_heads=4, got 6; change one of them"),
    ({"n_tokens": 0}, "expected n_tokens to be a .*number of at least 1.*, got 0"),
    ({"form": "printed"}, r"expected form to be one of \['paper', 'code'\], got 'printed'"),
    ({"negatives": "none"}, r"expected negatives to be one of \['both', 'cross'\], got 'none'"),
    ({"temperature": 0.0}, "expected temperature to be a .*number above 0.*, got 0.0"),
    ({"joint_weight": 0.0, "unimodal_weight": 0.0}, "expected joint_weight or unimodal_weight above 0, got 0 for both"),
    (
        {"feature_dropout": 1.0},
        "expected feature_dropout to be a number of at least 0 and below 1, got 1.0",
    ),
    ({"feature_dropout": {"rna": 0.2, "prot": 1.5}}, "expected feature_dropout to be .* below 1, got 1.5"),
    (
        {"feature_dropout": 0.0, "n_views": 0},
        "expected augmentations that change held-out cells, got feature_dropout=0",
    ),
    ({"feature_dropout": 0.0, "lowest_depth": 1.0}, r"no thinned counts \(n_views=4, lowest_depth=1.0\); raise"),
    ({"noise": float("nan")}, "expected noise to be a .*number of at least 0.*, got nan"),
    ({"n_views": -1}, "expected n_views to be a .*number of at least 0.*, got -1"),
    ({"n_views": 1}, "expected n_views of 0, or of at least 2, got 1; both views of a cell would be the same"),
    ({"lowest_depth": 0.0}, "expected lowest_depth to be a .*number above 0.*, got 0.0"),
    (
        {"lowest_depth": 1.5},
        "expected lowest_depth to be a number above 0 and of at most 1, got 1.5",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments_say_what_was_expected(mdata, options, message):
    with pytest.raises(ValueError, match=message):
        CoMMModel(mdata, **options)
