from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from anndata import AnnData
from model_contract import copy_of
from small import SIZES

from indiseek.data import Scale
from indiseek.models import DisentangledSSLModel
from indiseek.models._disentangled_ssl import DisentangledSSLOptions
from indiseek.nn import Encoder
from indiseek.simulation import simulate_gaussian

FAST = {"max_epochs": 1, "batch_size": 50, "accelerator": "cpu", "show_progress": False}

WRONG = [
    ({"beta": -0.1}, ValueError, "expected beta to be a .*number of at least 0.*, got -0.1; choose a larger one"),
    ({"beta": math.nan}, ValueError, "expected beta to be a .*number of at least 0.*, got nan"),
    ({"beta": math.inf}, ValueError, "expected beta to be a number of at least 0, got inf; give a finite one"),
    ({"kappa": 0.0}, ValueError, "expected kappa to be a .*number above 0.*, got 0.0; choose a larger one"),
    ({"kappa": -1.0}, ValueError, "expected kappa to be a .*number above 0.*, got -1.0"),
    ({"kappa": math.inf}, ValueError, "expected kappa to be a number above 0, got inf; give a finite one"),
    ({"lam": -1.0}, ValueError, "expected lam to be a .*number of at least 0.*, got -1.0"),
    ({"noise": -1.0}, ValueError, "expected noise to be a .*number of at least 0.*, got -1.0"),
    (
        {"masked": 1.0},
        ValueError,
        "expected masked to be a number of at least 0 and below 1, got 1.0",
    ),
    ({"masked": 0.97}, ValueError, "expected masked to leave at least one of 14 features, got 0.97; choose a smaller"),
    ({"masked": -0.1}, ValueError, "expected masked to be a .*number of at least 0.*, got -0.1"),
    ({"temperature": 0.0}, ValueError, "expected temperature to be a .*number above 0.*, got 0.0"),
    ({"n_shared": 1}, ValueError, "expected n_shared to be a .*number of at least 2.*, got 1"),
    ({"n_specific": 1}, ValueError, "expected n_specific to be a .*number of at least 2.*, got 1"),
    ({"bottleneck": "none"}, ValueError, r"expected bottleneck to be one of \['kl', 'cosine'\], got 'none'"),
    (
        {"orthogonality": "x"},
        ValueError,
        r"expected orthogonality to be one of \['correlation', 'published'\], got 'x'",
    ),
    ({"form": "printed"}, ValueError, r"expected form to be one of \['paper', 'code', 'fixed'\], got 'printed'"),
    ({"n_specific": {"rna": 3}}, KeyError, r"expected n_specific of the modalities \['rna', 'prot'\], got \['rna'\]"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments_say_what_was_expected(mdata, arguments, error, message):
    with pytest.raises(error, match=message):
        DisentangledSSLModel(mdata, **SIZES | arguments)


def test_codes_are_unit_vectors(mdata):
    model = DisentangledSSLModel(mdata, **SIZES)
    model.train(**FAST)
    for key in ("shared", "rna", "prot"):
        code = mdata.obsm[f"X_disentangledssl_{key}"]
        np.testing.assert_allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-5)


def test_published_settings_are_reachable(mdata):
    model = DisentangledSSLModel(
        mdata,
        n_shared=100,
        n_specific=100,
        beta=1.0,
        bottleneck="cosine",
        form="code",
        orthogonality="published",
        noise=0.01,
        masked=0.1,
        encoder=Encoder(hidden=(512,), activation="relu", layer_norm=False, initial_sd=0.01),
    )
    model.train(**FAST | {"max_epochs": {"shared": 2, "specific": 1}}, lr=1e-4, early_stopping=False)
    shared, specific = (model.module.objective(stage) for stage in ("shared", "specific"))
    assert (shared.beta, shared.bottleneck, shared.kappa, shared.temperature) == (1.0, "cosine", 1000.0, 0.07)
    assert (shared.augment, shared.noise, shared.masked) == (True, 0.01, 0.1)
    assert (specific.form, specific.orthogonality) == ("code", "published")
    assert (specific.noise, specific.masked) == (0.01, 0.1)
    for encoder in (*shared.encoders, *specific.encoders):
        assert [type(layer) for layer in encoder] == [torch.nn.Linear, torch.nn.ReLU, torch.nn.Linear]
        assert encoder[-1].weight.shape == (100, 512)
        # Still near the widths from which they were drawn; torch's own have 0.026.
        assert encoder[-1].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert model.get_latent_representation(modality="prot", kind="specific").shape == (150, 100)


def test_a_specific_code_is_a_function_of_its_own_modality(mdata):
    model = DisentangledSSLModel(mdata, **SIZES)
    model.train(**FAST)
    code = model.get_latent_representation(modality="rna", kind="specific")
    other = copy_of(mdata, {"prot": lambda adata: AnnData(adata.X[::-1].copy(), obs=adata.obs, var=adata.var)})
    again = model.get_latent_representation(other, modality="rna", kind="specific")
    np.testing.assert_allclose(again, code, atol=1e-5)
    changed = model.get_latent_representation(other, modality="prot", kind="specific")
    assert not np.allclose(changed, model.get_latent_representation(modality="prot", kind="specific"), atol=1e-2)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_views_are_encoded_by_the_shared_encoders_of_the_last_training(mdata, tmp_path, form):
    model = DisentangledSSLModel(mdata, **SIZES, form=form)
    for _ in range(2):
        model.train(**FAST)
        shared, specific = (model.module.objective(stage) for stage in ("shared", "specific"))
        for copied, own in zip(specific.shared.parameters(), shared.encoders.parameters(), strict=True):
            assert torch.equal(copied, own) and not copied.requires_grad
    model.save(tmp_path / "model")
    again = DisentangledSSLModel.load(tmp_path / "model", mdata)
    for kind in ("shared", "specific"):
        code = model.get_latent_representation(modality="rna", kind=kind)
        np.testing.assert_allclose(again.get_latent_representation(modality="rna", kind=kind), code, atol=1e-6)


def test_specific_codes_of_the_program_have_a_length_of_their_own(mdata):
    model = DisentangledSSLModel(mdata, **SIZES, form="code")
    model.train(**FAST)
    lengths = np.linalg.norm(model.get_latent_representation(modality="rna", kind="specific"), axis=1)
    assert lengths.std() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(mdata.obsm["X_disentangledssl_shared"], axis=1), 1, rtol=1e-5)


def test_options_written_down_before_there_were_forms_are_fixed(mdata):
    record = DisentangledSSLModel(mdata, **SIZES)._options.record()
    assert DisentangledSSLOptions.from_record(record).form == "paper"
    del record["form"]
    assert DisentangledSSLOptions.from_record(record).form == "fixed"


@pytest.fixture(scope="module")
def separated():
    """Codes of a linear simulation with 3 shared dimensions, and what is true of them."""
    truth = simulate_gaussian(3000, 3, {"rna": 4, "prot": 4}, rho=0.9)
    mdata = truth.to_mudata()
    logging.getLogger("indiseek").setLevel(logging.WARNING)
    model = DisentangledSSLModel(mdata, n_shared=4, n_specific=6, transforms={"rna": Scale(), "prot": Scale()})
    model.train({"shared": 25, "specific": 25}, accelerator="cpu", show_progress=False)
    logging.getLogger("indiseek").setLevel(logging.INFO)
    return model, truth


def _r2(code: np.ndarray, target: np.ndarray) -> float:
    half = len(code) // 2
    design = np.column_stack([code, np.ones(len(code))])
    fit = np.linalg.lstsq(design[:half], target[:half], rcond=None)[0]
    residual = target[half:] - design[half:] @ fit
    return 1 - residual.var() / target[half:].var()


def test_shared_codes_hold_the_shared_factors_and_specific_ones_the_private(separated):
    model, truth = separated
    rows = model.test_indices
    for name in ("rna", "prot"):
        shared = model.get_latent_representation(modality=name, indices=rows)
        specific = model.get_latent_representation(modality=name, kind="specific", indices=rows)
        assert _r2(shared, truth.shared[rows]) > 0.6
        assert _r2(shared, truth.specific[name][rows]) < 0.1
        assert _r2(specific, truth.specific[name][rows]) > 0.5
        assert _r2(specific, truth.shared[rows]) < 0.1
