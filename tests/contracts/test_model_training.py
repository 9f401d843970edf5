"""Training of every model: split, seeds, interruption, failure, memory."""

from __future__ import annotations

import gc
import signal
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from model_contract import (
    FAST,
    At,
    FirstRows,
    Modes,
    assert_content,
    assert_same,
    content,
    copy_of,
    diverge,
    interrupt,
    latents,
    once,
    weights,
)
from scipy import sparse

from indiseek.models import Flow, IndiSeekModel
from indiseek.objectives import CLIPObjective
from indiseek.train import Pipeline


def test_split_is_disjoint_complete_and_reported(fitted):
    model, mdata = fitted
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(mdata.n_obs))
    assert [len(part) for part in parts] == [130, 20, 50]


def test_test_cells_are_never_touched(case, make_mdata):
    mdata = make_mdata(200)
    model = case.new(mdata)
    model.train(**FAST)
    test = model.test_indices
    changed = make_mdata(200)
    for adata in changed.mod.values():
        x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X.copy()
        x[test] = x[test][:, ::-1]
        adata.X = sparse.csr_matrix(x) if sparse.issparse(adata.X) else x
    again = case.new(changed)
    again.train(**FAST)
    assert np.array_equal(again.test_indices, test)
    assert_same(weights(again), weights(model))
    assert not np.allclose(latents(again)["joint"][test], latents(model)["joint"][test])


def test_one_seed_gives_one_result_to_the_last_bit(case, make_mdata, reference):
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = case.new(make_mdata(150))
    model.train(**FAST)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert_same(latents(model), reference)
    other = case.new(make_mdata(150))
    other.train(**FAST, seed=1)
    assert not np.array_equal(other.test_indices, model.test_indices)
    assert not np.allclose(latents(other)["joint"], reference["joint"])


def test_the_users_split_is_taken(case, mdata):
    model = case.new(mdata)
    split = [np.arange(20, 120), np.arange(120, 140), np.arange(5)]
    model.train(**FAST, external_indexing=split)
    assert model.train_indices.tolist() == list(range(20, 120))
    assert model.validation_indices.tolist() == list(range(120, 140))
    assert model.test_indices.tolist() == list(range(5))
    model.train(**FAST, external_indexing=[part.copy() for part in split])
    model.train(**FAST)
    assert model.train_indices.tolist() == list(range(20, 120))
    with pytest.raises(ValueError, match="expected the split of the first training"):
        model.train(**FAST, external_indexing=[np.arange(100), np.arange(100, 150)])


def test_a_second_training_goes_on_with_the_same_split_in_train_mode(case, mdata):
    model = case.new(mdata)
    modes = Modes()
    model.train(**FAST | {"max_epochs": 2}, train_size=0.7, early_stopping=False, callbacks=[modes])
    first, split, lengths = latents(model), model.train_indices, {k: len(v) for k, v in model.history.items()}
    # The split is kept without being named again.
    model.train(**FAST | {"max_epochs": 3}, early_stopping=False, callbacks=[modes])
    assert modes.seen and all(modes.seen)
    assert np.array_equal(model.train_indices, split)
    assert not np.allclose(latents(model)["joint"], first["joint"])
    for stage in case.trained:
        key = f"{stage}/train_loss"
        assert lengths[key] == 2
        assert len(model.history[key]) == 5
    for key, table in model.history.items():
        assert table.columns.tolist() == [key]
        assert table.index.tolist() == list(range(len(table))) and table.index.name == "epoch"
        assert np.isfinite(table.to_numpy()).all()
    with pytest.raises(ValueError, match="expected the split of the first training.*a test cell must stay one"):
        model.train(**FAST, train_size=0.6)


def test_every_stage_of_every_training_has_batches_of_its_own(case, mdata):
    first = FirstRows()
    model = case.new(mdata)
    for _ in range(2):
        model.train(**FAST, callbacks=[first])
    assert len(first.seen) == 2 * len(case.trained)
    assert len({tuple(rows) for rows in first.seen}) == len(first.seen)


def test_history_covers_every_stage_that_takes_steps(case, fitted):
    model, _ = fitted
    assert {key.split("/")[0] for key in model.history} == set(case.trained)
    for stage in case.trained:
        assert any(key.startswith(f"{stage}/validation_") for key in model.history)
    for stage in case.widths:
        assert model.stage_seconds[stage] > 0
        assert stage in repr(model)
    assert "Next: print(model.certify())" in repr(model)


def test_networks_are_in_inference_mode_after_training(fitted):
    for objective in fitted[0].module.objectives.values():
        assert not any(module.training for module in objective.modules())


def test_early_stopping_stops(case, make_mdata):
    # With a learning rate of zero nothing gets better after the first epoch.
    mdata = make_mdata(150)
    model = case.new(mdata)
    # Later stages may go on to their last epoch.
    epochs = dict.fromkeys(case.trained, 1)
    model.train(**FAST | {"max_epochs": epochs | {case.first: 40}}, lr=1e-12, patience=2)
    assert len(model.history[f"{case.first}/train_loss"]) <= 8
    whole = case.new(mdata)
    whole.train(**FAST | {"max_epochs": epochs | {case.first: 9}}, lr=1e-12, patience=2, early_stopping=False)
    assert len(whole.history[f"{case.first}/train_loss"]) == 9


def test_epochs_may_be_given_by_stage(case, mdata):
    model = case.new(mdata)
    epochs = {stage: 2 + number for number, stage in enumerate(case.trained)}
    model.train(**FAST | {"max_epochs": epochs}, early_stopping=False)
    assert {stage: len(model.history[f"{stage}/train_loss"]) for stage in epochs} == epochs
    with pytest.raises(KeyError, match=rf"expected max_epochs of the stages .*'{case.first}'.* got .*'sharde'"):
        model.train(**FAST | {"max_epochs": {"sharde": 3}})


def test_last_batch_of_one_cell_is_no_trouble(case, make_mdata):
    mdata = make_mdata(150)
    # 101 training cells in batches of 50 leave one, and 11 validation cells in batches of 10 as well.
    split = [np.arange(101), np.arange(101, 112), np.arange(112, 150)]
    model = case.new(mdata)
    model.train(**FAST | {"batch_size": 10}, external_indexing=split)
    assert all(np.isfinite(code).all() for code in latents(model).values())


@pytest.mark.parametrize("again", [False, True])
def test_divergence_stops_at_once_and_leaves_model_and_data_as_they_were(case, mdata, again):
    model = case.new(mdata)
    if again:
        model.train(**FAST)
        before_codes, before_history = latents(model), {k: v.copy() for k, v in model.history.items()}
    before = content(mdata)
    for number in {0, len(case.trained) - 1}:
        with pytest.raises(FloatingPointError, match=r"expected finite losses, got nan in \['.*in epoch 0"):
            model.train(**FAST | {"max_epochs": 3}, callbacks=[At(number, diverge)])
        assert_content(content(mdata), before)
        if again:
            assert_same(latents(model), before_codes)
            assert model.history.keys() == before_history.keys()
            for key, table in before_history.items():
                pd.testing.assert_frame_equal(model.history[key], table)
        else:
            assert not model.is_trained and not model.history
            with pytest.raises(RuntimeError, match="call train"):
                model.get_latent_representation()
    model.train(**FAST)
    assert model.is_trained


def test_a_refused_call_changes_nothing(case, mdata):
    model = case.new(mdata)
    before = content(mdata)
    with pytest.raises(ValueError, match="at least 50 training"):
        model.train(**FAST, train_size=0.2)
    assert model.train_indices is None
    assert_content(content(mdata), before)
    model.train(**FAST)
    assert len(model.train_indices) == 98


def test_ctrl_c_in_the_first_stage_leaves_its_codes_usable(case, mdata, log):
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 9}, callbacks=[At(0, interrupt, epoch=2)])
    assert f"interrupted in stage '{case.first}' after 2 epochs" in log.records[-1].getMessage()
    assert "the best weights so far are kept, train() goes on" in log.records[-1].getMessage()
    code = model.get_latent_representation()
    np.testing.assert_array_equal(mdata.obsm[case.joint_key], code)
    assert (case.key("rna") in mdata.obsm) is (case.first == case.last)
    for stage in list(case.widths)[1:]:
        with pytest.raises(
            RuntimeError, match=rf"expected a finished stage '{stage}', got an interrupted.*train\(\) ag"
        ):
            model.get_latent_representation(modality="rna", kind=stage)
    model.train(**FAST)
    assert len(model.history[f"{case.first}/train_loss"]) == 3
    assert case.key("rna") in mdata.obsm


def test_ctrl_c_in_the_last_stage_leaves_all_codes_usable(case, mdata):
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 9}, callbacks=[At(len(case.trained) - 1, interrupt, epoch=3)])
    assert all(np.isfinite(code).all() for code in latents(model).values())
    assert len(model.history[f"{case.last}/train_loss"]) == 3


def test_ctrl_c_before_anything_is_learned_is_passed_on(case, mdata):
    model = case.new(mdata)
    before = content(mdata)
    with pytest.raises(KeyboardInterrupt):
        model.train(**FAST, callbacks=[At(0, interrupt)])
    assert not model.is_trained
    assert_content(content(mdata), before)


def _stopped(function, *, at: int, times: int = 1):
    """A function that the user stops when it is called the so-manieth time, once or oftener."""
    calls = []

    def call(*arguments, **options):
        calls.append(0)
        if len(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return function(*arguments, **options)

    return call


@once
def test_ctrl_c_between_stages_keeps_what_is_trained(case, mdata, monkeypatch, log):
    for name, at in (("begin", 2), ("inputs", 4)):
        model = case.new(copy_of(mdata))
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, name, _stopped(getattr(Pipeline, name), at=at))
            model.train(**FAST)
        assert model.fitted.trained_stages == [case.first] and model.fitted.interrupted
        assert f"interrupted in stage '{list(case.widths)[1]}' after 0 epochs" in log.records[-1].getMessage()
        assert case.joint_key in model.adata.obsm and case.key("rna") not in model.adata.obsm
        model.train(**FAST)
        assert model.fitted.trained_stages == list(case.widths)


@once
def test_ctrl_c_right_after_the_epochs_waits_for_the_stage(case, mdata, monkeypatch):
    for owner, name in ((CLIPObjective, "finish"), (Pipeline, "fit_bridge")):
        model = case.new(copy_of(mdata))
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, _stopped(getattr(owner, name), at=1))
            model.train(**FAST)
        assert model.fitted.trained_stages == [case.first] and model.fitted.interrupted
        only = copy_of(mdata)
        del only.mod["prot"]
        assert np.isfinite(model.get_latent_representation(only)).all()


@once
def test_ctrl_c_twice_does_not_wait_and_leaves_a_model_that_goes_on(case, mdata, monkeypatch):
    flow = IndiSeekModel(mdata, n_shared=4, specific=Flow(n_context=4))
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "fit_bridge", _stopped(Pipeline.fit_bridge, at=1, times=2))
        flow.train(**FAST)
    assert flow.fitted.trained_stages == ["shared", "everything"]
    flow.train(**FAST)
    assert flow.fitted.trained_stages == ["shared", "everything", "context", "specific"]


@once
def test_ctrl_c_in_a_further_training_leaves_no_codes_of_earlier_conditions(case, mdata, monkeypatch, log):
    model = case.new(mdata)
    model.train(**FAST)
    before = latents(model)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "begin", _stopped(Pipeline.begin, at=1))
        model.train(**FAST)
    assert_same(latents(model), before)
    for callbacks, patched in ([At(0, interrupt, epoch=1)], None), ([], 2):
        again = case.new(copy_of(mdata))
        again.train(**FAST)
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(Pipeline, "begin", _stopped(Pipeline.begin, at=patched))
            again.train(**FAST | {"max_epochs": 3}, callbacks=callbacks)
        assert again.fitted.trained_stages == [case.first]
        assert (
            f"but those of {list(case.widths)[1:]}, which were trained on earlier codes" in log.records[-1].getMessage()
        )
        with pytest.raises(RuntimeError, match=rf"expected a finished stage '{case.last}', got an interrupted"):
            again.get_latent_representation(modality="rna", kind=case.last)


WRONG_TRAIN = [
    ({"batch_size": 1}, ValueError, "expected batch_size to be a whole number of at least 2, got 1"),
    ({"max_epochs": 0}, ValueError, "expected max_epochs to be a whole number of at least 1, got 0"),
    ({"lr": 0.0}, ValueError, "expected lr to be a number above 0, got 0.0"),
    ({"lr": float("nan")}, ValueError, "expected lr to be a number above 0, got nan; give a finite one"),
    ({"devices": 0}, ValueError, "expected devices to be a whole number of at least 1, got 0"),
    ({"devices": []}, ValueError, "expected devices to name each device once, got"),
    ({"devices": [0, 0]}, ValueError, "expected devices to name each device once, got"),
    ({"devices": [-1]}, ValueError, "expected numbers in devices to be a whole number of at least 0, got -1"),
    ({"patience": 0}, ValueError, "expected patience to be a whole number of at least 1, got 0"),
    ({"train_size": 1.5}, ValueError, "expected train_size and validation_size"),
    ({"validation_size": 0.0}, ValueError, "expected train_size and validation_size"),
    ({"external_indexing": [[0, 1]]}, ValueError, "expected external_indexing"),
    ({"n_critic_steps": 3}, TypeError, "expected arguments of train.* or of .*Trainer, got .'n_critic_steps'.*"),
]


def test_wrong_training_arguments_say_what_was_expected(case, mdata):
    model = case.new(mdata)
    for options, error, message in WRONG_TRAIN:
        with pytest.raises(error, match=message):
            model.train(**FAST | options)
        assert not model.is_trained


def test_nothing_keeps_cells_or_model_alive(case, make_mdata):
    mdata = make_mdata(150)
    model = case.new(mdata)
    model.train(**FAST)
    alive = [weakref.ref(thing) for thing in (mdata, model, model.module, mdata["rna"].X, mdata["prot"].X)]
    del model, mdata
    gc.collect()
    assert [reference() for reference in alive] == [None] * 5
