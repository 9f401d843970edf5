from __future__ import annotations

import numpy as np
import pytest
from model_contract import FAST, latents
from small import SMALL
from torch import nn

import indiseek
from indiseek.models import PAPER, Flow, IndiSeekModel, NCEClub
from indiseek.nn import ConcatCritic, Encoder, GaussianCritic, SeparableCritic

CLUB = {"critic_hidden": (16,)}


@pytest.mark.parametrize(
    ("options", "critic"),
    [
        ({"independence": "vclub"}, GaussianCritic),
        ({"critic": "concat"}, ConcatCritic),
        ({"batch_norm": False}, SeparableCritic),
        ({"lr_schedule": "constant"}, SeparableCritic),
        ({"warmup": 0.5}, SeparableCritic),
        ({"ramp": 1.0}, SeparableCritic),
        ({"independent_of": "own"}, SeparableCritic),
        ({"independent_of": "own", "independence": "vclub"}, GaussianCritic),
        ({"independence_weight": 0.0}, SeparableCritic),
    ],
    ids=[
        "vclub",
        "concat",
        "no batch norm",
        "constant",
        "warm-up",
        "ramp",
        "IndiSeek0",
        "IndiSeek0 with vclub",
        "no independence",
    ],
)
def test_variants_train_and_differ(mdata, trained, options, critic):
    base = IndiSeekModel(mdata, **SMALL)
    base.train(**FAST | {"max_epochs": 4})
    model = IndiSeekModel(mdata, **SMALL | {"specific": NCEClub(**CLUB, **options)})
    model.train(**FAST | {"max_epochs": 4})
    assert all(isinstance(net, critic) for net in model.module.objective("specific").critics)
    ours, theirs = latents(model), latents(base)
    np.testing.assert_array_equal(ours["joint"], theirs["joint"])
    assert not np.allclose(ours["specific_rna"], theirs["specific_rna"])
    terms = {key.split("/")[1] for key in model.history if key.startswith("specific/")}
    assert any("independence" in term for term in terms) is (options.get("independence_weight") != 0)
    assert any("critic" in term for term in terms) is (options.get("independence_weight") != 0)


def test_critic_steps_are_an_option(mdata):
    codes = []
    for n_critic_steps in (1, 5):
        club = NCEClub(**CLUB, n_critic_steps=n_critic_steps)
        model = IndiSeekModel(mdata, **SMALL | {"specific": club})
        model.train(**FAST | {"max_epochs": 3})
        codes.append(latents(model)["specific_rna"])
    assert not np.allclose(*codes)


def test_frozen_shared_codes_are_those_of_the_first_stage(mdata):
    # Training the second stage for longer leaves the shared codes where they are.
    joint = []
    for n in (1, 4):
        model = IndiSeekModel(mdata, **SMALL)
        model.train(**FAST | {"max_epochs": {"shared": 2, "specific": n}})
        joint.append(latents(model)["joint"])
    np.testing.assert_array_equal(*joint)


def test_alignment_brings_the_modalities_together(mdata):
    cosines = []
    for alignment in (0.0, 30.0):
        model = IndiSeekModel(mdata, **SMALL, alignment=alignment)
        model.train(**FAST | {"max_epochs": {"shared": 20, "specific": 1}}, early_stopping=False)
        codes = latents(model)
        cosines.append((codes["shared_rna"] * codes["shared_prot"]).sum(axis=1)[model.train_indices].mean())
    assert cosines[1] > cosines[0] + 0.05


WRONG = [
    ({"n_shared": 1}, ValueError, "expected n_shared to be a .*number of at least 2.*, got 1"),
    ({"n_shared": 51}, ValueError, "expected n_shared of at most 50, the most features of a modality"),
    ({"n_specific": 0}, ValueError, "expected n_specific to be a .*number of at least 1.*, got 0"),
    ({"n_specific": 15}, ValueError, "expected n_specific of at most 1[34], .* 'prot' after its transform, got 15"),
    ({"n_specific": {"rna": 3}}, KeyError, r"expected n_specific of the modalities \['rna', 'prot'\], got \['rna'\]"),
    ({"n_specific": {"rna": 3, "x": 3}}, KeyError, r"expected n_specific of the modalities .*'x'"),
    ({"alignment": -1}, ValueError, "expected alignment to be a number of at least 0, got -1"),
    ({"n_shared": 4.5}, ValueError, "expected n_shared to be a whole number of at least 2.*, got 4.5; round it"),
    ({"n_shared": "6"}, TypeError, "expected n_shared to be a whole number .*, got '6' of type str; give a number"),
    ({"specific": "vae"}, ValueError, "expected specific to be one of .*'nce-club'.* got 'vae'"),
    ({"encoder": (32, 32)}, TypeError, "expected encoder to be an indiseek.Encoder, got tuple; for example"),
]

WRONG_OPTIONS = [
    (NCEClub, {"lam": -1.0}, ValueError, "expected lam to be a number of at least 0, got -1.0"),
    (NCEClub, {"lam": float("nan")}, ValueError, "expected lam to be a number of at least 0, got nan; give a finite"),
    (NCEClub, {"lam": float("inf")}, ValueError, "expected lam to be a number of at least 0, got inf; give a finite"),
    (NCEClub, {"independence": "club"}, ValueError, r"expected independence to be one of \['nce-club', 'vclub'\], got"),
    (NCEClub, {"independent_of": "both"}, ValueError, r"expected independent_of to be one of \['other', 'own'\], got"),
    (NCEClub, {"independence_weight": -0.1}, ValueError, "expected independence_weight to be .* at least 0, got -0.1"),
    (NCEClub, {"critic_hidden": (2.5,)}, ValueError, "expected widths in critic_hidden to be .*, got 2.5; round it"),
    (NCEClub, {"critic_lr": 0}, ValueError, "expected critic_lr to be a number above 0, got 0"),
    (NCEClub, {"n_critic_steps": 0}, ValueError, "expected n_critic_steps to be a whole number of at least 1, got 0"),
    (NCEClub, {"critic": "joint"}, ValueError, r"expected critic to be one of \['separable', 'concat'\], got 'joint'"),
    (
        NCEClub,
        {"lr_schedule": None},
        ValueError,
        r"expected lr_schedule to be one of .*got None",
    ),
    (NCEClub, {"warmup": 1.5}, ValueError, "expected warmup to be a number of at least 0 and of at most 1, got 1.5"),
    (NCEClub, {"ramp": -0.1}, ValueError, "expected ramp to be a number of at least 0 and of at most 1, got -0.1"),
    (NCEClub, {"batch_norm": 1}, TypeError, "expected batch_norm to be True or False, got 1"),
    (NCEClub, {"overcomplete": "yes"}, TypeError, "expected overcomplete to be True or False, got 'yes'"),
    (NCEClub, {"n_context": 3}, TypeError, "n_context"),
    (Flow, {"n_context": -1}, ValueError, "expected n_context to be a whole number of at least 0 .*, got -1"),
    (Flow, {"n_context": 1e9}, ValueError, "expected n_context to be a whole number .*of at most 4096, got 1000000000"),
    (Flow, {"lam": 0.1}, TypeError, "lam"),
    (Encoder, {"activation": "tanh"}, ValueError, r"expected activation to be one of \['gelu', 'relu'\], got 'tanh'"),
    (Encoder, {"hidden": (32, 0)}, ValueError, "expected widths in hidden to be a whole number of at least 1, got 0"),
    (Encoder, {"hidden": "32"}, TypeError, "expected hidden to be a sequence of whole numbers, got '32'"),
    (Encoder, {"layer_norm": "yes"}, TypeError, "expected layer_norm to be True or False, got 'yes'"),
    (Encoder, {"own": {"rna": nn.Linear(2, 2)}}, TypeError, "expected a class or function .* 'rna', got a module"),
]


@pytest.mark.parametrize(("owner", "options", "error", "message"), WRONG_OPTIONS)
def test_wrong_options_are_refused_where_they_are_made(owner, options, error, message):
    with pytest.raises(error, match=message):
        owner(**options)


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_before_training(mdata, options, error, message):
    with pytest.raises(error, match=message):
        IndiSeekModel(mdata, **SMALL | options)


def test_rates_go_by_stage_and_are_checked(mdata):
    model = IndiSeekModel(mdata, **SMALL)
    with pytest.raises(ValueError, match="expected weight_decay to be a number of at least 0, got -1"):
        model.train(**FAST, weight_decay={"shared": -1})
    with pytest.raises(KeyError, match=r"expected lr of the stages \['shared', 'specific'\], got \['context'\]"):
        model.train(**FAST, lr={"context": 1e-3})
    model.train(**FAST, lr={"shared": 1e-12}, patience={"specific": 3}, early_stopping={"shared": False})
    other = IndiSeekModel(mdata, **SMALL)
    other.train(**FAST, early_stopping=False)
    # A rate of one stage leaves that of the other as it is.
    moved, still = (m.history["specific/train_loss"].to_numpy() for m in (model, other))
    assert not np.allclose(moved, still) and np.isfinite(moved).all()


def test_facade_exports_the_model():
    assert indiseek.IndiSeekModel is IndiSeekModel and indiseek.PAPER is PAPER


def test_shared_training_learns_to_pair_real_cells(trained):
    # Held-out InfoNCE falls from its first epoch, and paired held-out cells are nearer than mispaired ones.
    model, mdata = trained
    held_out = model.history["shared/validation_infonce"].to_numpy().ravel()
    assert held_out.min() < held_out[0]
    codes = latents(model)
    rna, prot = (codes[f"shared_{name}"][model.test_indices] for name in ("rna", "prot"))
    cosine = rna @ prot.T
    assert np.trace(cosine) / len(cosine) > cosine.mean() + 0.1
