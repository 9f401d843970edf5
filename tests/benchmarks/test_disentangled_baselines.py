"""JointOpt, FOCAL and DMVAE against loops written from their equations, and what they learn of few cells."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from loops import infonce, of_unit_length

from indiseek import Encoder, simulation
from indiseek.data import CellTensors
from indiseek.train import StageSettings

N = 5
FEATURES = {"a": 6, "b": 4}
N_CODE = 3
TAU = 0.07
ENCODER = Encoder(hidden=(8,))


@pytest.fixture
def baselines(fresh_module):
    return fresh_module("_disentangled_baselines")


@pytest.fixture
def dmvae(fresh_module):
    return fresh_module("_disentangled_dmvae")


@pytest.fixture
def benchmark(fresh_module):
    return fresh_module("disentangled_ssl")


def _features(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(N, n, generator=generator).double() for n in FEATURES.values()]


CELLS, VIEWS = _features(0), _features(1)
BATCH = CellTensors(tuple(CELLS))


def _made(make, **options):
    """An objective in training, whose cells and views are known."""
    torch.manual_seed(2)
    objective = make(FEATURES, N_CODE, encoder=ENCODER, **options).double().train()
    given = [CELLS, VIEWS]
    objective.augmented = lambda features: given.pop(0)
    return objective


def _chained(objective, features) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Shared codes, and specific ones of the features and these."""
    shared = [objective.networks.shared[i](features[i]) for i in range(2)]
    specific = [objective.networks.specific[i](torch.cat([features[i], shared[i]], dim=1)) for i in range(2)]
    return [c.detach().numpy() for c in shared], [z.detach().numpy() for z in specific]


def _halves(objective, features) -> tuple[list[np.ndarray], list[np.ndarray]]:
    codes = [objective.networks.encoders[i](features[i]).detach().numpy() for i in range(2)]
    return [code[:, :N_CODE] for code in codes], [code[:, N_CODE:] for code in codes]


def _moved(mean: torch.Tensor) -> torch.Tensor:
    """In place of a draw: another direction, the same at each call."""
    return torch.nn.functional.normalize(mean.roll(1, dims=1) + 2.0 * mean, dim=-1)


@pytest.mark.parametrize("a", [0.5, 4.0])
def test_joint_optimisation_equals_its_loop(baselines, monkeypatch, a):
    monkeypatch.setattr(baselines, "sample_von_mises_fisher", lambda mean, kappa: _moved(mean))
    objective = _made(baselines.JointOptObjective, lam=0.3, a=a)
    found = objective.loss(BATCH).loss.item()
    sides = [_chained(objective, features) for features in (CELLS, VIEWS)]
    between, penalty = 0.0, 0.0
    for shared, specific in sides:
        drawn = [_moved(torch.from_numpy(of_unit_length(c))).numpy() for c in shared]
        between += 0.5 * infonce(*drawn, tau=TAU)
        for i in range(2):
            z, c = of_unit_length(specific[i]), of_unit_length(shared[i])
            squares = [sum(z[n, k] * c[n, l] for n in range(N)) ** 2 for k in range(N_CODE) for l in range(N_CODE)]
            penalty += 0.5 * math.sqrt(sum(squares))
    within = 0.0
    for i in range(2):
        pair = [of_unit_length(np.concatenate([specific[i], shared[1 - i]], axis=1)) for shared, specific in sides]
        within += infonce(*pair, tau=TAU)
    expected = 2 / (1 + a) * between + a / (1 + a) * within + 0.3 * penalty
    assert found == pytest.approx(expected, rel=1e-6)


def test_shared_codes_of_the_joint_optimisation_learn_from_what_is_specific(baselines):
    objective = _made(baselines.JointOptObjective, lam=0.0, a=1e9)
    objective.loss(BATCH).loss.backward()
    assert all(network[0].weight.grad.abs().max() > 1e-3 for network in objective.networks.shared)


@pytest.mark.parametrize("form", ["program", "paper"])
def test_focal_equals_its_loop(baselines, form):
    objective = _made(baselines.FOCALObjective, form=form, lam=3.0, a=0.5)
    found = objective.loss(BATCH).loss.item()
    of = _chained if form == "program" else _halves
    sides = [
        [[of_unit_length(code) for code in codes] for codes in of(objective, features)] for features in (CELLS, VIEWS)
    ]
    expected, cosines = 0.0, []
    for shared, specific in sides:
        expected += infonce(*shared, tau=TAU)
        for u, w in ((specific[0], shared[0]), (specific[1], shared[1]), (specific[0], specific[1])):
            cosines += [float(u[n] @ w[n]) for n in range(N)]
    for i in range(2):
        expected += 0.5 * infonce(sides[0][1][i], sides[1][1][i], tau=TAU)
    expected += 3.0 * sum(t if form == "program" else max(0.0, t) for t in cosines) / N
    # Without cosines of both signs the forms would be the same.
    assert min(cosines) < -0.1 and max(cosines) > 0.1
    assert found == pytest.approx(expected, rel=1e-6)


def _kl(mean: np.ndarray, variance: np.ndarray) -> float:
    """Mean over cells of the divergence from N(0, I), dimension by dimension."""
    total = 0.0
    for n in range(N):
        for k in range(N_CODE):
            total += 0.5 * (mean[n, k] ** 2 + variance[n, k] - 1.0 - math.log(variance[n, k]))
    return total / N


@pytest.mark.parametrize("form", ["program", "paper"])
def test_dmvae_equals_its_loop(dmvae, form):
    objective = _made(dmvae.DMVAEObjective, form=form, weight=0.2)
    # In place of a draw: three tenths of a standard deviation above the mean.
    objective._draw = lambda q: q.mean + 0.3 * torch.exp(0.5 * q.log_variance)
    found = objective.loss(BATCH).loss.item()
    shared, specific = [], []
    for i in range(2):
        out = objective.networks.encoders[i](CELLS[i]).detach().numpy()
        means, logs = (out[:, :N_CODE], out[:, 2 * N_CODE : 3 * N_CODE]), (out[:, N_CODE : 2 * N_CODE], out[:, 9:])
        shared.append((means[0], np.exp(logs[0])))
        specific.append((means[1], np.exp(logs[1])))
    precision = sum(1 / v for _, v in shared) + (1.0 if form == "paper" else 0.0)
    joint = (sum(m / v for m, v in shared) / precision, 1 / precision)
    expected = 0.0
    for i in range(2):
        x = CELLS[i].numpy()
        for m, v in [joint, shared[1 - i]] + ([shared[i]] if form == "paper" else []):
            latent = np.concatenate([specific[i][0] + 0.3 * np.sqrt(specific[i][1]), m + 0.3 * np.sqrt(v)], axis=1)
            given_back = objective.decoders[i](torch.from_numpy(latent)).detach().numpy()
            squares = sum((x[n, f] - given_back[n, f]) ** 2 for n in range(N) for f in range(x.shape[1]))
            divergence = _kl(*specific[i]) + _kl(m, v)
            if form == "program":
                expected += squares / (N * x.shape[1]) + 0.2 * N * divergence
            else:
                expected += 0.5 * squares / N + 0.2 * divergence
    assert found == pytest.approx(expected, rel=1e-6)


def test_latents_are_drawn_with_their_variance_in_training_alone(dmvae):
    objective = dmvae.DMVAEObjective(FEATURES, N_CODE, encoder=ENCODER, form="paper", weight=1.0)
    q = dmvae.Gaussians(torch.full((20_000, 1), 2.0), torch.full((20_000, 1), math.log(9.0)))
    torch.manual_seed(0)
    drawn = objective.train()._draw(q)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.1) and drawn.std().item() == pytest.approx(3.0, abs=0.1)
    assert torch.equal(objective.eval()._draw(q), q.mean)


@pytest.mark.parametrize("prior", [False, True])
def test_product_of_experts_is_the_normalised_product_of_densities(dmvae, prior):
    experts = [(0.7, 0.5), (-1.2, 2.0)]
    grid = np.linspace(-12, 12, 20_001)
    density = np.ones_like(grid)
    for mean, variance in [*experts, *([(0.0, 1.0)] if prior else [])]:
        density *= np.exp(-0.5 * (grid - mean) ** 2 / variance)
    density /= density.sum()
    expected = (grid @ density, (grid - grid @ density) ** 2 @ density)
    factors = [dmvae.Gaussians(torch.tensor([[m]]), torch.tensor([[math.log(v)]])) for m, v in experts]
    found = dmvae.product_of_experts(factors, prior=prior)
    assert (found.mean.item(), found.log_variance.exp().item()) == pytest.approx(expected, rel=1e-4)


KINDS = {
    "JointOpt": ("_disentangled_baselines", "JointOptObjective", {"lam": 0.01}),
    "FOCAL, program": ("_disentangled_baselines", "FOCALObjective", {"form": "program", "lam": 1.0}),
    "FOCAL, paper": ("_disentangled_baselines", "FOCALObjective", {"form": "paper", "lam": 1.0}),
    "DMVAE, program": ("_disentangled_dmvae", "DMVAEObjective", {"form": "program", "weight": 1e-5}),
    "DMVAE, paper": ("_disentangled_dmvae", "DMVAEObjective", {"form": "paper", "weight": 1.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(fresh_module, kind):
    module, name, options = KINDS[kind]
    torch.manual_seed(3)
    objective = getattr(fresh_module(module), name)(FEATURES, N_CODE, encoder=ENCODER, **options).double().eval()
    features = [x[:3].clone().requires_grad_() for x in CELLS]
    assert torch.autograd.gradcheck(lambda *x: objective.loss(CellTensors(x)).loss, features)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_codes_learn_the_shared_label_of_an_easy_simulation(fresh_module, kind):
    module, name, options = KINDS[kind]
    baselines, make = fresh_module("_disentangled_baselines"), getattr(fresh_module(module), name)
    simulated = simulation.simulate_disentangled(2000, 3, 10, seed=0)
    rows = np.arange(2000)
    cells = baselines.Cells(simulated, rows[:1500], rows[1500:])
    point = baselines.BaselinePoint(partial(make, **options))
    settings = StageSettings(max_epochs=1, batch_size=250, lr=5e-3, cosine=True)
    step = replace(point.step, hidden=(32,), n_code=6, epochs=(20, 0), initial_sd=None, settings=settings)
    point = replace(point, step=step)
    found = baselines.fit_baseline(cells, point, 0, False)
    assert list(found) == ["C: Yc", "C: Y1", "C: Y2", "Z1: Y1", "Z1: Yc"]
    assert found["C: Yc"] > max(0.74, found["C: Y1"] + 0.1) and found["Z1: Y1"] > 0.58
    # Only what is trained to leave the shared content out does so.
    assert (found["Z1: Yc"] < 0.65) == (kind == "JointOpt")
    assert baselines.fit_baseline(cells, point, 0, False) == found


def test_every_baseline_row_fills_every_column(benchmark):
    cells = benchmark.Cells.draw("published", 0, 600)
    labels = [label for label in benchmark.ROWS["published"] if label.split(",")[0] in ("JointOpt", "FOCAL", "DMVAE")]
    assert len(labels) == 15 and labels == list(benchmark.ROWS["published"])[-15:]
    for label in labels:
        row, point = benchmark.ROWS["published"][label]
        step = point.step
        assert (step.hidden, step.n_code, step.epochs[0], step.as_published) == ((512, 512), 100, 50, True)
        found = row(cells, replace(point, step=replace(step, hidden=(16,), n_code=5)), 0, True)
        assert list(found) == [*benchmark.SHARED_COLUMNS, *benchmark.SPECIFIC_COLUMNS]
        assert all(0.3 < value < 0.95 for value in found.values())
        options = point.make.keywords
        assert float(label.rsplit(" ", 1)[1]) == options["weight" if "DMVAE" in label else "lam"]
        assert options.get("form", "") in label


def test_rows_run_from_the_command_line(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "CACHE", tmp_path)
    labels = ["JointOpt, lambda 1", "DMVAE, paper, weight 1"]
    arguments = ["--data", "published", "--smoke", "--seeds", "1", "--points", *labels]
    monkeypatch.setattr(sys, "argv", ["disentangled_ssl.py", *arguments])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    for label in labels:
        cells = next(line for line in lines if line.startswith(f"| {label} |")).split("|")[2:7]
        assert all(0.4 < float(cell) < 0.95 for cell in cells)
    # A figure that was read is in its two columns, and there alone.
    read = next(line for line in lines if line.startswith("| figure, about, JointOpt, lambda 1 |"))
    assert [cell.strip() for cell in read.split("|")[2:7]] == ["", "", "", "0.591", "0.575"]
    assert {path.name for path in tmp_path.rglob("*.json")} == {
        "published.JointOpt_lambda_1.0.json",
        "published.DMVAE_paper_weight_1.0.json",
    }
