"""Command line: ``indiseek demo`` and ``indiseek train FILE.h5mu``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mudata
import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from indiseek import datasets, metrics, pl
from indiseek.models import IndiSeekModel

DEMO_PROTEINS = ("CD3", "CD4", "CD8a", "CD14", "CD19", "CD56", "CD45RA", "CD45RO")
_MOST_COLORS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Words after the program's name; by default those of the process.

    Returns
    -------
    Exit status: 0, or 2 where the input cannot be used.
    """
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.command == "demo":
            mdata = datasets.pbmc10k_cite()
            colors = [f"{protein}_TotalSeqB" for protein in DEMO_PROTEINS]
        else:
            mdata = _read(options.file)
            colors = options.color
        run(
            mdata,
            options.out,
            colors,
            console,
            seed=options.seed,
            max_epochs=options.max_epochs,
            accelerator=options.accelerator,
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"indiseek: {message}", file=sys.stderr)
        return 2
    return 0


def run(
    mdata: MuData,
    out: Path,
    colors: Sequence[str] | None,
    console: Console,
    *,
    seed: int = 0,
    max_epochs: int | None = None,
    accelerator: str = "auto",
) -> IndiSeekModel:
    """Train on `mdata`, print what held-out cells say, and write data, model and figures into `out`.

    Parameters
    ----------
    mdata
        Paired cells; gets the latents in ``.obsm``.
    out
        Directory; made if it does not exist.
    colors
        Features or ``.obs`` columns by which the maps are coloured; None takes the first few features of the
        second modality.
    console
        Where the summary goes.
    seed, max_epochs, accelerator
        As in :meth:`indiseek.IndiSeekModel.train`.
    """
    model = IndiSeekModel(mdata)
    out.mkdir(parents=True, exist_ok=True)
    model.train(max_epochs, seed=seed, accelerator=accelerator)
    _print_training(model, console)
    _print_retrieval(model, console)
    _print_spaces(model, console)
    with mudata.set_options(pull_on_update=False):
        mdata.write(out / "latents.h5mu")
    model.save(out / "model", overwrite=True)
    started = time.perf_counter()
    pl.training_curves(model.history).savefig(out / "training.png", dpi=150)
    shown = list(colors) if colors else mdata.mod[model.modalities[1]].var_names[:_MOST_COLORS].tolist()
    pl.spaces(mdata, color=shown, seed=seed).savefig(out / "spaces.png", dpi=150)
    console.print(f"Maps drawn in {time.perf_counter() - started:.0f} s.")
    console.print(f"Written to {out}: latents.h5mu, model, training.png, spaces.png")
    return model


def _print_training(model: IndiSeekModel, console: Console) -> None:
    split = _split(model)
    console.print("\n[bold]Training[/bold]")
    table = Table()
    for column in ("cells", "training", "validation", "test", *(f"{s}, s" for s in model.stage_seconds)):
        table.add_column(column, justify="right")
    table.add_row(
        str(model.adata.n_obs),
        *(str(len(part)) for part in split),
        *(f"{seconds:.1f}" for seconds in model.stage_seconds.values()),
    )
    console.print(table)


def _print_retrieval(model: IndiSeekModel, console: Console) -> None:
    first, second = model.modalities[:2]
    train, _, test = _split(model)
    train_a, train_b, test_a, test_b = (
        model.get_features(modality=name, indices=rows) for rows in (train, test) for name in (first, second)
    )
    n_components = min(10, train_a.shape[1], train_b.shape[1])
    rows: dict[str, tuple[NDArray[Any], ...]] = {
        "IndiSeek, shared codes": tuple(
            model.get_latent_representation(modality=name, indices=test) for name in (first, second)
        ),
        f"CCA, {n_components} components": metrics.cca(train_a, train_b, test_a, test_b, n_components=n_components),
        f"PLS-SVD, {n_components} components": metrics.pls_svd(
            train_a, train_b, test_a, test_b, n_components=n_components
        ),
    }
    console.print(
        f"\n[bold]Matching {first} to {second} on {len(test)} test cells[/bold] (FOSCTTM: 0 perfect, 0.5 chance)"
    )
    table = Table()
    table.add_column("method")
    table.add_column("FOSCTTM", justify="right")
    table.add_column("recall@10", justify="right")
    for name, (a, b) in rows.items():
        table.add_row(name, f"{metrics.foscttm(a, b):.3f}", f"{metrics.recall_at_k(a, b, k=10):.3f}")
    table.add_row("chance", "0.500", f"{10 / len(test):.3f}")
    console.print(table)


def _print_spaces(model: IndiSeekModel, console: Console) -> None:
    *_, test = _split(model)
    specific = {
        name: model.get_latent_representation(modality=name, kind="specific", indices=test) for name in model.modalities
    }
    shared = {name: model.get_latent_representation(modality=name, indices=test) for name in model.modalities}
    console.print("\n[bold]What the specific codes know of the other modality's shared code[/bold]")
    table = Table()
    for column in ("specific space", "of", "R2", "null (cells permuted)"):
        table.add_column(column, justify="right" if column.startswith(("R2", "null")) else "left")
    for name, code in specific.items():
        for other in model.modalities:
            if other != name:
                found = metrics.leakage(code, shared[other])
                table.add_row(name, f"shared code of {other}", f"{found.r2:.3f}", f"{found.null:.3f}")
    console.print(table)
    name = model.modalities[1]
    frame = metrics.completeness(
        model.get_features(modality=name, indices=test),
        shared[name],
        specific[name],
        feature_names=model.feature_names(name),
    )
    console.print(f"\n[bold]R2 of each feature of {name} on test cells[/bold]")
    table = Table()
    table.add_column("feature")
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for feature, row in frame.head(30).iterrows():
        table.add_row(str(feature), *(f"{value:.2f}" for value in row))
    console.print(table)


def _split(model: IndiSeekModel) -> tuple[NDArray[np.intp], ...]:
    # A model that was just trained on its own data always has all three.
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    return tuple(cast(NDArray[np.intp], part) for part in parts)


def _read(path: Path) -> MuData:
    if not path.is_file():
        raise FileNotFoundError(f"expected an h5mu file, got {path}, which does not exist; check the path.")
    with mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="indiseek", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train on the PBMC sample that comes with the package")
    train = commands.add_parser("train", help="train on a MuData file with raw counts")
    train.add_argument("file", type=Path, help="h5mu file with two paired modalities")
    train.add_argument("--color", nargs="+", help="features or obs columns that colour the maps")
    for command in (demo, train):
        command.add_argument("--out", type=Path, default=Path("indiseek-output"), help="output directory")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--max-epochs", type=int, help="most epochs of each stage")
        command.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    return parser
