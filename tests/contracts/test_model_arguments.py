"""Arguments that cannot work are refused before any work; what others have set, or do meanwhile, changes nothing."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from anndata import AnnData
from model_contract import FAST, At, assert_same, copy_of, latents, once
from small import pair

from indiseek.data import Scale
from indiseek.metrics import _critic, infonce_bound
from indiseek.models import CoMMModel, DisentangledSSLModel, Flow, IndiSeekModel, NCEClub
from indiseek.nn import Encoder
from indiseek.objectives import NCEClubObjective

DEFEATED = {
    "limit_train_batches": (0, 0.0, 1, 0.5),
    "limit_val_batches": (0, 1),
    "max_steps": (0, 10),
    "max_time": ("00:00:00:01", {"seconds": 1}),
    "fast_dev_run": (True, 1),
    "overfit_batches": (1,),
    "check_val_every_n_epoch": (2, None),
    "val_check_interval": (0.5,),
    "accumulate_grad_batches": (2,),
    "gradient_clip_val": (1.0,),
    "barebones": (True,),
}


@once
@pytest.mark.parametrize("name", DEFEATED)
def test_arguments_of_the_trainer_that_defeat_training_are_refused_before_any_work(case, mdata, name, monkeypatch):
    model = case.new(mdata)
    monkeypatch.setattr("indiseek.train._run.resolve_process", None)
    for value in DEFEATED[name]:
        with pytest.raises(
            ValueError, match=f"expected no {name} but .*, got .*, by which stages would not be trained"
        ):
            model.train(**FAST, **{name: value})
    assert not model.is_trained


@once
def test_what_such_arguments_are_by_default_may_be_said(case, mdata):
    model = case.new(mdata)
    model.train(
        **FAST, limit_train_batches=1.0, limit_val_batches=None, max_time=None, max_steps=-1, fast_dev_run=False
    )
    assert list(case.widths) == model.fitted.trained_stages


@once
def test_a_stage_that_something_else_ends_before_its_first_epoch_is_no_training(case, mdata):
    def stop(module):
        module.trainer.should_stop = True
        module.trainer.fit_loop.epoch_loop.val_loop._skip = True
        module.on_validation_epoch_end = lambda: None

    model = case.new(mdata)
    with pytest.raises(RuntimeError, match="expected stage 'shared' to be trained for an epoch, got none"):
        model.train(**FAST, early_stopping=False, callbacks=[At(0, stop)])
    assert not model.is_trained


@once
def test_flags_of_torch_are_left_as_they_were(case, mdata):
    environment, benchmark = os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.backends.cudnn.benchmark
    for flags in ({"deterministic": True}, {"deterministic": "warn"}, {"benchmark": not benchmark}):
        case.new(mdata).train(**FAST, **flags)
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.benchmark == benchmark
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == environment


def test_defaults_of_torch_that_others_have_set_change_nothing(case, mdata, reference, tmp_path):
    for dtype, device in ((torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")):
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        try:
            model = case.new(copy_of(mdata))
            model.train(**FAST, checkpoint_dir=tmp_path)
            assert_same(latents(model), reference)
            assert_same(latents(model, mdata), reference)
            model.save(tmp_path / "model", overwrite=True)
            assert_same(latents(case.model.load(tmp_path / "model", mdata, accelerator="cpu")), reference)
            assert (torch.get_default_dtype(), torch.get_default_device().type) == (dtype, device)
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)


@once
@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_a_block_of_the_users_sets_changes_nothing(case, mdata, reference, around):
    with around():
        model = case.new(copy_of(mdata))
        model.train(**FAST)
        assert_same(latents(model), reference)


@once
def test_two_trainings_in_two_threads_are_those_of_one(case, mdata, reference):
    models = [case.new(copy_of(mdata)) for _ in range(2)]
    failed = []

    def train(model):
        try:
            torch.set_num_threads(1)
            model.train(**FAST)
        except Exception as error:  # noqa: BLE001 (a thread's errors are lost otherwise)
            failed.append(error)

    threads = [threading.Thread(target=train, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for model in models:
        assert_same(latents(model), reference)


# Filters of warnings are those of all threads.
@pytest.mark.filterwarnings("ignore")
@once
@pytest.mark.parametrize("what", ["certificate", "load"])
def test_what_another_thread_draws_meanwhile_changes_no_training(case, mdata, reference, tmp_path, monkeypatch, what):
    model = case.new(mdata)
    model.train(**FAST)
    model.save(tmp_path / "model")
    codes = np.random.default_rng(0).normal(size=(60, 3))
    over, n_done = threading.Event(), []

    def slowly(function):
        def call(*arguments, **options):
            if threading.current_thread() is not threading.main_thread():
                over.wait(0.02)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(_critic, "_fit", slowly(_critic._fit))
    monkeypatch.setattr(NCEClubObjective, "__init__", slowly(NCEClubObjective.__init__))

    def work():
        torch.set_num_threads(1)
        while not over.is_set():
            n_done.append(
                infonce_bound(codes, codes, max_steps=1).nats
                if what == "certificate"
                else case.model.load(tmp_path / "model", accelerator="cpu")
            )

    again, thread = case.new(copy_of(mdata)), threading.Thread(target=work)
    thread.start()
    try:
        again.train(**FAST)
    finally:
        over.set()
        thread.join()
    assert n_done
    assert_same(latents(again), reference)
    if what == "certificate":
        assert set(n_done) == {infonce_bound(codes, codes, max_steps=1).nats}


@once
@pytest.mark.parametrize("seed", [None, -1, 1.5, "0", True])
def test_seeds_are_whole_numbers(case, mdata, seed):
    model = case.new(mdata)
    with pytest.raises((TypeError, ValueError), match="expected seed to be a whole number of at least 0, got"):
        model.train(**FAST, seed=seed)
    if isinstance(model, IndiSeekModel):
        with pytest.raises((TypeError, ValueError), match="expected seed to be a whole number of at least 0, got"):
            model.tune(seed=seed)


OPTIONS = [
    (IndiSeekModel, "n_shared", 4.5),
    (IndiSeekModel, "n_shared", "4"),
    (IndiSeekModel, "n_specific", 2.5),
    (IndiSeekModel, "n_components", 2.5),
    (IndiSeekModel, "n_components", 1),
    (IndiSeekModel, "n_specific", {"rna": 2.5, "prot": 2}),
    (IndiSeekModel, "alignment", float("inf")),
    (IndiSeekModel, "alignment", None),
    (DisentangledSSLModel, "beta", float("nan")),
    (DisentangledSSLModel, "kappa", "1"),
    (CoMMModel, "n_latent", 8.0),
    (CoMMModel, "temperature", float("inf")),
    (CoMMModel, "noise", None),
]


@pytest.mark.parametrize(("model", "name", "value"), OPTIONS)
def test_options_are_checked_at_construction(mdata, model, name, value):
    with pytest.raises((TypeError, ValueError), match=f"expected {name} to be a (whole )?number.*, got .*; .*"):
        model(mdata, **{name: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Encoder(hidden=(2.5,)),
        lambda: Encoder(hidden="12"),
        lambda: Encoder(hidden=(None,)),
        lambda: NCEClub(lam=float("inf")),
        lambda: NCEClub(lam=None),
        lambda: NCEClub(critic_hidden=(1e9 + 0.5,)),
        lambda: Flow(n_context=1e9),
        lambda: Flow(n_context="3"),
        lambda: Flow(n_context=10**9),
    ],
)
def test_parts_of_the_options_are_checked_when_they_are_made(make):
    with pytest.raises((TypeError, ValueError), match="expected .* to be a .*, got .*; .*"):
        make()


@once
def test_positions_are_checked(case, fitted):
    model, mdata = fitted
    code = model.get_latent_representation()
    mask = np.arange(mdata.n_obs) % 3 == 0
    for indices in (mask, [-1, 0], np.flatnonzero(mask).astype(np.uint8)):
        found = model.get_latent_representation(indices=indices)
        np.testing.assert_allclose(found, code[np.arange(mdata.n_obs)[indices]], rtol=0, atol=1e-5)
    for wrong, error, message in (
        ([0.5], TypeError, "expected in indices positions as whole numbers, or a boolean mask, got float64"),
        (list(mdata.obs_names[:3]), TypeError, "expected in indices positions as whole numbers, .*get_indexer"),
        ([mdata.n_obs], IndexError, "expected positions between -200 and 199, got 200 to 200"),
        (mask[:50], ValueError, r"expected in indices a mask of all 200 cells, got one of shape \(50,\)"),
    ):
        with pytest.raises(error, match=message):
            model.get_latent_representation(indices=wrong)


@once
@pytest.mark.parametrize("accelerator", ["gpu", "nonsense"])
def test_a_device_that_is_not_there_is_said_before_any_work(case, mdata, accelerator, tmp_path):
    if accelerator == "gpu" and torch.cuda.is_available():
        pytest.skip("there is one")
    model = case.new(mdata)
    message = f"expected a device that this machine has, got accelerator='{accelerator}' .*; pass accelerator='auto'"
    with pytest.raises(ValueError, match=message):
        model.train(**FAST | {"accelerator": accelerator})
    model.train(**FAST)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        case.model.load(tmp_path / "model", accelerator=accelerator)


@once
@pytest.mark.parametrize("name", ["rna.v2", "a/b", "", " rna", "a\nb", "\x1b[31m"])
def test_names_of_modalities_that_no_file_can_have_are_refused(case, mdata, name):
    cells = pair(**{name: mdata["rna"].copy(), "prot": mdata["prot"].copy()})
    with pytest.raises(ValueError, match="expected names of modalities that files and .obsm can have, got .*; give it"):
        case.new(cells)


def test_odd_names_are_names(case, mdata, tmp_path):
    def odd(adata: AnnData) -> AnnData:
        adata.var_names = [f"[bold]{name} [/foo] $\\foo$ \x1b[31m" for name in adata.var_names]
        return adata

    cells = copy_of(mdata, {"prot": odd})
    cells = pair(**{"[bold]x": cells["rna"].copy(), "$\\foo$ type": cells["prot"].copy()})
    model = case.new(cells, transforms={"$\\foo$ type": Scale()})
    model.train(**FAST)
    assert case.key("[bold]x") in cells.obsm
    model.save(tmp_path / "model", save_mdata=True)
    assert_same(latents(case.model.load(tmp_path / "model", accelerator="cpu")), latents(model))
