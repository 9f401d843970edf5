"""Features that some batches have not measured."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
from mosaic import mosaic
from mudata import MuData

from indiseek.data import DiskMatrix, open_mudata
from indiseek.models import IndiSeekModel

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}


def _panels(mdata: MuData) -> MuData:
    """Lanes a and b, of which b has not measured proteins 2 and 5, and a not protein 7."""
    lane = np.where(np.arange(mdata.n_obs) % 2, "a", "b")
    mdata.obs["lane"] = lane
    own = lane[mdata.obs_names.get_indexer(mdata["prot"].obs_names)]
    values = np.array(mdata["prot"].X, dtype=np.float32)
    values[np.ix_(own == "b", [2, 5])] = np.nan
    values[own == "a", 7] = np.nan
    mdata["prot"].X = values
    IndiSeekModel.setup_mudata(mdata, batch_key="lane", unpaired="keep")
    return mdata


def test_what_a_batch_has_not_measured_is_left_out_and_named(make_mdata, log, tmp_path):
    mdata = _panels(make_mdata())
    names = mdata["prot"].var_names
    model = IndiSeekModel(mdata)
    assert model._schema.features["prot"] == [name for i, name in enumerate(names) if i not in (2, 5, 7)]
    assert "3 of 14 features are left out, which not every batch has measured: 'b' without " in log.text
    assert f"'b' without {names[2]!r}, {names[5]!r}" in log.text and f"'a' without {names[7]!r}" in log.text
    model.train(**FAST)
    assert np.isfinite(mdata.obsm["X_indiseek"]).all()
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_cells_that_lack_the_modality_are_not_asked(make_mdata, tmp_path):
    mdata = _panels(mosaic(make_mdata(), 100))
    found = IndiSeekModel(mdata)._cells.values["prot"]
    assert found.shape == (500, 11) and np.isfinite(found).all()
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
    on_disk = IndiSeekModel(open_mudata(tmp_path / "cells.h5mu"))._cells.values["prot"]
    assert isinstance(on_disk, DiskMatrix)
    np.testing.assert_array_equal(on_disk[np.arange(500)], found)


def test_nan_anywhere_else_is_refused(make_mdata):
    mdata = _panels(make_mdata())
    mdata["prot"].X[0, 3] = np.nan
    with pytest.raises(ValueError, match="expected finite values in modality 'prot', got 901 that are NaN or infinite"):
        IndiSeekModel(mdata)
    mdata = _panels(make_mdata())
    mdata["prot"].X[1, 2] = np.inf
    with pytest.raises(ValueError, match="expected finite values in modality 'prot', got 901 that are NaN or infinite"):
        IndiSeekModel(mdata)
    mdata = _panels(make_mdata())
    IndiSeekModel.setup_mudata(mdata)
    with pytest.raises(ValueError, match="got 900 that are NaN or infinite; .*batch_key"):
        IndiSeekModel(mdata)
    mdata = _panels(make_mdata())
    mdata["prot"].X[::2] = np.nan
    with pytest.raises(ValueError, match="expected features of modality 'prot' that every batch has, got none"):
        IndiSeekModel(mdata)
