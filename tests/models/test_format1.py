"""Models that an earlier format of file holds load and give the codes that they gave then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_contract import FAST

from indiseek.models import load_model

MODELS = Path(__file__).parent / "format1"


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir() if path.is_dir()))
def test_a_model_of_an_earlier_format_gives_the_same_codes_and_goes_on(mdata, tmp_path, name):
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 0
    model = load_model(MODELS / name, mdata, accelerator="cpu")
    assert model.modalities == ("prot", "rna")
    model.write_latents()
    with np.load(MODELS / name / "codes.npz") as then:
        assert {key for key in mdata.obsm if key.startswith("X_")} == set(then) - {"test"}
        np.testing.assert_array_equal(model.test_indices, then["test"])
        for key in set(then) - {"test"}:
            # Another processor or version of torch may round in its own way.
            np.testing.assert_allclose(mdata.obsm[key], then[key], rtol=0, atol=1e-4, err_msg=key)
    codes = {key: code.copy() for key, code in mdata.obsm.items()}
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model", mdata, accelerator="cpu")
    then = {key: table.to_numpy().ravel() for key, table in model.history.items()}
    _assert_history(again, then, n_epochs=2)
    again.write_latents()
    for key, code in codes.items():
        np.testing.assert_array_equal(mdata.obsm[key], code)
    again.train(**FAST, train_size=0.7)
    _assert_history(again, then, n_epochs=3)
    # From where it stood: anew, with other batches, a first epoch would not come below what the second had reached.
    loss = again.history[f"{next(iter(again.module.objectives))}/validation_loss"].to_numpy().ravel()
    assert loss[2] < loss[1] < loss[0]


def _assert_history(model, then, *, n_epochs):
    """Whether a model has the epochs that were trained then, and as many as there should be now."""
    assert model.history.keys() == then.keys() and then
    for key, table in model.history.items():
        assert list(table.index) == list(range(n_epochs)), key
        values = table.to_numpy().ravel()
        np.testing.assert_array_equal(values[:2], then[key], err_msg=key)
        assert np.isfinite(values).all(), key
