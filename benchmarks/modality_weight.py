"""Modality-weight score of specific codes: ``python benchmarks/modality_weight.py --shared FOLDER``.

Of each type of test cells, whether the RNA-specific or the protein-specific space tells it apart better, against the
weight that weighted nearest neighbours give to RNA; and k-means in the same spaces. COVID blood of ``FOLDER``, or with
``--bmcite FILE`` the paper's own cells (`indiseek.datasets.bmcite` says where they are had). Each fit is kept in
``benchmarks/.cache``: a run that was stopped goes on, and one with other ``--methods``, ``--seeds``, ``--epochs`` or
``--paper-train`` adds to the same table. The weights are muon's: ``pip install muon``, or ``make peers``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _cache import CACHE, kept
from _peers import NotInstalledError
from _study import subset
from _table import markdown, spread, write_text
from _types import Labels, Rows, column
from _wnn import rna_weight
from mudata import MuData
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from indiseek import PAPER, DisentangledSSLModel, IndiSeekModel, data, datasets, metrics

Array = NDArray[Any]

# The first is the table's; the paper does not say how it deals with a share of 0.
PSEUDOCOUNTS = (1.0, 0.1)
_N_NEIGHBORS, _N_AGAIN = 10, 3000
PUBLISHED = {"IndiSeek": ".92", "FactorizedCL": ".87 to .89", "DisentangledSSL": ".81 to .82"}
_FILES = {"covid": "covid_cite_donors.h5mu"}


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells with types, their split, and the weight of RNA in their weighted neighbours."""

    mdata: MuData
    types: Labels
    weight: Array
    train: Rows
    validation: Rows
    test: Rows

    def of_training(self, n: int) -> Cells:
        """The same test cells, with `n` of the training cells and a ninth as many for validation."""
        rows = np.random.default_rng(0).permutation(len(self.train))[:n]
        return replace(self, train=self.train[np.sort(rows)], validation=self.validation[: n // 9])


class Found(NamedTuple):
    """Codes of the test cells: shared (None where there is none), and specific of rna and prot."""

    shared: Array | None
    specific: tuple[Array, Array]


def draw(name: str, mdata: MuData, types: Labels, n_train: int, seed: int) -> Cells:
    """Split at random: `n_train` cells and a ninth of them more, for validation; all others are test cells."""
    weights = kept(CACHE / "modality_weight" / f"{name}.wnn.json", lambda: {"rna": rna_weight(mdata).tolist()})
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    parts = [np.sort(rows) for rows in np.split(order, [n_train, n_train + n_train // 9])]
    return Cells(mdata, types, np.array(weights["rna"]), *parts)


def again(name: str, mdata: MuData, types: Labels, weight: Array) -> float:
    """Rank correlation of the types' weights with those computed anew from some of the cells: what could be reached."""
    rows = np.sort(np.random.default_rng(0).permutation(mdata.n_obs)[:_N_AGAIN])
    path = CACHE / "modality_weight" / f"{name}.wnn-{_N_AGAIN}.json"
    few = kept(path, lambda: {"rna": rna_weight(subset(mdata, rows)).tolist()})
    table = pd.DataFrame({"all": pd.Series(weight).groupby(types).mean()})
    some = pd.Series(few["rna"]).groupby(types[rows])
    table["few"], table["n"] = some.mean(), some.size()
    return float(table[table["n"] > _N_NEIGHBORS].corr("spearman").loc["all", "few"])


def chance(types: Labels) -> float:
    """Share of a cell's own type among all others, mean over cells."""
    sizes = np.unique(types, return_counts=True)[1]
    return float((sizes * (sizes - 1)).sum() / len(types) / (len(types) - 1))


def _codes(model: Any, cells: Cells, seed: int, **train: Any) -> Found:
    split = [cells.train, cells.validation, cells.test]
    model.train(
        seed=seed, external_indexing=split, accelerator="cpu", write_latents=False, show_progress=False, **train
    )
    rna, prot = (
        model.get_latent_representation(modality=m, kind="specific", indices=cells.test) for m in ("rna", "prot")
    )
    return Found(model.get_latent_representation(indices=cells.test), (rna, prot))


def default(cells: Cells, seed: int, epochs: int) -> Found:
    """IndiSeek as it comes: closed form."""
    return _codes(IndiSeekModel(cells.mdata), cells, seed)


def paper(cells: Cells, seed: int, epochs: int) -> Found:
    """The paper's settings, but for the number of epochs where it is less than 2,000."""
    train = {**PAPER.train, "max_epochs": epochs}
    return _codes(IndiSeekModel(cells.mdata, **PAPER.model), cells, seed, **train)


def disentangled_ssl(cells: Cells, seed: int, epochs: int) -> Found:
    """DisentangledSSL with the settings of this package."""
    return _codes(DisentangledSSLModel(cells.mdata), cells, seed)


def itself(cells: Cells, seed: int, epochs: int) -> Found:
    """Each modality's features as its specific code: what a code scores that leaves nothing shared out."""
    values, transforms = data.Cells.to_train_on(cells.mdata, data.make_setup(cells.mdata), {})
    features = []
    for name in ("rna", "prot"):
        transforms[name].fit(values.values[name], cells.train)
        features.append(transforms[name].apply_to(values.values[name]).numpy()[cells.test])
    return Found(None, (features[0], features[1]))


METHODS: dict[str, tuple[str, Callable[[Cells, int, int], Found]]] = {
    "itself": ("X_i itself as Z_i", itself),
    "default": ("IndiSeek (default, closed form)", default),
    "disentangled-ssl": ("DisentangledSSL (our settings)", disentangled_ssl),
    "paper": ("IndiSeek, PAPER", paper),
}


def figures(cells: Cells, method: str, seed: int, epochs: int) -> dict[str, Any]:
    """Fit, and measure on the test cells."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = METHODS[method][1](cells, seed, epochs)
    seconds = time.perf_counter() - started
    types, weight = cells.types[cells.test], cells.weight[cells.test]
    scores = [metrics.modality_weight(*found.specific, types, weight=weight, pseudocount=a) for a in PSEUDOCOUNTS]
    spaces = {"Z": np.hstack([_alike(code) for code in found.specific])}
    if found.shared is not None:
        spaces = {"C": found.shared, **spaces, "C, Z": np.hstack([_alike(found.shared), spaces["Z"]])}
    return {
        "spearman": {f"{a:g}": score.spearman for a, score in zip(PSEUDOCOUNTS, scores, strict=True)},
        "shares": scores[0].shares.mean(axis=0).tolist(),
        "classes": scores[0].classes.reset_index().to_dict("records"),
        "clusters": {name: clusters(space, types, seed) for name, space in spaces.items()},
        "s": seconds,
    }


def _alike(code: Array) -> Array:
    """Code whose dimensions together have a variance of 1, so that each space counts alike."""
    scaled: Array = (code - code.mean(axis=0)) / np.sqrt(code.var(axis=0).sum())
    return scaled


def clusters(code: Array, types: Labels, seed: int) -> dict[str, float]:
    """Agreement of k-means with the types, as many clusters as there are of them."""
    found = KMeans(len(np.unique(types)), n_init=3, random_state=seed).fit_predict(code)
    return {"ARI": adjusted_rand_score(types, found), "NMI": normalized_mutual_info_score(types, found)}


def page(fits: dict[str, list[dict[str, Any]]], labels: dict[str, str], reference: float, by_chance: float) -> str:
    """Both tables."""
    rows, classes = [], {}
    for name, found in fits.items():
        row = {"method": labels[name], "seeds": len(found)}
        row |= {f"Spearman, a = {a:g}": spread([each["spearman"][f"{a:g}"] for each in found]) for a in PSEUDOCOUNTS}
        for i, modality in enumerate(("RNA", "protein")):
            row[f"own type in Z of {modality}"] = spread([each["shares"][i] for each in found])
        for space in ("C", "Z", "C, Z"):
            known = [each["clusters"][space] for each in found if space in each["clusters"]]
            row[f"ARI / NMI of {space}"] = (
                " / ".join(spread([k[what] for k in known]) for what in ("ARI", "NMI")) if known else "-"
            )
        rows.append(row | {"s": spread([each["s"] for each in found], 0)})
        tables = [pd.DataFrame(each["classes"]).set_index("type") for each in found]
        classes |= {"cells": tables[0]["n_cells"], "WNN": tables[0]["weight"].round(3), "in": tables[0]["compared"]}
        classes[labels[name]] = sum(table["theta"] for table in tables) / len(tables)
    by_type = pd.DataFrame(classes).sort_values("WNN").round(3)
    by_type["WNN"] = by_type["WNN"].astype(str).where(by_type.pop("in"), "too few cells")
    published = ", ".join(f"{name} {value}" for name, value in PUBLISHED.items())
    parts = [
        markdown(pd.DataFrame(rows)),
        f"Spearman that the paper prints of its own cells (bone marrow, 27 types): {published}. Here, of the types' "
        f"weights with those that muon finds of {_N_AGAIN} of the cells alone: {reference:.2f}. By chance "
        f"{by_chance:.3f} of a cell's neighbours are of its own type.",
        "Mean log ratio (a = 1) of each type, and its mean weight of RNA in weighted neighbours (number of cells and "
        "weight of the first seed's test cells):",
        markdown(by_type.reset_index()),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with the file of COVID cells")
    parser.add_argument("--bmcite", type=Path, help="file with the paper's cells, instead of --shared")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n-train", type=int, help="training cells: 5,500, of bmcite 13,500 with 1,500 for validation")
    parser.add_argument("--epochs", type=int, default=2000, help="of the paper's settings, for each stage")
    parser.add_argument("--paper-train", type=int, help="training cells of the paper's settings, of all the others'")
    options = parser.parse_args()
    if (options.shared is None) == (options.bmcite is None):
        parser.error("expected one of --shared and --bmcite, got both or neither")
    torch.set_num_threads(1)
    name = "covid" if options.bmcite is None else "bmcite"
    if name == "covid":
        mdata = datasets.covid_cite(options.shared / _FILES[name])
        types = column(mdata, "mergedcelltype")
    else:
        mdata = datasets.bmcite(options.bmcite)
        types = column(mdata, "celltype.l2")
    mdata = subset(mdata, np.arange(mdata.n_obs))
    n_train = options.n_train or (5500 if name == "covid" else 13_500)
    folder = CACHE / "modality_weight"
    try:
        for seed in options.seeds:
            cells = draw(name, mdata, types, n_train, seed)
            for method in options.methods:
                few = options.paper_train or n_train
                of = f"{method}-{options.epochs}-{few}" if method == "paper" else method
                seen = cells.of_training(few) if method == "paper" else cells
                kept(
                    folder / f"{name}.{n_train}.{of}.{seed}.json",
                    lambda m=method, s=seed, c=seen: figures(c, m, s, options.epochs),
                )
    except NotInstalledError as error:
        raise SystemExit(f"{error} is not installed; pip install {error}, or make peers, brings it") from error
    fits: dict[str, list[dict[str, Any]]] = {}
    labels = {}
    for path in sorted(folder.glob(f"{name}.{n_train}.*.json"), key=lambda p: list(METHODS).index(_method(p)[0])):
        method, *sizes = _method(path)
        key = " ".join([method, *sizes])
        labels[key] = METHODS[method][0] + (", {} of 2,000 epochs, {} training cells".format(*sizes) if sizes else "")
        fits.setdefault(key, []).append(json.loads(path.read_text()))
    n_test = sum(row["n_cells"] for row in next(iter(fits.values()))[0]["classes"])
    notes = (
        f"{n_train} training cells, {n_train // 9} for validation, {n_test} test cells; where a row says fewer "
        "training cells, they are some of these, with a ninth as many for validation and the same test cells. 10 "
        "neighbours among the test cells; a is the pseudo-count. Types with fewer than 11 test cells are not compared. "
        "Unrelated orders of k types have a rank correlation of 0 with a standard deviation of 1 / sqrt(k - 1). "
        "Weights: muon, all cells, 30 components of each modality. k-means: as many clusters as types, each space "
        "scaled to a total variance of 1 where several stand side by side. Seconds are of fit and codes on a machine "
        "with other work to do. Mean [lowest, highest]."
    )
    write_text(
        "modality_weight" if name == "covid" else "modality_weight-bmcite",
        "Modality-weight score",
        page(fits, labels, again(name, mdata, types, cells.weight), chance(types[cells.test])),
        {"fits": fits},
        notes,
    )


def _method(path: Path) -> list[str]:
    """Method that a kept fit is of; of the paper's settings its epochs and training cells too."""
    of = path.name.split(".")[2]
    method, *sizes = of.rsplit("-", 2)
    return [method, *sizes] if len(sizes) == 2 and all(each.isdigit() for each in sizes) else [of]


if __name__ == "__main__":
    main()
