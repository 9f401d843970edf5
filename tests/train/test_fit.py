from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, NCEClubObjective, Objective, ObjectiveOutput
from indiseek.train import StageSettings, fit_stage, linear_ramp, seeded

LR = 0.01
N_STEPS = 5


class Toy(Objective):
    """Its weight falls by the learning rate at each step; its held-out value is what the test says."""

    monitor = "value"

    def __init__(self, held_out: list[float], *, nan_at: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.critic = nn.Parameter(torch.zeros(1))
        self.held_out = held_out
        self.nan_at = nan_at
        self.ramps: list[float] = []
        self.n_critic_steps = 0
        self.n_validations = 0
        self.modes: list[bool] = []

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        return cells.features[modality] * self.weight

    def loss(self, batch: CellTensors) -> ObjectiveOutput:
        self.modes.append(self.training)
        self.ramps.append(self.ramp)
        broken = float("nan") if self.nan_at == len(self.ramps) - 1 else 0.0
        return ObjectiveOutput(self.weight.sum() + self.critic.sum() + broken, {"part": torch.tensor(broken)})

    def critic_loss(self, batch: CellTensors) -> Tensor:
        self.n_critic_steps += 1
        return -self.critic.sum() + self.weight.detach().sum()

    def validate(self, batch: CellTensors) -> dict[str, Tensor]:
        self.modes.append(not self.training)
        self.n_validations += 1
        return {"value": torch.tensor(self.held_out[min(self.n_validations, len(self.held_out)) - 1])}

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        return iter((self.critic,))


def _cells(n: int = 40) -> tuple[CellTensors, CellTensors]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        CellTensors((torch.randn(k, 3, generator=generator), torch.randn(k, 2, generator=generator))) for k in (n, 8)
    )


def _fit(objective: Objective, *, batch_size: int = 8, seed: int = 0, callbacks=(), progress: bool = False, **settings):
    return fit_stage(
        objective,
        _cells(),
        StageSettings(**{"max_epochs": 3, "batch_size": batch_size, "lr": LR, "critic_lr": LR} | settings),
        name="toy",
        accelerator="cpu",
        seed=seed,
        show_progress=progress,
        trainer_kwargs={"callbacks": list(callbacks)},
    )


def _epochs_of(toy: Toy) -> float:
    """Epochs that the weight has seen: AdamW with a constant gradient moves by lr a step."""
    return -toy.weight.item() / (LR * N_STEPS)


@pytest.mark.parametrize(
    ("progress", "warmup", "length", "weight"),
    [(0, 2, 4, 0), (1.99, 2, 4, 0), (2, 2, 4, 0), (4, 2, 4, 0.5), (6, 2, 4, 1), (99, 2, 4, 1)]
    + [(0, 0, 0, 1), (0.5, 1, 0, 0), (1, 1, 0, 1)],
)
def test_ramp_is_zero_then_rises_to_one(progress, warmup, length, weight):
    assert linear_ramp(progress, warmup=warmup, length=length) == pytest.approx(weight)


def test_weights_of_the_best_epoch_come_back():
    toy = Toy([5.0, 3.0, 1.0, 2.0, 4.0])
    result = _fit(toy, max_epochs=5, patience=10)
    assert result.best_epoch == 2
    assert _epochs_of(toy) == pytest.approx(3, rel=1e-4)
    assert len(result.history) == 5
    assert result.history["validation_value"].tolist() == [5, 3, 1, 2, 4]
    assert not toy.training and not result.interrupted and result.seconds > 0


def test_training_stops_when_patience_is_over():
    toy = Toy([3.0, 1.0, *[2.0] * 50])
    result = _fit(toy, max_epochs=50, patience=4)
    assert len(result.history) == 6
    assert result.best_epoch == 1
    assert _epochs_of(toy) == pytest.approx(2, rel=1e-4)


def test_a_later_better_epoch_renews_patience():
    result = _fit(Toy([3.0, 4.0, 4.0, 2.0, *[3.0] * 50]), max_epochs=50, patience=3)
    assert result.best_epoch == 3
    assert len(result.history) == 7


@pytest.mark.parametrize(
    ("held_out", "n_epochs", "best_epoch"),
    [
        # Gains of .015 in all: kept, and not waited for.
        ([1.0, 0.995, 0.99, 0.985, 0.98], 4, 3),
        # Small ones that add up to .02 and more.
        ([1.0, 0.99, 0.979, 0.969, 0.965, 0.965], 6, 4),
    ],
)
def test_gains_that_add_up_to_little_do_not_renew_patience(held_out, n_epochs, best_epoch):
    toy = Toy([*held_out, *[2.0] * 50])
    toy.least_gain = 0.4
    result = _fit(toy, max_epochs=50, patience=3)
    assert len(result.history) == n_epochs
    assert result.best_epoch == best_epoch


def test_without_patience_the_last_epoch_is_kept():
    toy = Toy([1.0, 2.0, 3.0])
    result = _fit(toy)
    assert _epochs_of(toy) == pytest.approx(3, rel=1e-4)
    assert result.best_epoch == 2


def test_epochs_before_full_weight_cannot_be_the_best():
    toy = Toy([0.0, 0.0, 0.0, 5.0, 4.0, 6.0])
    result = _fit(toy, max_epochs=6, patience=20, warmup_epochs=1, ramp_epochs=2)
    assert result.best_epoch == 4


def test_patience_counts_from_the_first_epoch_that_can_be_best():
    result = _fit(Toy([0.0, 0.0, 0.0, 5.0, 4.0, 6.0, 6.0]), max_epochs=7, patience=1, warmup_epochs=1, ramp_epochs=2)
    assert result.best_epoch == 4
    assert len(result.history) == 6


def test_ramp_reaches_the_objective_step_by_step():
    toy = Toy([1.0])
    _fit(toy, max_epochs=4, warmup_epochs=1, ramp_epochs=2)
    expected = [linear_ramp(step / N_STEPS, warmup=1, length=2) for step in range(4 * N_STEPS)]
    assert toy.ramps == pytest.approx(expected)


def test_training_and_validation_run_in_their_modes_however_the_objective_comes():
    toy = Toy([1.0]).eval()
    _fit(toy)
    assert toy.modes and all(toy.modes)


def test_critics_and_encoders_have_steps_of_their_own():
    toy = Toy([1.0])
    _fit(toy, n_critic_steps=3)
    assert toy.n_critic_steps == 3 * 3 * N_STEPS
    # The loss asks the critic to fall, the critic's loss to rise: only the latter moves it, three times a step.
    assert toy.critic.item() == pytest.approx(3 * 3 * N_STEPS * LR, rel=1e-3)
    assert _epochs_of(toy) == pytest.approx(3, rel=1e-4)
    assert toy.critic.requires_grad


def test_encoder_steps_compute_no_gradient_for_the_critics():
    # The critic's own loss has the gradient -1; the encoders' loss would add 1 to it.
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            seen.append(pl_module.objective.critic.grad.item())

    _fit(Toy([1.0]), max_epochs=1, n_critic_steps=1, callbacks=[Watch()])
    assert seen == [-1.0] * N_STEPS


def test_without_critic_steps_critics_stand_still():
    toy = Toy([1.0])
    _fit(toy)
    assert toy.critic.item() == 0
    assert toy.n_critic_steps == 0


def test_critic_steps_see_batches_of_their_own():
    seen: dict[str, list[Tensor]] = {"critic": [], "encoder": []}

    class Spy(Toy):
        def loss(self, batch: CellTensors) -> ObjectiveOutput:
            seen["encoder"].append(batch.features[0][:, 0].clone())
            return super().loss(batch)

        def critic_loss(self, batch: CellTensors) -> Tensor:
            seen["critic"].append(batch.features[0][:, 0].clone())
            return super().critic_loss(batch)

    _fit(Spy([1.0]), max_epochs=1, n_critic_steps=1)
    assert len(seen["critic"]) == len(seen["encoder"]) == N_STEPS
    every = _cells()[0].features[0][:, 0].sort().values
    for rows in seen.values():
        assert torch.equal(torch.cat(rows).sort().values, every)
    assert not any(torch.equal(a.sort().values, b.sort().values) for a, b in zip(*seen.values(), strict=True))


@pytest.mark.parametrize("frozen", ["encoders", "critics"])
def test_real_critics_and_encoders_are_each_moved_by_their_own_optimiser(frozen):
    torch.manual_seed(0)
    objective = NCEClubObjective(
        {"a": 3, "b": 2}, 4, {"a": 2, "b": 2}, encoder=Encoder(hidden=(6,)), critic_hidden=(5,)
    )
    train, validation = (
        CellTensors(cells.features, tuple(torch.randn(cells.n_cells, 4) for _ in range(2))) for cells in _cells()
    )
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    rates = {"lr": 0.0 if frozen == "encoders" else LR, "critic_lr": 0.0 if frozen == "critics" else LR}
    fit_stage(
        objective,
        (train, validation),
        StageSettings(max_epochs=1, batch_size=8, n_critic_steps=2, **rates),
        name="specific",
        accelerator="cpu",
        show_progress=False,
    )
    critics = {id(p) for p in objective.critic_parameters()}
    for name, parameter in objective.named_parameters():
        is_frozen = (id(parameter) in critics) is (frozen == "critics")
        if is_frozen or parameter.ndim == 2:
            assert torch.equal(parameter, before[name]) is is_frozen, name


def test_history_holds_epoch_means_of_every_term():
    toy = Toy([1.0, 2.0])
    history = _fit(toy, max_epochs=2, n_critic_steps=2).history
    assert history.index.name == "epoch" and history.index.tolist() == [0, 1]
    assert {"train_loss", "train_part", "validation_value"} <= set(history)
    assert any("critic" in column for column in history)
    # Encoder step s finds weight -s * lr, and the critic after 2 * (s + 1) of its own steps.
    values = [-s * LR + 2 * (s + 1) * LR for s in range(2 * N_STEPS)]
    np.testing.assert_allclose(history["train_loss"], np.mean(np.reshape(values, (2, N_STEPS)), axis=1), rtol=1e-3)


def test_held_out_batches_count_by_their_cells():
    class Mean(Toy):
        def validate(self, batch: CellTensors) -> dict[str, Tensor]:
            return {"value": batch.features[0][:, 0].mean()}

    history = _fit(Mean([]), batch_size=3, max_epochs=1).history
    assert history["validation_value"][0] == pytest.approx(_cells()[1].features[0][:, 0].mean().item(), rel=1e-5)


@pytest.mark.parametrize("nan_at", [0, 7])
def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_term(nan_at):
    toy = Toy([1.0], nan_at=nan_at)
    message = rf"expected finite losses, got nan in .*'part'.* in epoch {nan_at // N_STEPS}; lower lr"
    with pytest.raises(FloatingPointError, match=message):
        _fit(toy, max_epochs=50)
    assert len(toy.ramps) == nan_at + 1


def test_critic_loss_that_is_not_finite_is_named():
    class Broken(Toy):
        def critic_loss(self, batch: CellTensors) -> Tensor:
            return super().critic_loss(batch) * float("inf")

    with pytest.raises(FloatingPointError, match="critic"):
        _fit(Broken([1.0]), n_critic_steps=1)


class _Interrupt(lightning.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch and trainer.global_step:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_best_weights_and_the_users_handler():
    def handler(*_):
        raise AssertionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        toy = Toy([1.0, 2.0, 3.0])
        result = _fit(toy, max_epochs=9, patience=8, callbacks=[_Interrupt(2)])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.interrupted
    assert len(result.history) == 2
    assert result.best_epoch == 0
    assert _epochs_of(toy) == pytest.approx(1, rel=1e-4)
    assert not toy.training and toy.critic.requires_grad


def test_ctrl_c_in_the_first_epoch_gives_an_empty_history():
    result = _fit(Toy([1.0]), patience=3, callbacks=[_Interrupt(0)])
    assert result.interrupted
    assert len(result.history) == 0


def test_other_errors_of_a_callback_come_through():
    class Fails(lightning.Callback):
        def on_train_epoch_end(self, *_) -> None:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        _fit(Toy([1.0]), callbacks=[Fails()])


def test_random_states_of_the_user_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    _fit(Toy([1.0]), n_critic_steps=1)
    with seeded(3):
        torch.randn(10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_random_state_comes_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="mine"), seeded(3):
        torch.randn(10)
        raise RuntimeError("mine")
    assert torch.equal(torch.get_rng_state(), before)


def _clip_weights(seed: int) -> list[Tensor]:
    with seeded(0):
        objective = CLIPObjective({"a": 3, "b": 2}, 2, encoder=Encoder(hidden=(6,)))
    # What the objective draws in training is seeded too.
    objective.encoders[0].append(nn.Dropout(0.5))
    _fit(objective, seed=seed)
    return list(objective.state_dict().values())


def test_one_seed_gives_one_result_to_the_last_bit_and_another_another():
    first = _clip_weights(1)
    torch.manual_seed(99)
    again, other = _clip_weights(1), _clip_weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_progress_bar_names_the_stage_and_nothing_is_shown_without(capsys):
    _fit(Toy([0.25]), progress=True)
    shown = capsys.readouterr().err
    assert "toy" in shown and "3/3" in shown and "0.250" in shown
    _fit(Toy([0.25]))
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out == ""


def test_training_reduces_the_loss_of_a_real_objective():
    torch.manual_seed(0)
    common = torch.randn(200, 2)
    features = tuple(common @ torch.randn(2, n) + 0.1 * torch.randn(200, n) for n in (5, 4))
    train, validation = CellTensors(tuple(x[:150] for x in features)), CellTensors(tuple(x[150:] for x in features))
    objective = CLIPObjective({"a": 5, "b": 4}, 3, encoder=Encoder(hidden=(16,)))
    history = fit_stage(
        objective,
        (train, validation),
        StageSettings(max_epochs=30, batch_size=50, lr=1e-2),
        name="shared",
        accelerator="cpu",
        show_progress=False,
    ).history
    assert history["validation_infonce"].iloc[-1] < 0.6 * history["validation_infonce"].iloc[0]


def test_cosine_takes_the_steps_of_encoders_and_critics_to_zero_epoch_by_epoch():
    n_epochs = 4
    constant, falling = [], []
    for cosine, weights in ((False, constant), (True, falling)):
        toy = Toy([1.0])
        _fit(toy, max_epochs=n_epochs, cosine=cosine, n_critic_steps=1, critic_lr=3 * LR)
        weights += [-toy.weight.item(), toy.critic.item()]
    assert constant == pytest.approx([n_epochs * N_STEPS * LR, 3 * n_epochs * N_STEPS * LR], rel=1e-3)
    # The first epoch has the full rate, and the last one the least above zero.
    share = np.mean([0.5 * (1 + np.cos(np.pi * epoch / n_epochs)) for epoch in range(n_epochs)])
    assert falling == pytest.approx([share * weight for weight in constant], rel=1e-3)


def test_gradients_are_cut_if_asked_for():
    class Steep(Toy):
        def loss(self, batch: CellTensors) -> ObjectiveOutput:
            output = super().loss(batch)
            return ObjectiveOutput(1e6 * output.loss, output.terms)

    norms = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            norms.append(pl_module.objective.weight.grad.norm().item())

    for limit in (None, 2.0):
        _fit(Steep([1.0]), max_epochs=1, max_gradient_norm=limit, callbacks=[Watch()])
    assert norms == pytest.approx([1e6] * N_STEPS + [2.0] * N_STEPS, rel=1e-3)


def test_start_and_finish_see_all_training_cells_once_without_gradients():
    calls: list[tuple[str, int, bool, bool]] = []

    class Spy(Toy):
        def start(self, batch: CellTensors) -> None:
            calls.append(("start", batch.n_cells, self.training, torch.is_grad_enabled()))

        def finish(self, batch: CellTensors) -> None:
            calls.append(("finish", batch.n_cells, self.training, torch.is_grad_enabled()))
            assert self.ramps

    _fit(Spy([1.0]))
    assert [call[:2] for call in calls] == [("start", 40), ("finish", 40)]
    assert not any(grad for *_, grad in calls)
    assert calls[-1][2] is False
