"""The IndiSeek paper's settings for its 2,000 epochs, on simulated cells: ``python benchmarks/paper.py``.

Of `indiseek.PAPER` and, on the same cells, of this package's own settings: what fresh probes on test cells find of the
true shared and private factors in each code. Beside them vCLUB, since the paper can be read as having a Gaussian
q(z | c). The paper's optimiser takes steps of 128 cells, and an epoch has as many of them as fit into the training
cells: 250 make 1. Each fit is kept in ``benchmarks/.cache``; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _figures import mlp_r2
from _table import spread, write

from indiseek import PAPER, IndiSeekModel, metrics, simulation

_N_TEST = 4000
_ALL_EPOCHS = PAPER.train["max_epochs"]


class Way(NamedTuple):
    """A row: what it is called, and the arguments of the model and of its training."""

    label: str
    model: Mapping[str, Any]
    train: Mapping[str, Any]


WAYS = {
    "paper": Way("PAPER", PAPER.model, PAPER.train),
    "paper-vclub": Way(
        "PAPER, Gaussian q(z given c)",
        {**PAPER.model, "specific": replace(PAPER.model["specific"], independence="vclub")},
        PAPER.train,
    ),
    "nce-club": Way("NCE-CLUB, settings of this package", {"specific": "nce-club", "n_shared": 6}, {}),
    "default": Way("closed form (default)", {"n_shared": 6, "n_specific": 8}, {}),
}


def figures(way: str, seed: int, n_train: int, epochs: int) -> dict[str, Any]:
    """Fit, and what probes find on the test cells, means over the modalities."""
    n_validation = n_train // 9
    truth = simulation.simulate_factors(n_train + n_validation + _N_TEST, seed=seed)
    train, validation, test = np.split(np.arange(len(truth.shared)), [n_train, n_train + n_validation])
    _, arguments, settings = WAYS[way]
    if settings:
        settings = {**settings, "max_epochs": epochs}
    model = IndiSeekModel(truth.to_mudata(), **arguments)
    model.train(
        seed=seed,
        external_indexing=[train, validation, test],
        accelerator="cpu",
        write_latents=False,
        show_progress=False,
        **settings,
    )
    found = []
    for name in model.modalities:
        shared, specific = (
            model.get_latent_representation(modality=name, kind=kind, indices=test) for kind in ("shared", "specific")
        )
        true, own = truth.shared[test], truth.specific[name][test]
        found.append(
            {
                "shared in C": mlp_r2(shared, true, seed),
                "private in C": mlp_r2(shared, own, seed),
                "shared in Z": mlp_r2(specific, true, seed),
                "shared in Z, kernel probe": metrics.probe_r2(specific, true, probe="nonlinear"),
                "private in Z": mlp_r2(specific, own, seed),
            }
        )
    n_epochs = len(model.history["specific/train_loss"].dropna()) if "specific/train_loss" in model.history else 0
    return {
        **{key: float(np.mean([each[key] for each in found])) for key in found[0]},
        "epochs": n_epochs,
        "s": dict(model.stage_seconds),
    }


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-train", type=int, default=250, help="training cells")
    parser.add_argument("--epochs", type=int, default=_ALL_EPOCHS, help="of the paper's settings, for each stage")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = CACHE / "paper"
    rows, fits = [], {}
    for way in options.ways:
        of = f"{way}-{options.epochs}" if WAYS[way].train else way
        fits[way] = [
            kept(
                folder / f"{options.n_train}.{of}.{seed}.json",
                lambda w=way, s=seed: figures(w, s, options.n_train, options.epochs),
            )
            for seed in options.seeds
        ]
        keys = [key for key, value in fits[way][0].items() if isinstance(value, float)]
        seconds = [sum(each["s"].values()) for each in fits[way]]
        rows.append(
            {"settings": WAYS[way].label, "epochs of stage 2": fits[way][0]["epochs"]}
            | {key: spread([each[key] for each in fits[way]]) for key in keys}
            | {"s": spread(seconds, 0)}
        )
    write(
        "paper",
        f"The paper's settings on simulated cells, {options.n_train} training cells",
        pd.DataFrame(rows),
        {"seeds": options.seeds, "n_train": options.n_train, "fits": fits},
        f"{options.n_train} training cells, {options.n_train // 9} for validation, {_N_TEST} test cells; 5 shared "
        "factors and 5 private ones a modality, 100 and 50 features. R2 of a fresh multilayer perceptron (of a kernel "
        "ridge probe where it says so) on test cells, means of both modalities. Seeds "
        f"{', '.join(map(str, options.seeds))}. Seconds are of one core of a machine with other work to do.",
    )


if __name__ == "__main__":
    main()
