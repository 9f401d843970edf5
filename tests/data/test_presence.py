"""Which cells have which modality: where it is found, what it is not taken for, and what is refused."""

from __future__ import annotations

import copy

import mudata
import numpy as np
import pandas as pd
import pytest
from mosaic import COLUMNS, masked, mosaic, parted
from mudata import MuData
from small import pair

from indiseek.data import CLR, Cells, Groups, LogNormalizePCA, Setup, SplitOptions, make_setup
from indiseek.models import CoMMModel, DisentangledSSLModel, IndiSeekModel

N_ALONE = 100


def _read(mdata: MuData, **said: object) -> Cells:
    return Cells.to_train_on(mdata, make_setup(mdata, **said), {})[0]


def test_cells_of_a_modality_are_known_by_name_whatever_their_order(make_mdata):
    whole = make_mdata()
    cells = _read(mosaic(whole, N_ALONE), unpaired="keep")
    rna_only, prot_only = parted(whole, N_ALONE)
    assert [len(part) for part in cells.alike()] == [400, 100, 100]
    np.testing.assert_array_equal(cells.alike()[1], rna_only)
    np.testing.assert_array_equal(cells.alike()[2], prot_only)
    rows = np.random.default_rng(1).permutation(np.setdiff1d(np.arange(600), rna_only))[:50]
    np.testing.assert_array_equal(
        np.asarray(cells.values["prot"][cells.at("prot", rows)]), np.asarray(whole["prot"].X[rows], dtype=np.float32)
    )
    paired = cells.paired()
    assert len(paired) == 400 and paired.presence is None
    np.testing.assert_array_equal(paired.names, cells.names[cells.alike()[0]])
    np.testing.assert_array_equal(
        paired.values["prot"], np.asarray(whole["prot"].X[cells.alike()[0]], dtype=np.float32)
    )


def test_what_is_said_by_a_column_is_what_is_said_by_the_modality(make_mdata):
    by_modality = _read(mosaic(make_mdata(), N_ALONE), unpaired="keep")
    mdata = masked(make_mdata(), N_ALONE)
    # What was not measured may be anything, also what no count can be.
    mdata["prot"].X[~mdata.obs["has_prot"].to_numpy()] = np.nan
    by_column = _read(mdata, present=COLUMNS)
    assert by_column.digest == by_modality.digest
    rows = by_column.alike()[0]
    for name in ("rna", "prot"):
        one, other = (cells.values[name][cells.at(name, rows)] for cells in (by_column, by_modality))
        assert abs(one - other).max() == 0


def test_zeros_are_zeros_unless_it_is_said(make_mdata):
    mdata = masked(make_mdata(), N_ALONE)
    mdata["prot"].X[~mdata.obs["has_prot"].to_numpy()] = 0
    with pytest.raises(ValueError, match="expected counts in every cell, got only zeros in modality 'prot'"):
        _read(mdata)
    with pytest.raises(ValueError, match="expected counts in every cell, got only zeros in modality 'prot'"):
        _read(mdata, unpaired="keep")
    assert _read(mdata, present={"prot": "has_prot"}).is_paired.sum() == 500


def test_where_all_are_paired_the_word_changes_nothing(make_mdata):
    assert _read(make_mdata(), unpaired="keep").presence is None
    mdata = make_mdata()
    mdata.obs["yes"] = True
    assert _read(mdata, present={"prot": "yes"}).presence is None


def test_cells_with_different_modalities_have_no_tensors_together(make_mdata):
    cells = _read(mosaic(make_mdata(), N_ALONE), unpaired="keep")
    both, rna_only, _ = cells.alike()
    transforms = [LogNormalizePCA(n_components=3), CLR()]
    for name, transform in zip(("rna", "prot"), transforms, strict=True):
        transform.fit(cells.values[name], np.arange(500))
    with pytest.raises(ValueError, match="expected cells with the same modalities, got 600, of which some lack 'rna'"):
        cells.tensors(transforms)
    assert cells.tensors(transforms, both).present == ()
    alone = cells.tensors(transforms, rna_only)
    assert [x.shape for x in alone.features] == [(100, 3), (100, 0)]
    assert [bool(part.all()) for part in alone.present] == [True, False]


def test_the_set_up_goes_through_a_file(make_mdata, tmp_path):
    mdata = masked(make_mdata(), N_ALONE)
    IndiSeekModel.setup_mudata(mdata, unpaired="keep", present=COLUMNS)
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
        found = mudata.read_h5mu(tmp_path / "cells.h5mu")
    setup = Setup.from_record(found.uns["indiseek_setup"]["IndiSeekModel"])
    assert (setup.unpaired, setup.present) == ("keep", COLUMNS)
    assert "unpaired" not in make_setup(make_mdata()).record()


def test_validation_and_test_cells_are_paired_and_the_others_for_training():
    paired = np.arange(600) % 3 > 0
    split = SplitOptions(paired=paired).split(600, seed=0)
    assert paired[split.validation].all() and paired[split.test].all()
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(600))
    # Fractions are of the paired cells.
    assert (len(split.validation), len(split.test)) == (40, 100)
    assert SplitOptions(paired=paired).n_train(600, seed=0) == paired[split.train].sum() == 260
    assert SplitOptions(paired=paired).digest() != SplitOptions(paired=~paired).digest()


def test_groups_stay_whole_and_unpaired_cells_of_held_out_ones_are_in_no_part():
    rng = np.random.default_rng(0)
    codes, paired = rng.integers(0, 10, 1000), rng.random(1000) < 0.5
    split = SplitOptions(groups=Groups("donor", codes), paired=paired).split(1000, seed=0)
    parts = [set(codes[part]) for part in split]
    assert not parts[0] & (parts[1] | parts[2])
    left = np.setdiff1d(np.arange(1000), np.concatenate(split))
    assert len(left) and not paired[left].any() and set(codes[left]) <= parts[1] | parts[2]


def test_unpaired_cells_cannot_be_held_out_by_hand():
    paired = np.arange(600) % 3 > 0
    with pytest.raises(ValueError, match="expected in external_indexing validation and test cells with all .* got 33"):
        SplitOptions(external_indexing=[range(400), range(400, 500)], paired=paired).split(600, seed=0)
    rows = np.flatnonzero(paired)
    with pytest.raises(ValueError, match="expected at least 50 training and 10 validation cells, got 40 and 100"):
        SplitOptions(
            external_indexing=[np.concatenate([rows[:40], np.flatnonzero(~paired)]), rows[40:140]], paired=paired
        ).split(600, seed=0)


def _with(make_mdata, column: object) -> MuData:
    mdata = masked(make_mdata(), N_ALONE)
    mdata.obs["mask"] = column
    return mdata


def _suffixed(make_mdata) -> MuData:
    mdata = make_mdata()
    prot = mdata["prot"].copy()
    prot.obs_names = [name.replace("-1", "-2") for name in prot.obs_names]
    return pair(rna=mdata["rna"].copy(), prot=prot)


def _batches(make_mdata) -> MuData:
    mdata = masked(make_mdata(), N_ALONE)
    mdata.obs["lane"] = np.where(mdata.obs["has_prot"], "cite", "rna only")
    return mdata


def _three(make_mdata) -> MuData:
    mdata = mosaic(make_mdata(), N_ALONE)
    third = mdata["rna"][:, :5].copy()
    third.var_names = list("abcde")
    return pair(**mdata.mod, third=third)


NAN, NOT_ALL = np.array([True, np.nan] * 300, dtype=object), np.arange(600) > 5
BAD = {
    "a mask that is no column": (
        lambda make: masked(make(), N_ALONE),
        {"present": {"prot": np.ones((3, 2), dtype=bool)}},
        TypeError,
        r"name of a column of .obs for 'prot', got ndarray of shape \(3, 2\); put the mask there",
    ),
    "not a mapping": (make := (lambda make: masked(make(), 100)), {"present": "has_prot"}, TypeError, "by modality"),
    "no such column": (make, {"present": {"prot": "nope"}}, KeyError, "expected a column 'nope' in .obs of the MuData"),
    "no such modality": (make, {"present": {"adt": "has_prot"}}, KeyError, "got 'adt'"),
    "numbers": (
        lambda m: _with(m, 1),
        {"present": {"prot": "mask"}},
        TypeError,
        "or False for every cell, got in",
    ),
    "missing": (lambda m: _with(m, NAN), {"present": {"prot": "mask"}}, TypeError, "True or False .* missing ones"),
    "nobody": (
        lambda m: _with(m, False),
        {"present": {"prot": "mask"}},
        ValueError,
        "have modality 'prot', got none",
    ),
    "no modality": (
        lambda m: _with(m, NOT_ALL),
        {"present": {"prot": "mask", "rna": "mask"}},
        ValueError,
        "expected every cell to have at least one of .* got 6 without any",
    ),
    "not held": (
        lambda m: mosaic(_with(m, NOT_ALL), N_ALONE),
        {"unpaired": "keep", "present": {"prot": "mask"}},
        ValueError,
        "True only for cells that modality 'prot' holds, got [0-9]+ that it does not",
    ),
    "by mistake": (_suffixed, {"unpaired": "keep"}, ValueError, "names differ by a suffix, as .* take it away: "),
    "another word": (make, {"unpaired": "drop"}, ValueError, "unpaired to be one of .*'refuse', 'keep'"),
    "three modalities": (
        _three,
        {"unpaired": "keep", "modalities": ["rna", "prot", "third"]},
        ValueError,
        "expected two modalities where some cells lack one",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_is_named_and_nothing_is_noted(make_mdata, kind):
    build, said, error, message = BAD[kind]
    mdata = build(make_mdata)
    before = copy.deepcopy(dict(mdata.uns))
    with pytest.raises(error, match=message):
        IndiSeekModel.setup_mudata(mdata, **said)
    assert dict(mdata.uns) == before


def test_too_few_pairs_are_named_before_anything_is_read(make_mdata):
    mdata = mosaic(make_mdata(), 260)
    IndiSeekModel.setup_mudata(mdata, unpaired="keep")
    with pytest.raises(
        ValueError, match=r"at least 100 cells with all of \['rna', 'prot'\].*got 80 with all .* 260 with only 'rna'"
    ):
        IndiSeekModel(mdata)
    mdata = _batches(make_mdata)
    IndiSeekModel.setup_mudata(mdata, present=COLUMNS, batch_key="lane")
    with pytest.raises(ValueError, match=r"of 'lane' at least 10 cells with all .*\('rna only' with 0\); .*map_query"):
        IndiSeekModel(mdata)


@pytest.mark.parametrize("model", [CoMMModel, DisentangledSSLModel])
def test_other_models_want_pairs(make_mdata, model):
    mdata = mosaic(make_mdata(), N_ALONE)
    with pytest.raises(ValueError, match=f"expected paired cells for {model.__name__}, got unpaired or present"):
        model.setup_mudata(mdata, unpaired="keep")
    assert not mdata.uns
    with pytest.raises(ValueError, match="expected paired cells, .*setup_mudata.mdata, unpaired='keep'"):
        model(mdata)


def test_a_column_may_stand_in_the_modalities(make_mdata):
    mdata = mosaic(make_mdata(), N_ALONE)
    lane = pd.Series(np.where(np.arange(600) % 3, "a", "b"), index=mdata.obs_names)
    for adata in mdata.mod.values():
        adata.obs["lane"] = pd.Categorical(lane[adata.obs_names])
        adata.obs["age"] = (lane[adata.obs_names] == "a").to_numpy() * 1.5
    cells = _read(mdata, unpaired="keep", batch_key="lane", continuous_covariate_keys=["age"])
    assert (np.array(cells.schema.categories["lane"])[cells.covariates["lane"]] == lane).all()
    np.testing.assert_array_equal(cells.covariates["age"] > 0, lane == "a")
    # A modality that lacks cells of the other's says nothing of them.
    del mdata["prot"].obs["lane"]
    with pytest.raises(ValueError, match="expected a value of 'lane' for every cell, got 100 cells without one"):
        _read(mdata, unpaired="keep", batch_key="lane")
