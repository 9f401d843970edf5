"""Every model has a report: its spaces, its features and its code."""

from __future__ import annotations

import json
import re

import numpy as np

from indiseek.metrics import certify
from indiseek.models import _report as gathering

TITLES = {
    "IndiSeekModel": ["Shared", "RNA-specific", "Protein-specific", "Everything"],
    "DisentangledSSLModel": ["Shared", "RNA-specific", "Protein-specific"],
    "CoMMModel": ["Fused", "RNA", "Protein"],
}


def test_every_model_writes_its_report(fitted, tmp_path, monkeypatch):
    model, cells = fitted
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(200, 3)) for name in model.modalities}
    certificate = certify(features, features, None, n_permutations=0)
    monkeypatch.setattr(gathering, "maps_of", lambda codes, seed: {key: code[:, :2] for key, code in codes.items()})
    model.report(tmp_path / "report.html", certificate=certificate)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    name = type(model).__name__
    assert [space["title"] for space in data["spaces"]] == TITLES[name]
    assert f"model = indiseek.{name}(mdata" in text
    assert len(data["features"]) == cells["rna"].n_vars + cells["prot"].n_vars
    assert data["table"]["rows"]
