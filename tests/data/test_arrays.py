"""A MuData of a dict of arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from indiseek.data import mudata_of
from indiseek.models import IndiSeekModel

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(12, 3, 4, 5))
TEXT = RNG.poisson(2.0, (12, 6))


def test_arrays_tensors_and_sparse_matrices_become_modalities():
    mdata = mudata_of({"image": IMAGE, "text": sparse.csr_matrix(TEXT), "sound": torch.ones(12, 2), "seen": TEXT > 1})
    assert {name: part.shape for name, part in mdata.mod.items()} == {
        "image": (12, 60),
        "text": (12, 6),
        "sound": (12, 2),
        "seen": (12, 6),
    }
    # The axes come back in the order in which they were laid.
    np.testing.assert_array_equal(mdata["image"].X.reshape(12, 3, 4, 5), IMAGE.astype(np.float32))
    np.testing.assert_array_equal(mdata["text"].X.toarray(), TEXT)
    np.testing.assert_array_equal(mdata["seen"].X, (TEXT > 1).astype(np.float32))
    assert list(mdata.obs_names[:2]) == ["cell_0", "cell_1"] and list(mdata["sound"].var_names) == [
        "sound_0",
        "sound_1",
    ]


def test_names_of_tables_are_kept():
    cells = [f"c{i}" for i in range(12)]
    text = pd.DataFrame(TEXT, index=cells, columns=list("abcdef"))
    obs = pd.DataFrame({"batch": ["x", "y"] * 6}, index=cells)
    for given in (obs, None):
        mdata = mudata_of({"image": IMAGE, "text": text}, obs=given)
        assert list(mdata.obs_names) == cells and list(mdata["image"].obs_names) == cells
        assert list(mdata["text"].var_names) == list("abcdef")
    pd.testing.assert_frame_equal(mudata_of({"image": IMAGE}, obs=obs).obs, obs)


def test_what_does_not_fit_is_refused():
    text = pd.DataFrame(TEXT, index=[f"c{i}" for i in range(12)])
    for arrays, error, message in (
        ({}, ValueError, "expected an array for each modality, got an empty dict; "),
        ({"a": IMAGE, "b": TEXT[:-1]}, ValueError, r"expected the same cells .*, got \{'a': 12, 'b': 11\} of them; "),
        ({"a": TEXT[:, 0]}, ValueError, r"expected 'a' of shape \(n_cells, n_features\), .*, got \(12,\); "),
        ({"a": TEXT.astype(str)}, TypeError, "expected numbers in 'a', got an array of <U"),
        ({"a": text, "b": text[::-1]}, ValueError, "expected the same names .* in 'a' and 'b', got others; "),
        ([IMAGE], TypeError, "expected an AnnData or a dict of arrays, got list; "),
    ):
        with pytest.raises(error, match=message):
            mudata_of(arrays)
    with pytest.raises(TypeError, match="expected obs to be a pandas.DataFrame, got dict; "):
        mudata_of({"a": TEXT}, obs={"batch": 1})
    with pytest.raises(TypeError, match="expected obs with a dict of arrays, got it with an AnnData"):
        mudata_of(mudata_of({"a": TEXT})["a"], obs=pd.DataFrame())


def test_a_model_says_how_arrays_are_taken():
    with pytest.raises(TypeError, match=r"expected a MuData .*, got dict; .* indiseek.data.mudata_of\(arrays\)"):
        IndiSeekModel({"image": IMAGE, "text": TEXT})
