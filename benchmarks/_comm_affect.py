"""CoMM on an affect set of MultiBench, with the settings of the authors' notebook (Duplums/CoMM on GitHub)."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.datasets import multibench_affect
from indiseek.nn import SequenceTransformer
from indiseek.objectives import CoMMObjective

# Accuracy, per cent: the paper's table, and what demo/multibench.ipynb prints for balanced accuracy.
PUBLISHED = {"MOSI": (67.5, 65.06), "UR-FUNNY": (63.1, 62.24), "MUsTARD": (63.9, 64.91)}
COLUMNS = ("accuracy", "balanced accuracy")
NAMES, N_STEPS, N_LATENT = ("vision", "text"), 50, 40


def augment(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each with probability one half: up to 80 per cent of the steps set to 0, and noise of 0.1."""
    n = len(x)
    steps = x.unflatten(1, (N_STEPS, -1))
    draws = torch.rand(n, 2, device=x.device, generator=generator)
    rate = 0.8 * torch.rand(n, 1, device=x.device, generator=generator) * (draws[:, :1] < 0.5)
    kept = torch.rand(n, N_STEPS, device=x.device, generator=generator) >= rate
    noise = 0.1 * torch.randn(steps.shape, device=x.device, generator=generator) * (draws[:, 1] < 0.5)[:, None, None]
    # What fills a short sequence stays 0.
    present = (steps != 0).any(dim=2, keepdim=True)
    return (steps * kept[:, :, None] + noise * present).flatten(1)


def objective(n_features: dict[str, int], n_layers: int = 5, n_hidden: int = 2048) -> CoMMObjective:
    """The published form: one token for each of 50 steps, and a head with batch normalisation."""

    def sequence(n_in: int, n_out: int) -> nn.Module:
        return SequenceTransformer(n_in, n_out, n_steps=N_STEPS, n_layers=n_layers, n_hidden=n_hidden)

    head: list[nn.Module] = []
    for n_from in (N_LATENT, 512):
        head += [nn.Linear(n_from, 512), nn.BatchNorm1d(512), nn.ReLU()]
    return CoMMObjective(
        n_features,
        N_LATENT,
        n_tokens=N_STEPS,
        n_heads=8,
        form="code",
        negatives="both",
        temperature=0.1,
        encoder=Encoder(own=dict.fromkeys(n_features, sequence)),
        augment=dict.fromkeys(n_features, augment),
        head=nn.Sequential(*head, nn.Linear(512, 256)),
    )


def run(
    path: Path, seed: int, device: str, *, epochs: int, n_layers: int = 5, n_hidden: int = 2048
) -> dict[str, float]:
    """AdamW at 1e-3, matrices with weight decay 1e-2, in batches of 64; then a linear probe."""
    mdata = multibench_affect(path, modalities=NAMES, n_steps=N_STEPS)
    split, labels = mdata.obs["split"].astype(str).to_numpy(), mdata.obs["label"].astype(str).to_numpy()
    features = {name: torch.from_numpy(np.asarray(mdata[name].X)) for name in NAMES}
    torch.manual_seed(seed)
    model = objective({name: x.shape[1] for name, x in features.items()}, n_layers, n_hidden).to(device)
    wide, thin = ([p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": wide, "weight_decay": 1e-2}, {"params": thin, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    rng, started = np.random.default_rng(seed), time.perf_counter()
    train = np.flatnonzero(split == "train")

    def cells(rows: np.ndarray) -> CellTensors:
        return CellTensors(tuple(x[torch.from_numpy(rows)].to(device) for x in features.values()))

    for _ in range(epochs):
        order = rng.permutation(train)
        # A last batch of one sample has no other to be told from.
        for start in range(0, len(order) - 1, 64):
            optimizer.zero_grad()
            model.loss(cells(order[start : start + 64])).loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.no_grad():
        codes = np.concatenate([model.joint(cells(rows)).cpu().numpy() for rows in _chunks(len(split))])
    test = split == "test"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        probe = LogisticRegressionCV(Cs=5, scoring="balanced_accuracy").fit(codes[train], labels[train])
    told = probe.predict(codes[test])
    return {
        "accuracy": 100 * float((told == labels[test]).mean()),
        "balanced accuracy": 100 * float(balanced_accuracy_score(labels[test], told)),
        "seconds": seconds,
    }


def _chunks(n: int) -> list[np.ndarray]:
    return np.array_split(np.arange(n), max(1, n // 256))
