"""What ``model.tune()`` measures and chooses on the sample: ``python benchmarks/tuning.py``.

Every number but the last table's is of validation cells. The last table checks the choice on the test cells, which the
search has not seen.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
from _table import RESULTS, markdown, write

from indiseek import IndiSeekModel, datasets, metrics, pl
from indiseek.tuning import Tuning


def trade_off(tuning: Tuning) -> pd.DataFrame:
    """Candidates for the shared space, the chosen one marked."""
    table = tuning.table[tuning.table["stage"] == "shared"]
    shown = pd.DataFrame({"n_shared": table["n_shared"], "alignment": table["alignment"].map("{:g}".format)})
    pairs = zip(table["infonce"], table["infonce_se"], strict=True)
    shown["InfoNCE (s.e.), nats"] = [f"{mean:.2f} ({error:.2f})" for mean, error in pairs]
    for key in ("content", "excess"):
        for column in table.filter(regex=f"^{key}_"):
            shown[f"{key} of {column.removeprefix(key + '_')}"] = (table[column].round(2) + 0.0).map("{:.2f}".format)
    shown["FOSCTTM"] = table["foscttm"].map("{:.3f}".format)
    shown["s"] = table["seconds"].map("{:.0f}".format)
    shown["chosen"] = table["chosen"].map({True: "**yes**", False: ""})
    return shown


def weights(tuning: Tuning) -> pd.DataFrame:
    """Candidates for the weight of the reconstruction."""
    table = tuning.table[tuning.table["stage"] == "specific"]
    return pd.DataFrame(
        {
            "lam": table["lam"].map("{:g}".format),
            "reconstruction error": table["reconstruction"].map("{:.2f}".format),
            "leakage": table["leakage"].map("{:.2f}".format),
            "s": table["seconds"].map("{:.0f}".format),
            "chosen": table["chosen"].map({True: "**yes**", False: ""}),
        }
    )


def on_test_cells(seed: int, chosen: dict[str, object]) -> dict[str, float]:
    """Content and excess of the chosen joint code, and its retrieval, on test cells."""
    model = IndiSeekModel(datasets.pbmc10k_cite(), **chosen)
    # Only the shared stage is looked at.
    model.train({"context": 1, "specific": 1}, seed=seed, write_latents=False, show_progress=False)
    x, seen = (
        {name: model.get_features(modality=name, indices=rows) for name in model.modalities}
        for rows in (model.test_indices, model.train_indices)
    )
    joint = model.get_latent_representation(indices=model.test_indices)
    codes = [model.get_latent_representation(modality=m, indices=model.test_indices) for m in model.modalities]
    found: dict[str, float] = {}
    rna, prot = model.modalities
    for name, other in ((rna, prot), (prot, rna)):
        mean = metrics.conditional_mean(x[name], x[other], reference=(seen[name], seen[other]))
        found[f"content of {name}"] = metrics.probe_r2(joint, mean, probe="nonlinear")
        found[f"excess of {name}"] = metrics.leakage(joint, x[name] - mean).above_null
    return found | {"FOSCTTM": metrics.foscttm(*codes)}


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of searches, each with a split of its own")
    options = parser.parse_args()
    sections, checks = [], []
    details: dict[str, object] = {}
    for seed in range(options.seeds):
        model = IndiSeekModel(datasets.pbmc10k_cite())
        started, processor = time.perf_counter(), time.process_time()
        tuning = model.tune(seed=seed, show_progress=False)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        pair = {name: tuning.chosen[name] for name in ("n_shared", "alignment")}
        pairs = {name: [value] for name, value in pair.items()}
        paper = IndiSeekModel(datasets.pbmc10k_cite(), specific="nce-club")
        of_lam = paper.tune(**pairs, seed=seed, show_progress=False)
        checks.append({"seed": seed, **pair} | {k: f"{v:.3f}" for k, v in on_test_cells(seed, pair).items()})
        details[f"seed {seed}"] = {
            "seconds": seconds,
            "processor_seconds": processor,
            "chosen": tuning.chosen,
            "n_specific": tuning.n_specific,
            "candidates": tuning.table.to_dict("records"),
            "lam": of_lam.table.to_dict("records"),
        }
        if seed == 0:
            first, figure = tuning, pl.tuning(tuning)
            sections += [
                f"## Choice\n\n```text\n{tuning.summary()}\n```\n\nThe whole search took {seconds:.0f} s, "
                f"{processor:.0f} s of processor time.",
                f"## The weight of NCE-CLUB on that shared space\n\n{markdown(weights(of_lam))}\n\n"
                f"```text\n{of_lam.summary()}\n```",
            ]
    sections.append(f"## The choice on test cells\n\n{markdown(pd.DataFrame(checks))}")
    notes = (
        "PBMC10k, 5,484 training and 686 validation cells, seed 0. Content: R2 of the joint code to what the other "
        "modality knows of this one (higher is better). Excess: R2 above its null to what it cannot know (lower is "
        "better). InfoNCE and FOSCTTM: lower is better; a code may lower both by holding excess.\n\n"
    )
    write(
        "tuning",
        "Choosing the shared space without labels",
        trade_off(first),
        details,
        notes + "\n\n".join(sections),
    )
    figure.savefig(RESULTS / "tuning.png", dpi=130)


if __name__ == "__main__":
    main()
