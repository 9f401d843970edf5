"""Cells of several files, one for each donor, are those of one file, to the last bit."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import mudata
import numpy as np
import pytest
from mudata import MuData
from small import SMALL

from indiseek.data import DiskMatrix, convert, files_of, open_mudata, write_mudata
from indiseek.models import IndiSeekModel

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}
PARTS = (range(0, 170), range(170, 400), range(400, 600))
NAMES = ["donor0", "donor1", "donor2"]


def write(mdata: MuData, path: Path) -> Path:
    with mudata.set_options(pull_on_update=False):
        mdata.write(path)
    return path


def part(mdata: MuData, rows: range, number: int) -> MuData:
    """Some cells, with columns of their own; of every second part the features are in another order."""
    found = {}
    for name, adata in mdata.mod.items():
        order = np.arange(adata.n_vars)[:: -1 if number % 2 else 1]
        found[name] = adata[list(rows), order].copy()
        found[name].obs["quality"] = np.linspace(0, 1, len(rows))
    with mudata.set_options(pull_on_update=False):
        result = MuData(found)
        result.obs["sex"] = np.where(np.arange(len(rows)) < 5, "f", f"m{number}")
        result.obs["sex"] = result.obs["sex"].astype("category")
    return result


@pytest.fixture(scope="module")
def files(make_mdata, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("donors")
    cells = make_mdata()
    return [write(part(cells, rows, i), folder / f"{NAMES[i]}.h5mu") for i, rows in enumerate(PARTS)]


def codes(model: IndiSeekModel) -> list[np.ndarray]:
    specific = [model.get_latent_representation(modality=name, kind="specific") for name in model.modalities]
    return [model.get_latent_representation(), *specific]


def train(mdata: MuData, batch_key: str | None) -> IndiSeekModel:
    IndiSeekModel.setup_mudata(mdata, batch_key=batch_key)
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST)
    return model


@pytest.mark.parametrize("batch_key", [None, "file"])
def test_a_fit_is_that_on_their_concatenation_to_the_last_bit(files, make_mdata, batch_key):
    mdata = open_mudata(files)
    model = train(mdata, batch_key)
    assert all(isinstance(values, DiskMatrix) for values in model._cells.values.values())
    whole = make_mdata()
    whole.obs["file"] = np.repeat(NAMES, [len(rows) for rows in PARTS])
    for one, other in zip(codes(model), codes(train(whole, batch_key)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_columns_and_files_are_told(files, make_mdata):
    mdata, whole = open_mudata(files), make_mdata()
    assert list(mdata.obs_names) == list(whole.obs_names)
    assert list(mdata.obs["file"].cat.categories) == NAMES
    assert list(mdata.obs["file"]) == list(np.repeat(NAMES, [len(rows) for rows in PARTS]))
    assert list(mdata.obs["sex"].cat.categories) == ["f", "m0", "m1", "m2"]
    assert mdata["rna"].obs["quality"].notna().all()
    assert files_of(mdata) == {path.resolve() for path in files}
    for name, adata in whole.mod.items():
        assert list(mdata[name].var_names) == list(adata.var_names)
        for rows in (slice(160, 180), slice(None), [599, 3, 3, 170]):
            found, expected = mdata[name].X[rows], adata.X[rows]
            np.testing.assert_array_equal(*(getattr(each, "todense", lambda e=each: e)() for each in (found, expected)))
        np.testing.assert_array_equal(mdata[name][[5, 300]].X.toarray(), adata[[5, 300]].X.toarray())


def test_a_zarr_of_all_is_written_and_zarrs_are_joined(files, make_mdata, tmp_path):
    zarrs = [tmp_path / f"{path.stem}.zarr" for path in files]
    for path, target in zip(files, zarrs, strict=True):
        convert(path, target, show_progress=False)
    mdata = open_mudata([zarrs[0], files[1], zarrs[2]], file_key="donor")
    assert list(mdata.obs["donor"].cat.categories) == NAMES
    np.testing.assert_array_equal(mdata["rna"].X[:].toarray(), make_mdata()["rna"].X.toarray())
    convert(files, tmp_path / "all.zarr", show_progress=False)
    whole = open_mudata(tmp_path / "all.zarr")
    assert list(whole.obs["file"]) == list(mdata.obs["donor"])
    for name, adata in make_mdata().mod.items():
        found = whole[name].X[:]
        np.testing.assert_array_equal(found.toarray() if name == "rna" else found, adata.to_df().to_numpy())
    with mudata.set_options(pull_on_update=False):
        assert mdata.copy()["rna"].X.shape == mdata["rna"].shape
    with pytest.raises(TypeError, match="got some that lie in several files, .*convert"):
        write_mudata(mdata, tmp_path / "all.h5mu")


def test_some_features_are_left_out_with_a_warning(files, make_mdata, tmp_path):
    fewer = part(make_mdata(), PARTS[1], 0)
    with mudata.set_options(pull_on_update=False):
        fewer = MuData({"rna": fewer["rna"][:, 10:].copy(), "prot": fewer["prot"]})
    path = write(fewer, tmp_path / "few.h5mu")
    n = make_mdata()["rna"].n_vars
    with pytest.warns(UserWarning, match=f"{n - 10} features of 'rna' are in all files and are kept; donor0 has {n}"):
        mdata = open_mudata([files[0], path])
    assert list(mdata["rna"].var_names) == list(make_mdata()["rna"].var_names[10:])


def test_names_of_cells_that_repeat_get_the_name_of_their_file(files, tmp_path):
    (tmp_path / "other").mkdir()
    copy = shutil.copy(files[0], tmp_path / "other" / "donor0.h5mu")
    parent = files[0].parent.name
    with pytest.warns(UserWarning, match="170 names of cells are in several files"):
        mdata = open_mudata([files[0], copy])
    assert list(mdata.obs["file"].cat.categories) == [f"{parent}/donor0", "other/donor0"]
    assert mdata.obs_names.is_unique and mdata.obs_names[-1].startswith("other/donor0:")
    assert mdata["rna"].obs_names.equals(mdata.obs_names)


def test_one_file_in_a_list_is_a_file_with_its_name(files):
    assert list(open_mudata(files[:1]).obs["file"].unique()) == NAMES[:1]


def _without_proteins(cells: MuData) -> MuData:
    return MuData({"rna": cells["rna"]})


def _other_names(cells: MuData) -> MuData:
    cells["prot"].var_names = [f"x{i}" for i in range(cells["prot"].n_vars)]
    return MuData(dict(cells.mod))


def _twice(cells: MuData) -> MuData:
    cells["prot"].var_names = ["a", *cells["prot"].var_names[1:-1], "a"]
    return MuData(dict(cells.mod))


def _column(cells: MuData) -> MuData:
    cells.obs["file"] = "mine"
    return cells


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_proteins, r"expected modalities \['rna', 'prot'\] in every file, got none called \['prot'\] in bad"),
        (_other_names, "expected features of 'prot' that all files have, got none"),
        (_twice, "expected each feature of 'prot' once, got 1 names twice in bad"),
        (_column, "expected no column 'file' in .obs, .* got one in bad; name another with file_key"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    files, make_mdata, tmp_path, change: Callable[[MuData], MuData], words: str
):
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = write(change(part(make_mdata(), PARTS[1], 0)), tmp_path / "bad.h5mu")
    with pytest.raises(ValueError, match=words), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        open_mudata([files[0], bad])


def test_no_file_one_file_twice_and_other_things_are_refused(files):
    with pytest.raises(ValueError, match="expected one or more files, got an empty list"):
        open_mudata([])
    with pytest.raises(ValueError, match="expected each file once, got .*donor0.h5mu.* more than once"):
        open_mudata([files[0], files[1], files[0].parent / "." / "donor0.h5mu"])
    with pytest.raises(TypeError, match="expected each path to be a path, got 3"):
        open_mudata([files[0], 3])
    with pytest.raises(FileNotFoundError, match="expected an h5mu file or a zarr directory at .*missing"):
        open_mudata([files[0], files[0].with_name("missing.h5mu")])


def test_damage_names_the_file_that_has_it(files, make_mdata, tmp_path):
    path = write(part(make_mdata(), PARTS[1], 0), tmp_path / "bad.h5mu")
    with h5py.File(path, "r+") as file:
        indices = file["mod/rna/X/indices"]
        indices[100] = 10**6
    mdata = open_mudata([files[0], path])
    assert isinstance(mdata["rna"].X, anndata.abc.CSRDataset)
    with pytest.raises(OSError, match=r"damage in .*bad\.h5mu.*feature numbers outside"):
        IndiSeekModel(mdata, **SMALL)
