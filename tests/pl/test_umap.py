from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.collections import PathCollection
from sklearn.metrics import silhouette_score

from indiseek import pl, report
from indiseek.pl import umap_coordinates


def test_separate_groups_stay_separate_and_seeds_decide(mdata):
    groups = np.repeat([0, 1], 60)
    mdata.obsm["X_indiseek_shared"][groups == 1] += 10
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    a, b, c = (umap_coordinates(mdata, ["X_indiseek_shared"], seed=s)["X_indiseek_shared"] for s in (0, 0, 1))
    assert a.shape == (120, 2) and a.dtype == np.float32
    assert silhouette_score(a, groups) > 0.5
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_few_cells_get_fewer_neighbours(mdata):
    keys = ["X_indiseek_rna", "X_indiseek_prot"]
    coordinates = umap_coordinates(mdata[:10], keys)
    assert list(coordinates) == keys
    assert all(np.isfinite(xy).all() and xy.shape == (10, 2) for xy in coordinates.values())


def test_errors_say_what_to_do(mdata):
    del mdata.obsm["X_indiseek_rna"]
    with pytest.raises(
        KeyError, match=r"X_indiseek_rna.*got the keys \['X_indiseek_shared', 'X_indiseek_prot'\].*train"
    ):
        umap_coordinates(mdata, ["X_indiseek_rna"])
    mdata.obsm["X_indiseek_shared"][3, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite latents .*, got 1 cells with NaN or inf"):
        umap_coordinates(mdata, ["X_indiseek_shared"])
    with pytest.raises(ValueError, match="expected at least 4 cells for a UMAP, got 3"):
        umap_coordinates(mdata[:3], ["X_indiseek_prot"])


def test_computed_umaps_leave_the_users_object_and_the_random_state_alone(mdata):
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    with md.set_options(pull_on_update=False):
        before = mdata.copy()
    figure = pl.spaces(mdata, color=["CD3_TotalSeqB", "type"], spaces={"X_indiseek_prot": "Protein only"})
    points = [c for ax in figure.axes for c in ax.collections if isinstance(c, PathCollection)]
    assert len(points) == 2
    assert "Protein only" in [ax.get_ylabel() for ax in figure.axes]
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert list(mdata.obsm) == list(before.obsm)
    assert list(mdata.uns) == list(before.uns) and list(mdata.obsp) == list(before.obsp)
    pd.testing.assert_frame_equal(mdata.obs, before.obs)
    for name in mdata.mod:
        np.testing.assert_array_equal(mdata[name].X, before[name].X)
        pd.testing.assert_frame_equal(mdata[name].obs, before[name].obs)
        assert not mdata[name].uns and not mdata[name].obsm and not mdata[name].obsp


def test_scanpy_finds_neighbours_of_so_many_cells_that_it_searches_approximately():
    n_cells = 8200
    adata = AnnData(np.zeros((n_cells, 1), dtype=np.float32))
    adata.obsm["X_indiseek"] = np.random.default_rng(0).standard_normal((n_cells, 5)).astype(np.float32)
    sc.pp.neighbors(adata, use_rep="X_indiseek", n_neighbors=5, random_state=0)
    assert adata.obsp["distances"].nnz >= 4 * n_cells


def test_the_maps_of_a_report_are_those_of_its_codes(mdata):
    key = "X_indiseek_shared"
    found = report.maps_of({key: mdata.obsm[key]}, seed=1)
    np.testing.assert_array_equal(found[key], umap_coordinates(mdata, [key], seed=1)[key])
