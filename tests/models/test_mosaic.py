"""Models of cells of which some lack a modality."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mosaic import COLUMNS, masked, mosaic, parted
from mudata import MuData
from numpy.typing import NDArray
from small import SIZES, Killed, pair

from indiseek.data import LogNormalizePCA, Transform, convert, open_mudata
from indiseek.models import ClosedForm, IndiSeekModel, NCEClub, embed
from indiseek.nn import BatchDisplacement

N_ALONE = 100
# 400 paired cells, of which 120 are test cells.
FAST: dict[str, Any] = {
    "max_epochs": 2,
    "batch_size": 64,
    "train_size": 0.5,
    "validation_size": 0.2,
    "accelerator": "cpu",
    "show_progress": False,
}
OWN = {"n_shared": 4, "encoder": SIZES["encoder"]}


def lanes(mdata: MuData) -> MuData:
    mdata.obs["lane"] = np.where(np.arange(mdata.n_obs) % 2, "a", "b")
    mdata.obs["donor"] = [f"d{i % 12}" for i in range(mdata.n_obs)]
    mdata.obs["group"] = [f"g{i % 12 // 2 % 2}" for i in range(mdata.n_obs)]
    return mdata


def trained(mdata: MuData, said: dict[str, Any] | None = None, **options: Any) -> IndiSeekModel:
    IndiSeekModel.setup_mudata(mdata, batch_key="lane", **({"unpaired": "keep"} if said is None else said))
    model = IndiSeekModel(mdata, **OWN, **options)
    model.train(**FAST)
    return model


@pytest.fixture(scope="module")
def model(make_mdata) -> IndiSeekModel:
    return trained(mosaic(lanes(make_mdata()), N_ALONE))


@pytest.fixture(scope="module")
def alone(make_mdata) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return parted(make_mdata(), N_ALONE)


def spaces(mdata: MuData) -> dict[str, NDArray[Any]]:
    return {key: code for key, code in mdata.obsm.items() if key not in mdata.mod}


def assert_same(a: MuData, b: MuData) -> None:
    assert set(spaces(a)) == set(spaces(b)) == {"X_indiseek_shared", "X_indiseek", "X_indiseek_rna", "X_indiseek_prot"}
    for key, code in spaces(a).items():
        np.testing.assert_array_equal(code, b.obsm[key])


def without(code: NDArray[Any]) -> NDArray[np.intp]:
    """Rows that are NaN, each of them all of it."""
    bad = ~np.isfinite(code)
    assert np.array_equal(bad.any(axis=1), bad.all(axis=1))
    return np.flatnonzero(bad.any(axis=1))


def test_what_was_not_measured_is_nan_and_all_else_a_code(model, alone):
    mdata, (rna_only, prot_only) = model.adata, alone
    assert not len(without(mdata.obsm["X_indiseek_shared"])) and not len(without(mdata.obsm["X_indiseek"]))
    np.testing.assert_array_equal(without(mdata.obsm["X_indiseek_rna"]), prot_only)
    np.testing.assert_array_equal(without(mdata.obsm["X_indiseek_prot"]), rna_only)
    for name in ("rna", "prot"):
        own = mdata[name]
        rows = mdata.obs_names.get_indexer(own.obs_names)
        np.testing.assert_array_equal(own.obsm["X_indiseek_specific"], mdata.obsm[f"X_indiseek_{name}"][rows])
        np.testing.assert_array_equal(own.obsm["X_indiseek"], mdata.obsm["X_indiseek"][rows])
        assert np.isfinite(own.obsm["X_indiseek_specific"]).all()
    assert "600 cells (400 with all modalities, 100 with only 'rna', 100 with only 'prot')" in repr(model)


def test_each_code_can_be_asked_for_in_any_order(model, alone):
    mdata, rows = model.adata, np.random.default_rng(5).permutation(600)[:90]
    get = model.get_latent_representation
    np.testing.assert_allclose(get(indices=rows), mdata.obsm["X_indiseek_shared"][rows], atol=1e-6)
    np.testing.assert_allclose(get(kind="everything", indices=rows), mdata.obsm["X_indiseek"][rows], atol=1e-5)
    for name in ("rna", "prot"):
        code = get(modality=name, kind="specific", indices=rows)
        np.testing.assert_allclose(code, mdata.obsm[f"X_indiseek_{name}"][rows], atol=1e-5)
    with pytest.raises(KeyError, match="expected cells that have modality 'prot', got 2 without it; name another one"):
        get(modality="prot", indices=alone[0][:2])
    features = model.get_features(modality="prot")
    np.testing.assert_array_equal(without(features), alone[0])
    np.testing.assert_array_equal(features[rows], model.get_features(modality="prot", indices=rows))


def test_cells_with_one_modality_have_the_codes_that_new_ones_would_have(model, make_mdata, alone):
    whole = lanes(make_mdata())
    for name, rows in zip(("rna", "prot"), alone, strict=True):
        query = pair(**{name: whole[name][rows].copy()})
        query.obs["lane"] = whole.obs["lane"].to_numpy()[rows]
        model.map_query(query)
        for key in ("X_indiseek_shared", "X_indiseek", f"X_indiseek_{name}"):
            np.testing.assert_allclose(query.obsm[key], model.adata.obsm[key][rows], atol=1e-5)


def test_held_out_cells_are_paired_and_those_with_one_modality_train(model, alone):
    unpaired = np.concatenate(alone)
    assert np.isin(unpaired, model.train_indices).all()
    assert (len(model.train_indices), len(model.validation_indices), len(model.test_indices)) == (400, 80, 120)
    # As many as the paired ones can tell from noise.
    assert model.module.n_train == 200


class AsItIs(Transform):
    """Values as they are: nothing is fitted."""

    name: ClassVar[str] = "as-it-is"
    needs_counts: ClassVar[bool] = False

    def config(self) -> dict[str, Any]:
        return {}

    def max_output(self, n_input: int) -> int:
        return n_input

    def allocate(self, n_input: int, n_output: int) -> None:
        self._set_buffers(center=np.zeros(n_output))

    def fit(self, values: Any, rows: NDArray[np.intp]) -> None:
        self._set_buffers(center=np.zeros(values.shape[1]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values.to_dense() if values.layout == torch.sparse_csr else values).log1p()


@pytest.mark.parametrize("specific", [ClosedForm(), NCEClub(critic_hidden=(16,))])
def test_unpaired_cells_enter_no_pairing(make_mdata, specific):
    # Where nothing is fitted to them, a model with them is to the last bit the one without.
    options = {**OWN, "specific": specific, "n_specific": 3, "transforms": {"rna": AsItIs(), "prot": AsItIs()}}
    mdata = masked(make_mdata(), N_ALONE)
    for name in ("rna", "prot"):
        mdata.mod[name] = mdata[name][:, :10].copy()
    split = FAST | {"train_size": None, "validation_size": None}
    IndiSeekModel.setup_mudata(mdata, present=COLUMNS)
    some = IndiSeekModel(mdata, **options)
    both = np.flatnonzero(mdata.obs["has_rna"] & mdata.obs["has_prot"])
    unpaired = np.setdiff1d(np.arange(600), both)
    parts = [both[:250], both[250:320], both[320:]]
    some.train(**split, external_indexing=[np.concatenate([parts[0], unpaired]), *parts[1:]])
    IndiSeekModel.setup_mudata(mdata)
    pairs = IndiSeekModel(mdata, **options)
    pairs.train(**split, external_indexing=parts, write_latents=False)
    for kind, name in (("shared", "rna"), ("shared", "prot"), ("specific", "rna"), ("specific", "prot")):
        one, other = (
            each.get_latent_representation(modality=name, kind=kind, indices=parts[2]) for each in (some, pairs)
        )
        np.testing.assert_array_equal(one, other)


def test_transforms_and_batch_terms_are_learned_from_all_that_have_the_modality(make_mdata, alone):
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    model = trained(mdata)
    rows = model.adata.obs_names.get_indexer(mdata["prot"].obs_names)
    is_train = np.isin(rows, model.train_indices)
    assert is_train.sum() == 300
    logs = np.log1p(np.asarray(mdata["prot"].X, dtype=np.float64)[is_train])
    mean = (logs - logs.mean(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(model.fitted.transforms["prot"].center.numpy(), mean, atol=1e-5)
    # And the displacement of the batches.
    train, (rna_only, _) = model.train_indices, alone
    rows = np.concatenate([np.setdiff1d(train, np.concatenate(alone)), np.intersect1d(train, rna_only)])
    x = torch.from_numpy(model.get_features(modality="rna", indices=rows))
    code = torch.from_numpy(model.get_latent_representation(modality="rna", kind="states", indices=rows))
    batch = torch.from_numpy((mdata.obs["lane"].to_numpy()[rows] == "b").astype(np.int64))
    by_hand = BatchDisplacement(x.shape[1], code.shape[1], 2)
    by_hand.fit(x, code, batch)
    found = model.module.objective("corrected").displacements[0].shifts
    np.testing.assert_allclose(found.numpy(), by_hand.shifts.numpy(), atol=1e-4)


def test_the_number_of_components_is_that_of_the_pairs(make_mdata, alone, monkeypatch):
    counted, number = [], LogNormalizePCA._number

    def spied(self: LogNormalizePCA, values: Any, rows: NDArray[np.intp]) -> int:
        counted.append(rows)
        return number(self, values, rows)

    monkeypatch.setattr(LogNormalizePCA, "_number", spied)
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    model = trained(mdata)
    names = mdata["rna"].obs_names[counted[0]]
    assert len(names) == 200 and set(names) <= set(mdata.obs_names[model.train_indices])
    assert names.isin(mdata["prot"].obs_names).all()


def test_values_of_what_is_not_there_are_not_looked_at(model, make_mdata):
    mdata = masked(lanes(make_mdata()), N_ALONE)
    mdata["prot"].X[~mdata.obs["has_prot"].to_numpy()] = np.nan
    assert_same(trained(mdata, {"present": COLUMNS}).adata, model.adata)


@pytest.mark.parametrize("form", ["h5mu", "zarr"])
def test_from_disk_it_is_the_same_to_the_last_bit(model, make_mdata, tmp_path, form):
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    if form == "zarr":
        convert(tmp_path / "cells.h5mu", tmp_path / "cells.zarr", show_progress=False)
    opened = open_mudata(tmp_path / f"cells.{form}")
    assert opened.obs_names.equals(mdata.obs_names)
    again = trained(opened)
    assert_same(again.adata, model.adata)
    again.compare(groupby="group", replicate="donor", n_permutations=19)


def test_saved_and_loaded_with_its_cells_and_without(model, make_mdata, tmp_path):
    model.save(tmp_path / "model", save_mdata=True)
    loaded = IndiSeekModel.load(tmp_path / "model")
    assert np.array_equal(loaded.test_indices, model.test_indices)
    loaded.adata.obsm.pop("X_indiseek")
    loaded.write_latents()
    assert_same(loaded.adata, model.adata)
    # The same cells, of which one has lost its protein, are other cells.
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    IndiSeekModel.setup_mudata(mdata, unpaired="keep", batch_key="lane")
    names = mdata["prot"].obs_names
    paired = names[names.isin(mdata["rna"].obs_names)]
    fewer = pair(rna=mdata["rna"].copy(), prot=mdata["prot"][names != paired[0]].copy())
    with mudata.set_options(pull_on_update=False):
        fewer = fewer[fewer.obs_names.get_indexer(mdata.obs_names)].copy()
    fewer.obs = mdata.obs.copy()
    other = IndiSeekModel.load(tmp_path / "model", fewer)
    assert other.test_indices is None
    code = other.get_latent_representation(kind="specific", modality="prot")
    assert len(without(code)) == N_ALONE + 1
    with pytest.raises(RuntimeError, match="by which cells with only 'rna' are placed in kind='everything'"):
        other.get_latent_representation(kind="everything")
    other.write_latents(fewer)
    assert len(without(fewer.obsm["X_indiseek"])) == 2 * N_ALONE + 1


def test_killed_it_goes_on_to_the_same_result(model, make_mdata, tmp_path):
    def new() -> IndiSeekModel:
        mdata = mosaic(lanes(make_mdata()), N_ALONE)
        IndiSeekModel.setup_mudata(mdata, unpaired="keep", batch_key="lane")
        return IndiSeekModel(mdata, **OWN)

    class Kill(__import__("lightning").pytorch.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise Killed

    with pytest.raises(Killed):
        new().train(**FAST, checkpoint_dir=tmp_path, callbacks=[Kill()])
    again = new()
    again.train(**FAST, checkpoint_dir=tmp_path)
    assert_same(again.adata, model.adata)


def test_the_verbs_take_pairs_or_say_what_they_want(model, make_mdata, alone, tmp_path):
    mdata = model.adata
    certificate = model.certify(n_permutations=0)
    assert "120 held-out cells" in str(certificate)
    value, lower, upper = model.predict(interval=0.9)
    assert value.index.equals(mdata.obs_names)
    np.testing.assert_array_equal(without(value.to_numpy()), alone[1])
    both = np.setdiff1d(np.arange(600), alone[1])
    assert (lower.iloc[both] <= value.iloc[both]).all(axis=None) and upper.shape == value.shape
    assert model.predictability().shape[0] == 14
    effects = model.compare(groupby="group", replicate="donor", n_permutations=19)
    assert len(effects.effects)
    with pytest.raises(ValueError, match="expected in donors cells that have all of .* got 1 that lack one"):
        model.counterfactual(modality="prot", indices=[model.test_indices[0]], donors=[alone[0][0]])
    embed(model, None, tmp_path / "codes.zarr", show_progress=False)
    written = anndata.read_zarr(tmp_path / "codes.zarr")
    for key, code in spaces(mdata).items():
        np.testing.assert_allclose(written.obsm[key], code, atol=1e-5)
    mdata.obs["type"] = np.where(np.arange(600) % 3, "x", "y")
    query = lanes(make_mdata(150))
    labels = model.transfer_labels(query, "type")
    assert set(labels["label"]) <= {"x", "y"} and len(labels) == 150
    del mdata.obs["type"]


def test_other_cells_may_lack_a_modality_too(model, make_mdata):
    other = mosaic(lanes(make_mdata(200)), 30)
    model.write_latents(other)
    rna_only, prot_only = parted(make_mdata(200), 30)
    np.testing.assert_array_equal(without(other.obsm["X_indiseek_rna"]), prot_only)
    np.testing.assert_array_equal(without(other.obsm["X_indiseek_prot"]), rna_only)
    assert not len(without(other.obsm["X_indiseek"]))
    # Of cells of which none has both as well.
    apart = pair(rna=other["rna"][other["rna"].obs_names.isin(other.obs_names[rna_only])].copy())
    with mudata.set_options(pull_on_update=False):
        apart = MuData({"rna": apart["rna"], "prot": other["prot"][:20].copy()})
        apart.obs["lane"] = "a"
    assert model.get_latent_representation(apart).shape == (apart.n_obs, 4)
    with pytest.raises(KeyError, match="expected cells that have modality 'prot', got 3 without it"):
        model.get_latent_representation(apart, modality="prot", indices=[0, 1, 2])


def test_donors_stay_whole_and_tuning_takes_pairs(make_mdata):
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    IndiSeekModel.setup_mudata(mdata, unpaired="keep")
    model = IndiSeekModel(mdata, **OWN)
    split = {"train_size": 0.4, "validation_size": 0.3, "split_by": "donor"}
    model.tune(n_shared=[2], alignment=[10.0], max_epochs=1, **split, accelerator="cpu", show_progress=False)
    model.train(**FAST | split, write_latents=False)
    donors = mdata.obs["donor"].to_numpy()
    held_out = np.concatenate([model.validation_indices, model.test_indices])
    assert not set(donors[model.train_indices]) & set(donors[held_out])
    assert len(model.train_indices) + len(held_out) < 600


def test_a_failure_leaves_the_cells_as_they_were(make_mdata):
    mdata = mosaic(lanes(make_mdata()), N_ALONE)
    IndiSeekModel.setup_mudata(mdata, unpaired="keep")
    before = {name: copy.deepcopy(adata) for name, adata in mdata.mod.items()}
    model = IndiSeekModel(mdata, **OWN)
    with pytest.raises(ValueError, match="expected in external_indexing validation and test cells with all modalities"):
        model.train(
            **FAST | {"train_size": None, "validation_size": None}, external_indexing=[range(300), range(300, 600)]
        )
    assert not spaces(mdata) and not model.is_trained
    for name, adata in before.items():
        assert isinstance(adata, AnnData)
        assert abs(mdata[name].X - adata.X).max() == 0
        pd.testing.assert_frame_equal(mdata[name].obs, adata.obs)


def test_a_query_is_taken_one_kind_after_the_other(model, make_mdata):
    query = mosaic(lanes(make_mdata(200)), 30)
    with pytest.raises(ValueError, match=r"got in 'prot' 30 cells without it; take one kind after the other, .*\."):
        model.map_query(query)
    assert not spaces(query)
