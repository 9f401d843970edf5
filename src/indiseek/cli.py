"""Command line: ``indiseek demo``, ``train FILE``, ``report DIR``, ``convert FILE OUT`` and ``embed MODEL FILE``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from indiseek._checks import printable

# Nothing else here: torch and scanpy take seconds, and a wrong path is to be said at once. What a command needs is
# imported in it.
if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.text import Text

    from indiseek import metrics
    from indiseek.models import IndiSeekModel

DEMO_PROTEINS = ("CD3", "CD4", "CD8a", "CD14", "CD19", "CD56", "CD45RA", "CD45RO")
_FILES = ("training.png", "certificate.json", "certificate.png")
_MOST_COLORS = 8
_SHOWN_SECONDS = 0.05
_MOST_FEATURES = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Words after the program's name; by default those of the process.

    Returns
    -------
    Exit status: 0, 2 where the input cannot be used, or 130 where the user stopped it.
    """
    options = _parser().parse_args(arguments)
    try:
        _check_paths(options)
        from rich.console import Console

        from indiseek.data import convert, open_mudata
        from indiseek.models import embed, load_model

        console = Console()
        if options.command == "convert":
            convert(options.file, options.out, shuffle=options.shuffle, seed=options.seed, overwrite=options.overwrite)
        elif options.command == "embed":
            model = load_model(options.model, accelerator=options.accelerator)
            embed(model, open_mudata(options.file), options.out, overwrite=options.overwrite)
        elif options.command == "report":
            _report(options)
        else:
            _train(options, console)
    except KeyboardInterrupt:
        print(
            "indiseek: stopped; the same command goes on from the last epoch of a training, and else begins again.",
            file=sys.stderr,
        )
        return 130
    except (OSError, ValueError, TypeError, KeyError, FloatingPointError, MemoryError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"indiseek: {printable(str(message))}", file=sys.stderr)
        return 2
    return 0


def _check_paths(options: argparse.Namespace) -> None:
    """Raise FileNotFoundError where a path that a command reads does not exist."""
    if options.command == "embed" and not options.model.is_dir():
        raise FileNotFoundError(
            f"expected a saved model in {options.model}, got no such directory; give the directory of save()."
        )
    if options.command == "report" and not options.model.is_dir():
        raise FileNotFoundError(
            f"expected a saved model or the output of train in {options.model}, got no such directory; check the path."
        )
    if options.command == "demo" or options.file is None or options.file.exists():
        return
    # A process may have been killed just when a new zarr took an earlier one's place; only then the import is needed.
    if any(options.file.parent.glob(".indiseek-*.tmp")):
        from indiseek.data import settle

        settle(options.file.parent)
    if not options.file.exists():
        raise FileNotFoundError(
            f"expected an h5mu file or a zarr directory at {options.file}, got nothing; check the path."
        )


def _as_text(name: object) -> Text:
    """A name from the data, in which nothing is markup."""
    from rich.text import Text

    return Text(printable(str(name)))


def _train(options: argparse.Namespace, console: Console) -> None:
    from indiseek import datasets
    from indiseek.data import check_replaceable, open_mudata

    on_disk = options.command == "train" and (options.backed or options.file.is_dir())
    # Before hours of work, of which there would be no place for the result.
    names = (*_FILES, *(("latents.zarr",) if on_disk else ("latents.h5mu", "spaces.png", "report.html")))
    if on_disk and options.color:
        raise ValueError(
            f"expected no --color with cells on disk, of which no maps are drawn, got {' '.join(options.color)}; leave "
            "it out, or give an h5mu file without --backed."
        )
    targets = [options.out / name for name in (*names, "model/model.pt")]
    check_replaceable(targets, [options.file] if options.command == "train" else [])
    if options.command == "demo":
        mdata = datasets.pbmc10k_cite()
        colors = [f"{protein}_TotalSeqB" for protein in DEMO_PROTEINS]
    else:
        mdata = open_mudata(options.file) if on_disk else _read(options.file)
        colors = options.color
        if options.batch_key is not None or options.keep_unpaired:
            from indiseek.models import IndiSeekModel

            unpaired: Any = "keep" if options.keep_unpaired else "refuse"
            IndiSeekModel.setup_mudata(mdata, batch_key=options.batch_key, unpaired=unpaired)
    run(
        mdata,
        options.out,
        colors,
        console,
        on_disk=on_disk,
        seed=options.seed,
        max_epochs=options.max_epochs,
        accelerator=options.accelerator,
        split_by=options.split_by if options.command == "train" else None,
    )


def _report(options: argparse.Namespace) -> None:
    from indiseek.data import open_mudata
    from indiseek.models import IndiSeekModel, load_model

    # What train writes, or what save() does.
    beside, inside = options.model / "latents.h5mu", options.model / "model"
    folder = inside if inside.is_dir() else options.model
    mdata = None
    if options.file is not None:
        mdata = open_mudata(options.file) if options.file.is_dir() else _read(options.file)
    elif folder == inside and beside.is_file():
        mdata = _read(beside)
    model = load_model(folder, mdata, accelerator=options.accelerator)
    if model.adata is None:
        raise ValueError(
            f"expected the model's cells beside it in {options.model}, got none; name their file after the directory."
        )
    effects = None
    if options.groupby is not None or options.replicate is not None:
        if options.groupby is None or options.replicate is None or not isinstance(model, IndiSeekModel):
            raise ValueError(
                f"expected an IndiSeekModel, --groupby and --replicate for effects, got {type(model).__name__}, "
                f"{options.groupby} and {options.replicate}; name the condition and the donor, or neither."
            )
        effects = model.compare(
            groupby=options.groupby, replicate=options.replicate, within=options.within, seed=options.seed
        )
    target = options.model / "report.html" if options.out is None else options.out
    model.report(
        target,
        effects=effects,
        title=options.title,
        color=options.color,
        max_cells=options.max_cells,
        seed=options.seed,
    )


def run(
    mdata: MuData,
    out: Path,
    colors: Sequence[str] | None,
    console: Console,
    *,
    on_disk: bool = False,
    seed: int = 0,
    max_epochs: int | None = None,
    accelerator: str = "auto",
    split_by: str | None = None,
) -> IndiSeekModel:
    """Train on `mdata`, print what held-out cells say, and write data, model and figures into `out`.

    A training that was stopped goes on from its last complete epoch, which ``out / "checkpoint"`` holds until all is
    written.

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
    on_disk
        Whether the values of `mdata` stay on disk: then only the codes are written, and no maps are drawn.
    seed, max_epochs, accelerator, split_by
        As in :meth:`indiseek.IndiSeekModel.train`.

    Raises
    ------
    KeyboardInterrupt
        If the user stopped it.
    ValueError
        If another training uses `out`.
    FileExistsError
        If what is in the place of a result is not ours, or is read from.
    """
    import numpy as np

    from indiseek import pl
    from indiseek.data import replace_files, write_mudata
    from indiseek.models import IndiSeekModel, embed
    from indiseek.train import Checkpoint

    if colors and not on_disk:
        pl.check_colors(mdata, colors)
    model = IndiSeekModel(mdata)
    checkpoint = out / "checkpoint"
    model.train(
        max_epochs,
        seed=seed,
        accelerator=accelerator,
        split_by=split_by,
        write_latents=False,
        checkpoint_dir=checkpoint,
        keep_checkpoint=True,
    )
    # Ctrl-C ends a training without an error.
    if model.fitted.interrupted:
        raise KeyboardInterrupt
    model.save(out / "model", overwrite=True)
    _print_training(model, console)
    _print_retrieval(model, console)
    replace_files(out, {"training.png": _png(pl.training_curves(model.history))})
    certificate = _certify(model, out, seed, console)
    written = ["model", "training.png", *(() if certificate is None else _FILES[1:])]
    if on_disk:
        embed(model, None, out / "latents.zarr", overwrite=True)
        written.append("latents.zarr")
    else:
        model.write_latents()
        write_mudata(mdata, out / "latents.h5mu")
        started = time.perf_counter()
        second = model.modalities[1]
        # With the modality, because a gene may have the name of a protein.
        shown = list(colors) if colors else [f"{second}:{name}" for name in mdata.mod[second].var_names[:_MOST_COLORS]]
        # What a cell lacks has no place on a map.
        keys = [f"X_indiseek_{name}" for name in ("shared", *model.modalities)]
        drawn = np.isfinite(np.hstack([mdata.obsm[key] for key in keys])).all(axis=1)
        some = mdata if drawn.all() else mdata[drawn]
        maps = pl.umap_coordinates(some, keys, seed=seed)
        replace_files(out, {"spaces.png": _png(pl.spaces(some, color=shown, coordinates=maps, seed=seed))})
        known = maps if drawn.all() else None
        model.report(out / "report.html", certificate=certificate, coordinates=known, seed=seed)
        console.print(f"Maps and report drawn in {time.perf_counter() - started:.0f} s.")
        written += ["latents.h5mu", "spaces.png", "report.html"]
    # A kill before this line costs no training: the same command writes again what it was about to.
    with Checkpoint(checkpoint, {}, writes=True) as finished:
        finished.remove()
    console.print(_as_text(f"Written to {out}: {', '.join(written)}"), soft_wrap=True)
    return model


def _certify(model: IndiSeekModel, out: Path, seed: int, console: Console) -> metrics.Certificate | None:
    """Print and write the certificate; None where there are too few cells for one."""
    from indiseek import pl
    from indiseek.data import mark, replace_files
    from indiseek.models import MIN_HELD_OUT_CELLS

    n_test = len(_split(model)[2])
    if n_test < MIN_HELD_OUT_CELLS:
        console.print(f"\nNo certificate: it needs at least {MIN_HELD_OUT_CELLS} test cells, there are {n_test}.")
        return None
    certificate = model.certify(seed=seed)
    _print_certificate(certificate, model.modalities[1], console)
    record = {"mark": mark()} | json.loads(certificate.to_json())

    def write_json(path: Path) -> None:
        path.write_text(json.dumps(record, indent=1) + "\n")

    files = {"certificate.json": write_json, "certificate.png": _png(pl.certificate(certificate))}
    replace_files(out, files)
    return certificate


def _png(figure: Any) -> Callable[[Path], None]:
    """What writes a figure at a path, for :func:`indiseek.data.replace_files`."""
    from indiseek.data import mark

    return partial(figure.savefig, dpi=150, format="png", metadata={"Software": mark()})


def _print_training(model: IndiSeekModel, console: Console) -> None:
    from rich.table import Table

    split, mdata = _split(model), cast("MuData", model.adata)
    console.print("\n[bold]Training[/bold]")
    table = Table()
    # Stages that compute next to nothing would only make the others narrow.
    seconds = {f"{stage}, s": f"{s:.1f}" for stage, s in model.stage_seconds.items() if s >= _SHOWN_SECONDS}
    for column in ("cells", "training", "validation", "test", *seconds):
        table.add_column(column, justify="right")
    table.add_row(
        str(mdata.n_obs),
        *(str(len(part)) for part in split),
        *seconds.values(),
    )
    console.print(table)


def _print_retrieval(model: IndiSeekModel, console: Console) -> None:
    import numpy as np
    from rich.table import Table

    from indiseek import metrics

    first, second = model.modalities[:2]
    train, _, test = _split(model)
    train_a, train_b, test_a, test_b = (
        model.get_features(modality=name, indices=rows) for rows in (train, test) for name in (first, second)
    )
    # NaN is what a cell lacks.
    paired = np.isfinite(np.hstack([train_a, train_b])).all(axis=1)
    train_a, train_b = train_a[paired], train_b[paired]
    n_components = min(10, train_a.shape[1], train_b.shape[1])
    rows: dict[str, tuple[NDArray[Any], ...]] = {
        "IndiSeek, shared codes": tuple(
            model.get_latent_representation(modality=name, indices=test) for name in (first, second)
        )
    }
    for baseline, function in (("CCA", metrics.cca), ("PLS-SVD", metrics.pls_svd)):
        codes = function(train_a, train_b, test_a, test_b, n_components=n_components)
        rows[f"{baseline}, {n_components} components"] = codes
    console.print(_as_text(f"\nMatching {first} to {second} on {len(test)} test cells"), style="bold")
    console.print("FOSCTTM, the fraction of cells closer than the true partner: 0 perfect, 0.5 chance")
    table = Table()
    table.add_column("method")
    table.add_column("FOSCTTM", justify="right")
    table.add_column("recall@10", justify="right")
    for name, (a, b) in rows.items():
        table.add_row(name, f"{metrics.foscttm(a, b):.3f}", f"{metrics.recall_at_k(a, b, k=10):.3f}")
    table.add_row("chance", "0.500", f"{10 / len(test):.3f}")
    console.print(table)


def _print_certificate(certificate: metrics.Certificate, modality: str, console: Console) -> None:
    from rich.table import Table

    console.print()
    console.print(printable(certificate.summary()), markup=False, highlight=False)
    features = certificate.features
    features = features[features["modality"] == modality].head(_MOST_FEATURES)
    console.print(_as_text(f"\nR2 of each feature of {modality} on test cells"), style="bold")
    table = Table()
    table.add_column("feature")
    columns = {"shared": "shared code", "specific": "specific code", "both": "both", "noise": "counting noise"}
    for title in columns.values():
        table.add_column(title, justify="right")
    for _, row in features.iterrows():
        table.add_row(_as_text(row["feature"]), *(f"{row[column]:.3f}" for column in columns))
    console.print(table)


def _split(model: IndiSeekModel) -> tuple[NDArray[np.intp], ...]:
    # A model that was just trained on its own data always has all three.
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    return tuple(cast("NDArray[np.intp]", part) for part in parts)


def _read(path: Path) -> MuData:
    if not path.is_file():
        raise FileNotFoundError(f"expected an h5mu file, got {path}, which does not exist; check the path.")
    import mudata

    try:
        with mudata.set_options(pull_on_update=False):
            return mudata.read_h5mu(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise OSError(
            f"expected an h5mu file at {path}, got what cannot be read ({type(error).__name__}: {error}); restore it, "
            "or write a MuData there."
        ) from error


def _whole_from(low: int) -> Callable[[str], int]:
    """Type of an option that is a whole number of at least `low`."""

    def read(text: str) -> int:
        if not text.strip().lstrip("+-").isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text!r}; give one.")
        return int(text)

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="indiseek", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train on the PBMC sample that comes with the package")
    train = commands.add_parser("train", help="train on a MuData file with raw counts")
    train.add_argument("file", type=Path, help="h5mu file or zarr directory with two paired modalities")
    train.add_argument("--backed", action="store_true", help="read an h5mu in pieces, as a zarr always is")
    train.add_argument("--color", nargs="+", help="features or obs columns that colour the maps")
    train.add_argument("--batch-key", help="obs column of the batch, which the spaces are corrected for")
    train.add_argument("--keep-unpaired", action="store_true", help="take cells that are in one modality only, too")
    train.add_argument("--split-by", help="obs column, such as the donor, whose groups the split keeps whole")
    for command in (demo, train):
        command.add_argument("--out", type=Path, default=Path("indiseek-output"), help="output directory")
        command.add_argument("--seed", type=_whole_from(0), default=0, help="seed of split, weights and batches")
        command.add_argument("--max-epochs", type=_whole_from(1), help="maximum number of epochs of each stage")
        command.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    convert_ = commands.add_parser("convert", help="write an h5mu file as a zarr that is read in pieces")
    convert_.add_argument("file", type=Path, help="h5mu file or zarr directory")
    convert_.add_argument("out", type=Path, help="zarr directory to write")
    convert_.add_argument("--shuffle", action="store_true", help="put the cells in random order")
    convert_.add_argument("--seed", type=_whole_from(0), default=0, help="seed of that order")
    embed_ = commands.add_parser("embed", help="write the latent codes of the cells in a file to a zarr")
    embed_.add_argument("model", type=Path, help="directory of a saved model")
    embed_.add_argument("file", type=Path, help="h5mu file or zarr directory with the model's features")
    embed_.add_argument("--out", type=Path, default=Path("latents.zarr"), help="zarr directory to write")
    embed_.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    report_ = commands.add_parser("report", help="write one HTML page of a saved model, to be forwarded")
    report_.add_argument("model", type=Path, help="directory of save(save_mdata=True), or the output of train")
    report_.add_argument(
        "file", type=Path, nargs="?", help="h5mu file or zarr with its cells, where they are elsewhere"
    )
    report_.add_argument("--out", type=Path, help="page to write, by default report.html in the directory")
    report_.add_argument("--title", help="headline of the page")
    report_.add_argument("--color", help="feature or obs column that colours the maps at first")
    report_.add_argument("--groupby", help="obs column of a condition whose effects are shown")
    report_.add_argument("--replicate", help="obs column of the donors that are compared")
    report_.add_argument("--within", help="obs column of the types of cells in which they are compared")
    report_.add_argument("--max-cells", type=_whole_from(100), default=20_000, help="most cells on the maps")
    report_.add_argument("--seed", type=_whole_from(0), default=0, help="seed of certificate, maps and permutations")
    report_.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    for command in (convert_, embed_):
        command.add_argument("--overwrite", action="store_true", help="replace a zarr that is there")
    return parser
