"""The code of the page for those who bring their own runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from indiseek.metrics import foscttm, probe_r2

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own.md"


@pytest.fixture(scope="module")
def names():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), found)
    return found


def test_arrays_are_modelled(names):
    mdata, model = names["mdata"], names["model"]
    np.testing.assert_array_equal(mdata["image"].X.reshape(-1, 3, 8, 8), names["pixels"].astype(np.float32))
    assert model.modalities == ("image", "text")
    assert probe_r2(names["shared"][model.test_indices], names["meaning"][model.test_indices]) > 0.6


def test_the_own_network_is_in_every_model(names):
    assert {"X_indiseek_shared", "X_disentangledssl_shared", "X_comm"} <= set(names["mdata"].obsm)
    assert any(isinstance(part, names["Convolutional"]) for part in names["barlow"].module.modules())


def test_the_own_objective_finds_what_both_tell(names, tmp_path):
    barlow = names["barlow"]
    assert foscttm(names["image"], names["text"]) < 0.1
    joint = barlow.get_latent_representation(indices=barlow.test_indices)
    assert probe_r2(joint, names["meaning"][barlow.test_indices]) > 0.6
    barlow.save(tmp_path / "model")
    loaded = names["BarlowModel"].load(
        tmp_path / "model", names["mdata"], accelerator="cpu", own_code=[names["Convolutional"]]
    )
    np.testing.assert_array_equal(loaded.get_latent_representation(), barlow.get_latent_representation())
