"""What IndiSeek's two stages tell apart with three modalities: ``python benchmarks/three_modalities.py``.

Simulated cells whose modalities have factors in common all three, two by two, and none with another. Which of these do
the shared and the specific codes hold? Each fit is kept in ``benchmarks/.cache``: a run that was stopped goes on, and
one with other ``--settings`` or ``--seeds`` adds to the same table.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _table import spread, write

from indiseek import ClosedForm, IndiSeekModel, NCEClub, metrics, simulation

NAMES = ("rna", "prot", "atac")
N_CELLS, N_SHARED, N_OWN, N_PAIRED, N_FEATURES = 3000, 3, 2, 2, 30
COLUMNS = ("all three", "pairs in the model", "pairs with the one left out", "pair of the others", "private")
NONE = "-"


@dataclass(frozen=True)
class Setting:
    """What is fitted."""

    label: str
    modalities: tuple[str, ...]
    n_shared: int
    alignment: float
    specific: ClosedForm | NCEClub


# The flow on top is left out: it was never kept on these cells.
_CLOSED = ClosedForm(refine=False)
SETTINGS = {
    "default": Setting("three, as it comes: 6 shared dimensions, alignment 10", NAMES, 6, 10.0, _CLOSED),
    "wide": Setting("three, 12 shared dimensions, alignment 0", NAMES, 12, 0.0, _CLOSED),
    "two": Setting("rna and prot alone, as it comes", NAMES[:2], 6, 10.0, _CLOSED),
    "nce-club": Setting("three, 12 shared dimensions, alignment 0, NCE-CLUB", NAMES, 12, 0.0, NCEClub()),
    "aligned": Setting("three, 12 shared dimensions, alignment 10", NAMES, 12, 10.0, _CLOSED),
}


def held(sim: simulation.Simulation, setting: Setting, name: str, code: Any, test: Any) -> dict[str, float]:
    """R2 of a probe from the code of a modality to each kind of factors, of test cells."""
    own = [pair for pair in combinations(NAMES, 2) if name in pair]
    groups = {
        "all three": [sim.shared],
        "pairs in the model": [sim.paired[p] for p in own if set(p) <= set(setting.modalities)],
        "pairs with the one left out": [sim.paired[p] for p in own if not set(p) <= set(setting.modalities)],
        "pair of the others": [sim.paired[p] for p in combinations(NAMES, 2) if name not in p],
        "private": [sim.specific[name]],
    }
    return {
        kind: metrics.probe_r2(code, np.hstack(factors)[test], probe="nonlinear")
        for kind, factors in groups.items()
        if factors
    }


def figures(setting: Setting, seed: int) -> dict[str, Any]:
    """Fit, and mean over the modalities of what their codes hold."""
    sim = simulation.simulate_factors(
        N_CELLS, N_SHARED, dict.fromkeys(NAMES, N_OWN), dict.fromkeys(NAMES, N_FEATURES), n_paired=N_PAIRED, seed=seed
    )
    mdata = sim.to_mudata()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IndiSeekModel.setup_mudata(mdata, modalities=setting.modalities)
        model = IndiSeekModel(mdata, n_shared=setting.n_shared, alignment=setting.alignment, specific=setting.specific)
        model.train(seed=seed, accelerator="cpu", show_progress=False, write_latents=False)
    seconds, test = time.perf_counter() - started, model.test_indices
    found: dict[str, Any] = {"s": seconds}
    for kind in ("shared", "specific"):
        each = []
        for name in setting.modalities:
            code = model.get_latent_representation(modality=name, kind=kind, indices=test)
            each.append(held(sim, setting, name, code, test))
        found[kind] = {column: float(np.mean([values[column] for values in each])) for column in each[0]}
    return found


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = CACHE / "three_modalities"
    for name in options.settings:
        for seed in options.seeds:
            kept(folder / f"{name}.{seed}.json", lambda n=name, s=seed: figures(SETTINGS[n], s))
    fits = {name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.*.json"))] for name in SETTINGS}
    fits = {name: found for name, found in fits.items() if found}
    rows = [
        {"fit": SETTINGS[name].label, "seeds": len(found), "code": kind}
        | {
            column: spread([each[kind][column] for each in found], 2) if column in found[0][kind] else NONE
            for column in COLUMNS
        }
        | {"s": spread([each["s"] for each in found], 0)}
        for name, found in fits.items()
        for kind in ("shared", "specific")
    ]
    write(
        "three_modalities",
        "Three modalities: what is told apart",
        pd.DataFrame(rows),
        {"fits": fits},
        f"{N_CELLS} simulated cells (`simulate_factors`): {N_SHARED} factors of all three modalities, {N_PAIRED} of "
        f"each two, {N_OWN} of each one, {N_FEATURES} features each. R2 on test cells of a fresh probe, the better of "
        "polynomials and Gaussian kernels, from the code of a modality to the factors, mean over modalities. Seconds "
        "on a machine with other work to do. Closed forms without the flow on top.",
    )


if __name__ == "__main__":
    main()
