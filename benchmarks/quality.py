"""Quality on held-out cells: ``python benchmarks/quality.py``, or with ``--quick`` a small part of it.

All methods see the same cells and are judged by the same certificate. Each fit is kept in ``benchmarks/.cache``: a run
that was stopped goes on, and runs with other ``--data``, ``--methods`` or ``--seeds`` add to the same table.
Peers that are not installed are said to be so; ``make peers`` brings them.

With ``--quick``: how well the shared codes match RNA to protein, beside linear baselines on the same cells, and what
fresh probes find of the true shared and private factors in each code of simulated cells.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _cells import DATA
from _figures import mlp_r2
from _methods import METHODS
from _quality import Run
from _table import spread, write

from indiseek import IndiSeekModel, NCEClub, datasets, metrics, simulation

Values = dict[tuple[str, str], list[float]]

# 4,500 training, 500 validation and 1,855 test cells.
_PBMC_SPLIT = {"train_size": 4500 / 6855, "validation_size": 500 / 6855}
_SIMULATION_SPLIT = {"train_size": 5000 / 8000, "validation_size": 500 / 8000}


def retrieval(seed: int, values: Values) -> None:
    """FOSCTTM of test cells of the sample, IndiSeek and linear baselines."""
    mdata = datasets.pbmc10k_cite()
    model = IndiSeekModel(mdata)
    model.train(seed=seed, **_PBMC_SPLIT, write_latents=False, show_progress=False)
    train, test = model.train_indices, model.test_indices
    features = [model.get_features(modality=m, indices=rows) for rows in (train, test) for m in model.modalities]
    codes = [model.get_latent_representation(modality=m, indices=test) for m in model.modalities]
    for name, (a, b) in {
        "IndiSeek, shared codes": codes,
        "CCA, 10 components": metrics.cca(*features, n_components=10),
        "PLS-SVD, 14 components": metrics.pls_svd(*features, n_components=14),
    }.items():
        values[name, "FOSCTTM"].append(metrics.foscttm(a, b))
        values[name, "recall@10"].append(metrics.recall_at_k(a, b, k=10))
    shuffled = np.random.default_rng(seed).permutation(len(test))
    values["shuffled pairing", "FOSCTTM"].append(metrics.foscttm(codes[0], codes[1][shuffled]))
    values["shuffled pairing", "recall@10"].append(metrics.recall_at_k(codes[0], codes[1][shuffled], k=10))


def known_truth(seed: int, name: str, values: Values, **arguments: object) -> None:
    """What probes find of the true factors of the simulation in each code."""
    truth = simulation.simulate_factors(seed=seed)
    mdata = truth.to_mudata()
    # 5 shared factors: the sphere in 6 dimensions has 5 degrees of freedom.
    model = IndiSeekModel(mdata, n_shared=6, **arguments)
    model.train(seed=seed, **_SIMULATION_SPLIT, write_latents=False, show_progress=False)
    test = model.test_indices
    for modality in model.modalities:
        shared = model.get_latent_representation(modality=modality, indices=test)
        specific = model.get_latent_representation(modality=modality, kind="specific", indices=test)
        own = truth.specific[modality][test]
        values[name, "shared in C"].append(mlp_r2(shared, truth.shared[test], seed))
        values[name, "private in C"].append(mlp_r2(shared, own, seed))
        values[name, "shared in Z"].append(mlp_r2(specific, truth.shared[test], seed))
        # Finds curved dependence that the perceptron misses on this many cells.
        values[name, "shared in Z, kernel probe"].append(
            metrics.probe_r2(specific, truth.shared[test], probe="nonlinear")
        )
        values[name, "private in Z"].append(mlp_r2(specific, own, seed))


def quick(n_seeds: int) -> None:
    """Run, print and write the small table."""
    values: Values = defaultdict(list)
    started = time.perf_counter()
    for seed in range(n_seeds):
        retrieval(seed, values)
        known_truth(seed, "nce-club", values, specific="nce-club")
        known_truth(seed, "closed form and flow", values, n_specific=8)
        known_truth(seed, "nce-club, independence off", values, specific=NCEClub(independence_weight=0.0))
        print(f"seed {seed} done after {time.perf_counter() - started:.0f} s", flush=True)
    write(
        "quality-quick",
        f"Quality, {n_seeds} seeds: mean [lowest, highest]",
        pd.DataFrame(
            [(*key, spread(found)) for key, found in values.items()], columns=["what", "figure", "test cells"]
        ),
        {"seeds": list(range(n_seeds)), "values": {" | ".join(key): found for key, found in values.items()}},
        "First part: PBMC10k, 4,500 / 500 / 1,855 cells for training, validation and test. FOSCTTM: 0 perfect, 0.5 "
        "chance; lower is better. Other parts: simulated cells with 5 shared factors and 5 private ones a modality; "
        "R2 of a fresh multilayer perceptron on test cells, both modalities; codes of 6 shared and 8 specific "
        "dimensions.",
    )


def _listed(known: dict[str, object]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated choice."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {','.join(unknown)}")
        return names

    return parse


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 seeds of the small table")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; 3 with --quick)")
    parser.add_argument("--methods", type=_listed(METHODS), default=list(METHODS), help=f"of {','.join(METHODS)}")
    parser.add_argument("--data", type=_listed(DATA), default=list(DATA), help=f"of {','.join(DATA)}")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(__file__).resolve().parents[2] / "shared" / "data",
        help="folder with the files of atac and bmmc",
    )
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    parser.add_argument("--table", action="store_true", help="fit nothing, only write the table of what is there")
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs, to see that everything runs")
    options = parser.parse_args()
    if options.quick:
        quick(options.seeds or 3)
        return
    run = Run(options.shared, n_seeds=options.seeds or (1 if options.smoke else 5), smoke=options.smoke)
    if not options.table:
        run.fit(options.data, options.methods, fresh=options.fresh)
    run.write()


if __name__ == "__main__":
    main()
