from __future__ import annotations

import functools
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pytest
from model_contract import At, interrupt
from mosaic import mosaic
from rich.console import Console
from small import SMALL

from indiseek import cli
from indiseek.data import open_mudata
from indiseek.models import IndiSeekModel
from indiseek.objectives import ClosedFormFlowObjective
from indiseek.train import Checkpoint

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}


@pytest.fixture(scope="module")
def h5mu(make_mdata, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5mu"
    with mudata.set_options(pull_on_update=False):
        make_mdata().write(path)
    return path


def test_convert_and_embed(trained, h5mu, tmp_path, capsys):
    model, cells = trained
    model.save(tmp_path / "model")
    shuffled = tmp_path / "cells.zarr"
    assert cli.main(["convert", str(h5mu), str(shuffled), "--shuffle", "--seed", "2"]) == 0
    order = np.random.default_rng(2).permutation(cells.n_obs)
    assert open_mudata(shuffled).obs_names.equals(cells.obs_names[order])
    out = tmp_path / "codes.zarr"
    command = ["embed", str(tmp_path / "model"), str(shuffled), "--out", str(out), "--accelerator", "cpu"]
    assert cli.main(command) == 0
    codes = anndata.read_zarr(out)
    np.testing.assert_allclose(
        codes.obsm["X_indiseek_shared"], model.get_latent_representation()[order], rtol=0, atol=1e-5
    )
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "indiseek: expected a new path, got" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0


def test_a_study_with_batches_is_split_by_donor_and_read_with_its_batches(make_mdata, tmp_path, capsys):
    mdata = make_mdata()
    donor = np.random.default_rng(0).integers(9, size=mdata.n_obs)
    mdata.obs["donor"], mdata.obs["lane"] = [f"d{d}" for d in donor], [f"lane{d % 2}" for d in donor]
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    command = ["train", str(tmp_path / "cells.h5mu"), "--out", str(tmp_path / "out"), "--accelerator", "cpu"]
    command += ["--max-epochs", "1", "--split-by", "donor"]
    assert cli.main([*command, "--batch-key", "plate"]) == 2
    assert "expected a column 'plate' in .obs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, "--batch-key", "lane"]) == 0
    model = IndiSeekModel.load(tmp_path / "out" / "model", mdata, accelerator="cpu")
    parts = [set(donor[part]) for part in (model.train_indices, model.validation_indices, model.test_indices)]
    assert all(parts) and sum(map(len, parts)) == 9
    assert "corrected" in model.module.objectives


def test_cells_that_lack_a_modality_are_taken_where_it_is_said(make_mdata, tmp_path, capsys, monkeypatch):
    # Which are tested elsewhere.
    monkeypatch.setattr(cli, "_certify", lambda *_: None)
    monkeypatch.setattr(IndiSeekModel, "report", lambda *_, **__: None)
    cells = mosaic(make_mdata(), 100)
    with mudata.set_options(pull_on_update=False):
        cells.write(tmp_path / "cells.h5mu")
    command = ["train", str(tmp_path / "cells.h5mu"), "--out", str(tmp_path / "out"), "--accelerator", "cpu"]
    command += ["--max-epochs", "1"]
    assert cli.main(command) == 2
    assert "unpaired='keep'" in capsys.readouterr().err
    assert cli.main([*command, "--keep-unpaired"]) == 0
    with mudata.set_options(pull_on_update=False):
        codes = mudata.read_h5mu(tmp_path / "out" / "latents.h5mu").obsm["X_indiseek_prot"]
    assert np.isnan(codes).any(axis=1).sum() == 100
    assert (tmp_path / "out" / "spaces.png").is_file()


def test_train_leaves_the_values_of_a_zarr_or_a_backed_file_on_disk(h5mu, tmp_path, monkeypatch):
    assert cli.main(["convert", str(h5mu), str(tmp_path / "cells.zarr")]) == 0
    seen = []

    def run(mdata: Any, *_: Any, on_disk: bool, **__: Any) -> None:
        seen.append((isinstance(mdata["rna"].X, anndata.abc.CSRDataset), on_disk))

    monkeypatch.setattr(cli, "run", run)
    for arguments in ([str(tmp_path / "cells.zarr")], [str(h5mu), "--backed"], [str(h5mu)]):
        assert cli.main(["train", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert seen == [(True, True), (True, True), (False, False)]


@pytest.fixture(scope="module")
def cells_on_disk(h5mu) -> Path:
    path = h5mu.with_name("cells.zarr")
    assert cli.main(["convert", str(h5mu), str(path)]) == 0
    return path


def _train(cells: Path, out: Path) -> int:
    return cli.main(["train", str(cells), "--out", str(out), "--max-epochs", "2", "--accelerator", "cpu"])


def test_stopped_in_any_stage_the_same_command_goes_on_to_the_same_codes(
    cells_on_disk, tmp_path, monkeypatch, capsys, log
):
    # When steps of the flow are needed is tested elsewhere.
    monkeypatch.setattr(ClosedFormFlowObjective, "needs_steps", lambda *_: True)
    assert _train(cells_on_disk, tmp_path / "whole") == 0
    assert "Certificate on 150 held-out cells" in capsys.readouterr().out
    written = ["certificate.json", "certificate.png", "checkpoint", "latents.zarr", "model", "training.png"]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == written
    codes = anndata.read_zarr(tmp_path / "whole" / "latents.zarr").obsm
    train = IndiSeekModel.train
    # That every stage does is in the contract of the models.
    for stage in (0, 1):
        out = tmp_path / str(stage)
        callbacks = [At(stage, interrupt, epoch=1)]
        monkeypatch.setattr(IndiSeekModel, "train", functools.partialmethod(train, callbacks=callbacks))
        assert _train(cells_on_disk, out) == 130
        assert "indiseek: stopped; the same command goes on" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == ["checkpoint"]
        monkeypatch.setattr(IndiSeekModel, "train", train)
        assert _train(cells_on_disk, out) == 0
        assert f"going on from {out / 'checkpoint' / 'checkpoint.pt'}" in log.text
        found = anndata.read_zarr(out / "latents.zarr").obsm
        for key, values in codes.items():
            np.testing.assert_array_equal(found[key], values)


def test_a_second_training_into_one_directory_is_refused(cells_on_disk, tmp_path, capsys):
    with Checkpoint(tmp_path / "out" / "checkpoint", {}, writes=True):
        assert _train(cells_on_disk, tmp_path / "out") == 2
    assert "expected a checkpoint_dir that no other fit uses" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint"]


def test_neither_the_input_nor_a_file_of_the_users_is_replaced_by_results(cells_on_disk, h5mu, tmp_path, capsys):
    cells = Path(shutil.copytree(cells_on_disk, tmp_path / "latents.zarr"))
    before = {path: path.read_bytes() for path in cells.rglob("*") if path.is_file()}
    model = IndiSeekModel(open_mudata(cells), **SMALL)
    model.train(**FAST, write_latents=False)
    model.save(tmp_path / "other")
    # The cells carry our mark, because convert has written them, and are no result all the same.
    for command in (
        ["train", str(cells), "--out", str(tmp_path)],
        ["embed", str(tmp_path / "other"), str(cells), "--out", str(cells), "--overwrite"],
        ["convert", str(cells), str(cells), "--overwrite"],
    ):
        assert cli.main(command) == 2
        assert "which is read from" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in cells.rglob("*") if path.is_file()} == before
    out = tmp_path / "out"
    out.mkdir()
    for name, command in (
        ("training.png", ["train", str(cells), "--out", str(out)]),
        ("latents.zarr", ["train", str(cells), "--out", str(out)]),
        ("latents.h5mu", ["train", str(h5mu), "--out", str(out)]),
        ("certificate.json", ["demo", "--out", str(out)]),
    ):
        (out / name).write_text("mine")
        assert cli.main(command) == 2
        assert f"expected nothing at {out / name}, or what indiseek has written" in capsys.readouterr().err
        assert (out / name).read_text() == "mine"
        # Said before any work.
        assert os.listdir(out) == [name]
        (out / name).unlink()
    (out / "model").mkdir()
    (out / "model" / "model.pt").write_text("mine")
    assert cli.main(["train", str(h5mu), "--out", str(out)]) == 2
    assert os.listdir(out) == ["model"] and (out / "model" / "model.pt").read_text() == "mine"


def test_results_are_replaced_by_those_of_the_next_run_and_links_followed(cells_on_disk, tmp_path):
    out = tmp_path / "out"
    assert _train(cells_on_disk, out) == 0
    (out / "latents.zarr").rename(tmp_path / "far.zarr")
    (out / "training.png").rename(tmp_path / "far.png")
    (out / "latents.zarr").symlink_to(tmp_path / "far.zarr")
    (out / "training.png").symlink_to(tmp_path / "far.png")
    before = (tmp_path / "far.png").stat().st_ino
    assert _train(cells_on_disk, out) == 0
    assert (out / "latents.zarr").is_symlink() and (out / "training.png").is_symlink()
    assert (tmp_path / "far.png").stat().st_ino != before
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_was_trained_is_not_lost_when_its_writing_fails(cells_on_disk, tmp_path, monkeypatch, capsys, log, error):
    out, save = tmp_path / "out", IndiSeekModel.save

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(IndiSeekModel, "save", fails)
    assert _train(cells_on_disk, out) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert (out / "checkpoint" / "checkpoint.pt").exists()
    monkeypatch.setattr(IndiSeekModel, "save", save)
    log.clear()
    assert _train(cells_on_disk, out) == 0
    assert "going on from" in log.text and "stage 'specific'" in log.text
    assert [path.name for path in (out / "checkpoint").iterdir()] == ["checkpoint.lock"]


KILLED = """
import os, signal, sys
from pathlib import Path
from indiseek.data import convert
rename = Path.rename
def killed(path, target):
    if not Path(sys.argv[2]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = Path.replace = killed
convert(Path(sys.argv[1]), Path(sys.argv[2]), overwrite=True, show_progress=False)
"""


def test_a_zarr_that_a_killed_process_had_put_aside_is_brought_back(h5mu, tmp_path, capsys):
    target = tmp_path / "cells.zarr"
    assert cli.main(["convert", str(h5mu), str(target)]) == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, str(h5mu), str(target)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL and not target.exists()
    assert cli.main(["convert", str(target), str(tmp_path / "again.zarr")]) == 0, capsys.readouterr().err
    assert target.is_dir()


@pytest.mark.filterwarnings("ignore:The HDF5 file was not created by muon")
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, capsys):
    for arguments in (["train", "none.h5mu"], ["convert", "none.h5mu", str(tmp_path / "out.zarr")]):
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("indiseek: expected an h5mu file") and message.count("\n") == 1
    (tmp_path / "text.h5mu").write_text("mine")
    anndata.AnnData(np.ones((3, 2))).write_h5ad(tmp_path / "other.h5mu")
    for name in ("text.h5mu", "other.h5mu"):
        assert cli.main(["train", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert message.startswith("indiseek: expected an h5mu file at") and message.count("\n") == 1


def test_a_wrong_path_is_said_before_anything_is_imported(tmp_path):
    code = (
        "import sys; from indiseek.cli import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'scanpy', 'anndata', 'matplotlib', 'lightning'} & set(sys.modules); sys.exit(status)"
    )
    for arguments, said in (
        (
            ["train", "none.h5mu"],
            "expected an h5mu file or a zarr directory at none.h5mu, got nothing; check",
        ),
        (["report", "no"], "expected a saved model or the output of train in no, got no such directory; check the"),
        (["report", ".", "none.h5mu"], "expected an h5mu file or a zarr directory at none.h5mu, got nothing; check"),
        (["embed", "no", "none.h5mu"], "expected a saved model in no, got no such directory; give the directory of"),
        (["train", "none.h5mu", "--seed", "-1"], "expected a whole number of at least 0, got '-1'; give one."),
        (["train", "none.h5mu", "--max-epochs", "1.5"], "expected a whole number of at least 1, got '1.5'; give one."),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_colour_and_a_device_that_do_not_exist_are_said_before_training(
    h5mu, cells_on_disk, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("indiseek.train._fit.fit_stage", None)
    command = ["train", str(h5mu), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--color", "NOSUCH"]) == 2
    assert "expected a column of .obs or a feature of ['rna', 'prot'], got 'NOSUCH'" in capsys.readouterr().err
    for more in ([str(cells_on_disk)], [str(h5mu), "--backed"]):
        assert cli.main(["train", *more, "--out", str(tmp_path / "out"), "--color", "NOSUCH"]) == 2
        assert "expected no --color with cells on disk, of which no maps are drawn, got" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, "--accelerator", "nonsense"]) == 2
    assert "expected a device that this machine has, got accelerator='nonsense'" in capsys.readouterr().err


def test_names_are_shown_as_they_are_wherever_they_stand(make_mdata, tmp_path):
    cells = make_mdata()
    names = ["CD3 [/foo]", "[bold]x", r"$\foo$", "\x1b[31mred", "_y", *cells["prot"].var_names[5:]]
    cells["prot"].var_names = names
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"[red]rna": cells["rna"], "[x] $p$": cells["prot"]})
    IndiSeekModel.setup_mudata(mdata, modalities=["[red]rna", "[x] $p$"])
    console = Console(record=True, width=200, file=io.StringIO())
    out = tmp_path / "run [a]" / "out"
    wide = {"train_size": 0.6, "validation_size": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndiSeekModel, "train", functools.partialmethod(IndiSeekModel.train, show_progress=False, **wide))
        patch.setattr(IndiSeekModel, "certify", functools.partialmethod(IndiSeekModel.certify, n_permutations=0))
        cli.run(mdata, out, None, console, max_epochs=1, accelerator="cpu")
    text = console.export_text()
    assert f"Written to {out}: model, training.png, certificate.json" in text
    assert "Matching [red]rna to [x] $p$ on 180 test cells" in text and "R2 of each feature of [x] $p$" in text
    for name in names[:3]:
        assert name in text
    assert "\x1b[31mred" not in text and r"\x1b[31mred" in text
    assert (out / "spaces.png").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "[bold]x" in page and "$\\\\foo$" in page and "\x1b" not in page and "[x] $p$-specific" in page


def test_what_terminals_obey_is_not_in_messages(h5mu, tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "\x1b[31mred.h5mu")]) == 2
    assert r"\x1b[31mred.h5mu" in capsys.readouterr().err
