"""What a fused code holds that two towers cannot: ``python benchmarks/comm.py``.

Vector Trifeature: answers that both modalities know (R), that one of them knows (U), and that only both together tell
(S, and an exclusive or of two bits). Every method is trained twice for each seed, on independent pairs and on pairs
that all obey the bijection behind S, and probed on fresh cells; published figures of the image version stand beside.
With ``--pbmc`` the same question is put to the blood cells that ship with the package, against IndiSeek's codes.
``--images`` is Trifeature with its images, small ones on one processor; ``--images --paper-size --device cuda`` has the
published sizes and wants a GPU. ``--affect FILE`` trains and probes on an affect set of MultiBench, of a file that you
have.
Each fit is kept in ``benchmarks/.cache``: a run that was stopped goes on. ``--quick`` does one seed, ``--smoke`` few
cells and epochs.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import _comm_affect as affect
import _comm_images as images
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _cache import CACHE, kept
from _table import markdown, spread, write_text
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from indiseek import CoMMModel, Encoder, IndiSeekModel, datasets, metrics, simulation
from indiseek.data import CellTensors
from indiseek.objectives import CLIPObjective, CoMMObjective, Objective, ObjectiveOutput, clip_loss
from indiseek.train import StageSettings, fit_stage, seeded

Figures = dict[str, float]

# Linear probe, per cent: R, U, S. Dufumier et al. (2025), arXiv 2409.07402, Trifeature (images); chance 10, 10, 50.
PUBLISHED = {
    "Cross (CLIP)": (100.0, 11.6, 50.0),
    "FactorCL": (99.8, 62.5, 46.5),
    "Cross + Self": (99.7, 86.9, 50.0),
    "CoMM": (99.9, 87.8, 71.9),
}
# Printed by the authors' notebooks, demo/trifeatures.ipynb and demo/multibench.ipynb of Duplums/CoMM, one run each.
NOTEBOOK = (99.96, 90.14, 70.29)
COLUMNS = ("R", "U of rna", "U of prot", "xor", "xor, nonlinear", "S", "S, nonlinear")
N_TRAIN, N_VALIDATION, N_PROBE = 10_000, 1000, 4000
BATCH_SIZE, N_EPOCHS = 128, 20

_FORM: dict[str, Any] = {"encoder": Encoder(hidden=(64, 64))}
_OURS = _FORM | {"head_hidden": (128,), "n_head": 64, "temperature": 0.2, "feature_dropout": 0.5, "noise": 0.3}
# Codes of two towers side by side are as wide as one fused code.
_N_LATENT, _N_TOWER = 64, 32


@final
class CrossSelf(Objective):
    """Two towers: CLIP across the modalities and between two views of each, with CoMM's networks and augmentations.

    Parameters
    ----------
    n_features
        Number of features by modality name.
    n_latent
        Dimension of each modality's code.
    options
        Of :class:`CoMMObjective`.
    """

    def __init__(self, n_features: Mapping[str, int], n_latent: int, **options: Any) -> None:
        super().__init__()
        self.towers = CoMMObjective(n_features, n_latent, **options)

    def encode(self, modality: int, cells: CellTensors) -> Tensor:
        """Code of one modality."""
        return self.towers.encode(modality, cells)

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        """Sum of the term across and the terms within modalities."""
        seen = [CellTensors(self.towers.view(cells, number)) for number in (0, 1)]
        views = [[F.normalize(self.towers.head(code), dim=-1) for code in self.latents(view)] for view in seen]
        scale = 1.0 / self.towers.temperature
        cross = clip_loss(views[0][0], views[0][1], scale)
        own = torch.stack([clip_loss(a, b, scale) for a, b in zip(*views, strict=True)]).sum()
        return ObjectiveOutput(cross + own, {"cross": cross.detach(), "self": own.detach()})


def _comm(**options: Any) -> Callable[[dict[str, int]], Objective]:
    return lambda n_features: CoMMObjective(n_features, _N_LATENT, **_OURS | options)


METHODS: dict[str, Callable[[dict[str, int]], Objective]] = {
    "CLIP": lambda n_features: CLIPObjective(n_features, _N_TOWER, **_FORM),
    "Cross + Self": lambda n_features: CrossSelf(n_features, _N_TOWER, **_OURS),
    "CoMM": _comm(temperature=0.1),
    "CoMM, temperature 0.2": _comm(),
    "CoMM, temperature 0.2, the program's form": _comm(form="code", negatives="both"),
    "CoMM, temperature 0.2, joint term alone": _comm(unimodal_weight=0.0),
    "CoMM, temperature 0.2, unimodal terms alone": _comm(joint_weight=0.0),
    "CoMM, untrained": _comm(),
}
FEATURES, UNTRAINED = "features themselves", "CoMM, untrained"


def probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, linear: bool) -> float:
    """Balanced accuracy of a fresh classifier, per cent."""
    classifier = (
        LogisticRegression(max_iter=300)
        if linear
        else MLPClassifier((128,), max_iter=60, early_stopping=True, random_state=0)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        fitted = make_pipeline(StandardScaler(), classifier).fit(*train)
    return 100.0 * float(balanced_accuracy_score(test[1], fitted.predict(test[0])))


def _batch(cells: simulation.Simulation) -> CellTensors:
    return CellTensors(tuple(torch.from_numpy(x) for x in cells.features.values()))


@torch.no_grad()
def _code(objective: Objective | None, cells: simulation.Simulation) -> np.ndarray:
    """The fused code, or the codes of two towers side by side."""
    batch = _batch(cells)
    if objective is None:
        return torch.cat(batch.features, dim=1).numpy()
    if isinstance(objective, CoMMObjective):
        return objective.joint(batch).numpy()
    return torch.cat(objective.latents(batch), dim=1).numpy()


def trifeature(method: str, matched: bool, seed: int, *, smoke: bool) -> Figures:
    """Train on pairs of one kind and probe what can be learned from them."""
    share = 100 if smoke else 1
    sizes = {"train": N_TRAIN // share + 400 * smoke, "validation": N_VALIDATION // share + 100 * smoke}
    n_probe = N_PROBE // share + 300 * smoke
    train, validation = (
        simulation.simulate_trifeature(n, matched=1.0 if matched else None, seed=seed, draw=draw)
        for draw, n in enumerate(sizes.values())
    )
    fit, test = (
        simulation.simulate_trifeature(n_probe, matched=0.5 if matched else None, seed=seed, draw=draw)
        for draw in (2, 3)
    )
    objective, started = None, time.perf_counter()
    if method != FEATURES:
        with seeded(seed):
            objective = METHODS[method]({name: x.shape[1] for name, x in train.features.items()}).eval()
        if method != UNTRAINED:
            fit_stage(
                objective,
                (_batch(train), _batch(validation)),
                StageSettings(max_epochs=1 if smoke else N_EPOCHS, batch_size=BATCH_SIZE, weight_decay=1e-2),
                name=method,
                accelerator="cpu",
                seed=seed,
                show_progress=False,
            )
    seconds = time.perf_counter() - started
    codes = [_code(objective, cells) for cells in (fit, test)]
    questions = (
        {"S": ("synergy", True), "S, nonlinear": ("synergy", False)}
        if matched
        else {
            "R": ("redundant", True),
            "U of rna": ("unique_rna", True),
            "U of prot": ("unique_prot", True),
            "xor": ("xor", True),
            "xor, nonlinear": ("xor", False),
        }
    )
    found = {
        column: probe((codes[0], fit.labels[label]), (codes[1], test.labels[label]), linear=linear)
        for column, (label, linear) in questions.items()
    }
    return found | {f"seconds, {'matched' if matched else 'independent'}": seconds}


def _path(name: str) -> Path:
    return CACHE / "comm" / f"{name.replace(' ', '_')}.json"


def gates(found: Mapping[str, list[Figures]]) -> list[tuple[str, bool]]:
    """The claims, each for every seed."""
    clip, towers, comm = (found[name] for name in ("CLIP", "Cross + Self", "CoMM"))
    unique = ("U of rna", "U of prot")
    gap = min(np.mean([c[u] - o[u] for u in unique]) for c, o in zip(comm, clip, strict=True))
    return [
        ("R of CLIP, Cross + Self and CoMM at least 99", all(f["R"] >= 99 for f in (*clip, *towers, *comm))),
        ("U of CoMM at least 95", all(f[u] >= 95 for f in comm for u in unique)),
        (f"U of CoMM at least 25 above that of CLIP on average over both modalities ({gap:.1f})", gap >= 25),
        ("S of CLIP and of Cross + Self within 47 and 53", all(47 <= f["S"] <= 53 for f in (*clip, *towers))),
        ("S of CoMM at least 60", all(f["S"] >= 60 for f in comm)),
    ]


def run_trifeature(n_seeds: int, *, fresh: bool, smoke: bool, ending: str) -> None:
    """Run, print and write the table of Trifeature."""
    found: dict[str, list[Figures]] = {method: [] for method in (FEATURES, *METHODS)}
    for seed in range(n_seeds):
        for method, figures in found.items():
            kinds = [
                kept(
                    _path(f"{'smoke-' if smoke else ''}{method}-{kind}-{seed}"),
                    lambda method=method, kind=kind, seed=seed: trifeature(
                        method, kind == "matched", seed, smoke=smoke
                    ),
                    fresh=fresh,
                )
                for kind in ("independent", "matched")
            ]
            figures.append(kinds[0] | kinds[1])
    rows = [
        {"method": method, **{column: spread([f[column] for f in figures], 1) for column in COLUMNS}}
        for method, figures in found.items()
    ]
    published = [{"method": method, "R": r, "U": u, "S": s} for method, (r, u, s) in PUBLISHED.items()]
    verdicts = [f"- {'holds' if passed else 'DOES NOT HOLD'}: {claim}" for claim, passed in gates(found)]
    text = "\n\n".join(
        [
            markdown(pd.DataFrame(rows)),
            f"Claims, for each of {n_seeds} seeds:",
            "\n".join(verdicts),
            "Published, images, linear probe (Dufumier et al. 2025, arXiv 2409.07402):",
            markdown(pd.DataFrame(published)),
        ]
    )
    if smoke:
        print(text)
        return
    write_text(
        f"comm{ending}",
        f"CoMM on vector Trifeature, {n_seeds} seeds: mean [lowest, highest]",
        text,
        {"seeds": list(range(n_seeds)), "values": found},
        "Balanced accuracy, per cent, of fresh probes on 4,000 cells after fitting on 4,000 others; linear unless said "
        "otherwise. Chance: R and U 16.7, xor and S 50. All columns but S are of models trained on independent pairs, "
        "S of models trained on pairs that all obey the bijection. Two towers are probed on both codes side by side: a "
        "linear probe of these is a sum of one term for each modality, and since each modality alone is independent of "
        "S its best is 50, whatever the towers have learned; the nonlinear probe (a perceptron of 128 units) has no "
        "such bound. An untrained fused code is no sum either: its S is due to the form of the network alone. All "
        "codes have 64 dimensions, those of two towers 32 each; 20 epochs of 10,000 cells.",
    )


def run_images(n_seeds: int, *, size_name: str, device: str, fresh: bool) -> None:
    """Run, print and write the table of Trifeature with images."""
    size = {"paper": images.PAPER, "small": images.SMALL, "smoke": images.SMOKE}[size_name]
    rows, values = [], {}
    for method in images.METHODS:
        found: list[Figures] = []
        for seed in range(n_seeds):
            figures: Figures = {}
            for matched in (False, True):
                figures |= kept(
                    _path(f"images-{size_name}-{method}-{'matched' if matched else 'independent'}-{seed}"),
                    lambda method=method, seed=seed, matched=matched: images.run(
                        method, size, seed, device, matched=matched
                    ),
                    fresh=fresh,
                )
            found.append(figures)
        values[method] = found
        rows.append({"method": method} | {q: spread([f[q] for f in found], 1) for q in images.COLUMNS})
    chance = 100 / size.n_values
    published = [{"method": method, "R": r, "U": u, "S": s} for method, (r, u, s) in PUBLISHED.items()]
    published.append({"method": "CoMM, the authors' notebook, one run"} | dict(zip("RUS", NOTEBOOK, strict=True)))
    text = "\n\n".join(
        [
            markdown(pd.DataFrame(rows)),
            "Published, linear probe (Dufumier et al. 2025, arXiv 2409.07402), and printed by the authors' notebook:",
            markdown(pd.DataFrame(published)),
        ]
    )
    if size_name == "smoke":
        print(text)
        return
    write_text(
        f"comm-images-{size_name}",
        f"CoMM on Trifeature with images, {n_seeds} seeds: mean [lowest, highest]",
        text,
        {"seeds": list(range(n_seeds)), "size": asdict(size), "device": device, "values": values},
        "Balanced accuracy, per cent, of a logistic regression on the code of two images, fitted on "
        f"{size.n_pairs:,} pairs of training images and scored on up to {size.n_test:,} pairs of images of other "
        f"combinations. Chance: R and U {chance:.0f}, S 50. R and U are of models trained on independent pairs, S of "
        "models trained on pairs that all obey the bijection, probed on independent ones. S, weighted: the probe of S "
        "with both classes of the same weight. "
        f"{size.n_values} shapes, textures and colours, {size.size} x {size.size} pixels, {size.epochs} epochs of "
        f"{size.n_pairs:,} pairs in batches of {size.batch}.",
    )


def run_affect(path: Path, n_seeds: int, *, device: str, epochs: int) -> None:
    """Run, print and write the table of one affect set."""
    found = [affect.run(path, seed, device, epochs=epochs) for seed in range(n_seeds)]
    name = path.stem
    row = {"set": name} | {column: spread([f[column] for f in found], 1) for column in affect.COLUMNS}
    published = [
        {"set": each, "published, 5 runs": paper, "the authors' notebook, one run": notebook}
        for each, (paper, notebook) in affect.PUBLISHED.items()
    ]
    write_text(
        f"comm-affect-{name}",
        f"CoMM on {name}, {n_seeds} seeds: mean [lowest, highest]",
        "\n\n".join([markdown(pd.DataFrame([row])), "Published:", markdown(pd.DataFrame(published))]),
        {"seeds": list(range(n_seeds)), "values": found, "epochs": epochs},
        "Accuracy and balanced accuracy, per cent, of a logistic regression on the fused code of vision and text, "
        "fitted on the training samples and scored on the test samples.",
    )


def pbmc(seed: int, *, smoke: bool) -> Figures:
    """What codes of the blood cells tell of gated cell types and of the features, by source."""
    mdata = datasets.pbmc10k_cite()
    labels = datasets.gate_pbmc(mdata).astype(str).to_numpy()
    epochs = 1 if smoke else None
    train = {"seed": seed, "write_latents": False, "show_progress": False, "accelerator": "cpu"}
    comm, indiseek = CoMMModel(mdata), IndiSeekModel(mdata)
    for model in (comm, indiseek):
        model.train(epochs, **train)
    assert np.array_equal(comm.train_indices, indiseek.train_indices)

    def both(codes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return codes[0], codes[1], np.hstack(codes)

    def of(model: CoMMModel | IndiSeekModel, kind: str | None) -> list[np.ndarray]:
        return [model.get_latent_representation(modality=m, kind=kind) for m in model.modalities]

    projections, shared, specific = of(comm, None), of(indiseek, "shared"), of(indiseek, "specific")
    sources = {
        "features": both([indiseek.get_features(modality=m) for m in indiseek.modalities]),
        "CoMM: projections, fused code": (*projections, comm.get_latent_representation()),
        "CoMM: projections, both projections": both(projections),
        "IndiSeek: C, joint C": (*shared, indiseek.get_latent_representation()),
        "IndiSeek: Z, both Z": both(specific),
        "IndiSeek: C and Z, all four": both([np.hstack(pair) for pair in zip(shared, specific, strict=True)]),
    }
    found: Figures = {"seconds, CoMM": sum(comm.stage_seconds.values())}
    found["seconds, IndiSeek"] = sum(indiseek.stage_seconds.values())
    rows, held_out = ((part[labels[part] != "unassigned"]) for part in (comm.train_indices, comm.test_indices))
    test = comm.test_indices
    targets = {m: comm.get_features(modality=m, indices=test) for m in comm.modalities}
    for name, codes in sources.items():
        for source, code in zip(("rna", "prot", "both"), codes, strict=True):
            for form in ("linear", "nonlinear"):
                found[f"{name}|{source}, {form}"] = probe(
                    (code[rows], labels[rows]), (code[held_out], labels[held_out]), linear=form == "linear"
                )
        for modality, x in targets.items():
            found[f"{name}|R2 of {modality}"] = metrics.probe_r2(codes[2][test], x, probe="nonlinear", seed=seed)
    return found


def run_pbmc(n_seeds: int, *, fresh: bool, smoke: bool, ending: str) -> None:
    """Run, print and write the table of the blood cells."""
    found = [
        kept(_path(f"{'smoke-' if smoke else ''}pbmc-{seed}"), lambda seed=seed: pbmc(seed, smoke=smoke), fresh=fresh)
        for seed in range(n_seeds)
    ]
    names = dict.fromkeys(key.split("|")[0] for key in found[0] if "|" in key)
    rows = []
    for code in names:
        row: dict[str, Any] = {"codes of each modality, of both": code}
        for form in ("linear", "nonlinear"):
            alone, other, together = (
                np.array([f[f"{code}|{source}, {form}"] for f in found]) for source in ("rna", "prot", "both")
            )
            row |= {f"rna, {form}": spread([*alone], 1), f"prot, {form}": spread([*other], 1)}
            row[f"both, {form}"] = spread([*together], 1)
            row[f"both less the better one, {form}"] = spread([*(together - np.maximum(alone, other))], 1)
        row |= {f"R2 of {m}": spread([f[f"{code}|R2 of {m}"] for f in found], 2) for m in ("rna", "prot")}
        rows.append(row)
    seconds = {model: spread([f[f"seconds, {model}"] for f in found], 0) for model in ("CoMM", "IndiSeek")}
    if smoke:
        print(markdown(pd.DataFrame(rows)))
        return
    write_text(
        f"comm-pbmc{ending}",
        f"CoMM and IndiSeek on PBMC10k, {n_seeds} seeds: mean [lowest, highest]",
        markdown(pd.DataFrame(rows)),
        {"seeds": list(range(n_seeds)), "values": found},
        "Balanced accuracy, per cent, for six cell types gated on the raw proteins; chance 16.7. Fitted on training "
        "cells and scored on test cells that no fit has seen. What rna and prot both reach is redundant, what only one "
        "reaches unique to it, and what both together reach above the better one is an upper bound of synergy. The "
        "types are functions of the proteins: prot knows all, so nothing can be unique to rna or synergistic but by "
        "what a code of prot has lost. R2: nonlinear probe from the code of both to the features, test cells. "
        f"Seconds to train: CoMM {seconds['CoMM']}, IndiSeek {seconds['IndiSeek']}.",
    )


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pbmc", action="store_true", help="the blood cells instead of Trifeature")
    parser.add_argument("--images", action="store_true", help="Trifeature with images, small ones")
    parser.add_argument("--paper-size", action="store_true", help="with --images: the published size; for a GPU")
    parser.add_argument("--affect", type=Path, metavar="FILE", help="an affect set of MultiBench that you have")
    parser.add_argument("--epochs", type=int, default=100, help="of --affect (default 100)")
    parser.add_argument("--device", default="cpu", help="of torch, for --images and --affect (default cpu)")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; 1 with --quick)")
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs, printed only")
    options = parser.parse_args()
    n_seeds = options.seeds or (1 if options.quick or options.smoke else 5)
    if options.images:
        size_name = "smoke" if options.smoke else "paper" if options.paper_size else "small"
        run_images(n_seeds, size_name=size_name, device=options.device, fresh=options.fresh)
        return
    if options.affect is not None:
        run_affect(options.affect, n_seeds, device=options.device, epochs=options.epochs)
        return
    run = run_pbmc if options.pbmc else run_trifeature
    run(n_seeds, fresh=options.fresh, smoke=options.smoke, ending="-quick" if options.quick else "")


if __name__ == "__main__":
    main()
