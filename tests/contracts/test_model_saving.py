"""Saved models come back to the last bit, and nothing but saved models comes in."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from model_contract import (
    FAST,
    Modes,
    assert_close,
    assert_content,
    assert_same,
    content,
    copy_of,
    latents,
    once,
    weights,
    with_value,
)

from indiseek.data import CLR, LogNormalizePCA
from indiseek.models import load_model
from indiseek.train import write_archive

PARTS = ("train_indices", "validation_indices", "test_indices")


def assert_same_model(a: Any, b: Any) -> None:
    assert_same(weights(a), weights(b))
    assert a.modalities == b.modalities
    assert list(a.module.objectives) == list(b.module.objectives)
    assert a.history.keys() == b.history.keys() and a.history
    for key, table in a.history.items():
        pd.testing.assert_frame_equal(b.history[key], table)
    assert a.stage_seconds == b.stage_seconds
    for part in PARTS:
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


def test_a_loaded_model_is_the_same_to_the_last_bit(case, fitted, tmp_path):
    model, mdata = fitted
    before = content(mdata)
    model.save(tmp_path / "model")
    loaded = case.model.load(tmp_path / "model", mdata, accelerator="cpu")
    assert_same_model(loaded, model)
    assert_same(latents(loaded), latents(model))
    assert_same(latents(loaded, copy_of(mdata)), latents(model))
    assert repr(loaded) == repr(model)
    assert_content(content(mdata), before)


def test_what_was_fitted_lies_in_memory_as_what_is_read_back(fitted):
    # Of one matrix in two layouts a processor may make products that differ in rounding.
    model, _ = fitted
    assert [key for key, tensor in model.module.state_dict().items() if not tensor.is_contiguous()] == []


def test_a_model_of_any_class_can_be_loaded(case, fitted, tmp_path):
    model, mdata = fitted
    model.save(tmp_path / "model")
    for data in (mdata, None):
        loaded = load_model(tmp_path / "model", data, accelerator="cpu")
        assert type(loaded) is case.model
        assert_same_model(loaded, model)
    path = tmp_path / "model" / "model.pt"
    torch.save(torch.load(path) | {"model": "OtherModel"}, path)
    message = (
        "expected a model of one of the classes .*'CoMMModel', .* got 'OtherModel'; call load\\(\\) of its own class"
    )
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


def test_load_without_data_then_save_then_load(case, fitted, tmp_path):
    model, mdata = fitted
    model.save(tmp_path / "first")
    bare = case.model.load(tmp_path / "first", accelerator="cpu")
    assert "without data" in repr(bare)
    assert_same(latents(bare, mdata), latents(model))
    with pytest.raises(RuntimeError, match="expected a MuData, got none from a model loaded without data; pass mdata"):
        bare.get_latent_representation()
    with pytest.raises(RuntimeError, match="expected a model with data"):
        bare.train(**FAST)
    with pytest.raises(RuntimeError, match="expected a model with data"):
        bare.save(tmp_path / "with_data", save_mdata=True)
    assert not (tmp_path / "with_data").exists()
    bare.save(tmp_path / "second")
    again = case.model.load(tmp_path / "second", mdata, accelerator="cpu")
    assert_same_model(again, model)
    assert_same(latents(again), latents(model))


def test_cells_may_be_saved_beside_the_model(case, mdata, tmp_path):
    model = case.new(mdata)
    model.train(**FAST)
    model.save(tmp_path / "model", save_mdata=True)
    loaded = case.model.load(tmp_path / "model", accelerator="cpu")
    assert_same(latents(loaded), latents(model))
    assert_same_model(loaded, model)


@once
def test_cells_of_an_earlier_model_are_not_taken_for_those_of_a_later_one(case, mdata, make_mdata, tmp_path):
    model = case.new(mdata)
    model.train(**FAST)
    model.save(tmp_path / "model", save_mdata=True)
    other = case.new(copy_of(make_mdata(200), {"rna": lambda a: a[:, :250].copy()}))
    other.train(**FAST)
    other.save(tmp_path / "model", overwrite=True)
    assert "without data" in repr(case.model.load(tmp_path / "model", accelerator="cpu"))


def test_training_goes_on_after_loading_as_if_nothing_had_happened(case, mdata, tmp_path):
    model = case.new(mdata)
    model.train(**FAST, train_size=0.7)
    model.save(tmp_path / "model")
    loaded = case.model.load(tmp_path / "model", copy_of(mdata), accelerator="cpu")
    modes = Modes()
    model.train(**FAST)
    loaded.train(**FAST, callbacks=[modes])
    assert modes.seen and all(modes.seen)
    assert_same(weights(loaded), weights(model))
    assert len(loaded.history[f"{case.first}/train_loss"]) == 2
    with pytest.raises(ValueError, match="expected the split of the first training"):
        loaded.train(**FAST, train_size=0.75)


def test_a_given_split_survives_saving(case, mdata, tmp_path):
    model = case.new(mdata)
    split = [np.arange(20, 120), np.arange(120, 140)]
    model.train(**FAST, external_indexing=split)
    model.save(tmp_path / "model")
    loaded = case.model.load(tmp_path / "model", mdata, accelerator="cpu")
    loaded.train(**FAST, external_indexing=split)
    assert loaded.train_indices.tolist() == list(range(20, 120))


def test_everything_that_numpy_makes_of_numbers_can_be_saved(case, mdata, tmp_path):
    model = case.new(
        mdata,
        **case.from_numpy,
        transforms={"rna": LogNormalizePCA(n_components=np.int64(9), target_sum=np.float32(1e3)), "prot": CLR()},
    )
    model.train(**FAST | {"max_epochs": {case.first: np.int64(1), case.last: 1}}, train_size=np.float64(0.8))
    model.save(tmp_path / "model")
    assert_same(latents(case.model.load(tmp_path / "model", mdata, accelerator="cpu")), latents(model))


def test_transforms_layers_and_order_of_modalities_come_back(case, mdata, tmp_path):
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 2.5
    case.model.setup_mudata(mdata, modalities=["prot", "rna"], layers={"rna": "counts"})
    model = case.new(mdata, transforms={"rna": LogNormalizePCA(n_components=5, n_top_features=60)})
    model.train(**FAST)
    model.save(tmp_path / "model")
    loaded = case.model.load(tmp_path / "model", mdata, accelerator="cpu")
    assert loaded.modalities == ("prot", "rna")
    assert_same(latents(loaded), latents(model))
    bare = case.model.load(tmp_path / "model", accelerator="cpu")
    assert_same(latents(bare, mdata), latents(model))
    with pytest.raises(KeyError, match="expected layer 'counts' in modality 'rna'"):
        latents(bare, copy_of(mdata, {"rna": _without_layers}))


def _without_layers(adata):
    del adata.layers["counts"]
    return adata


def test_other_cells_can_be_loaded_but_not_trained_on(case, fitted, make_mdata, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "model")
    other = make_mdata(300)
    loaded = case.model.load(tmp_path / "model", other, accelerator="cpu")
    assert_close({key: code[:200] for key, code in latents(loaded).items()}, latents(model))
    assert loaded.train_indices is None and loaded.test_indices is None
    with pytest.raises(RuntimeError, match="expected the cells that the model was trained on, got"):
        loaded.train(**FAST)
    loaded.save(tmp_path / "again")
    again = case.model.load(tmp_path / "again", other, accelerator="cpu")
    assert_same(latents(again), latents(loaded))


def test_as_many_other_cells_do_not_inherit_the_split(case, fitted, tmp_path):
    # A test cell must stay one: the same positions in another order are other cells.
    model, mdata = fitted
    model.save(tmp_path / "model")
    backwards = copy_of(mdata, {name: lambda a: a[::-1].copy() for name in ("rna", "prot")})
    loaded = case.model.load(tmp_path / "model", backwards, accelerator="cpu")
    assert_close({key: code[::-1] for key, code in latents(loaded).items()}, latents(model))
    if loaded.test_indices is not None:
        ours, theirs = mdata.obs_names[model.test_indices], backwards.obs_names[loaded.test_indices]
        assert set(ours) == set(theirs)


def test_features_are_put_in_order_or_refused(case, fitted, make_mdata, tmp_path):
    model, mdata = fitted
    model.save(tmp_path / "model")
    shuffled = copy_of(mdata, {name: lambda a: a[:, ::-1].copy() for name in ("rna", "prot")})
    assert_close(latents(case.model.load(tmp_path / "model", shuffled, accelerator="cpu")), latents(model))
    fewer = copy_of(make_mdata(200), {"prot": lambda a: a[:, 1:].copy()})
    with pytest.raises(ValueError, match=r"in modality 'prot' the 14 features .* got 1 missing \(.*_TotalSeqB\)"):
        case.model.load(tmp_path / "model", fewer, accelerator="cpu")
    broken = copy_of(make_mdata(200), {"prot": lambda a: with_value(a, 3, 4, np.nan)})
    with pytest.raises(ValueError, match="expected finite values"):
        case.model.load(tmp_path / "model", broken, accelerator="cpu")


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(fitted, tmp_path) -> Path:
    fitted[0].save(tmp_path / "model")
    return tmp_path / "model"


def _file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@once
@pytest.mark.parametrize("writer", ["torch", "pickle", "hidden"])
def test_a_file_that_carries_code_is_refused_and_the_code_not_run(case, saved, tmp_path, writer):
    trap = tmp_path / "sprung"
    path = _file(saved)
    if writer == "pickle":
        path.write_bytes(pickle.dumps(_Code(trap)))
    else:
        payload = torch.load(path, weights_only=True) if writer == "hidden" else {}
        torch.save(payload | {"history": _Code(trap)}, path)
    message = "expected a complete file" if writer == "pickle" else "expected only tensors and plain .*carries code"
    with pytest.raises(ValueError, match=message):
        case.model.load(saved, accelerator="cpu")
    assert not trap.exists()
    # The trap works where code is allowed.
    torch.load(path, weights_only=False) if writer != "pickle" else pickle.loads(path.read_bytes())
    assert trap.exists()


@once
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-40],
        lambda data: data[40:],
        lambda data: b"once upon a time\n" * 100,
        lambda data: bytes(1000),
        lambda data: b"PK\x03\x04" + bytes(500),
    ],
    ids=["empty", "half", "no end", "no start", "text", "zeros", "not a zip"],
)
def test_a_damaged_file_gives_a_clear_error(case, saved, damage):
    path = _file(saved)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="expected (only tensors|a complete file|a model saved by indiseek)") as caught:
        case.model.load(saved, accelerator="cpu")
    assert path.name in str(caught.value)


def test_other_things_are_no_saved_models(case, saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a saved model at .* got no such file; give the directory"):
        case.model.load(tmp_path / "nowhere")
    path = _file(saved)
    payload = torch.load(path, weights_only=True)
    torch.save(payload | {"format": payload["format"] + 1, "version": "9.9"}, path)
    with pytest.raises(
        ValueError, match=r"expected a file of format \d+ or older, got .* written by indiseek 9.9; upd"
    ):
        case.model.load(saved)
    torch.save(payload | {"model": "SomeOtherModel"}, path)
    with pytest.raises(
        ValueError, match=rf"expected a saved {case.model.__name__}, got a SomeOtherModel; call SomeOth"
    ):
        case.model.load(saved)
    for thing in ({"weights": torch.zeros(3)}, torch.zeros(3)):
        torch.save(thing, path)
        with pytest.raises(ValueError, match="expected a model saved by indiseek at .* got something else"):
            case.model.load(saved)


def test_saved_file_names_its_version_and_format(case, saved):
    payload = torch.load(_file(saved), weights_only=True)
    assert payload["version"] and payload["format"] >= 1 and payload["model"] == case.model.__name__


@once
def test_an_earlier_model_is_not_overwritten_by_accident(fitted, saved):
    before = _file(saved).read_bytes()
    with pytest.raises(FileExistsError, match="expected a new directory, got .* which exists; pass overwrite=True"):
        fitted[0].save(saved)
    assert _file(saved).read_bytes() == before
    fitted[0].save(saved, overwrite=True)


@once
def test_an_earlier_model_survives_a_failure_half_way(case, fitted, saved, monkeypatch):
    def fail(payload, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        fitted[0].save(saved, overwrite=True)
    monkeypatch.undo()
    assert_same(latents(case.model.load(saved, fitted[1], accelerator="cpu")), latents(fitted[0]))
    assert len(list(saved.iterdir())) == 1


@once
def test_an_earlier_model_and_its_cells_survive_a_failure_half_way(case, mdata, tmp_path, monkeypatch):
    model = case.new(mdata)
    model.train(**FAST)
    model.save(tmp_path / "model", save_mdata=True)
    before, codes = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}, latents(model)
    model.train(**FAST)
    full = "to .*model, got .*what was there before stays: see whether the disk is full"
    for error, raised, message in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError, full),
        (RuntimeError("Can't write (errno = 28, error message = 'No space left on device')"), OSError, full),
        (RuntimeError("Can't decrement id ref count"), OSError, "what was there before stays: see to its cause"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ):

        def fail_cells(path, mdata, error=error):
            path.write_bytes(b"half")
            raise error

        def fail_model(payload, file, error=error):
            file.write(b"half")
            raise error

        for owner, name, fail in ((mudata, "write_h5mu", fail_cells), (torch, "save", fail_model)):
            with monkeypatch.context() as patch, pytest.raises(raised, match=message):
                patch.setattr(owner, name, fail)
                model.save(tmp_path / "model", overwrite=True, save_mdata=True)
            assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert_same(latents(case.model.load(tmp_path / "model", accelerator="cpu")), codes)
    model.save(tmp_path / "model", overwrite=True, save_mdata=True)
    assert_same(latents(case.model.load(tmp_path / "model", accelerator="cpu")), latents(model))


@once
@pytest.mark.parametrize("save_mdata", [False, True])
def test_a_users_file_is_neither_deleted_nor_replaced(case, fitted, saved, save_mdata):
    theirs = saved / "mdata.h5mu"
    with mudata.set_options(pull_on_update=False):
        fitted[1].write(theirs)
    before = {path: path.read_bytes() for path in saved.iterdir()}
    if save_mdata:
        with pytest.raises(FileExistsError, match="expected nothing at .*mdata.h5mu, or what indiseek has written"):
            fitted[0].save(saved, overwrite=True, save_mdata=True)
        assert {path: path.read_bytes() for path in saved.iterdir()} == before
    else:
        fitted[0].save(saved, overwrite=True)
        assert theirs.read_bytes() == before[theirs]
        # Nor is it taken for the cells of the model.
        assert case.model.load(saved, accelerator="cpu").adata is None


@once
def test_a_file_called_like_a_model_that_is_none_is_not_replaced(fitted, tmp_path):
    (tmp_path / "model").mkdir()
    theirs = tmp_path / "model" / "model.pt"
    torch.save({"weights": torch.zeros(3)}, theirs)
    before = theirs.read_bytes()
    with pytest.raises(FileExistsError, match="expected nothing at .*model.pt, or what indiseek has written, got some"):
        fitted[0].save(tmp_path / "model", overwrite=True)
    assert theirs.read_bytes() == before and len(list(theirs.parent.iterdir())) == 1


@once
def test_cells_that_are_saved_follow_a_link(case, fitted, tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mdata.h5mu").symlink_to(tmp_path / "large" / "cells.h5mu")
    fitted[0].save(tmp_path / "model", save_mdata=True, overwrite=True)
    assert (tmp_path / "model" / "mdata.h5mu").is_symlink()
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["cells.h5mu"]
    assert_same(latents(case.model.load(tmp_path / "model", accelerator="cpu")), latents(fitted[0]))


@once
def test_cells_that_have_changed_since_they_were_saved_are_refused(case, fitted, tmp_path):
    fitted[0].save(tmp_path / "model", save_mdata=True)
    path = tmp_path / "model" / "mdata.h5mu"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected the cells that were saved with the model in .*mdata.h5mu, got a fi"):
        case.model.load(tmp_path / "model", accelerator="cpu")
    case.model.load(tmp_path / "model", fitted[1], accelerator="cpu")


def test_every_flipped_bit_is_noticed_or_changes_nothing(case, fitted, saved):
    path = _file(saved)
    good, codes = path.read_bytes(), latents(fitted[0])
    rng = np.random.default_rng(0)
    # The ends of the file, where the parts of the container stand, have more than their share.
    n = len(good)
    places = [*rng.integers(n, size=20), *rng.integers(2000, size=10), *(n - 1 - rng.integers(2000, size=10))]
    n_noticed = 0
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = case.model.load(saved, fitted[1], accelerator="cpu")
        except ValueError as error:
            n_noticed += 1
            assert str(error).startswith("expected") and "model.pt" in str(error)
        else:
            assert_same(latents(loaded), codes)
    assert n_noticed >= 20


def _payload(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@once
def test_values_that_were_changed_in_a_whole_file_are_noticed(case, saved):
    path = _file(saved)
    payload = _payload(path)
    key = next(key for key, x in payload["state"].items() if x.is_floating_point() and x.numel())
    payload["state"][key].view(-1)[0] += 1
    torch.save(payload, path)
    with pytest.raises(ValueError, match="expected a complete file at .*model.pt, got a damaged one"):
        case.model.load(saved, accelerator="cpu")


@once
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(case, mdata, tmp_path):
    model = case.new(mdata)
    model.train(**FAST)
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "model.pt"
    payload = _payload(path)
    # As a file of the first format, which has no checksum.
    key = next(key for key, x in payload["state"].items() if key.startswith("objectives") and x.is_floating_point())
    payload["state"][key].view(-1)[0] = float("nan")
    write_archive({k: v for k, v in payload.items() if k not in ("mark", "sha256")}, path)
    with pytest.raises(ValueError, match=rf"expected finite weights in .*model.pt, got NaN .* first of them {key}"):
        case.model.load(tmp_path / "model", accelerator="cpu")
    before = path.read_bytes()
    with torch.no_grad():
        dict(model.module.named_parameters())[key].view(-1)[0] = float("inf")
    with pytest.raises(ValueError, match=rf"expected finite weights to save to .*, got NaN or infini.*{key}"):
        model.save(tmp_path / "model", overwrite=True)
    assert path.read_bytes() == before


@once
@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("state"),
        lambda p: p.pop("options"),
        lambda p: p.update(features=3),
        lambda p: p.update(setup=None),
        lambda p: p.update(split=[1, 2, 3]),
        lambda p: p["state"].popitem(),
        lambda p: p.update(history=[1]),
        lambda p: p.update(transforms={"rna": 1}),
        lambda p: p["state"].update({k: v[:1] for k, v in p["state"].items() if v.ndim == 2}),
    ],
)
def test_a_file_that_lacks_something_gives_one_clear_error(case, saved, change):
    path = _file(saved)
    payload = {key: value for key, value in _payload(path).items() if key not in ("mark", "sha256")}
    change(payload)
    write_archive(payload, path)
    with pytest.raises(ValueError, match="expected a complete file at .*model.pt, got a damaged one or something else"):
        case.model.load(saved, accelerator="cpu")


@once
def test_checksums_are_written_also_where_the_user_has_switched_those_of_torch_off(case, fitted, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        fitted[0].save(tmp_path / "model")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(latents(case.model.load(tmp_path / "model", fitted[1], accelerator="cpu")), latents(fitted[0]))


@once
def test_a_damaged_model_can_be_saved_again(case, fitted, saved):
    path = _file(saved)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    fitted[0].save(saved, overwrite=True)
    assert_same(latents(case.model.load(saved, fitted[1], accelerator="cpu")), latents(fitted[0]))


@once
def test_an_empty_folder_is_a_new_one(fitted, tmp_path):
    # What is left of a process that was killed when it had begun to save.
    (tmp_path / "model").mkdir()
    fitted[0].save(tmp_path / "model")
    assert _file(tmp_path / "model").name == "model.pt"


@once
def test_ctrl_c_while_a_model_is_saved_is_no_full_disk(case, fitted, saved, monkeypatch):
    save = torch.save

    def stopped(payload, file):
        os.kill(os.getpid(), signal.SIGINT)
        save(payload, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", stopped)
        fitted[0].save(saved, overwrite=True)
    assert_same(latents(case.model.load(saved, fitted[1], accelerator="cpu")), latents(fitted[0]))
    assert _file(saved).name == "model.pt"


@once
def test_two_processes_do_not_save_into_one_folder_at_once(fitted, saved, monkeypatch):
    save = torch.save

    def meanwhile(payload, file):
        with monkeypatch.context() as patch, pytest.raises(FileExistsError, match="expected no other process to write"):
            patch.setattr(torch, "save", save)
            fitted[0].save(saved, overwrite=True)
        save(payload, file)

    monkeypatch.setattr(torch, "save", meanwhile)
    fitted[0].save(saved, overwrite=True)
    assert _file(saved).name == "model.pt"


@once
def test_saved_file_may_be_read_by_whom_the_user_lets_read(fitted, tmp_path):
    mask = os.umask(0o022)
    try:
        fitted[0].save(tmp_path / "model")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(_file(tmp_path / "model").stat().st_mode) == 0o644


def test_saving_leaves_the_random_states_alone(case, fitted, tmp_path):
    before = torch.get_rng_state()
    fitted[0].save(tmp_path / "model")
    case.model.load(tmp_path / "model", fitted[1], accelerator="cpu")
    assert torch.equal(torch.get_rng_state(), before)
