"""Values on disk are those in memory, read in pieces; files are written whole or not at all, and damage is named."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import namedtuple
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from indiseek.data import (
    CLR,
    Cells,
    DiskMatrix,
    LogNormalizePCA,
    Scale,
    Schema,
    Setup,
    _convert,
    _disk,
    _reading,
    _zarr,
    convert,
    is_sparse,
    make_setup,
    open_mudata,
    row_chunks,
)
from indiseek.data._values import canonical_values, summary_of

N_CELLS, N_GENES, N_PROTEINS = 150, 40, 7


def _counts(shape: tuple[int, int], density: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((1 + rng.poisson(5.0, shape)) * (rng.random(shape) < density)).astype(np.float32)


def make_cells(n_cells: int = N_CELLS, form: Any = sparse.csr_matrix) -> MuData:
    obs = pd.DataFrame({"batch": np.arange(n_cells) % 3}, index=[f"c{i}" for i in range(n_cells)])
    rna = AnnData(form(_counts((n_cells, N_GENES), 0.2)), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(40)]))
    prot = AnnData(_counts((n_cells, N_PROTEINS), 0.8, 1), obs=obs, var=pd.DataFrame(index=list("abcdefg")))
    rna.layers["twice"] = sparse.csr_matrix(2 * _counts((n_cells, N_GENES), 0.2))
    rna.obsm["umap"] = np.arange(2.0 * n_cells).reshape(n_cells, 2)
    rna.uns["note"] = "kept"
    with mudata.set_options(pull_on_update=False):
        mdata = MuData({"rna": rna, "prot": prot})
    mdata.obs["donor"] = [f"d{i % 2}" for i in range(n_cells)]
    mdata.obsm["both"] = np.arange(float(n_cells))[:, None]
    mdata.uns["study"] = "one"
    return mdata


def write_h5mu(mdata: MuData, path: Path) -> Path:
    with mudata.set_options(pull_on_update=False):
        mdata.write(path)
    return path


def _small_shards(patch: pytest.MonkeyPatch) -> None:
    """Several shards of several chunks, and several buckets, of few cells."""
    patch.setattr(_convert, "_CHUNK", 128)
    patch.setattr(_convert, "_SHARD", 512)
    patch.setattr(_convert, "_BUCKET_CELLS", 40)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    write_h5mu(make_cells(), directory / "cells.h5mu")
    with pytest.MonkeyPatch.context() as patch:
        _small_shards(patch)
        convert(directory / "cells.h5mu", directory / "cells.zarr", show_progress=False)
    return directory


@pytest.fixture
def h5mu(template, tmp_path) -> Path:
    return Path(shutil.copy(template / "cells.h5mu", tmp_path))


@pytest.fixture
def cells_zarr(template, h5mu) -> Path:
    return Path(shutil.copytree(template / "cells.zarr", h5mu.with_suffix(".zarr")))


def _same(a: Any, b: Any) -> None:
    assert type(a) is type(b) and a.dtype == b.dtype == np.float32
    if sparse.issparse(a):
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    else:
        np.testing.assert_array_equal(a, b)


def _on_disk(path: Path) -> dict[str, DiskMatrix]:
    mdata = open_mudata(path)
    values = {name: canonical_values(adata, None, name) for name, adata in mdata.mod.items()}
    assert all(isinstance(matrix, DiskMatrix) for matrix in values.values())
    return values


def _in_memory(mdata: MuData) -> dict[str, Any]:
    return {name: canonical_values(adata, None, name) for name, adata in mdata.mod.items()}


ROWS = {
    "all": slice(None),
    "slice": slice(20, 101),
    "steps": slice(3, 140, 7),
    "one run": np.arange(33, 60),
    "sorted": np.sort(np.random.default_rng(0).choice(N_CELLS, 60, replace=False)),
    "unsorted": np.random.default_rng(1).permutation(N_CELLS)[:60],
    "repeated": np.array([5, 140, 5, 77]),
    "mask": np.arange(N_CELLS) % 4 == 1,
    "none": np.array([], dtype=np.intp),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_pieces_from_disk_are_those_in_memory(cells_zarr, monkeypatch, rows, suffix):
    monkeypatch.setattr(_disk, "CHUNK_CELLS", 32)
    values, expected = _on_disk(cells_zarr.with_suffix(suffix)), _in_memory(make_cells())
    for name in ("rna", "prot"):
        assert values[name].shape == expected[name].shape
        _same(values[name][ROWS[rows]], expected[name][ROWS[rows]])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, lambda x: sparse.csr_matrix(x.astype(np.int32))])
@pytest.mark.parametrize("density", [0.2, 0.6])
def test_the_form_depends_on_the_values_not_on_the_file(tmp_path, form, density):
    x = _counts((N_CELLS, N_GENES), density)
    with mudata.set_options(pull_on_update=False):
        mdata = MuData({"rna": AnnData(form(x))})
    values = _on_disk(write_h5mu(mdata, tmp_path / "x.h5mu"))["rna"]
    assert values.as_sparse is is_sparse(values) is (density == 0.2)
    _same(values[:], canonical_values(AnnData(x), None, "rna"))


def test_the_summary_is_that_of_values_in_memory(h5mu):
    x = make_cells()["rna"].X.toarray()
    x[4], x[7, 2], x[8, 1] = 0, -1.5, np.nan
    with h5py.File(h5mu, "r+") as file:
        del file["mod/rna/X"]
        anndata.io.write_elem(file["mod/rna"], "X", sparse.csr_matrix(x))
    found = summary_of(_on_disk(h5mu)["rna"])
    expected = summary_of(canonical_values(AnnData(x), None, "rna"))
    assert (found.n_nonzero, found.n_bad, found.whole) == (np.count_nonzero(x), 1, False)
    for a, b in ((found.empty, expected.empty), (found.low, expected.low), (found.high, expected.high)):
        np.testing.assert_array_equal(a, b)
    assert found.empty.tolist() == [i == 4 for i in range(N_CELLS)]


def test_no_read_is_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr(_disk, "CHUNK_CELLS", 32)
    reads = []

    class Source:
        shape, dtype = (N_CELLS, 3), np.dtype(np.float32)

        def __getitem__(self, rows: slice) -> np.ndarray:
            reads.append((rows.start, rows.stop))
            return np.arange(3.0 * N_CELLS, dtype=np.float32).reshape(-1, 3)[rows]

    matrix = DiskMatrix(Source(), "prot", as_sparse=False)
    assert matrix[np.array([40, 3, 149, 35])][:, 0].tolist() == [120, 9, 447, 105]
    assert reads == [(3, 4), (35, 41), (149, 150)]
    reads.clear()
    assert matrix[:].shape == (N_CELLS, 3)
    assert reads == [(0, 32), (32, 64), (64, 96), (96, 128), (128, 150)]


@pytest.mark.parametrize("transform", [Scale, CLR, lambda: LogNormalizePCA(n_top_features=30, n_components=5)])
def test_transforms_fitted_and_applied_from_disk_are_the_same_to_the_last_bit(tmp_path, transform):
    # More cells than in one chunk.
    cells = make_cells(5000)
    convert(write_h5mu(cells, tmp_path / "x.h5mu"), tmp_path / "x.zarr", show_progress=False)
    rows = np.sort(np.random.default_rng(0).choice(5000, 4500, replace=False))
    features = []
    for values in (_in_memory(cells)["rna"], _on_disk(tmp_path / "x.zarr")["rna"]):
        fitted = transform()
        fitted.fit(values, rows)
        features.append((fitted.apply_to(values), fitted.apply_to(values, rows[::-1])))
    assert torch.equal(features[0][0], features[1][0])
    assert torch.equal(features[0][1], features[1][1])


def test_checks_and_choices_are_those_of_values_in_memory(cells_zarr, log):
    cells = make_cells()
    for mdata in (cells, open_mudata(cells_zarr)):
        found, transforms = Cells.to_train_on(mdata, make_setup(mdata, None, {"rna": "twice"}), {})
        assert [type(transforms[name]) for name in ("rna", "prot")] == [LogNormalizePCA, CLR]
        _same(found.values["rna"][:], canonical_values(cells["rna"], "twice", "rna"))
    with h5py.File(cells_zarr.with_suffix(".h5mu"), "r+") as file:
        file["mod/prot/X"][:, 3] = 0
    bad = open_mudata(cells_zarr.with_suffix(".h5mu"))
    assert not log.messages
    found, _ = Cells.to_train_on(bad, make_setup(bad), {})
    assert found.schema.dropped == {"prot": ["d"]} and "d" not in found.schema.features["prot"]
    np.testing.assert_array_equal(found.values["prot"][:], np.delete(cells["prot"].X, 3, axis=1))
    assert found.changed is None
    found.check_names(bad)


def test_features_that_take_much_memory_are_warned_of(cells_zarr, log, monkeypatch):
    monkeypatch.setattr(_reading, "_MANY_BYTES", N_CELLS * N_PROTEINS * 4 - 1)
    mdata = open_mudata(cells_zarr)
    Cells.to_train_on(mdata, make_setup(mdata), {"rna": LogNormalizePCA(n_components=5)})
    (message,) = log.messages
    assert "the features that the model sees of 'prot' take 0.0 GiB of memory (cells x features x 4 bytes)" in message


def _schema(layer: str | None, genes: list[str]) -> Schema:
    proteins = make_cells()["prot"].var_names.tolist()
    return Schema(
        setup=Setup(modalities=("rna", "prot"), layers={"rna": layer, "prot": None}),
        features={"rna": genes, "prot": proteins},
        sparse={"rna": True, "prot": False},
        registry={"field_registries": {}},
    )


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_features_in_another_order_are_read_in_the_models(cells_zarr, suffix):
    features = [f"g{j}" for j in np.random.default_rng(0).permutation(N_GENES)]
    for layer in (None, "twice"):
        pair = [
            _schema(layer, features).read(mdata).values["rna"]
            for mdata in (make_cells(), open_mudata(cells_zarr.with_suffix(suffix)))
        ]
        _same(pair[1][np.arange(100)], pair[0][:100])
        # Twice reordered is reordered back.
        back = np.argsort(make_cells()["rna"].var_names.get_indexer(features))
        _same(pair[1].ordered(back)[:], canonical_values(make_cells()["rna"], layer, "rna"))


def test_the_record_of_scvi_tools_holds_no_values_of_the_disk(h5mu):
    mdata = open_mudata(h5mu)
    cells, _ = Cells.to_train_on(mdata, make_setup(mdata), {})
    assert all(adata.X is None for adata in cells.manager.adata.mod.values())
    assert cells.schema.registry["field_registries"]["X_rna"]["state_registry"]["n_vars"] == N_GENES


def test_csc_on_disk_is_refused_and_can_be_converted(tmp_path):
    cells = make_cells(form=sparse.csc_matrix)
    path = write_h5mu(cells, tmp_path / "x.h5mu")
    with pytest.raises(TypeError, match="expected CSR or dense values on disk in modality 'rna', got CSC, .* convert"):
        canonical_values(open_mudata(path)["rna"], None, "rna")
    convert(path, tmp_path / "x.zarr", show_progress=False)
    _same(_on_disk(tmp_path / "x.zarr")["rna"][:], canonical_values(cells["rna"], None, "rna"))


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_everything_but_the_values_is_read(cells_zarr, suffix):
    mdata, expected = open_mudata(cells_zarr.with_suffix(suffix)), make_cells()
    assert list(mdata.mod) == ["rna", "prot"]
    assert mdata.obs["donor"].astype(str).tolist() == expected.obs["donor"].tolist()
    np.testing.assert_array_equal(mdata.obsm["both"], expected.obsm["both"])
    assert mdata.uns["study"] == "one" and mdata["rna"].uns["note"] == "kept"
    np.testing.assert_array_equal(mdata["rna"].obsm["umap"], expected["rna"].obsm["umap"])
    for name, adata in mdata.mod.items():
        assert adata.obs_names.equals(expected[name].obs_names) and adata.var_names.equals(expected[name].var_names)
        assert adata.obs["batch"].tolist() == expected[name].obs["batch"].tolist()


def test_a_converted_zarr_is_sharded_checked_and_read_by_mudata(cells_zarr):
    expected = make_cells()
    with mudata.set_options(pull_on_update=False):
        read = mudata.read_zarr(cells_zarr)
    for name in ("rna", "prot"):
        _same(canonical_values(read[name], None, name), canonical_values(expected[name], None, name))
    array = zarr.open_group(cells_zarr, mode="r")["mod/rna/X/data"]
    assert (array.metadata.zarr_format, array.chunks, array.shards) == (3, (128,), (512,))
    assert "Crc32cCodec" in [type(codec).__name__ for codec in array.compressors]
    assert sorted(path.name for path in cells_zarr.parent.iterdir()) == ["cells.h5mu", "cells.zarr"]


def test_shuffling_moves_whole_cells(cells_zarr, monkeypatch):
    _small_shards(monkeypatch)
    target, again = (cells_zarr.with_name(f"{word}.zarr") for word in ("shuffled", "again"))
    convert(cells_zarr, target, shuffle=True, seed=3, show_progress=False)
    convert(cells_zarr, again, shuffle=True, seed=3, show_progress=False)
    expected, mdata = make_cells(), open_mudata(target)
    order = expected.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_array_equal(order, np.random.default_rng(3).permutation(N_CELLS))
    assert open_mudata(again).obs_names.equals(mdata.obs_names)
    assert mdata["rna"].obs["batch"].tolist() == (order % 3).tolist()
    np.testing.assert_array_equal(mdata.obsm["both"], order[:, None])
    assert mdata.obs["donor"].astype(str).tolist() == [f"d{i % 2}" for i in order]
    for name, adata in mdata.mod.items():
        assert adata.obs_names.equals(mdata.obs_names)
        _same(canonical_values(adata, None, name)[:], canonical_values(expected[name], None, name)[order])


class FullDisk:
    """Writes of zarr fail after some that go well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_good: int, error: BaseException) -> None:
        write = zarr.storage.LocalStore.set
        self.n = 0

        async def limited(store: Any, *arguments: Any) -> None:
            self.n += 1
            if self.n > n_good:
                raise error
            await write(store, *arguments)

        monkeypatch.setattr(zarr.storage.LocalStore, "set", limited)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("n_good", [0, 60])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing_behind_and_the_earlier_file_as_it_was(h5mu, monkeypatch, n_good, overwrite):
    target = h5mu.with_suffix(".zarr")
    if overwrite:
        convert(h5mu, target, show_progress=False)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, n_good, FULL)
        with pytest.raises(
            OSError, match="expected room for .*cells.zarr, got a full disk .No space.*; .* make room"
        ) as caught:
            convert(h5mu, target, overwrite=overwrite, show_progress=False)
        assert disk.n > n_good
    assert caught.value.errno == errno.ENOSPC
    left = sorted(path.name for path in h5mu.parent.iterdir())
    assert left == (["cells.h5mu", "cells.zarr"] if overwrite else ["cells.h5mu"])
    if overwrite:
        _same(_on_disk(target)["rna"][:], _in_memory(make_cells())["rna"])
    # And there is nothing in the way of a second try.
    convert(h5mu, target, overwrite=overwrite, show_progress=False)


def test_ctrl_c_leaves_nothing_behind(h5mu, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_convert, "_write_matrix", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(h5mu, h5mu.with_suffix(".zarr"), show_progress=False)
    assert [path.name for path in h5mu.parent.iterdir()] == ["cells.h5mu"]


def test_too_little_room_is_said_before_anything_is_written(h5mu, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(_zarr.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100))
    with pytest.raises(OSError, match=r"room for .*cells.zarr, got a full disk .at least 0.00 GiB are needed and 0.00"):
        convert(h5mu, h5mu.with_suffix(".zarr"), show_progress=False)
    assert [path.name for path in h5mu.parent.iterdir()] == ["cells.h5mu"]


def test_one_process_writes_at_a_time(h5mu, monkeypatch):
    target = h5mu.with_suffix(".zarr")
    write = _convert._write_annotations

    def meanwhile(*arguments: Any) -> None:
        with pytest.raises(FileExistsError, match=f"no other process to write .*the lock .* of process {os.getpid()};"):
            convert(h5mu, target, show_progress=False)
        write(*arguments)

    monkeypatch.setattr(_convert, "_write_annotations", meanwhile)
    convert(h5mu, target, show_progress=False)
    assert sorted(path.name for path in h5mu.parent.iterdir()) == ["cells.h5mu", "cells.zarr"]
    _same(_on_disk(target)["rna"][:], _in_memory(make_cells())["rna"])


def test_what_is_there_is_replaced_only_if_asked_for_and_a_zarr(h5mu, tmp_path):
    target = tmp_path / "cells.zarr"
    convert(h5mu, target, show_progress=False)
    with pytest.raises(FileExistsError, match="expected a new path, got .*cells.zarr, which exists; choose another"):
        convert(h5mu, target, show_progress=False)
    convert(h5mu, target, overwrite=True, show_progress=False)
    (tmp_path / "papers").mkdir()
    for other in (tmp_path / "papers", h5mu):
        with pytest.raises(FileExistsError, match="expected a zarr directory to overwrite, got .* something else"):
            convert(h5mu, other, overwrite=True, show_progress=False)
        assert other.exists()


def test_what_is_not_ours_or_is_read_from_is_never_replaced(h5mu, tmp_path):
    ours, theirs = tmp_path / "ours.zarr", tmp_path / "theirs.zarr"
    convert(h5mu, ours, show_progress=False)
    with mudata.set_options(pull_on_update=False):
        mudata.read_h5mu(h5mu).write_zarr(theirs)
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="expected nothing at .*theirs.zarr, or what indiseek has written"):
        convert(h5mu, theirs, overwrite=True, show_progress=False)
    assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before
    (tmp_path / "link.zarr").symlink_to("ours.zarr")
    for source, target in ((ours, ours), (ours, tmp_path / "link.zarr"), (tmp_path / "link.zarr", ours)):
        with pytest.raises(FileExistsError, match="expected another place to write than .*ours.zarr, which is read fr"):
            convert(source, target, overwrite=True, show_progress=False)
    with pytest.raises(FileExistsError, match="which is read from"):
        convert(ours, ours / "inside.zarr", show_progress=False)
    _same(_on_disk(ours)["rna"][:], _in_memory(make_cells())["rna"])


def test_a_target_that_is_a_link_stays_one(h5mu, tmp_path):
    (tmp_path / "large").mkdir()
    link = tmp_path / "link.zarr"
    link.symlink_to("large/cells.zarr")
    for overwrite in (False, True):
        convert(h5mu, link, overwrite=overwrite, show_progress=False)
        assert link.is_symlink()
        _same(_on_disk(tmp_path / "large" / "cells.zarr")["rna"][:], _in_memory(make_cells())["rna"])
    assert os.listdir(tmp_path / "large") == ["cells.zarr"]


KILLED = """
import os, signal, sys
from pathlib import Path
from indiseek.data import convert
when = int(sys.argv[3])
rename = Path.rename
def killed(path, target):
    global when
    when -= 1
    if when < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = killed
Path.replace = killed
convert(Path(sys.argv[1]), Path(sys.argv[2]), overwrite=True, show_progress=False)
"""


@pytest.mark.parametrize("n_moves", [0, 1, 2])
def test_killed_between_any_two_moves_there_is_a_zarr_that_opens(h5mu, n_moves):
    target = h5mu.with_suffix(".zarr")
    convert(h5mu, target, show_progress=False)
    command = [sys.executable, "-c", KILLED, str(h5mu), str(target), str(n_moves)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    assert target.with_name(f"{target.name}.lock").exists()
    _same(_on_disk(target)["rna"][:], _in_memory(make_cells())["rna"])
    # Nothing is in the way of a second try, and nothing is left after it.
    convert(h5mu, target, overwrite=True, show_progress=False)
    assert sorted(path.name for path in h5mu.parent.iterdir()) == ["cells.h5mu", "cells.zarr"]


def _chunk(path: Path, array: str = "mod/rna/X/indices", name: str = "1") -> Path:
    file = path / array / "c" / name
    assert file.is_file()
    return file


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, lambda file: file.write_bytes(b"short")])
def test_a_damaged_chunk_is_named(cells_zarr, damage):
    file = _chunk(cells_zarr)
    damage(file)
    with pytest.raises(OSError, match=f"readable values of modality 'rna', got damage in {file} .*write it again from"):
        _on_disk(cells_zarr)
    file = _chunk(cells_zarr, "mod/prot/X", "2/0")
    damage(file)
    with pytest.raises(OSError, match=f"readable values of modality 'prot', got damage in {file} "):
        canonical_values(open_mudata(cells_zarr)["prot"], None, "prot")


@pytest.mark.parametrize("where", ["obs", "mod/rna/obs", "mod/prot/var"])
def test_damaged_annotations_are_named(cells_zarr, where):
    _truncate(_chunk(cells_zarr, f"{where}/_index", "0"))
    message = f"expected a readable MuData in {cells_zarr}, got damage in {where} .*write it again from its source"
    with pytest.raises(OSError, match=message):
        open_mudata(cells_zarr)


@pytest.mark.parametrize("where", ["obs", "mod/rna", "mod/rna/obs", "mod/prot/var"])
@pytest.mark.parametrize("damage", [Path.unlink, _truncate])
@pytest.mark.filterwarnings("ignore:Object at:zarr.errors.ZarrUserWarning")
def test_damaged_metadata_are_named(cells_zarr, where, damage):
    # Zarr keeps a copy of all metadata at the root; without it each group's own is read.
    root = cells_zarr / "zarr.json"
    content = json.loads(root.read_text())
    content.pop("consolidated_metadata", None)
    root.write_text(json.dumps(content))
    damage(cells_zarr / where / "zarr.json")
    with pytest.raises(OSError, match=f"expected a readable MuData in {cells_zarr}, got damage in "):
        open_mudata(cells_zarr)


@pytest.mark.filterwarnings("ignore:\\s*AnnData expects:UserWarning")
def test_small_tables_and_names_of_other_types_are_no_damage(tmp_path):
    cells = make_cells()
    table = pd.DataFrame({"a": [0.0]})
    cells.uns["table"], cells["rna"].uns["table"] = table, table
    names = cells["prot"].var_names
    cells["prot"].var_names = pd.CategoricalIndex(names)
    with mudata.set_options(pull_on_update=False):
        cells.write(tmp_path / "cells.h5mu")
    convert(tmp_path / "cells.h5mu", tmp_path / "cells.zarr", show_progress=False)
    opened = open_mudata(tmp_path / "cells.zarr")
    pd.testing.assert_frame_equal(opened["rna"].uns["table"], table, check_index_type=False)
    assert list(opened["prot"].var_names) == list(names)
    _chunk(tmp_path / "cells.zarr", "mod/prot/var/_index", "0").unlink()
    with pytest.raises(OSError, match="expected 1 chunk files in .*mod/prot/var/_index/c, got 0; restore"):
        open_mudata(tmp_path / "cells.zarr")


def test_slots_that_are_not_there_are_no_damage(h5mu):
    with h5py.File(h5mu, "r+") as file:
        for slot in ("obsp", "uns", "mod/rna/varm"):
            del file[slot]
    assert open_mudata(h5mu).n_obs == N_CELLS


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize(
    ("array", "name"), [("mod/rna/X/indices", "1"), ("obs/_index", "0"), ("mod/rna/var/_index", "0")]
)
def test_a_lost_chunk_is_not_taken_for_zeros_or_empty_names(cells_zarr, lose, array, name):
    file = _chunk(cells_zarr, array, name)
    n_files = len(list(file.parent.iterdir()))
    lose(file)
    with pytest.raises(OSError, match=f"expected {n_files} chunk files in {file.parent}, got {n_files - 1}; restore"):
        open_mudata(cells_zarr)


def test_feature_numbers_that_do_not_exist_are_damage(h5mu):
    with h5py.File(h5mu, "r+") as file:
        file["mod/rna/X/indices"][5] = N_GENES
    with pytest.raises(OSError, match="damage in .*cells.h5mu: /mod/rna/X .feature numbers outside 0 to 39"):
        _on_disk(h5mu)


def test_a_damaged_source_is_not_converted(cells_zarr):
    target = cells_zarr.with_name("other.zarr")
    convert(cells_zarr, target, show_progress=False)
    _flip(_chunk(cells_zarr, "mod/rna/layers/twice/data"))
    with pytest.raises(OSError, match="got damage in .*cells.zarr/mod/rna/layers/twice/data/c/1"):
        convert(cells_zarr, target, overwrite=True, show_progress=False)
    _same(_on_disk(target)["rna"][:], _in_memory(make_cells())["rna"])


def test_a_truncated_h5mu_cannot_be_opened(h5mu):
    _truncate(h5mu)
    with pytest.raises(OSError, match="expected a complete h5mu file or zarr directory at .*cells.h5mu, .*restore it"):
        open_mudata(h5mu)


def test_what_is_no_mudata_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an h5mu file or a zarr directory at .*none, got nothing"):
        open_mudata(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="expected a complete h5mu file or zarr directory at .*empty"):
        open_mudata(tmp_path / "empty")
    make_cells()["prot"].write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(ValueError, match="expected a MuData in .*one.h5ad, got .*'X'.*; build one from its parts"):
        open_mudata(tmp_path / "one.h5ad")


def test_pieces_cover_all_rows_in_order():
    x = np.arange(20.0, dtype=np.float32)[:, None]
    assert [len(piece) for piece in row_chunks(x, size=8)] == [8, 8, 4]
    rows = np.array([3, 1, 19, 0, 7])
    assert np.concatenate(list(row_chunks(x, rows, size=2))).ravel().tolist() == rows.tolist()


@pytest.mark.parametrize("name", ["rna", "prot"])
def test_a_closed_file_is_said_to_be_closed(h5mu, name):
    values = _on_disk(h5mu)[name]
    source = values._source
    (source.group if name == "rna" else source).file.close()
    with pytest.raises(OSError, match=f"values of modality {name!r}, got damage in a file that has been closed"):
        values[:10]


@pytest.mark.parametrize("rows", [None, np.array([7, 3, 3, 19])])
def test_a_piece_of_cells_in_memory_costs_what_it_holds(rows):
    rng = np.random.default_rng(0)
    n_cells, n_stored = 20, 50_000
    indptr = np.arange(0, n_cells * n_stored + 1, n_stored, dtype=np.int64)
    indices = np.tile(np.arange(n_stored, dtype=np.int32), n_cells)
    values = sparse.csr_matrix((rng.random(n_cells * n_stored, np.float32), indices, indptr))
    # As anndata reads them: scipy would convert all indices for every piece.
    values.indptr, values.indices = indptr, indices
    expected = values.toarray() if rows is None else values.toarray()[rows]
    tracemalloc.start()
    pieces = list(itertools.islice(row_chunks(values, rows, size=1), 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(np.concatenate([piece.toarray() for piece in pieces]), expected[:2])
    assert peak < 0.5 * indices.nbytes
