"""What estimators find in Gaussian pairs of known mutual information: ``python benchmarks/estimators.py``.

Critics are trained on fresh pairs and read on others. ``d`` dimensions of z and of c are correlated by rho each; c has
two more of noise. InfoNCE and NCE-CLUB share a separable critic, vCLUB has a Gaussian one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from itertools import product
from pathlib import Path

# One thread: the arrays are too small to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
from _table import spread, write
from torch import Tensor

from indiseek import pl
from indiseek.estimators import gaussian_mutual_information, gaussian_nce_club, info_nce, nce_club, vclub
from indiseek.nn import GaussianCritic, SeparableCritic

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "estimators.png"
RHOS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
DIMS = (1, 5, 20)
N_NOISE = 2
N_CELLS, N_HELD_OUT = 256, 40


def pairs(rho: float, n_dims: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a batch, ``(n_cells, n_dims)`` and ``(n_cells, n_dims + 2)``."""
    c = torch.randn(N_CELLS, n_dims + N_NOISE, generator=generator)
    noise = torch.randn(N_CELLS, n_dims, generator=generator)
    return rho * c[:, :n_dims] + math.sqrt(1.0 - rho**2) * noise, c


def run(rho: float, n_dims: int, seed: int, n_steps: int) -> dict[str, float]:
    """Train both critics and read the three estimates on fresh batches."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    separable = SeparableCritic(n_dims, n_dims + N_NOISE, hidden=(128,), layer_norm=False)
    gaussian = GaussianCritic(n_dims, n_dims + N_NOISE, hidden=(128,), layer_norm=False)
    optimizer = torch.optim.Adam([*separable.parameters(), *gaussian.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        z, c = pairs(rho, n_dims, generator)
        # The two share no parameter, so the sum trains each on its own.
        loss = -info_nce(separable(z, c)) - gaussian(z, c).diagonal().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found: dict[str, list[float]] = {"info_nce": [], "nce_club": [], "vclub": []}
    with torch.no_grad():
        for _ in range(N_HELD_OUT):
            z, c = pairs(rho, n_dims, generator)
            scores = separable(z, c)
            found["info_nce"].append(info_nce(scores).item())
            found["nce_club"].append(nce_club(scores).item())
            found["vclub"].append(vclub(gaussian(z, c)).item())
    truth = {"mutual_information": gaussian_mutual_information(rho, n_dims), "jeffreys": gaussian_nce_club(rho, n_dims)}
    setting = {"rho": rho, "n_dims": n_dims, "n_cells": N_CELLS, "seed": seed}
    return setting | truth | {name: sum(values) / len(values) for name, values in found.items()}


def main() -> None:
    """Run, print and write the table, and the figure of the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="training steps of the critics (default 400)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    runs = pd.DataFrame(
        [run(rho, n, seed, options.steps) for n, rho, seed in product(DIMS, RHOS, range(options.seeds))]
    )
    seconds = time.process_time() - started
    shown = pd.DataFrame(
        [
            {
                "pairs": n_dims,
                "rho": rho,
                "true information": f"{rows['mutual_information'].iloc[0]:.2f}",
                "true Jeffreys": f"{rows['jeffreys'].iloc[0]:.2f}",
                "InfoNCE": spread(rows["info_nce"].tolist(), 2),
                "NCE-CLUB": spread(rows["nce_club"].tolist(), 2),
                "vCLUB": spread(rows["vclub"].tolist(), 2),
            }
            for (n_dims, rho), rows in runs.groupby(["n_dims", "rho"])
        ]
    )
    write(
        "estimators",
        f"Estimators of mutual information, {options.seeds} seeds: mean [lowest, highest]",
        shown,
        {"runs": runs.to_dict("records"), "processor_seconds": seconds, "steps": options.steps},
        f"Nats. Batches of {N_CELLS} cells, log N = {math.log(N_CELLS):.2f}; {options.steps} steps of Adam on fresh "
        f"batches, read on {N_HELD_OUT} others. {N_NOISE} dimensions of c are noise. {seconds:.0f} s of processor "
        "time.",
    )
    pl.estimators(runs).savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
