"""How often is a verdict of the certificate wrong? ``python benchmarks/calibration.py [part ...]``.

``grid``: codes of 10 and 50 dimensions that explain a known share of a target, in six shapes, with as many cells as a
user has: rates of the three verdicts, cover of the intervals. ``robustness``: the same without a leak, for cells that
are clustered, tailed, strays or copies. ``forms``: ten shapes of dependence at 1,500 cells, and whether the scan sees
them. ``subsets``: codes of the model on the shipped cells, the verdict of a few cells against that of all;
``simulated``: the same for simulated codes. Parts are written to ``benchmarks/results/calibration.{json,md}`` as they
end, beside those of an earlier run. One thread, about 90 minutes on a core that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import product
from typing import Any

# One thread: the arrays are too small to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _forms import FORMS
from _table import RESULTS, markdown, write_text

from indiseek import IndiSeekModel, datasets
from indiseek.metrics import Thresholds, certify, explained
from indiseek.metrics.checks import CHECKS

LIMIT = Thresholds().independence
DIMENSIONS, CELLS, LEVELS = (10, 50), (137, 392, 685, 1855), (0.0, 0.02, 0.05, 0.1)
N_TARGETS = 8
Array = np.ndarray


def one(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """One dimension, in a mean."""
    return z, z[:, [0]]


def spread(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """All dimensions, in a mean, another mixture for each target."""
    return z, z @ mixture(z.shape[1], rng)


def squares(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Squares of all dimensions."""
    return z, (np.square(z) - 1) / np.sqrt(2) @ mixture(z.shape[1], rng)


def bounded(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Hyperbolic tangent of one dimension."""
    return z, np.tanh(2 * z[:, [0]]) / np.sqrt(0.6355)


def rare(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A type of 2 % of the cells, 4 standard deviations away in a random direction."""
    inside = np.zeros(len(z))
    inside[: round(0.02 * len(z))] = 1
    away = rng.standard_normal(z.shape[1])
    share = inside.mean()
    return z + np.outer(inside, 4 * away / np.linalg.norm(away)), (inside[:, None] - share) / np.sqrt(
        share * (1 - share)
    )


def products(z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Products of two dimensions, all pairs."""
    first, second = np.triu_indices(z.shape[1], 1)
    return z, z[:, first] * z[:, second] @ mixture(len(first), rng)


SHAPES = {f.__name__: f for f in (one, spread, squares, bounded, rare, products)}


def mixture(n: int, rng: np.random.Generator) -> Array:
    """Columns of unit length."""
    weights = rng.standard_normal((n, N_TARGETS))
    return weights / np.linalg.norm(weights, axis=0)


def simulate(shape: str, level: float, n_inputs: int, n_cells: int, seed: int) -> tuple[Array, Array]:
    """Code, rotated, and a target of whose variance it explains ``level``; the target's variances fall as 1 / k."""
    rng = np.random.default_rng([seed, n_inputs, n_cells, int(1000 * level), list(SHAPES).index(shape)])
    z, signal = SHAPES[shape](rng.standard_normal((n_cells, n_inputs)), rng)
    noise = rng.standard_normal((n_cells, N_TARGETS))
    signs = rng.choice([-1.0, 1.0], N_TARGETS)
    c = (np.sqrt(level) * signal * signs + np.sqrt(1 - level) * noise) / np.sqrt(np.arange(1, N_TARGETS + 1))
    rotation = np.linalg.qr(rng.standard_normal((n_inputs, n_inputs)))[0]
    return (z if shape in ("one", "bounded", "squares") else z @ rotation), c


def grid(runs: int, quick: bool) -> tuple[str, dict[str, Any]]:
    """Rates of the verdicts for each combination."""
    rows = []
    for p, n, shape, level in product(DIMENSIONS, CELLS[: 3 if quick else 4], SHAPES, LEVELS):
        readings = [explained(*simulate(shape, level, p, n, seed)) for seed in range(runs)]
        verdicts = [reading.verdict(LIMIT) for reading in readings]
        rows.append(
            {
                "dims": p,
                "cells": n,
                "shape": shape,
                "true": level,
                "pass": np.mean([v == "pass" for v in verdicts]),
                "FAIL": np.mean([v == "FAIL" for v in verdicts]),
                "cover": np.mean([r.interval[0] <= level <= r.interval[1] for r in readings]),
                "mean": np.mean([r.total for r in readings]),
                "sd": np.std([r.total for r in readings]),
                "se": np.mean([r.se for r in readings]),
            }
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    shares = table.groupby(["dims", "cells", "true"])[["pass", "FAIL"]].mean().reset_index()
    shares["rates"] = [f"{a:.3f} / {b:.3f}" for a, b in zip(shares["pass"], shares["FAIL"], strict=True)]
    wide = shares.pivot(index=["dims", "cells"], columns="true", values="rates").reset_index()
    wide.columns = [str(column) if isinstance(column, str) else f"true {column:g}" for column in wide.columns]
    by_shape = table[table["cells"] >= 392].groupby(["shape", "true"])["mean"].mean().unstack().round(3).reset_index()
    by_shape.columns = ["mean reading, 392 cells or more", *(f"true {level:g}" for level in LEVELS)]
    wrong_pass = table[table["true"] > LIMIT]["pass"]
    wrong_fail = table[table["true"] < LIMIT]["FAIL"]
    at = table[table["true"] == LIMIT]
    worst = table.loc[table["cover"].idxmin()]
    text = "\n\n".join(
        [
            f"## Verdicts at limit {LIMIT:g}\n\nShare of pass / FAIL over six shapes, {runs} runs each; the rest is "
            "*too few cells*.",
            markdown(wide),
            f"Worst single cell of the table of all shapes: wrong pass (true 0.1) {wrong_pass.max():.3f}, wrong FAIL "
            f"(true 0 or 0.02) {wrong_fail.max():.3f}; at the limit itself, where either is half wrong, pass at most "
            f"{at['pass'].max():.3f} (mean {at['pass'].mean():.3f}), FAIL at most {at['FAIL'].max():.3f} (mean "
            f"{at['FAIL'].mean():.3f}). The 95 % intervals cover in {table['cover'].mean():.3f} of runs, at least in "
            f"{worst['cover']:.3f} ({worst['shape']}, {worst['dims']} dimensions, {worst['cells']} cells, true "
            f"{worst['true']:g}).",
            markdown(by_shape),
        ]
    )
    return text, {"grid": table.round(5).to_dict("records")}


def forms(runs: int, quick: bool) -> tuple[str, dict[str, Any]]:
    """Which line sees ten shapes of dependence; ``none`` gives the rate of false alarms."""
    checks = [check for check in CHECKS if check.name in ("independence", "probes", "other forms")]
    rows, n_cells = [], 500 if quick else 1500
    for form, make in FORMS.items():
        seen = []
        # False alarms are rarer than what is to be seen, and any line may give one; the forms are what the scan is for.
        lines = checks if form == "none" else checks[-1:]
        n_runs = 2 * runs if form == "none" else max(2, runs // 2)
        for seed in range(n_runs):
            features, shared, specific = make(np.random.default_rng([seed, list(FORMS).index(form)]), n_cells)
            verdicts = certify(features, shared, specific, checks=lines, seed=seed).verdicts
            failed = set(verdicts.loc[verdicts["verdict"] == "FAIL", "check"])
            if verdicts["words"].str.contains(": dependence of another form").any():
                failed.add("other forms")
            seen.append(failed)
        rows.append(
            {"form": form, "runs": n_runs, "what": (make.__doc__ or "").strip().rstrip(".")}
            | {check.name: "" for check in checks}
            | {check.name: round(np.mean([check.name in failed for failed in seen]), 3) for check in lines}
            | {"any": np.mean([bool(failed) for failed in seen])}
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    found = int((table["any"][1:] >= 0.8).sum())
    text = (
        f"## Other forms\n\nShare of runs with {n_cells:,} cells in which a line speaks: FAIL of independence or "
        "of the probes (both asked for false alarms only), or a note of another form. "
        f"{found} of 10 are seen in at least 0.8 of runs.\n\n" + markdown(table.round(3))
    )
    return text, {"forms": table.to_dict("records")}


def subsets(runs: int, quick: bool) -> tuple[str, dict[str, Any]]:
    """Verdict of a few of the test cells against that of all of them, for the codes of the default model."""
    torch.set_num_threads(1)
    model = IndiSeekModel(datasets.pbmc10k_cite())
    extra = {"max_epochs": 2} if quick else {}
    model.train(
        train_size=4500 / 6855,
        validation_size=500 / 6855,
        accelerator="cpu",
        write_latents=False,
        show_progress=False,
        **extra,
    )
    split = model.fitted.split
    sets = {}
    for modality, other in (("rna", "prot"), ("prot", "rna")):
        z = model.get_latent_representation(modality=modality, kind="specific", indices=split.test)
        sets[f"Z_{modality}"] = z, model.get_latent_representation(modality=other, kind="shared", indices=split.test)
    table = against(sets, 5 if quick else 50)
    text = f"## Subsets of one set of codes\n\nTest cells of the sample, {AGAINST}.\n\n{markdown(table)}"
    return text, {"subsets": table.to_dict("records")}


def simulated(runs: int, quick: bool) -> tuple[str, dict[str, Any]]:
    """The same for simulated codes of 10 dimensions, without a leak and with one of twice the limit."""
    sets = {
        f"{shape}, true {level:g}": simulate(shape, level, 10, CELLS[-1], 7)
        for shape in ("spread", "products")
        for level in (0.0, 0.1)
    }
    table = against(sets, 5 if quick else 50)
    text = f"## Subsets of simulated codes\n\n{AGAINST}.\n\n{markdown(table)}"
    return text, {"simulated": table.to_dict("records")}


AGAINST = '50 draws each; "against" counts a pass where all cells FAIL or the reverse'


def against(sets: dict[str, tuple[Array, Array]], draws: int) -> pd.DataFrame:
    """Verdicts of a few cells of each code and target, and how many contradict that of all cells."""
    rows = []
    for name, (z, c) in sets.items():
        whole = explained(z, c)
        verdict = whole.verdict(LIMIT)
        wrong = {"pass": "FAIL", "FAIL": "pass"}.get(verdict)
        for n in (137, 392, 685, 1200):
            some = [np.random.default_rng([seed, n]).permutation(len(z))[:n] for seed in range(draws)]
            found = [explained(z[cells], c[cells]).verdict(LIMIT) for cells in some]
            rows.append(
                {
                    "code": f"{name}, {z.shape[1]} dims",
                    "all": f"{whole.map:.3f} + {whole.products:.3f} (se {whole.se:.3f}): {verdict}",
                    "cells": n,
                    "pass": found.count("pass"),
                    "FAIL": found.count("FAIL"),
                    "too few cells": found.count("too few cells"),
                    "against": found.count(wrong) if wrong else min(found.count("pass"), found.count("FAIL")),
                }
            )
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def clusters(rng: np.random.Generator, n: int, p: int) -> tuple[Array, Array]:
    """Target in eight clusters."""
    centres = 3 * rng.standard_normal((8, 6))
    return rng.standard_normal((n, p)), centres[rng.integers(8, size=n)] + 0.4 * rng.standard_normal((n, 6))


def tailed(rng: np.random.Generator, n: int, p: int) -> tuple[Array, Array]:
    """Both with Student's t of 3 degrees of freedom."""
    return rng.standard_t(3, (n, p)), rng.standard_t(3, (n, 6))


def skewed(rng: np.random.Generator, n: int, p: int) -> tuple[Array, Array]:
    """Log-normal code, Dirichlet target."""
    return np.exp(rng.standard_normal((n, p))), rng.dirichlet(np.full(6, 0.3), n)


def strays(rng: np.random.Generator, n: int, p: int) -> tuple[Array, Array]:
    """Three cells 30 standard deviations out in all dimensions of both."""
    z, c = rng.standard_normal((n, p)), rng.standard_normal((n, 6))
    z[:3] += 30
    c[:3] += 30
    return z, c


def repeated(rng: np.random.Generator, n: int, p: int) -> tuple[Array, Array]:
    """One in twenty cells twice, where the certificate would have left the copies out."""
    z, c = rng.standard_normal((n, p)), rng.standard_normal((n, 6))
    z[: n // 20], c[: n // 20] = z[-(n // 20) :], c[-(n // 20) :]
    return z, c


def robustness(runs: int, quick: bool) -> tuple[str, dict[str, Any]]:
    """Verdicts on codes without a leak whose cells are unpleasant."""
    rows = []
    for make in (clusters, tailed, skewed, strays, repeated):
        for n, p in ((392, 10), (685, 10), (685, 50)):
            readings = [explained(*make(np.random.default_rng([seed, n, p]), n, p)) for seed in range(runs)]
            verdicts = [reading.verdict(LIMIT) for reading in readings]
            rows.append(
                {
                    "cells are": (make.__doc__ or "").strip().rstrip("."),
                    "dims": p,
                    "cells": n,
                    "mean": round(float(np.mean([reading.total for reading in readings])), 3),
                    "pass": np.mean([verdict == "pass" for verdict in verdicts]),
                    "FAIL": np.mean([verdict == "FAIL" for verdict in verdicts]),
                }
            )
    table = pd.DataFrame(rows).round(3)
    text = f"## Unpleasant cells, no leak\n\n{runs} runs each.\n\n{markdown(table)}"
    return text, {"robustness": table.to_dict("records")}


def main() -> None:
    """Run the parts asked for, print the tables, and write them beside those of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="of grid, robustness, forms, subsets and simulated (default: all)")
    parser.add_argument("--runs", type=int, default=40, help="runs of the grid (default 40); half as many of the forms")
    parser.add_argument("--quick", action="store_true", help="2 runs, fewer cells, nothing written")
    options = parser.parse_args()
    if set(options.parts) - set(PARTS):
        raise SystemExit(f"expected parts of {list(PARTS)}, got {options.parts}")
    runs = 2 if options.quick else options.runs
    path = RESULTS / "calibration.json"
    record = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
    for part in options.parts or PARTS:
        started = time.perf_counter()
        text, values = PARTS[part](runs, options.quick)
        seconds = time.perf_counter() - started
        record[part] = {"text": text, "runs": runs, "seconds": round(seconds), **values}
        print(f"{text}\n\n{seconds:.0f} s", flush=True)
        if not options.quick:
            write_text(
                "calibration",
                "Calibration of the certificate",
                "\n\n".join(record[name]["text"] for name in PARTS if name in record),
                {"limit": LIMIT, "parts": record},
                "One thread: "
                + ", ".join(f"{name} {record[name]['seconds']:,} s" for name in PARTS if name in record)
                + ".",
            )


PARTS = {"grid": grid, "robustness": robustness, "forms": forms, "subsets": subsets, "simulated": simulated}

if __name__ == "__main__":
    main()
