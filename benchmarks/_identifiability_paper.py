"""The numerical simulation of Daunhawer et al. (2023), arXiv 2303.09166, with the settings of the authors' program.

Process, loss, networks, optimiser and probes are those of main_mlp.py in the authors' repository on GitHub,
imantdaunhawer/multimodal-contrastive-learning; docs/dimension.md has the table of what differs. Cells are drawn on the
device, where a draw by numpy would take longer than the step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.objectives import DistanceInfoNCEObjective, distance_info_nce_loss
from indiseek.simulation import ContentStyleProcess

DEPENDENCE: dict[str, dict[str, bool]] = {
    "independent": {},
    "statistical": {"statistical": True},
    "causal": {"causal": True},
    "both": {"statistical": True, "causal": True},
}
# Style probability and dependence, in the order of the parent paper's table, which has no causal row of its own.
SETTINGS = [(1.0, "independent"), (0.75, "independent"), (0.75, "statistical"), (0.75, "causal"), (0.75, "both")]
RIDGE, WIDTHS = (1.0, 0.1, 0.01, 0.001), tuple(np.logspace(-2, 2, 4))
FACTORS = ("content", "style", "style of the other", "specific", "specific of the other")
N = 5


@dataclass(frozen=True)
class Training:
    """Networks, training and evaluation of one size; the process is the same in all."""

    hidden: tuple[int, ...]
    batch: int
    steps: int
    learning_rate: float
    n_probe: int
    anneal: bool = False


# Hidden widths 10, 50 and 10 times the 15 features; 5 batches of 4,096 cells for the probes.
PAPER = Training((150, 750, 750, 750, 750, 150), 6144, 300_001, 1e-4, 20_480)
SMALL = Training((128, 128, 128), 512, 3000, 2e-3, 2048, anneal=True)
SMOKE = Training((16,), 64, 20, 1e-3, 128)


class Draws:
    """Cells of a process, drawn on a device.

    Parameters
    ----------
    process
        What to draw from.
    device
        Of torch.
    seed
        Fixes the draws.
    """

    def __init__(self, process: ContentStyleProcess, device: str, *, seed: int) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device, self.p, self.slope = device, process.change_probability, process.slope

        def moved(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        values, vectors = zip(*map(np.linalg.eigh, process.covariances.values()), strict=True)
        roots = [moved(v * np.sqrt(np.maximum(w, 0.0))) for w, v in zip(values, vectors, strict=True)]
        self.roots = dict(zip(process.covariances, roots, strict=True))
        self.offset, self.effect = moved(process.offset), moved(process.effect)
        self.layers = {name: [moved(layer) for layer in stack] for name, stack in process.layers.items()}

    def factors(self, n_cells: int) -> dict[str, list[Tensor]]:
        """Content, style and specific factors of each modality, ``(n_cells, 5)`` each."""
        drawn = {
            block: torch.randn(n_cells, len(root), device=self.device, generator=self.generator) @ root.T
            for block, root in self.roots.items()
        }
        style = drawn["style"] + self.offset + drawn["content"] @ self.effect
        changes = torch.rand(style.shape, device=self.device, generator=self.generator) < self.p
        styles = (style, style + changes * drawn["change"])
        return {
            name: [drawn["content"], own, drawn[f"specific_{name}"]]
            for name, own in zip(self.layers, styles, strict=True)
        }

    def features(self, factors: dict[str, list[Tensor]]) -> CellTensors:
        """What the modalities see of them."""
        return CellTensors(tuple(self._mix(name, torch.cat(blocks, dim=1)) for name, blocks in factors.items()))

    def _mix(self, name: str, x: Tensor) -> Tensor:
        first, *others = self.layers[name]
        x = x @ first
        for layer in others:
            x = nn.functional.leaky_relu(x, self.slope) @ layer
        return x


def network(hidden: tuple[int, ...]) -> Encoder:
    """The program's encoders: leaky ReLU of slope 0.01, nothing normalised, nothing squashed at the end."""

    def make(n_in: int, n_out: int) -> nn.Module:
        widths = [n_in, *hidden]
        layers: list[nn.Module] = []
        for n_from, n_to in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(n_from, n_to), nn.LeakyReLU(0.01)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))

    return Encoder(own={"rna": make, "prot": make})


def kernel_ridge_r2(fit: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> list[float]:
    """R2 of each block of five factors by kernel ridge, its settings chosen by three folds, as the program does.

    Parameters
    ----------
    fit, test
        Standardised codes ``(n_cells, n_latent)`` and factors ``(n_cells, 5 * n_blocks)``, on a device, double.
    """
    codes, factors = fit
    # scikit-learn's folds: contiguous, the first ones larger by a cell where three do not divide the cells.
    folds = torch.arange(len(codes), device=codes.device).tensor_split(3)
    scores = np.zeros((len(WIDTHS), len(RIDGE), factors.shape[1] // N))
    for fold in folds:
        kept = torch.ones(len(codes), dtype=torch.bool, device=codes.device)
        kept[fold] = False
        for (i, width), (j, ridge) in ((a, b) for a in enumerate(WIDTHS) for b in enumerate(RIDGE)):
            predicted = _ridge(codes[kept], factors[kept], codes[fold], width, ridge)
            scores[i, j] += np.divide(_by_block(factors[fold], predicted), 3)
    best = scores.reshape(-1, scores.shape[-1]).argmax(axis=0)
    found = []
    for block, choice in enumerate(best):
        width, ridge = WIDTHS[choice // len(RIDGE)], RIDGE[choice % len(RIDGE)]
        columns = slice(N * block, N * (block + 1))
        predicted = _ridge(codes, factors[:, columns], test[0], width, ridge)
        found += _by_block(test[1][:, columns], predicted)
    return found


def _ridge(codes: Tensor, factors: Tensor, new: Tensor, width: float, ridge: float) -> Tensor:
    kernel = torch.exp(-width * torch.cdist(codes, codes).square())
    kernel.diagonal().add_(ridge)
    weights = torch.cholesky_solve(factors, torch.linalg.cholesky(kernel))
    return torch.exp(-width * torch.cdist(new, codes).square()) @ weights


def _by_block(truth: Tensor, predicted: Tensor) -> list[float]:
    pairs = zip(truth.cpu().numpy().T, predicted.cpu().numpy().T, strict=True)
    each = [float(r2_score(true, found)) for true, found in pairs]
    return np.reshape(each, (-1, N)).mean(axis=1).tolist()


def run(training: Training, p: float, dependence: str, seed: int, device: str, *, form: str) -> dict[str, object]:
    """Train on fresh cells in every step; R2 of linear and kernel probes, the mean over both modalities' codes."""
    process = ContentStyleProcess(change_probability=p, form=form, seed=seed, **DEPENDENCE[dependence])
    draws, held_out = Draws(process, device, seed=2 * seed), Draws(process, device, seed=2 * seed + 1)
    torch.manual_seed(seed)
    started = time.perf_counter()
    objective = DistanceInfoNCEObjective(
        dict.fromkeys(process.n_specific, 3 * N), N, temperature=1.0, encoder=network(training.hidden)
    ).to(device)
    optimizer = torch.optim.Adam(objective.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps) if training.anneal else None

    def codes_of(source: Draws, n_cells: int) -> tuple[Tensor, ...]:
        return tuple(objective.latents(source.features(source.factors(n_cells))))

    for _ in range(training.steps):
        pairs, others = codes_of(draws, training.batch), codes_of(draws, training.batch)
        optimizer.zero_grad()
        distance_info_nce_loss(*pairs, others=others).backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 2.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        loss = np.mean(
            [
                distance_info_nce_loss(
                    *codes_of(held_out, training.batch), others=codes_of(held_out, training.batch)
                ).item()
                for _ in range(10)
            ]
        )
        cells = [held_out.factors(training.n_probe) for _ in range(2)]
        codes = [objective.latents(held_out.features(each)) for each in cells]
    rows: list[list[float]] = []
    names = tuple(process.n_specific)
    for i, (own, other) in enumerate((names, names[::-1])):
        truth = [torch.cat([*c[own][:2], c[other][1], c[own][2], c[other][2]], dim=1).double() for c in cells]
        scaler = StandardScaler().fit(codes[0][i].cpu().numpy())
        scaled = [scaler.transform(c[i].cpu().numpy()).astype(np.float64) for c in codes]
        linear = LinearRegression().fit(scaled[0], truth[0].cpu().numpy()).predict(scaled[1])
        moved = [torch.from_numpy(x).to(device) for x in scaled]
        rows.append(_by_block(truth[1], torch.from_numpy(linear)))
        rows.append(kernel_ridge_r2((moved[0], truth[0]), (moved[1], truth[1])))
    found: dict[str, object] = {"p": p, "dependence": dependence, "seed": seed, "form": form, "loss": float(loss)}
    for kind, values in (("linear", rows[::2]), ("kernel", rows[1::2])):
        found |= {f"{factor}_{kind}": float(v) for factor, v in zip(FACTORS, np.mean(values, axis=0), strict=True)}
    return found | {"seconds": seconds}
