"""Would the tests notice? ``python tests/support/planted_faults.py [--only NAME ...] [--whole]``.

Plants one fault at a time in a copy of the package (the checkout is never touched) and runs the tests that should find
it, or with ``--whole`` all of them. A fault counts as found only by a test that passes without it. Exits with 1 if a
fault survives, or if the lines that it replaces are not found exactly once: whoever moves them moves them here too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

# Once, and not after each planting: they take longer to import than most tests to run.
import lightning.pytorch  # noqa: F401
import mudata  # noqa: F401
import pytest
import scanpy  # noqa: F401
import scvi  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("src", "tests", "docs", "benchmarks", "pyproject.toml", "CHANGELOG.md", "README.md", "CONTRIBUTING.md")


OPTIONS = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")


class Fault(NamedTuple):
    """A mistake that somebody could make.

    Attributes
    ----------
    name
        One word for ``--only``.
    kind
        What is wrong, in words.
    where
        File or folder of ``src/indiseek`` that holds the lines.
    old, new
        Lines, and what they become.
    tests
        Files or folders of ``tests`` that should find it, the fastest first.
    """

    name: str
    kind: str
    where: str
    old: str
    new: str
    tests: tuple[str, ...]


RESUME, SAVING = "contracts/test_model_resume.py", "contracts/test_model_saving.py"

FAULTS = (
    # Losses and bounds.
    Fault(
        "infonce-axis",
        "InfoNCE normalised over the other axis",
        "estimators/_bounds.py",
        "torch.logsumexp(scores, dim=1)",
        "torch.logsumexp(scores, dim=0)",
        ("reference/test_estimators.py", "estimators", "contracts/test_estimators.py"),
    ),
    Fault(
        "club-count",
        "mean over n * n pairs where the diagonal is left out",
        "estimators/_bounds.py",
        "/ (n * (n - 1))",
        "/ (n * n)",
        ("reference/test_estimators.py", "estimators", "contracts/test_estimators.py"),
    ),
    Fault(
        "jeffreys-one-way",
        "one Kullback-Leibler direction instead of both",
        "estimators/_gaussian.py",
        "return n_dims * rho * rho / (1.0 - rho * rho)",
        "return n_dims * (rho * rho / (1.0 - rho * rho) + 0.5 * math.log1p(-rho * rho))",
        ("estimators",),
    ),
    Fault(
        "clip-one-side",
        "symmetric loss that looks from one modality only",
        "objectives/_clip.py",
        "F.cross_entropy(logits.T, target)",
        "F.cross_entropy(logits, target)",
        ("reference/test_clip.py", "objectives/test_clip.py", "contracts/test_losses.py"),
    ),
    Fault(
        "alignment-sign",
        "alignment drives the modalities apart",
        "objectives/_clip.py",
        "info + self.alignment * misalignment",
        "info - self.alignment * misalignment",
        ("objectives/test_clip.py",),
    ),
    Fault(
        "temperature-place",
        "temperature divides the products and not the squared lengths",
        "objectives/_distance_info_nce.py",
        "(2.0 * codes_a @ codes_b.T - squares) / temperature",
        "2.0 * codes_a @ codes_b.T / temperature - squares",
        ("reference/test_distance_info_nce.py", "contracts/test_losses.py"),
    ),
    Fault(
        "mosaic-held-out",
        "cells that lack a modality held out",
        "data/_rows.py",
        "rows, groups = np.flatnonzero(paired), self.groups",
        "rows, groups = np.flatnonzero(~paired), self.groups",
        ("data/test_presence.py",),
    ),
    Fault(
        "mosaic-places",
        "values of another cell, where a column says that some lack a modality",
        "data/_presence.py",
        "np.searchsorted(kept[name], place)",
        "np.minimum(place, len(kept[name]) - 1)",
        ("data/test_presence.py", "models/test_mosaic.py"),
    ),
    Fault(
        "mosaic-components",
        "more components than the paired cells can tell from noise",
        "train/_pipeline.py",
        "transform.fit(values, rows, cells.at(name, paired))",
        "transform.fit(values, rows)",
        ("models/test_mosaic.py",),
    ),
    Fault(
        "mosaic-batches",
        "displacement of batches learned from pairs alone",
        "objectives/_batch_corrected.py",
        "uses_unpaired = True",
        "uses_unpaired = False",
        ("models/test_mosaic.py",),
    ),
    Fault(
        "self-negative",
        "a cell is a candidate for itself",
        "objectives/_comm.py",
        "dtype=torch.bool, device=codes.device), -math.inf)",
        "dtype=torch.bool, device=codes.device), 0.0)",
        ("reference/test_comm.py", "objectives/test_comm.py"),
    ),
    Fault(
        "mask-inverted",
        "the counts to be lost are kept, and the others lost",
        "data/_views.py",
        "(rng.random(len(thinned)) >= np.repeat(rate, n_stored))",
        "(rng.random(len(thinned)) < np.repeat(rate, n_stored))",
        ("data/test_views.py",),
    ),
    Fault(
        "noise-at-half-depth",
        "counting noise of half the counts taken for that of all",
        "attribution/_shares.py",
        "noise = 1.0 - 2.0 * rho / (1.0 + rho)",
        "noise = 1.0 - rho",
        ("attribution/test_shares.py",),
    ),
    Fault(
        "same-half",
        "code and feature from the same half of the counts",
        "attribution/_moments.py",
        "(piece.whole, piece.second, piece.first)",
        "(piece.whole, piece.first, piece.second)",
        ("attribution/test_axes.py",),
    ),
    Fault(
        "order-of-axes",
        "axes that carry least come first",
        "attribution/_axes.py",
        "np.lexsort([-carried, is_noise])",
        "np.lexsort([carried, is_noise])",
        ("attribution/test_axes.py",),
    ),
    Fault(
        "fixed-views",
        "second fixed view is not the last one",
        "objectives/_comm.py",
        "cells.views[modality][:, -number]",
        "cells.views[modality][:, number]",
        ("objectives/test_comm.py",),
    ),
    Fault(
        "own-for-others",
        "independence of the own shared code where the others' is meant",
        "data/_cells.py",
        "torch.cat([code for j, code in enumerate(self.condition) if j != modality], dim=-1)",
        "torch.cat([code for j, code in enumerate(self.condition) if (j != modality) is (self.n_cells < 0)], dim=-1)",
        ("reference/test_nce_club.py", "objectives/test_nce_club.py"),
    ),
    Fault(
        "swapped-decoder",
        "a decoder sees the next modality's shared code",
        "objectives/_nce_club.py",
        "torch.cat([code, cells.condition[modality]], dim=-1)",
        "torch.cat([code, cells.condition[modality - 1]], dim=-1)",
        ("reference/test_nce_club.py", "objectives/test_nce_club.py"),
    ),
    Fault(
        "critic-moves-encoder",
        "codes are not detached in the critic's loss",
        "objectives/_nce_club.py",
        "with torch.no_grad():\n            codes = self.latents(cells)",
        "with torch.enable_grad():\n            codes = self.latents(cells)",
        ("objectives/test_nce_club.py", "contracts/test_objectives.py"),
    ),
    Fault(
        "mean-for-sum",
        "mean over the errors divided by a sum of squares",
        "objectives/_nce_club.py",
        "gathered_sum((decoded - x).square().sum())",
        "gathered_sum((decoded - x).square().mean())",
        ("reference/test_nce_club.py", "objectives/test_nce_club.py"),
    ),
    Fault(
        "ramp-forgotten",
        "independence has its full weight from the first step",
        "objectives/_nce_club.py",
        "weight = self.ramp * self.independence_weight",
        "weight = self.independence_weight",
        ("objectives/test_nce_club.py",),
    ),
    Fault(
        "unlabelled-as-first",
        "cells without a label count as cells of the first one",
        "objectives/_nce_club.py",
        "known = (labels >= 0).to(like.dtype)",
        "known = (labels >= -1).to(like.dtype)",
        ("objectives/test_supervision.py",),
    ),
    Fault(
        "labels-of-a-share",
        "labels are counted in each process's own share of a batch",
        "objectives/_nce_club.py",
        "gathered_sum(torch.ones_like(known).sum()), gathered_sum(known.sum())",
        "torch.ones_like(known).sum(), known.sum()",
        ("objectives/test_gather.py",),
    ),
    Fault(
        "orthogonality-mean",
        "penalty divided by both dimensions",
        "objectives/_disentangled_specific.py",
        "correlation.square().sum() / codes_z.shape[1]",
        "correlation.square().mean()",
        ("reference/test_disentangled_ssl.py", "objectives/test_disentangled_ssl.py"),
    ),
    Fault(
        "view-beside-the-cells-code",
        "a view stands beside the cell's shared code, not beside its own",
        "objectives/_disentangled_specific.py",
        "torch.cat([c, self._shared(i, views[i])])",
        "torch.cat([c, c])",
        ("reference/test_disentangled_ssl.py",),
    ),
    Fault(
        "penalty-of-cells-alone",
        "the program's penalty leaves out the views",
        "objectives/_disentangled_specific.py",
        "self.orthogonality) for z, c in unit]).mean()",
        "self.orthogonality) for z, c in unit[:1]]).mean()",
        ("reference/test_disentangled_ssl.py",),
    ),
    Fault(
        "shared-encoders-not-followed",
        "views are encoded by shared encoders as they were drawn",
        "train/_run.py",
        "objective.follow(",
        "(",
        ("models/test_disentangled_ssl.py",),
    ),
    Fault(
        "dimensions-backwards",
        "the least informative dimensions come first",
        "objectives/_invertible.py",
        "argsort(descending=True)",
        "argsort(descending=False)",
        ("objectives/test_conditional_flow.py", "models/test_indiseek_flow.py"),
    ),
    Fault(
        "given-back-from-all",
        "features are given back from dimensions that are not given out",
        "objectives/_invertible.py",
        "torch.where(kept, code, torch.zeros_like(code))",
        "code",
        ("objectives/test_conditional_flow.py", "objectives/test_closed_form_flow.py"),
    ),
    Fault(
        "joint-not-unit",
        "joint code is not brought back to unit length",
        "objectives",
        "F.normalize(torch.stack(tuple(codes)).mean(dim=0), dim=-1)",
        "torch.stack(tuple(codes)).mean(dim=0)",
        ("objectives/test_clip.py",),
    ),
    Fault(
        "gradient-of-a-share",
        "gradients do not cross processes",
        "objectives/_gather.py",
        "dist.all_reduce(summed)",
        "dist.all_reduce(summed.clone())",
        ("objectives/test_gather.py",),
    ),
    # Distributions and networks.
    Fault(
        "half-missing",
        "factor 1/2 of the squared distance",
        "distributions/_von_mises_fisher.py",
        "* 0.5 * (mean_p - mean_q).square()",
        "* (mean_p - mean_q).square()",
        ("distributions",),
    ),
    Fault(
        "degrees-of-freedom",
        "beta draws with one degree of freedom too many",
        "distributions/_von_mises_fisher.py",
        "2.0 / (n_dims - 2)",
        "2.0 / (n_dims - 1)",
        ("distributions",),
    ),
    Fault(
        "pairs-turned",
        "rows of the scores are c and columns z",
        "nn/_critic.py",
        "bias)[:, None] + F.linear(c, weight[:, self.n_z :])",
        "bias) + F.linear(c, weight[:, self.n_z :])[:, None]",
        ("reference/test_critics.py", "nn/test_critic.py"),
    ),
    Fault(
        "decay-for-ever",
        "learning rates fall where they are to be constant",
        "models/_indiseek.py",
        'cosine=method.lr_schedule == "cosine"',
        "cosine=True",
        ("models/test_paper.py",),
    ),
    Fault(
        "variance-sign",
        "log density grows with the variance",
        "nn/_critic.py",
        "quadratic + log_variance.sum(-1)",
        "quadratic - log_variance.sum(-1)",
        ("reference/test_critics.py", "nn/test_critic.py"),
    ),
    Fault(
        "jacobian-sign",
        "scale enters the log-determinant with the wrong sign",
        "nn/_autoregressive.py",
        "(log_slope - log_scale)",
        "(log_slope + log_scale)",
        ("nn/test_autoregressive.py", "nn/test_flow.py"),
    ),
    Fault(
        "sees-itself",
        "an autoregressive output sees its own dimension",
        "nn/_autoregressive.py",
        "rank[:, None] > degrees[-1]",
        "rank[:, None] >= degrees[-1]",
        ("nn/test_autoregressive.py",),
    ),
    Fault(
        "bridge-swapped",
        "maps between codes are stored in each other's place",
        "train/_pipeline.py",
        "self.maps[i, j, : source.shape[1], : target.shape[1]] = found[:-1]",
        "self.maps[j, i, : source.shape[1], : target.shape[1]] = found[:-1]",
        ("train/test_pipeline.py",),
    ),
    # Data.
    Fault(
        "split-off-by-one",
        "one training cell too few",
        "data/_rows.py",
        "np.split(order, [n_train, n_train + n_validation])",
        "np.split(order, [n_train - 1, n_train + n_validation])",
        ("data/test_split.py",),
    ),
    Fault(
        "split-unsorted",
        "positions in the order in which they were drawn",
        "data/_rows.py",
        "Split(*(np.sort(part) for part in parts))",
        "Split(*parts)",
        ("data/test_split.py",),
    ),
    Fault(
        "scale-on-all-cells",
        "mean and spread of test cells too",
        "data/_transforms.py",
        "_moments(dense(chunk) for chunk in row_chunks(values, rows))",
        "_moments(dense(chunk) for chunk in row_chunks(values))",
        ("data/test_transforms.py",),
    ),
    Fault(
        "genes-of-all-cells",
        "highly variable features chosen on test cells too",
        "data/_components.py",
        "(self._normalise(chunk) for chunk in row_chunks(values, rows))",
        "(self._normalise(chunk) for chunk in row_chunks(values))",
        ("data/test_transforms.py",),
    ),
    Fault(
        "log-before-size",
        "logarithm before the library size",
        "data/_components.py",
        "torch.log1p(counts * (self.target_sum / library)[cell])",
        "torch.log1p(counts) * (self.target_sum / library)[cell]",
        ("data/test_transforms.py",),
    ),
    Fault(
        "clr-axis",
        "log-ratio over cells instead of features",
        "data/_transforms.py",
        "logs.mean(dim=1, keepdim=True)",
        "logs.mean(dim=0, keepdim=True)",
        ("data/test_transforms.py",),
    ),
    Fault(
        "moments-in-single",
        "sums of squares in single precision",
        "data/_transforms.py",
        "chunk.astype(np.float64)",
        "chunk.astype(np.float32)",
        ("data/test_transforms.py",),
    ),
    Fault(
        "chunk-boundary",
        "a cell is lost between two pieces",
        "data/_disk.py",
        "for start in range(0, n, size):",
        "for start in range(0, n, size + 1):",
        ("data/test_transforms.py", "data/test_disk.py"),
    ),
    Fault(
        "cells-reordered",
        "features in the order of the file, not of the positions asked for",
        "data/_transforms.py",
        "places = torch.from_numpy(order)",
        "places = torch.arange(len(order))",
        ("data/test_transforms.py", "contracts/test_model_latents.py"),
    ),
    Fault(
        "disk-reordered",
        "cells from disk put in order by the inverse permutation",
        "data/_disk.py",
        "joined[np.argsort(order)]",
        "joined[order]",
        ("data/test_disk.py",),
    ),
    Fault(
        "critic-batches",
        "critics see the batches of the encoders",
        "data/_rows.py",
        "torch.randperm(self.n_rows, generator=self._generator).to(self.device) for _ in range(1 + self.n_extra)\n"
        "        ]",
        "torch.randperm(self.n_rows, generator=self._generator).to(self.device)\n        ] * (1 + self.n_extra)",
        ("data/test_batches.py", "train/test_fit.py"),
    ),
    Fault(
        "held-out-batches",
        "held-out batches larger than asked for",
        "data/_rows.py",
        "math.ceil(n_rows / batch_size)",
        "max(1, n_rows // batch_size)",
        ("data/test_batches.py",),
    ),
    # Training.
    Fault(
        "last-weights",
        "early stopping keeps the last weights",
        "train/_lightning.py",
        "self.state = copy.deepcopy(pl_module.objective.state_dict())",
        "self.state = pl_module.objective.state_dict()",
        ("train/test_fit.py",),
    ),
    Fault(
        "patience",
        "one epoch more patience than asked for",
        "train/_lightning.py",
        "- self.best_epoch >= self.patience",
        "- self.best_epoch > self.patience",
        ("train/test_fit.py",),
    ),
    Fault(
        "validation-mode",
        "validation in training mode",
        "train/_lightning.py",
        "self.objective.validate(",
        "self.objective.train().validate(",
        ("train/test_fit.py",),
    ),
    Fault(
        "cosine-one-late",
        "learning rate of the next epoch",
        "train/_lightning.py",
        "math.pi * self.epoch / self.settings.max_epochs",
        "math.pi * (self.epoch + 1) / self.settings.max_epochs",
        ("train/test_fit.py",),
    ),
    Fault(
        "critics-not-frozen",
        "encoder steps compute gradients for the critics",
        "train/_lightning.py",
        "parameter.requires_grad_(False)",
        "parameter.requires_grad_(True)",
        ("train/test_fit.py",),
    ),
    Fault(
        "ramp-without-warmup",
        "ramp counts the warm-up",
        "train/_lightning.py",
        "(progress - warmup) / length",
        "progress / length",
        ("train/test_fit.py",),
    ),
    Fault(
        "seed-leaks",
        "training leaves its seed in the user's random state",
        "train/_guards.py",
        "torch.random.fork_rng(devices=range(torch.cuda.device_count()))",
        "torch.random.fork_rng(enabled=False)",
        ("train/test_fit.py",),
    ),
    Fault(
        "random-state-forgotten",
        "a resumed fit draws its noise anew",
        "train/_lightning.py",
        "set_random_states(self.resume",
        "random_states(pl_module.device) or set_random_states(self.resume",
        ("train/test_resume.py",),
    ),
    Fault(
        "optimizer-forgotten",
        "a resumed fit starts with fresh moments",
        "train/_lightning.py",
        "optimizer.load_state_dict(state)",
        "optimizer.state_dict()",
        ("train/test_resume.py",),
    ),
    # Models.
    Fault(
        "transforms-on-all-cells",
        "transforms are fitted on test cells",
        "train/_pipeline.py",
        ".fit(cells.values[name], parts.train)",
        ".fit(cells.values[name], np.concatenate(parts))",
        ("contracts/test_model_training.py", "models"),
    ),
    Fault(
        "last-batch-dropped",
        "no code for the cells that do not fill a batch",
        "train/_pipeline.py",
        ".split(batch_size):\n        found",
        ".split(batch_size)[: max(1, cells.n_cells // batch_size)]:\n        found",
        ("contracts/test_model_latents.py",),
    ),
    Fault(
        "history-lost",
        "held-out values are not saved",
        "train/_pipeline.py",
        "table[key].tolist() for key, table in self.history.items()}",
        'table[key].tolist() for key, table in self.history.items() if "/train" in key}',
        (SAVING,),
    ),
    Fault(
        "order-of-cells",
        "the same cells in another order inherit the split",
        "data/_cells.py",
        '"\\n".join(map(str, names))',
        '"\\n".join(sorted(map(str, names)))',
        (SAVING,),
    ),
    Fault(
        "checkpoint-stays",
        "the state of a complete fit is not deleted",
        "train/_checkpoint.py",
        "(self.directory / CHECKPOINT_NAME).unlink(missing_ok=True)",
        "(self.directory / CHECKPOINT_NAME).exists()",
        ("train/test_checkpoint.py", RESUME),
    ),
    Fault(
        "stage-seeds",
        "a further training repeats the batches of the first",
        "train/_run.py",
        "plan.seed + number + start.seed_offset",
        "plan.seed + number",
        ("contracts/test_model_training.py", RESUME),
    ),
    Fault(
        "closed-form-is-beaten-by-anything",
        "the first epoch of a flow replaces a closed form that is better",
        "train/_fit.py",
        "objective.starts_fitted else None",
        "False else None",
        ("models/test_closed_form.py",),
    ),
    Fault(
        "flow-where-nothing-is-left",
        "whether a flow is needed is read from the cells that the probe has learned from",
        "objectives/_closed_form_flow.py",
        "for cells in (train, validation)",
        "for cells in (train, train)",
        ("objectives/test_closed_form_flow.py",),
    ),
    # Measures and simulated cells.
    Fault(
        "scan-without-itself",
        "the p of the scan leaves the cells as they are out of the count",
        "metrics/_scan.py",
        "(1 + reached) / (1 + n_permutations)",
        "reached / n_permutations",
        ("metrics/test_nonlinear.py",),
    ),
    Fault(
        "foscttm-count",
        "the match counts among the others",
        "metrics/_retrieval.py",
        "/ (self.n_cells - 1))",
        "/ self.n_cells)",
        ("metrics/test_retrieval.py",),
    ),
    Fault(
        "ties-are-wins",
        "collapsed codes look perfect",
        "metrics/_retrieval.py",
        "np.mean(self.closer + 0.5 * self.tied)",
        "np.mean(self.closer)",
        ("metrics/test_retrieval.py",),
    ),
    Fault(
        "weight-self",
        "a cell is its own neighbour",
        "metrics/_modality_weight.py",
        ".kneighbors(return_distance=False)",
        ".kneighbors(points, return_distance=False)",
        ("metrics/test_modality_weight.py",),
    ),
    Fault(
        "weight-one-pseudocount",
        "the pseudo-count is added in one space alone",
        "metrics/_modality_weight.py",
        "(same[:, 1] + pseudocount)",
        "np.maximum(same[:, 1], pseudocount)",
        ("metrics/test_modality_weight.py",),
    ),
    Fault(
        "paired-for-all",
        "what two modalities share is in the third one too",
        "simulation/_factors.py",
        "for pair, factors in paired.items() if name in pair",
        "for pair, factors in paired.items()",
        ("simulation/test_factors.py",),
    ),
    Fault(
        "variance-for-deviation",
        "noise scaled by its variance",
        "simulation/_gaussian.py",
        "np.sqrt(1 - rho) * noise",
        "(1 - rho) * noise",
        ("simulation/test_gaussian.py",),
    ),
    Fault(
        "and-for-xor",
        "each of the two bits tells of the synergy alone",
        "simulation/_trifeature.py",
        "bits[0] ^ bits[1]",
        "bits[0] & bits[1]",
        ("simulation/test_trifeature.py",),
    ),
)


def main() -> int:
    """Plant the faults asked for and say what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], metavar="NAME")
    parser.add_argument("--whole", action="store_true", help="run the whole suite for each fault")
    parser.add_argument("--list", action="store_true", help="look for the lines to be replaced, and run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Compiled files are told apart by their second and size: a fault planted within the second would be missed.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    chosen = [fault for fault in FAULTS if arguments.only is None or fault.name in arguments.only]
    lost = [fault.name for fault in chosen if place(fault) is None]
    for name in lost:
        print(f"{name}: the lines to be replaced are not there exactly once")
    if arguments.list:
        for fault in chosen:
            print(f"| {fault.name} | {fault.kind} | {fault.where} |")
        return bool(lost)
    survivors = []
    print("| fault | what is wrong | file | found by | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in NEEDED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".cache"))
            else:
                shutil.copy(ROOT / name, copy / name)
        for fault in chosen:
            if fault.name in lost:
                continue
            tests = ("tests",) if arguments.whole else tuple(f"tests/{name}" for name in fault.tests)
            start = time.perf_counter()
            finder = found_by(fault, copy, tests)
            seconds = time.perf_counter() - start
            survivors += [] if finder else [fault.name]
            path = place(fault)
            print(
                f"| {fault.name} | {fault.kind} | {path and path.relative_to(PACKAGE)} | {finder or '**none**'} | "
                f"{seconds:.0f} |",
                flush=True,
            )
    print(f"\n{len(chosen) - len(survivors) - len(lost)} of {len(chosen)} found", end="")
    print(f"; not found: {', '.join(survivors)}" if survivors else "")
    return bool(lost or survivors)


PACKAGE = ROOT / "src" / "indiseek"


def place(fault: Fault) -> Path | None:
    """The one file of the checkout that holds the lines, once; None if there is none, or more than one."""
    where = PACKAGE / fault.where
    files = sorted(where.glob("**/*.py")) if where.is_dir() else [where]
    counts = {path: path.read_text(encoding="utf-8").count(fault.old) for path in files if path.is_file()}
    holders = [path for path, count in counts.items() if count]
    return holders[0] if len(holders) == 1 and counts[holders[0]] == 1 else None


def found_by(fault: Fault, copy: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails with the fault and passes without it; None if there is none."""
    original = place(fault)
    assert original is not None
    path = copy / original.relative_to(ROOT)
    text = original.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        output = run(copy, *tests)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output, flags=re.MULTILINE)
    if failed is None:
        return None
    test = failed.group(1)
    again = run(copy, test)
    if re.search(r"^\d+ passed", again.splitlines()[-1]) is None:
        raise RuntimeError(f"expected {test} to pass without {fault.name}, got\n{again}")
    return test.removeprefix("tests/")


def run(copy: Path, *tests: str) -> str:
    """What pytest says, in the copy, until the first failure."""
    with tempfile.TemporaryFile("w+") as file:
        process = os.fork()
        if process == 0:
            code = 3
            try:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                os.chdir(copy)
                sys.path[0] = str(copy / "src")
                os.environ.update(PYTHONPATH=sys.path[0], COLUMNS="500")
                code = pytest.main([*OPTIONS, *tests])
            finally:
                # Not the parent's way out, which deletes the copy.
                if sys.exc_info()[0]:
                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        file.seek(0)
        output = file.read()
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise RuntimeError(f"expected pytest to run {tests}, got\n{output}")
    return output


if __name__ == "__main__":
    sys.exit(main())
