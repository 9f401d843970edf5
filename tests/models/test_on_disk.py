"""Models trained on cells that stay on disk are those trained in memory, to the last bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pytest
from mudata import MuData
from small import SMALL

from indiseek.data import DiskMatrix, convert, files_of, open_mudata
from indiseek.models import IndiSeekModel, _embed, embed
from indiseek.tuning import fingerprint_of_data

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}


@pytest.fixture(scope="module")
def files(make_mdata, tmp_path_factory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("cells")
    with mudata.set_options(pull_on_update=False):
        make_mdata().write(directory / "cells.h5mu")
    convert(directory / "cells.h5mu", directory / "cells.zarr", show_progress=False)
    return {"h5mu": directory / "cells.h5mu", "zarr": directory / "cells.zarr"}


def _train(mdata: MuData) -> IndiSeekModel:
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST)
    return model


@pytest.fixture(scope="module")
def in_memory(make_mdata) -> IndiSeekModel:
    return _train(make_mdata())


def _codes(model: IndiSeekModel, mdata: MuData | None = None, **options: Any) -> list[np.ndarray]:
    specific = [
        model.get_latent_representation(mdata, modality=name, kind="specific", **options) for name in model.modalities
    ]
    return [model.get_latent_representation(mdata, **options), *specific]


def _assert_same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("form", ["h5mu", "zarr"])
def test_training_from_disk_gives_the_same_codes_to_the_last_bit(files, in_memory, form, tmp_path):
    mdata = open_mudata(files[form])
    model = _train(mdata)
    # No count is held: what the model has of the cells lies on disk.
    assert all(isinstance(values, DiskMatrix) for values in model._cells.values.values())
    _assert_same(_codes(model), _codes(in_memory))
    for key, code in in_memory.adata.obsm.items():
        np.testing.assert_array_equal(mdata.obsm[key], code)
    assert {"X_indiseek_shared", "X_indiseek", "X_indiseek_rna", "X_indiseek_prot"} <= set(mdata.obsm)
    rows = np.random.default_rng(0).permutation(600)[:70]
    _assert_same(_codes(model, indices=rows), _codes(in_memory, indices=rows))
    model.save(tmp_path / "model")
    _assert_same(_codes(IndiSeekModel.load(tmp_path / "model", open_mudata(files[form]))), _codes(in_memory))


def test_a_model_trained_in_memory_takes_cells_on_disk_in_another_order_of_features(in_memory, files, tmp_path):
    cells = in_memory.adata
    with mudata.set_options(pull_on_update=False):
        other = MuData({name: adata[:, ::-1].copy() for name, adata in cells.mod.items()})
        other.write(tmp_path / "other.h5mu")
        rna = MuData({"rna": other["rna"]})
        rna.write(tmp_path / "rna.h5mu")
    _assert_same(_codes(in_memory, open_mudata(tmp_path / "other.h5mu")), _codes(in_memory))
    only = [in_memory.get_latent_representation(m, indices=[5, 2]) for m in (open_mudata(tmp_path / "rna.h5mu"), rna)]
    _assert_same(only[:1], only[1:])


def test_codes_written_chunk_by_chunk_are_those_of_write_latents(in_memory, files, tmp_path, monkeypatch):
    # Pieces of several batches of the networks each, the last one short.
    monkeypatch.setattr(_embed, "_CHUNK_CELLS", 256)
    for number, mdata in enumerate((None, in_memory.adata, open_mudata(files["zarr"]), open_mudata(files["h5mu"]))):
        target = tmp_path / f"{number}.zarr"
        embed(in_memory, mdata, target, show_progress=False)
        written = anndata.read_zarr(target)
        assert written.obs_names.equals(in_memory.adata.obs_names)
        assert set(written.obsm) == {"X_indiseek_shared", "X_indiseek", "X_indiseek_rna", "X_indiseek_prot"}
        for key, code in written.obsm.items():
            np.testing.assert_allclose(code, in_memory.adata.obsm[key], rtol=0, atol=1e-6)
            assert code.dtype == np.float32


def test_codes_are_written_whole_or_not_at_all(in_memory, files, tmp_path, monkeypatch):
    target = tmp_path / "codes.zarr"
    embed(in_memory, None, target, show_progress=False)
    with pytest.raises(FileExistsError, match="expected a new path, got .*codes.zarr, which exists"):
        embed(in_memory, None, target, show_progress=False)
    before = anndata.read_zarr(target)
    mdata = open_mudata(files["zarr"])

    def damaged(*_: Any) -> None:
        raise OSError("damage")

    with monkeypatch.context() as patch:
        patch.setattr(DiskMatrix, "_read", damaged)
        with pytest.raises(OSError, match="damage"):
            embed(in_memory, mdata, target, overwrite=True, show_progress=False)
    after = anndata.read_zarr(target)
    for key in before.obsm:
        np.testing.assert_array_equal(after.obsm[key], before.obsm[key])
    assert os.listdir(tmp_path) == ["codes.zarr"]


def test_an_untrained_model_writes_no_codes(make_mdata, tmp_path):
    with pytest.raises(RuntimeError, match="expected a trained model"):
        embed(IndiSeekModel(make_mdata(), **SMALL), None, tmp_path / "codes.zarr")
    assert not os.listdir(tmp_path)


def test_certificate_and_record_of_tuning_are_those_of_values_in_memory(make_mdata, files):
    half = {"train_size": 0.6, "validation_size": 0.2}
    found = []
    for mdata in (make_mdata(), open_mudata(files["zarr"])):
        model = IndiSeekModel(mdata, **SMALL)
        model.train(**FAST, **half, write_latents=False)
        record = fingerprint_of_data(model._cells.values, model._schema.features, model.fitted.split)
        found.append((model.certify(n_permutations=2).to_json(), record))
    assert found[0] == found[1]


def test_a_model_on_a_backed_file_goes_on_after_the_cells_are_saved(in_memory, files, tmp_path):
    copy = shutil.copy(files["h5mu"], tmp_path / "cells.h5mu")
    with mudata.set_options(pull_on_update=False):
        model = _train(mudata.read_h5mu(copy, backed="r"))
    model.save(tmp_path / "model", save_mdata=True)
    assert Path(model.adata.filename) == Path(copy)
    _assert_same(_codes(model), _codes(in_memory))
    _assert_same(_codes(IndiSeekModel.load(tmp_path / "model")), _codes(in_memory))


@pytest.mark.parametrize("how", ["backed", "opened"])
def test_cells_can_be_saved_over_the_very_file_that_they_are_read_from(in_memory, tmp_path, how):
    in_memory.save(tmp_path / "model", save_mdata=True)
    path = tmp_path / "model" / "mdata.h5mu"
    with mudata.set_options(pull_on_update=False):
        cells = mudata.read_h5mu(path, backed="r+") if how == "backed" else open_mudata(path)
    model = IndiSeekModel.load(tmp_path / "model", cells)
    for _ in range(2):
        model.save(tmp_path / "model", overwrite=True, save_mdata=True)
        _assert_same(_codes(model), _codes(in_memory))
        _assert_same(_codes(IndiSeekModel.load(tmp_path / "model")), _codes(in_memory))
    assert sorted(os.listdir(tmp_path / "model")) == ["mdata.h5mu", "model.pt"]
    if how == "backed":
        cells["prot"].X[0, 0] = 7
        cells.file.close()
        with h5py.File(path) as file:
            assert file["mod/prot/X"][0, 0] == 7


def test_cells_that_a_model_reads_are_not_deleted_when_it_is_saved_beside_them(in_memory, files, tmp_path):
    # Neither the user's own file, which no one has marked ...
    theirs = tmp_path / "theirs" / "mdata.h5mu"
    theirs.parent.mkdir()
    shutil.copy(files["h5mu"], theirs)
    model = IndiSeekModel.load(_saved(in_memory, tmp_path / "model"), open_mudata(theirs))
    model.save(theirs.parent, overwrite=True)
    assert theirs.read_bytes() == files["h5mu"].read_bytes()
    with pytest.raises(FileExistsError, match="expected nothing at .*mdata.h5mu, or what indiseek has written"):
        model.save(theirs.parent, overwrite=True, save_mdata=True)
    _assert_same(_codes(model), _codes(in_memory))
    # ... nor the one that an earlier save has written.
    in_memory.save(tmp_path / "ours", save_mdata=True)
    ours = tmp_path / "ours" / "mdata.h5mu"
    model = IndiSeekModel.load(tmp_path / "ours", open_mudata(ours))
    model.save(tmp_path / "ours", overwrite=True)
    assert ours.exists()
    _assert_same(_codes(model), _codes(in_memory))
    in_memory.save(tmp_path / "ours", overwrite=True)
    assert not ours.exists()


def test_raw_values_are_not_lost_where_cells_are_saved_over_their_own_file(make_mdata, tmp_path):
    cells = make_mdata()
    cells["rna"].raw = cells["rna"]
    _train(cells).save(tmp_path / "model", save_mdata=True)
    model = IndiSeekModel.load(tmp_path / "model", open_mudata(tmp_path / "model" / "mdata.h5mu"))
    with pytest.raises(FileExistsError, match=r"expected another place to save than .* raw slot of \['rna'\]; choose"):
        model.save(tmp_path / "model", overwrite=True, save_mdata=True)
    assert IndiSeekModel.load(tmp_path / "model").adata["rna"].raw is not None
    model.save(tmp_path / "elsewhere", save_mdata=True)


def _saved(model: IndiSeekModel, directory: Path) -> Path:
    model.save(directory)
    return directory


def test_codes_are_never_written_over_the_cells(in_memory, files, tmp_path):
    path = Path(shutil.copytree(files["zarr"], tmp_path / "cells.zarr"))
    (tmp_path / "link.zarr").symlink_to("cells.zarr")
    on_disk = IndiSeekModel.load(_saved(in_memory, tmp_path / "model"), open_mudata(path))
    for model, mdata in ((in_memory, open_mudata(path)), (on_disk, None)):
        for target in (path, tmp_path / "link.zarr"):
            with pytest.raises(FileExistsError, match="expected another place to write than .*cells.zarr, which"):
                embed(model, mdata, target, overwrite=True, show_progress=False)
    _assert_same(_codes(in_memory, open_mudata(path)), _codes(in_memory))


def test_the_files_of_cells_are_known(make_mdata, files, tmp_path):
    assert files_of(make_mdata()) == set()
    for path in files.values():
        assert files_of(open_mudata(path)) == {path.resolve()}
    link = tmp_path / "link.h5mu"
    link.symlink_to(files["h5mu"])
    assert files_of(open_mudata(link)) == {files["h5mu"].resolve()}
    with mudata.set_options(pull_on_update=False):
        backed = mudata.read_h5mu(link, backed="r")
    assert files_of(backed) == {files["h5mu"].resolve()}
    backed.file.close()
