"""A fit of one stage that goes on from the state after any epoch; memory that is too small; the end of the process."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import nn

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, NCEClubObjective, Objective
from indiseek.train import (
    StageModule,
    StageResult,
    StageSettings,
    StageState,
    fit_stage,
    memory_of_all_explained,
    resolve_process,
    seeded,
)

N_TRAIN, N_HELD_OUT, N_SHARED = 40, 12, 3
SETTINGS = {
    "plain": StageSettings(max_epochs=5),
    "early stopping": StageSettings(max_epochs=60, patience=2, lr=0.1, cosine=True),
    "critics": StageSettings(max_epochs=5, n_critic_steps=2, warmup_epochs=1, ramp_epochs=2, max_gradient_norm=0.5),
}


def _objective(kind: str) -> Objective:
    with seeded(0):
        if kind == "critics":
            return NCEClubObjective(
                {"a": 5, "b": 4}, N_SHARED, {"a": 2, "b": 3}, encoder=Encoder(hidden=(6,)), critic_hidden=(5,)
            )
        objective = CLIPObjective({"a": 5, "b": 4}, N_SHARED, encoder=Encoder(hidden=(6,)))
        # What the objective draws goes on too.
        objective.encoders[0].append(nn.Dropout(0.3))
        return objective


def _cells() -> tuple[CellTensors, CellTensors]:
    generator = torch.Generator().manual_seed(0)

    def draw(n_cells: int) -> CellTensors:
        a, b, *shared = (torch.randn(n_cells, n, generator=generator) for n in (5, 4, N_SHARED, N_SHARED))
        return CellTensors((a, b), tuple(shared))

    return draw(N_TRAIN), draw(N_HELD_OUT)


def _fit(
    kind: str,
    objective: Objective,
    callbacks: tuple[lightning.Callback, ...] = (),
    *,
    batch_size: int = 8,
    **more: Any,
) -> StageResult:
    options = {"name": "toy", "accelerator": "cpu", "show_progress": False} | more
    options["trainer_kwargs"] = {"callbacks": list(callbacks)}
    settings = replace(SETTINGS[kind], batch_size=batch_size)
    return fit_stage(objective, _cells(), settings, seed=7, **options)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_fit_goes_on_from_every_epoch_to_the_same_result(kind, tmp_path):
    whole = _objective(kind)
    states: list[StageState] = []
    result = _fit(kind, whole, save=lambda state: states.append(copy.deepcopy(state)))
    n_epochs = len(result.history)
    assert [len(state["epochs"]) for state in states] == list(range(1, n_epochs + 1))
    assert [state["done"] for state in states] == [False] * (n_epochs - 1) + [True]
    if kind == "early stopping":
        assert n_epochs < SETTINGS[kind].max_epochs and result.best_epoch < n_epochs - 1
    for number in sorted({0, n_epochs // 2, n_epochs - 2, n_epochs - 1}):
        state = states[number]
        torch.save(state, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        again = _objective(kind)
        later: list[StageState] = []
        resumed = _fit(kind, again, save=later.append, resume=loaded)
        assert len(later) == n_epochs - 1 - number
        assert resumed.best_epoch == result.best_epoch
        assert resumed.seconds >= state["seconds"]
        assert resumed.history.equals(result.history)
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_start_is_not_repeated():
    calls = []

    states: list[StageState] = []
    for _ in range(2):
        objective = _objective("plain")
        object.__setattr__(objective, "start", calls.append)
        resume = states[0] if states else None
        _fit("plain", objective, save=lambda state: states.append(copy.deepcopy(state)), resume=resume)
        assert len(calls) == 1


def test_progress_bar_starts_where_the_fit_goes_on(capsys):
    states: list[StageState] = []
    _fit("plain", _objective("plain"), save=lambda state: states.append(copy.deepcopy(state)))
    _fit("plain", _objective("plain"), resume=states[2], show_progress=True)
    shown = capsys.readouterr().err
    assert "3/5" in shown and "5/5" in shown and "0/5" not in shown


class _Raise(lightning.Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, *_: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB, max allowed: 9.07 GiB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize(("batch_size", "took", "smaller"), [(16, 16, 8), (3, 3, 2), (999, N_TRAIN, N_TRAIN // 2)])
def test_memory_that_is_too_small_names_the_stage_and_a_batch_to_try(error, batch_size, took, smaller):
    message = (
        rf"^expected batches of {took} cells of stage 'toy' to fit into the memory of cpu, got out of memory; "
        rf"try train\(batch_size=\{{'toy': {smaller}\}}\). The model is as it was.$"
    )
    with pytest.raises(MemoryError, match=message) as caught:
        _fit("plain", _objective("plain"), (_Raise(error),), batch_size=batch_size)
    assert caught.value.__cause__ is error


def _out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


ALL_CELLS = (
    r"^expected what stage 'toy' needs of all its cells, 52 cells x 9 features \(0.00 GiB a copy\), to fit into the "
    r"memory of cpu, got out of memory; a smaller batch would not help: take fewer features, for counts by "
    r"transforms=\{...: indiseek.data.LogNormalizePCA\(n_components=...\)\}. The model is as it was.$"
)


@pytest.mark.parametrize("when", ["start", "finish"])
def test_what_is_computed_of_all_cells_at_once_is_no_matter_of_the_batch(when):
    objective = _objective("plain")
    object.__setattr__(objective, when, _out_of_memory)
    with pytest.raises(MemoryError, match=ALL_CELLS):
        _fit("plain", objective)


def test_cells_that_do_not_fit_on_the_device_are_no_matter_of_the_batch(monkeypatch):
    monkeypatch.setattr(CellTensors, "to", _out_of_memory)
    with pytest.raises(MemoryError, match=ALL_CELLS):
        _fit("plain", _objective("plain"))


@pytest.mark.parametrize(
    ("device", "elsewhere"), [("cpu", ""), ("cuda:1", ", or accelerator='cpu'"), ("mps", ", or accelerator='cpu'")]
)
def test_memory_of_another_device_than_the_cpu_can_be_left_for_it(device, elsewhere):
    message = (
        "^expected the features of all cells, 1000000 cells x 150 features .0.56 GiB a copy., to fit into the memory "
        rf"of {device}, got out of memory; a smaller batch would not help: {{}}{elsewhere}. The model is as it was.$"
    )
    for more, advice in (((), "take fewer features, .*"), (("make it smaller",), "make it smaller")):
        with pytest.raises(MemoryError, match=message.format(advice)):
            with memory_of_all_explained("the features of all cells", 1_000_000, 150, torch.device(device), *more):
                _out_of_memory()


def test_other_errors_of_torch_come_through():
    with pytest.raises(RuntimeError, match="^mine$"):
        _fit("plain", _objective("plain"), (_Raise(RuntimeError("mine")),))


class _Terminate(lightning.Callback):
    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_that_is_told_to_end_ends():
    # Lightning makes an exit of its own out of the signal; it is no Ctrl-C, after which training would go on.
    objective = _objective("plain")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        _fit("plain", objective, (_Terminate(),))
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_with_other_cells_are_refused(monkeypatch):
    train, held_out = _cells()
    module = StageModule(_objective("plain"), train, held_out, SETTINGS["plain"])
    monkeypatch.setattr(StageModule, "trainer", SimpleNamespace(global_rank=0, world_size=2))
    gathered = []

    def meet(other: list[list[float]] | None) -> list[list[float]]:
        """What this process says when the other one says something; None repeats this one."""
        monkeypatch.setattr(
            "indiseek.train._lightning.gather_objects", lambda own: gathered.append(own) or [own, other or own]
        )
        module.on_fit_start()
        return gathered[-1]

    *sizes, counts = meet(None)
    for other in (
        [*sizes, [counts[0] - 1, counts[1]]],
        [sizes[0], [2 * size for size in sizes[1]], counts],
        [sizes[0][1:], sizes[1], counts],
    ):
        message = "expected the same cells in every process, got others in process 1 than in 0; give every process"
        with pytest.raises(ValueError, match=message):
            meet(other)
    # Rounding of other machines is no other data.
    meet([[size * (1 + 1e-5) for size in part] for part in sizes] + [counts])


def test_one_process_is_the_first_of_one():
    place = resolve_process("cpu")
    assert (place.device.type, place.rank, place.world_size) == ("cpu", 0, 1)


def test_a_device_that_torch_would_name_so_is_refused_with_the_words_that_work():
    with pytest.raises(ValueError, match=r"got accelerator='cuda:1' .*pass accelerator='gpu', devices=\[1\]\.$"):
        resolve_process("cuda:1")
    with pytest.raises(ValueError, match="pass accelerator='auto', which takes what there is, or accelerator='cpu'"):
        resolve_process("quantum")
