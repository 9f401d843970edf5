"""The README's picture: what both modalities know, an axis that protein alone knows, how much of each protein it is.

``python benchmarks/picture.py`` trains the default model of the cells that ship with the package and draws it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mudata
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import indiseek
from indiseek.datasets import gate_pbmc, pbmc10k_cite

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "protein_axis.png"
_SHARED = "X_indiseek_shared"
# Okabe and Ito's, which colour-blind people tell apart.
_COLOURS = {
    "CD4 T": "#0072B2",
    "CD8 T": "#56B4E9",
    "NK": "#009E73",
    "B": "#CC79A7",
    "CD14 mono": "#D55E00",
    "CD16 mono": "#E69F00",
    "unassigned": "#BBBBBB",
}


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained model of these cells; without it one is trained")
    options = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    torch.set_num_threads(1)
    mdata = pbmc10k_cite()
    if options.model is None:
        model = indiseek.IndiSeekModel(mdata)
        model.train(seed=0)
    else:
        model = indiseek.IndiSeekModel.load(options.model, mdata)
        mdata.obsm[_SHARED] = model.get_latent_representation()
    axis = model.axes("prot").table.iloc[0]
    model.write_axes()
    values = mdata.obsm["X_indiseek_prot_axes"][:, 0]
    place = indiseek.pl.umap_coordinates(mdata, [_SHARED])[_SHARED]

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.1), layout="constrained", width_ratios=(1, 1.12, 0.95))
    order = np.random.default_rng(0).permutation(mdata.n_obs)
    labels = gate_pbmc(mdata).astype(str).to_numpy()
    axes[0].scatter(*place[order].T, s=2, c=[_COLOURS[label] for label in labels[order]], linewidths=0)
    for label in _COLOURS:
        if label != "unassigned":
            axes[0].annotate(
                label,
                np.median(place[labels == label], axis=0),
                ha="center",
                fontsize=9.5,
                weight="bold",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
            )
    axes[0].set_title("What both know: cell types\n(shared space, labels gated on protein)", fontsize=10.5)
    low, high = np.quantile(values, (0.01, 0.99))
    points = axes[1].scatter(*place[order].T, s=2, c=values[order], cmap="viridis", vmin=low, vmax=high, linewidths=0)
    name = str(axis["name"]).split(": ")[-1]
    axes[1].set_title(f"What protein alone knows: axis “{name}”\nhigh and low in every type", fontsize=10.5)
    figure.colorbar(points, ax=axes[1], shrink=0.7).ax.tick_params(labelsize=8)
    for ax in axes[:2]:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    _bars(axes[2], model)
    figure.savefig(FIGURE, dpi=110)


def _bars(ax: Axes, model: indiseek.IndiSeekModel) -> None:
    table = model.feature_table()
    table = table[(table["modality"] == "prot") & ~table["is_control"].astype(bool)].sort_values("specific")
    names = [str(name).split("_")[0] for name in table["feature"]]
    left = np.zeros(len(table))
    parts = {
        "specific": ("#E69F00", "protein alone"),
        "shared": ("#0072B2", "RNA tells it too"),
        "noise": ("0.85", "counting noise"),
    }
    for column, (colour, label) in parts.items():
        ax.barh(names, table[column], left=left, color=colour, height=0.8, label=label)
        left += table[column].to_numpy(dtype=float)
    ax.set_xlim(0, 1)
    ax.set_title("How much of each protein that is\n(share of its variance, test cells)", fontsize=10.5)
    ax.tick_params(labelsize=9, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8.5, ncols=3, loc="upper center", bbox_to_anchor=(0.42, -0.06), columnspacing=0.8)


if __name__ == "__main__":
    main()
