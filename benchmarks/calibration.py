"""Does the certificate pass and fail what it should? Simulated codes with known leakage.

Each run draws a shared state c, a private state p for each of two modalities, features X_i that are linear in both plus
noise, and specific codes Z_i that hold a known share l of the shared state: the best possible predictor of c from Z_i
has R2 = l by construction. Printed are the rates of passing and failing and the difference of estimated and true
leakage; the table is also written to benchmarks/results/calibration.{json,md}.

    python benchmarks/calibration.py [--runs 40] [--cells 700 1855] [--jobs 1]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

# One thread for each process: the arrays are too small to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy
import sklearn
import torch
from joblib import Parallel, delayed

from indiseek.metrics import Thresholds, conditional_mean, infonce_bound, leakages

RESULTS = Path(__file__).parent / "results"
N_SHARED, N_PRIVATE = 5, 5
N_FEATURES = {"rna": 20, "prot": 14}
LEVELS = (0.0, 0.05, 0.1, 0.3)
FAMILIES = {
    "linear": "Z = rotation of sqrt(1-l) p + sqrt(l) c",
    "tanh": "Z = tanh(sqrt(1-l) p + sqrt(l) c)",
    "nonlinear": "Z = p, c = sqrt(1-2l) e + sqrt(l) sum of both modalities' (p^2-1)/sqrt(2): not linear",
}


@dataclass(frozen=True)
class Run:
    """One simulated certificate."""

    family: str
    level: float
    n_cells: int
    seed: int
    worst: float
    estimates: dict[str, float]
    nats: float | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the certificate's leakage verdict passes for both modalities."""
        return self.worst < Thresholds().leakage


def simulate(family: str, level: float, n_cells: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return features, shared and specific codes of two modalities, each holding ``level`` of the shared state."""
    rng = np.random.default_rng([seed, n_cells])
    private = {name: rng.standard_normal((n_cells, N_PRIVATE)) for name in N_FEATURES}
    own = rng.standard_normal((n_cells, N_SHARED))
    if family == "nonlinear":
        # The shared state comes from both private ones; each of them alone explains the share l of it.
        curved = [(np.square(p) - 1.0) / np.sqrt(2.0) for p in private.values()]
        shared_state = np.sqrt(1.0 - 2.0 * level) * own + np.sqrt(level) * sum(curved)
    else:
        shared_state = own
    features, shared, specific = {}, {}, {}
    for name, p in private.items():
        state = np.sqrt(1.0 - level) * p + np.sqrt(level) * shared_state
        specific[name] = {"linear": state @ rotation(N_PRIVATE, rng), "tanh": np.tanh(state), "nonlinear": p}[family]
        shared[name] = shared_state @ rotation(N_SHARED, rng)
        mixed = np.hstack([shared_state, p]) @ rng.standard_normal((N_SHARED + N_PRIVATE, N_FEATURES[name]))
        features[name] = mixed + 0.3 * rng.standard_normal(mixed.shape)
    return {"features": features, "shared": shared, "specific": specific}


def rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random orthogonal matrix."""
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def run(family: str, level: float, n_cells: int, seed: int) -> Run:
    """Simulate once and measure what the certificate's leakage verdict looks at (a test holds the two equal)."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    cells = simulate(family, level, n_cells, seed)
    order = np.random.default_rng(seed).permutation(n_cells)
    worst, nats, estimates = [], [], {}
    for name, other in (("rna", "prot"), ("prot", "rna")):
        targets = {
            "shared": cells["shared"][other],
            "features": cells["features"][other],
            "predictable": conditional_mean(cells["features"][name], cells["features"][other], seed=seed),
        }
        code = cells["specific"][name]
        found = leakages(code, targets, seed=seed)
        worst += [leak.above_null for leak in found.values()]
        # The shared code is the target whose true R2 is known in closed form.
        estimates[name] = found["shared"].above_null
        if level == 0.0:
            nats += [
                infonce_bound(code, target, seed=seed).nats - infonce_bound(code, target[order], seed=seed).nats
                for target in targets.values()
            ]
    return Run(
        family=family,
        level=level,
        n_cells=n_cells,
        seed=seed,
        worst=max(worst),
        estimates=estimates,
        nats=max(nats, default=None),
        seconds=time.perf_counter() - start,
    )


def table(runs: list[Run]) -> str:
    """Return the rates as a markdown table."""
    head = "| cells | family | true leakage | should | correct | estimate, mean (min .. max) | largest difference |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    keys = list(dict.fromkeys((r.n_cells, r.family, r.level) for r in runs))
    for n_cells, family, level in keys:
        cell = [r for r in runs if (r.n_cells, r.family, r.level) == (n_cells, family, level)]
        correct = np.mean([r.passed == (level == 0.0) for r in cell])
        found = np.array([value for r in cell for value in r.estimates.values()])
        should = "pass" if level == 0.0 else "fail"
        lines.append(
            f"| {n_cells} | {family} | {level:.2f} | {should} | {correct:.1%} of {len(cell)} "
            f"| {found.mean():.3f} ({found.min():.3f} .. {found.max():.3f}) | {np.abs(found - level).max():.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the calibration, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="runs for each level (default 40)")
    parser.add_argument("--cells", type=int, nargs="+", default=[700, 1855], help="held-out cells (default 700 1855)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args()
    # No leakage is the same simulation in the last family as in the first: Z = p.
    settings = [
        setting
        for setting in product(options.cells, FAMILIES, LEVELS)
        if not (setting[1] == "nonlinear" and setting[2] == 0.0)
    ]
    tasks = [delayed(run)(family, level, n, seed) for n, family, level in settings for seed in range(options.runs)]
    runs = Parallel(n_jobs=options.jobs, verbose=1)(tasks)
    silent = [r.nats < Thresholds().information for r in runs if r.nats is not None]
    text = "\n\n".join(
        [
            "# Calibration of the certificate",
            f"{options.runs} runs for each row; a certificate passes when every specific code's R2 above its null is "
            f"below {Thresholds().leakage}. " + "; ".join(f"{name}: {what}" for name, what in FAMILIES.items()) + ".",
            table(runs),
            f"Without leakage the critic's verdict (limit {Thresholds().information} nats) passes in "
            f"{np.mean(silent):.1%} of {len(silent)} runs.",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    versions = {module.__name__: module.__version__ for module in (np, scipy, sklearn, torch)}
    record = {
        "versions": versions | {"python": platform.python_version()},
        "thresholds": asdict(Thresholds()),
        "runs": [asdict(r) for r in runs],
    }
    (RESULTS / "calibration.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "calibration.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
