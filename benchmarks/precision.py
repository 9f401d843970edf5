"""Does the certificate change in lower precision? ``python benchmarks/precision.py``.

The default IndiSeekModel is trained on the sample in each precision, and judged by the certificate in single precision.
Each fit is kept in ``benchmarks/.cache``: a run that was stopped goes on. A fit and its certificate take a minute of a
core.
"""

from __future__ import annotations

import argparse

import torch
from _cache import CACHE, kept
from _certified import Figures, figures, tall
from _table import write_text

from indiseek import IndiSeekModel, datasets

# TF32 is a way to multiply in single precision that only GPUs have.
PRECISIONS = {"cpu": ("32", "bf16-mixed"), "cuda": ("32", "TF32", "bf16-mixed")}


def fit(precision: str, seed: int, device: str) -> Figures:
    """Figures of one fit."""
    model = IndiSeekModel(datasets.pbmc10k_cite())
    settings = {"seed": seed, "accelerator": device, "write_latents": False, "show_progress": False}
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    model.train(precision="32" if precision == "TF32" else precision, **settings)
    torch.set_float32_matmul_precision("highest")
    return figures(model, seed)


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    parser.add_argument("--device", choices=list(PRECISIONS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fresh", action="store_true", help="do again what is in the cache")
    options = parser.parse_args()
    found: dict[str, list[Figures]] = {}
    for precision in PRECISIONS[options.device]:
        found[precision] = [
            kept(
                CACHE / "precision" / f"{options.device}-{precision}.{seed}.json",
                lambda precision=precision, seed=seed: fit(precision, seed, options.device),
                fresh=options.fresh,
            )
            for seed in range(options.seeds)
        ]
    name = "precision" if options.device == "cpu" else f"precision-{options.device}"
    title = f"Precision of training, certificate on PBMC10k, test cells, {options.seeds} seed(s)"
    write_text(name, title, tall(found), {"device": options.device, "results": found}, _NOTES.format(**vars(options)))


_NOTES = """\
{device}; default IndiSeekModel. Mean and, in brackets, lowest and highest; each seed has its own split, weights and
probes, the same in every precision. Leak: share of variance explained, map and products,
limit 0.05; otherwise R2 on test cells, but for FOSCTTM; private and predictable:
what the other modality cannot and can know. s: training."""


if __name__ == "__main__":
    main()
