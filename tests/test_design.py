"""The code on the design page runs as it stands there, and the ways through the house stay short."""

from __future__ import annotations

import re
from pathlib import Path

import house
import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "design.md"


def test_the_objective_and_the_model_of_the_page_train_save_and_load(make_mdata, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    mdata = make_mdata()
    model = names["CorrelationModel"](mdata, n_latent=3)
    model.train(accelerator="cpu", show_progress=False)
    assert mdata.obsm["X_correlation"].shape == (600, 3)
    history = model.history["shared/validation_correlation"].to_numpy().ravel()
    assert history.max() > 0.3 and history.max() > history[0]
    model.save(tmp_path / "model")
    loaded = names["CorrelationModel"].load(tmp_path / "model", mdata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), mdata.obsm["X_correlation"])


def test_the_ways_through_the_house_are_short(capsys):
    assert house.main() == 0, capsys.readouterr().out
