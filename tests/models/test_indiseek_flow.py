from __future__ import annotations

import numpy as np
import pytest
from model_contract import FAST, At, interrupt, latents
from small import SMALL, pair

from indiseek.data import LogNormalizePCA
from indiseek.models import Flow, IndiSeekModel
from indiseek.nn import Encoder
from indiseek.objectives import ConditionalFlowObjective

FLOW = {"n_shared": 4, "encoder": Encoder(hidden=(32,)), "specific": Flow(n_context=6)}


@pytest.fixture(scope="module")
def flow(make_mdata):
    mdata = make_mdata(200)
    model = IndiSeekModel(mdata, **FLOW, n_specific=3, transforms={"rna": LogNormalizePCA(n_components=50)})
    # So few steps at the default learning rate of a flow would leave it far from any fit.
    model.train(**FAST | {"max_epochs": 3}, lr=3e-3)
    return model, mdata


def test_a_cell_that_is_its_own_donor_gives_back_its_features(flow):
    model, _ = flow
    rows = [3, 77, 140]
    for name in ("rna", "prot"):
        same = model.counterfactual(modality=name, indices=rows, donors=rows)
        np.testing.assert_allclose(same, model.get_features(modality=name, indices=rows), atol=2e-3)
        other = model.counterfactual(modality=name, indices=rows, donors=[140, 3, 77])
        assert other.shape == same.shape and not np.allclose(other, same, atol=0.01)


def test_new_cells_are_certified_by_the_exact_inverse(flow, make_mdata):
    model, _ = flow
    new = pair(**{name: adata[300:420].copy() for name, adata in make_mdata().mod.items()})
    table = model.certify(new, n_permutations=0).table("completeness")
    assert (table["by"] == "reconstruction").all() and set(table["modality"]) == {"rna", "prot"}
    # Three dimensions of 14 and of 50.
    assert (table["in_codes"] < 0.9).all()


def test_an_interrupted_flow_says_that_its_last_weights_are_kept(mdata, log):
    IndiSeekModel(mdata, **FLOW).train(**FAST | {"max_epochs": 3}, callbacks=[At(2, interrupt, epoch=1)])
    assert "in stage 'specific' after 1 epochs; the last weights so far are kept" in log.records[-1].getMessage()


def test_counterfactuals_that_do_not_fit_into_memory_say_so(flow, monkeypatch):
    model, _ = flow

    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(ConditionalFlowObjective, "inverse", out_of_memory)
    with pytest.raises(MemoryError, match="expected features and codes of 2 cells .* take fewer cells at once"):
        model.counterfactual(modality="rna", indices=[0, 1], donors=[2, 3])


def test_counterfactuals_say_what_they_need(flow, mdata):
    model, _ = flow
    with pytest.raises(ValueError, match="expected one donor for each cell, got 1 donors for 2 cells"):
        model.counterfactual(modality="rna", indices=[0, 1], donors=[2])
    with pytest.raises(KeyError, match="expected modality to be one of .* got 'x'"):
        model.counterfactual(modality="x", indices=[0], donors=[1])
    club = IndiSeekModel(mdata, **SMALL)
    with pytest.raises(RuntimeError, match="call train"):
        club.counterfactual(modality="rna", indices=[0], donors=[1])
    club.train(**FAST)
    with pytest.raises(ValueError, match='expected a model with specific="flow" or "closed-form", got "nce-club"'):
        club.counterfactual(modality="rna", indices=[0], donors=[1])


def test_specific_codes_of_one_modality_are_predicted_with_a_warning(flow, log):
    model, mdata = flow
    alone = pair(prot=mdata["prot"].copy())
    model.get_latent_representation(alone, modality="prot")
    assert not log.records
    code = model.get_latent_representation(alone, modality="prot", kind="specific")
    assert "'prot'" in log.records[-1].getMessage() and log.records[-1].levelname == "WARNING"
    paired = model.get_latent_representation(modality="prot", kind="specific")
    # Predicted conditions give nearly, not exactly, the code of the paired cell.
    correlation = [np.corrcoef(code[:, j], paired[:, j])[0, 1] for j in range(3)]
    assert min(correlation) > 0.8
    assert not np.array_equal(code, paired)


def test_the_wide_codes_can_be_asked_for(flow):
    code = flow[0].get_latent_representation(modality="rna", kind="context")
    assert code.shape == (200, 6)
    np.testing.assert_allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-5)


def test_without_wide_codes_the_flow_sees_the_shared_ones(mdata):
    model = IndiSeekModel(mdata, **FLOW | {"specific": Flow(n_context=0)}, n_specific=3)
    model.train(**FAST)
    assert list(model.module.objectives) == ["shared", "everything", "specific"]
    with pytest.raises(
        ValueError, match=r"expected kind to be one of \['shared', 'everything', 'specific'\], got 'context'"
    ):
        model.get_latent_representation(modality="rna", kind="context")


def test_by_default_the_flow_keeps_every_dimension(mdata):
    model = IndiSeekModel(mdata, **FLOW, transforms={"rna": LogNormalizePCA(n_components=50)})
    model.train(**FAST)
    codes = latents(model)
    assert codes["specific_rna"].shape[1] == 50
    assert codes["specific_prot"].shape[1] in (13, 14)


def test_fewer_dimensions_are_the_first_of_all(mdata):
    few, every = IndiSeekModel(mdata, **FLOW, n_specific=3), IndiSeekModel(mdata, **FLOW)
    for model in (few, every):
        model.train(**FAST)
    a, b = latents(few), latents(every)
    np.testing.assert_array_equal(a["joint"], b["joint"])
    for name in ("rna", "prot"):
        np.testing.assert_array_equal(a[f"specific_{name}"], b[f"specific_{name}"][:, :3])
