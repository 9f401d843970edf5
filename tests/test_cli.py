from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pytest
from model_contract import At, interrupt

from indiseek import cli
from indiseek.data import open_mudata
from indiseek.models import IndiSeekModel
from indiseek.train import Checkpoint


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
    assert _train(cells_on_disk, tmp_path / "whole") == 0
    assert "No certificate: it needs at least 100 test cells, there are 60." in capsys.readouterr().out
    written = ["checkpoint", "latents.zarr", "model", "training.png"]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == written
    codes = anndata.read_zarr(tmp_path / "whole" / "latents.zarr").obsm
    train = IndiSeekModel.train
    # That every stage does is in the contract of the models.
    for stage in (0, 2):
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


def test_what_cannot_be_used_is_said_in_one_line(tmp_path, capsys):
    for arguments in (["train", "none.h5mu"], ["convert", "none.h5mu", str(tmp_path / "out.zarr")]):
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("indiseek: expected an h5mu file") and message.count("\n") == 1
