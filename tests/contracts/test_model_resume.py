"""Training of every model that is killed and goes on, or cannot go on."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import torch
from model_contract import FAST, At, assert_content, assert_same, content, copy_of, interrupt, latents, once
from small import Killed

from indiseek.data import CLR, TRANSFORMS, Scale
from indiseek.models import CoMMModel
from indiseek.train import Pipeline

TRAIN = FAST | {"max_epochs": 3}


def kill(_: lightning.LightningModule) -> None:
    raise Killed


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture(scope="module")
def uninterrupted(case, make_mdata):
    model = case.new(make_mdata(150))
    model.train(**TRAIN)
    return model


def _kill(case, mdata, directory: Path, stage: int) -> None:
    with pytest.raises(Killed):
        case.new(mdata).train(**TRAIN, checkpoint_dir=directory, callbacks=[At(stage, kill, epoch=1)])


def test_killed_in_any_stage_a_new_process_goes_on_to_the_same_result(case, make_mdata, uninterrupted, tmp_path, log):
    for number, stage in enumerate(case.trained):
        directory = tmp_path / stage
        _kill(case, make_mdata(150), directory, number)
        assert sorted(path.name for path in directory.iterdir()) == ["checkpoint.lock", "checkpoint.pt"]
        model = case.new(make_mdata(150))
        model.train(**TRAIN, checkpoint_dir=directory)
        assert f"going on from {directory / 'checkpoint.pt'}, written in stage {stage!r}" in log.text
        assert_same(latents(model), latents(uninterrupted))
        assert model.history.keys() == uninterrupted.history.keys()
        for key, table in uninterrupted.history.items():
            pd.testing.assert_frame_equal(model.history[key], table)
        assert list(model.stage_seconds) == list(case.widths)
        assert [path.name for path in directory.iterdir()] == ["checkpoint.lock"]


@once
def test_transforms_are_not_fitted_again(case, make_mdata, uninterrupted, tmp_path, monkeypatch):
    _kill(case, make_mdata(150), tmp_path, 0)
    model = case.new(make_mdata(150))
    for transform in TRANSFORMS.values():
        monkeypatch.setattr(transform, "fit", out_of_memory)
    model.train(**TRAIN, checkpoint_dir=tmp_path)
    assert_same(latents(model), latents(uninterrupted))


def test_checkpoints_change_nothing(case, mdata, uninterrupted, tmp_path):
    model = case.new(mdata)
    model.train(**TRAIN, checkpoint_dir=str(tmp_path / "new" / "directory"))
    assert_same(latents(model), latents(uninterrupted))


def test_a_second_training_goes_on_too(case, make_mdata, tmp_path):
    whole = case.new(make_mdata(150))
    whole.train(**FAST)
    whole.save(tmp_path / "model")
    whole.train(**TRAIN)
    killed, resumed = (case.model.load(tmp_path / "model", make_mdata(150), accelerator="cpu") for _ in range(2))
    with pytest.raises(Killed):
        killed.train(**TRAIN, checkpoint_dir=tmp_path, callbacks=[At(0, kill, epoch=2)])
    resumed.train(**TRAIN, checkpoint_dir=tmp_path)
    assert_same(latents(resumed), latents(whole))
    assert {key: len(table) for key, table in resumed.history.items()} == dict.fromkeys(whole.history, 4)


@once
def test_other_arguments_or_data_are_refused_and_leave_the_checkpoint(case, make_mdata, tmp_path):
    _kill(case, make_mdata(150), tmp_path, 0)
    path = tmp_path / "checkpoint.pt"
    before = path.read_bytes()
    message = (
        "expected the data and arguments of the fit that .*checkpoint.pt belongs to, .*{}=.*, got .*{}=.*delete the"
    )
    for changed, name in (
        ({"seed": 1}, "seed"),
        ({"lr": 0.5}, "/lr"),
        ({"max_epochs": 4}, "/max_epochs"),
        ({"batch_size": 25}, "stages/[a-z]+/batch_size"),
        ({"train_size": 0.7}, "split/train_size"),
        ({"precision": "bf16-mixed"}, "trainer/precision"),
    ):
        model = case.new(make_mdata(150))
        with pytest.raises(ValueError, match=message.format(name, name)):
            model.train(**TRAIN | changed, checkpoint_dir=tmp_path)
        assert not model.is_trained
    with pytest.raises(ValueError, match=message.format("obs_names", "obs_names")):
        case.new(make_mdata(160)).train(**TRAIN, checkpoint_dir=tmp_path)
    other = make_mdata(150)
    other["rna"].X = other["rna"].X[:, ::-1]
    with pytest.raises(ValueError, match="expected the values of the cells with which the fit in .* began, got others"):
        case.new(other).train(**TRAIN, checkpoint_dir=tmp_path)
    given = case.arguments.get("transforms", {})
    with pytest.raises(ValueError, match=message.format("transforms/prot/name", "transforms/prot/name")):
        case.new(make_mdata(150), transforms=given | {"prot": Scale()}).train(**TRAIN, checkpoint_dir=tmp_path)
    # That of the fit, named.
    same = case.new(make_mdata(150), transforms=given | {"prot": CLR()})
    same.train(**TRAIN, checkpoint_dir=shutil.copytree(tmp_path, tmp_path / "copy"))
    assert path.read_bytes() == before


@once
def test_a_trained_model_keeps_its_split_whatever_the_checkpoint(case, make_mdata, tmp_path):
    with pytest.raises(Killed):
        case.new(make_mdata(150)).train(
            **TRAIN, train_size=0.5, checkpoint_dir=tmp_path, callbacks=[At(0, kill, epoch=1)]
        )
    model = case.new(make_mdata(150))
    model.train(**FAST)
    before = latents(model)
    with pytest.raises(ValueError, match="expected the split of the first training, .*; a test cell must stay one"):
        model.train(**TRAIN, train_size=0.5, checkpoint_dir=tmp_path)
    assert_same(latents(model), before)


@once
def test_two_fits_cannot_write_the_same_directory(case, make_mdata, uninterrupted, tmp_path):
    second = case.new(make_mdata(150))
    errors = []

    def train_too(_: lightning.LightningModule) -> None:
        if not errors:
            with pytest.raises(
                ValueError, match="expected a checkpoint_dir that no other fit uses, .* in use by process"
            ):
                second.train(**TRAIN, checkpoint_dir=tmp_path)
            errors.append(True)

    first = case.new(make_mdata(150))
    first.train(**TRAIN, checkpoint_dir=tmp_path, callbacks=[At(0, train_too, epoch=1)])
    assert errors
    assert not second.is_trained
    assert_same(latents(first), latents(uninterrupted))


def test_memory_that_is_too_small_leaves_model_data_and_checkpoint(case, mdata, tmp_path):
    model = case.new(mdata)
    before = content(mdata)
    for number, stage in enumerate(case.trained):
        message = rf"expected batches of 50 cells of stage '{stage}' .*batch_size=\{{'{stage}': 25\}}.*is as it was"
        with pytest.raises(MemoryError, match=message):
            model.train(**TRAIN, checkpoint_dir=tmp_path, callbacks=[At(number, out_of_memory, epoch=1)])
        assert not model.is_trained
        assert_content(content(mdata), before)
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["stage"] == stage
        shutil.rmtree(tmp_path)


NO_SMALLER_BATCH = (
    r"^expected {}, {} cells x \d+ features \(0.00 GiB a copy\), to fit into the memory of cpu, got out of memory; a "
    r"smaller batch would not help: {}. The model is as it was.$"
)
FEWER_FEATURES = (
    r"take fewer features, for counts by transforms=\{...: indiseek.data.LogNormalizePCA\(n_components=...\)\}"
)


@pytest.mark.parametrize("again", [False, True])
def test_cells_that_do_not_fit_into_memory_leave_model_and_data(case, mdata, monkeypatch, again):
    model = case.new(mdata)
    if again:
        model.train(**FAST)
    before, state = content(mdata), latents(model) if again else None
    stages = list(case.widths)
    views = "n_views times the training and validation cells"
    failures = [
        (Pipeline, "tensors", "the features of the training and validation cells", 113, FEWER_FEATURES),
        (Pipeline, "inputs", f"what stage '{stages[0]}' needs of all its cells", 113, FEWER_FEATURES),
    ]
    if case.model is CoMMModel:
        failures.append((CoMMModel, "_views", views, 113, "make the model with a smaller n_views"))
    if len(stages) > 1:
        # The first whose codes another one sees, or that sees them.
        first = stages["components" in stages]
        failures.append((Pipeline, "codes", f"what stage '{first}' needs of all its cells", 113, FEWER_FEATURES))
    for owner, name, what, n_cells, advice in failures:
        message = NO_SMALLER_BATCH.format(what, n_cells, advice)
        with monkeypatch.context() as patch, pytest.raises(MemoryError, match=message):
            patch.setattr(owner, name, out_of_memory)
            model.train(**FAST)
        assert model.is_trained is again
        assert_content(content(mdata), before)
        if again:
            assert_same(latents(model), state)
            assert {len(table) for table in model.history.values()} == {1}


CELLS_AT_ONCE = (
    r"^expected features and codes of {} cells x \d+ features \(0.00 GiB a copy\) to fit into the memory of {}, got "
    r"out of memory; take fewer cells at once{}. The model keeps its training, and no codes are written.$"
)
BY_CHUNK = ", or let indiseek.models.embed write the codes chunk by chunk"


def test_codes_that_do_not_fit_into_memory_say_so_and_are_not_written(case, fitted, monkeypatch):
    model, mdata = fitted
    before, codes = content(mdata), latents(model)
    only = copy_of(mdata)
    del only.mod["prot"]
    last = {"kind": case.last, "modality": "rna"}
    for name, call, n_cells, advice in (
        ("tensors", model.get_latent_representation, 200, ""),
        ("tensors", lambda: model.get_latent_representation(indices=[5, 3]), 2, ""),
        ("tensors", lambda: model.get_features(modality="rna"), 200, ""),
        ("tensors", model.write_latents, 200, BY_CHUNK),
        ("joint", model.get_latent_representation, 200, ", or a batch_size below 2048"),
        ("codes", lambda: model.get_latent_representation(**last, batch_size=7), 200, ", or a batch_size below 7"),
        ("codes", lambda: model.get_latent_representation(only, **last), 200, ", or a batch_size below 2048"),
        ("joint", model.write_latents, 200, BY_CHUNK),
        ("codes", model.write_latents, 200, BY_CHUNK),
    ):
        for device, elsewhere in (("cpu", ""), ("cuda:1", r", or move the model by to_device\('cpu'\)")):
            message = CELLS_AT_ONCE.format(n_cells, device, advice + elsewhere)
            with monkeypatch.context() as patch, pytest.raises(MemoryError, match=message):
                patch.setattr(Pipeline, name, out_of_memory)
                patch.setattr(Pipeline, "device", torch.device(device))
                call()
        assert_content(content(mdata), before)
    model.to_device("cpu")
    assert_same(latents(model), codes)


def test_training_is_kept_where_only_its_codes_do_not_fit_into_memory(case, mdata, reference, monkeypatch):
    model = case.new(mdata)
    before = content(mdata)
    message = CELLS_AT_ONCE.format(150, "cpu", BY_CHUNK)
    with monkeypatch.context() as patch, pytest.raises(MemoryError, match=message):
        patch.setattr(Pipeline, "joint", out_of_memory)
        model.train(**FAST)
    assert_content(content(mdata), before)
    assert_same(latents(model), reference)


def test_after_ctrl_c_in_any_stage_the_same_call_goes_on_to_the_same_result(case, make_mdata, uninterrupted, tmp_path):
    for number, stage in enumerate(case.trained):
        model = case.new(make_mdata(150))
        options = TRAIN | {"checkpoint_dir": tmp_path / stage}
        model.train(**options, callbacks=[At(number, interrupt, epoch=1)])
        assert len(model.history[f"{stage}/train_loss"]) == 1
        model.train(**options)
        assert_same(latents(model), latents(uninterrupted))


def test_arguments_as_numpy_makes_them_go_on_too(case, make_mdata, tmp_path):
    train = TRAIN | {"external_indexing": [np.arange(100), range(100, 130)], "lr": np.float64(1e-3)}

    def new():
        return case.model(make_mdata(150), **case.arguments | case.from_numpy)

    whole = new()
    whole.train(**train)
    with pytest.raises(Killed):
        new().train(**train, checkpoint_dir=tmp_path, callbacks=[At(0, kill, epoch=1)])
    model = new()
    model.train(**train, checkpoint_dir=tmp_path)
    assert_same(latents(model), latents(whole))
    other = train | {"external_indexing": [np.arange(99), range(100, 130)]}
    with pytest.raises(Killed):
        new().train(**train, checkpoint_dir=tmp_path, callbacks=[At(0, kill, epoch=1)])
    with pytest.raises(ValueError, match="split/external_indexing=.* got split/external_indexing="):
        new().train(**other, checkpoint_dir=tmp_path)


def test_wrong_numbers_of_devices_say_what_was_expected(case, mdata):
    model = case.new(mdata)
    for name in ("devices", "num_nodes"):
        for value in (0, -2, "two", 1.5):
            error = TypeError if value == "two" else ValueError
            with pytest.raises(error, match=rf"expected {name} to be a whole number of at least 1, got {value!r}"):
                model.train(**FAST | {name: value})
            assert not model.is_trained


def test_batches_hold_a_cell_for_each_process_and_every_process_the_networks(case, mdata):
    with pytest.raises(ValueError, match="expected batch_size of at least 3, a cell for each process, got 2 for stage"):
        case.new(mdata).train(**FAST | {"batch_size": 2}, devices=3)
    with pytest.raises(ValueError, match="expected strategy='ddp' for several devices, got 'fsdp'; leave it out"):
        case.new(mdata).train(**FAST, devices=2, strategy="fsdp")


def test_precisions_that_do_not_work_are_refused_before_anything_changes(case, fitted, tmp_path):
    trained, cells = fitted
    before, codes = content(cells), latents(trained)
    for precision in (16, np.int64(16), "16-mixed", "16-true", "bf16-true", 64, "single"):
        message = (
            r"^expected precision to be one of \('32', '32-true', 'bf16', 'bf16-mixed'\), got "
            rf"{re.escape(repr(precision))}; pass 'bf16-mixed' where the device has it, or leave precision out.$"
        )
        for model in (trained, case.new(cells)):
            was_trained = model.is_trained
            with pytest.raises(ValueError, match=message):
                model.train(**FAST, precision=precision, checkpoint_dir=tmp_path / "fit")
            assert model.is_trained is was_trained
    assert not (tmp_path / "fit").exists()
    assert_content(content(cells), before)
    assert_same(latents(trained), codes)


def test_bfloat16_trains_every_stage_and_gives_codes_in_single_precision(case, mdata):
    model = case.new(mdata)
    model.train(**TRAIN, precision="bf16-mixed")
    assert list(model.stage_seconds) == list(case.widths)
    for table in model.history.values():
        assert np.isfinite(table.to_numpy()).all()
    for code in latents(model).values():
        assert code.dtype == np.float32 and np.isfinite(code).all()


@once
def test_ctrl_c_while_the_state_is_written_keeps_the_weights(case, make_mdata, uninterrupted, tmp_path, monkeypatch):
    save, n_written = torch.save, 0

    def stopped(payload, file):
        nonlocal n_written
        n_written += 1
        if n_written == 2:
            os.kill(os.getpid(), signal.SIGINT)
        save(payload, file)

    model = case.new(make_mdata(150))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stopped)
        model.train(**TRAIN, checkpoint_dir=tmp_path)
    assert model.is_trained and model.fitted.interrupted
    assert np.isfinite(model.get_latent_representation()).all()
    # The state is that of the epoch before, from which the same call goes on.
    again = case.new(make_mdata(150))
    again.train(**TRAIN, checkpoint_dir=tmp_path)
    assert_same(latents(again), latents(uninterrupted))


@once
def test_a_state_that_is_kept_gives_the_trained_model_again(case, make_mdata, uninterrupted, tmp_path, log):
    for _ in range(2):
        model = case.new(make_mdata(150))
        model.train(**TRAIN, checkpoint_dir=tmp_path, keep_checkpoint=True)
        assert_same(latents(model), latents(uninterrupted))
    assert "going on from" in log.text
    assert (tmp_path / "checkpoint.pt").exists()
