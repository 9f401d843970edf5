"""What is done with every trained model: certificate, maps, curves, codes written to disk."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest

from indiseek import cli, metrics, pl
from indiseek.models import embed


@pytest.fixture(scope="module")
def certified(fitted, make_mdata):
    model, _ = fitted
    return model.certify(make_mdata(300), n_permutations=0)


def test_every_model_can_be_certified(case, certified):
    assert isinstance(certified, metrics.Certificate)
    checks = {"excess", "completeness", "retrieval"} | ({"independence", "probes"} if len(case.widths) > 1 else set())
    assert checks <= set(certified.verdicts["check"])
    joint = certified.content.query("code == 'joint'")
    assert sorted(joint["modality"]) == ["prot", "rna"] and np.isfinite(joint["private"]).all()
    assert "FOSCTTM" in str(certified)


def test_certificate_and_curves_are_drawn(fitted, certified):
    model, _ = fitted
    for figure in (pl.certificate(certified), pl.training_curves(model.history)):
        assert all(ax.has_data() for ax in figure.axes if ax.axison) and figure.axes


def test_maps_show_the_codes_of_the_model_without_being_told_their_names(case, fitted):
    _, mdata = fitted
    keys = [case.joint_key, case.key("rna"), case.key("prot")]
    rng = np.random.default_rng(0)
    coordinates = {key: rng.normal(size=(mdata.n_obs, 2)) for key in keys}
    figure = pl.spaces(mdata, color="CD3_TotalSeqB", coordinates=coordinates)
    rows = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert len(rows) == 3 and all(wanted in row for wanted, row in zip(("", "RNA", "Protein"), rows, strict=True))


@pytest.mark.parametrize("how", ["python", "command line"])
def test_codes_are_written_chunk_by_chunk(fitted, tmp_path, how):
    model, mdata = fitted
    if how == "python":
        embed(model, mdata, tmp_path / "codes.zarr", show_progress=False)
    else:
        model.save(tmp_path / "model")
        with mudata.set_options(pull_on_update=False):
            mdata.write(tmp_path / "cells.h5mu")
        paths = [str(tmp_path / "model"), str(tmp_path / "cells.h5mu"), "--out", str(tmp_path / "codes.zarr")]
        assert cli.main(["embed", *paths, "--accelerator", "cpu"]) == 0
    written = anndata.read_zarr(tmp_path / "codes.zarr")
    assert written.obs_names.equals(mdata.obs_names)
    # The MuData also keeps there which cells each modality has.
    assert set(written.obsm) == set(mdata.obsm) - set(mdata.mod)
    for key, code in written.obsm.items():
        np.testing.assert_array_equal(code, mdata.obsm[key])
