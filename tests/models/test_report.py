"""The report of a trained model: what it says, what it leaves alone, and what it refuses before any work."""

from __future__ import annotations

import base64
import gzip
import json
import re

import mudata
import numpy as np
import pandas as pd
import pytest
from small import SMALL

from indiseek import cli, pl
from indiseek.models import IndiSeekModel
from indiseek.models import _report as gathering

QUICK = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "show_progress": False}
NAME = "<img src=x onerror=alert(1)>"


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def study(make_mdata):
    """A model of cells of two batches and six donors, its certificate and the maps of its spaces."""
    mdata = make_mdata()
    donor = np.arange(mdata.n_obs) % 6
    mdata.obs["donor"], mdata.obs["batch"] = (
        [f"d{d}" for d in donor],
        np.where(np.arange(mdata.n_obs) % 7 < 3, "x", "y"),
    )
    mdata.obs["state"] = np.where(donor % 2, "ill", "well")
    mdata["prot"].obs["cell type"] = pd.Categorical(np.where(mdata["prot"].X[:, 0] > 5, "T", NAME))
    mdata["prot"].var_names = [NAME, *mdata["prot"].var_names[1:]]
    IndiSeekModel.setup_mudata(mdata, batch_key="batch")
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**QUICK, split_by="donor")
    certificate = model.certify(n_permutations=0)
    return model, certificate


@pytest.fixture(scope="module")
def maps(study):
    model, _ = study
    rng = np.random.default_rng(0)
    keys = [key for key in model.adata.obsm if key not in model.adata.mod]
    return {key: rng.normal(size=(model.adata.n_obs, 2)) for key in keys}


def test_what_was_run_on_what_stands_on_the_page_and_nothing_changes(study, maps, tmp_path, log):
    model, certificate = study
    mdata = model.adata
    before = mdata.obs.copy(), list(mdata.obsm), list(mdata.uns), mdata["prot"].X.copy()
    effects = model.compare(groupby="state", replicate="donor", n_permutations=19)
    path = tmp_path / "report.html"
    model.report(path, certificate=certificate, effects=effects, coordinates=maps, color=f"prot:{NAME}")
    text = path.read_text(encoding="utf-8")
    data = data_of(text)
    pd.testing.assert_frame_equal(mdata.obs, before[0])
    assert (list(mdata.obsm), list(mdata.uns)) == before[1:3]
    np.testing.assert_array_equal(mdata["prot"].X, before[3])
    assert NAME not in text and NAME.replace("<", "&lt;").replace(">", "&gt;") in text
    assert data["first"] == f"{NAME} (prot)"
    assert [space["title"] for space in data["spaces"]] == ["Shared", "RNA-specific", "Protein-specific", "Everything"]
    assert [space["shown"] for space in data["spaces"]] == [True, True, True, False]
    assert {column["name"] for column in data["columns"]} == {
        "donor",
        "batch",
        "state",
        "cell type",
        "part of the split",
    }
    assert len(data["features"]) == 314
    names = gzip.decompress(base64.b64decode(data["names"])).decode().split("\n")
    assert names == mdata.obs_names.tolist()
    # The values of the maps are those of the cells.
    cd4 = next(f for f in data["features"] if f["name"] == "CD4_TotalSeqB")
    steps = np.frombuffer(gzip.decompress(base64.b64decode(cd4["values"])), dtype=np.uint8)
    counts = np.asarray(mdata["prot"][:, "CD4_TotalSeqB"].X).ravel()
    np.testing.assert_allclose(cd4["low"] + (cd4["high"] - cd4["low"]) * steps / 252, np.log1p(counts), atol=0.02)
    for said in (
        "Batches (batch)",
        "all cells of some values of donor",
        f"on {certificate.n_cells:,} cells that no fit has seen",
        "Effects: well against ill",
        "batch_key=&#39;batch&#39;",
        "model.train(split_by=&#39;donor&#39;)",
        "https://arxiv.org/abs/2509.21584",
        "n_shared=4",
    ):
        assert said in text, said
    for row in certificate.verdicts.itertuples():
        assert row.words.partition(" (")[0].replace("<", "&lt;") in text
    table = data["table"]
    shares = pd.DataFrame(table["rows"], columns=[c["name"] for c in table["columns"]])
    assert len(shares) == 314
    np.testing.assert_allclose(shares[["shared", "specific", "noise"]].sum(axis=1), 1, atol=1e-3)
    assert "report: who knows what of each feature" in log.text
    # Only its own page is replaced.
    model.report(path, certificate=certificate, coordinates=maps, title="Another", obs=["state"], max_cells=200)
    data = data_of(path.read_text(encoding="utf-8"))
    assert {column["name"] for column in data["columns"]} == {"state", "part of the split"}
    assert data["n"] == 200
    assert "200 of 600 cells are drawn, chosen at random" in path.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]


def test_without_maps_and_certificate_both_are_made(study, maps, tmp_path, monkeypatch, log):
    model, certificate = study
    some = {key: xy for key, xy in maps.items() if key != "X_indiseek_rna"}
    monkeypatch.setattr(IndiSeekModel, "certify", lambda self, seed: certificate)
    asked = []

    def maps_of(codes, seed):
        asked.append((list(codes), seed))
        return {key: code[:, :2] for key, code in codes.items()}

    monkeypatch.setattr(gathering, "maps_of", maps_of)
    model.report(tmp_path / "a.html", max_cells=120, seed=3, coordinates=some)
    model.report(tmp_path / "b.html", max_cells=120, seed=3, coordinates=some)
    one, other = (data_of((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.html", "b.html"))
    assert one == other
    assert asked == [(["X_indiseek_rna"], 3)] * 2
    assert one["first"] == "cell type"
    assert "report: certificate on" in log.text and "report: map of 1 space, 120 cells" in log.text


def test_a_table_of_features_that_the_model_has_is_taken(study, maps, tmp_path, monkeypatch):
    model, certificate = study
    made = pd.DataFrame({"modality": ["rna"], "feature": ["G"], "specific": [0.9], "specific_low": [0.8]})
    made = made.assign(detected=300, n_cells=300, given="prot")
    monkeypatch.setattr(IndiSeekModel, "feature_table", lambda self: made)
    model.report(tmp_path / "a.html", certificate=certificate, coordinates=maps)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert data_of(text)["table"]["rows"] == [["G", "rna", 0.9, 0.8]]
    assert "What RNA alone knows, most of all: G (90 %)." in text


def test_what_cannot_be_written_is_said_before_any_work(study, maps, tmp_path, monkeypatch, mdata):
    model, certificate = study
    monkeypatch.setattr(gathering, "maps_of", None)
    monkeypatch.setattr(IndiSeekModel, "certify", None)
    monkeypatch.setattr(IndiSeekModel, "feature_table", None)
    good = tmp_path / "report.html"
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    for path, error, said in (
        (tmp_path / "report.pdf", ValueError, "expected path to end with .html, got"),
        (tmp_path / "none" / "report.html", FileNotFoundError, "expected a folder .* to write in, got none; make it"),
        (tmp_path / "mine.html", FileExistsError, "expected nothing at .*mine.html, or what indiseek has written"),
        (tmp_path / "folder.html", FileExistsError, "expected path to be a file, got the folder"),
        (3, TypeError, "expected path to be a path, got 3"),
    ):
        with pytest.raises(error, match=said):
            model.report(path)
    wrong_shape = {"X_indiseek": np.zeros((3, 2))}
    for arguments, error, said in (
        ({"certificate": "yes"}, TypeError, r"expected certificate as model.certify\(\) returns it, got str"),
        ({"effects": certificate}, TypeError, r"expected effects as model.compare\(\) returns it, got Certificate"),
        ({"obs": ["nix"]}, KeyError, r"expected obs to name columns of .obs, .*, got \['nix'\]"),
        ({"obs": "state"}, TypeError, "expected obs to be a list of names"),
        ({"color": "nix"}, KeyError, "expected color to be a column of .obs or a feature of"),
        ({"color": "prot:CD3D"}, KeyError, "expected color to be a column of .obs or a feature of"),
        ({"max_cells": 10}, ValueError, "expected max_cells to be a whole number of at least 100"),
        ({"seed": -1}, ValueError, "expected seed"),
        ({"title": 3}, TypeError, "expected title to be text"),
        ({"coordinates": wrong_shape}, ValueError, r"expected coordinates\['X_indiseek'\] of shape \(600, 2\)"),
        ({"coordinates": {"X_nix": maps["X_indiseek"]}}, KeyError, "expected coordinates of the spaces"),
    ):
        with pytest.raises(error, match=said):
            model.report(good, **arguments)
    with pytest.raises(RuntimeError, match="expected a trained model"):
        IndiSeekModel(mdata, **SMALL).report(good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "mine.html"]
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_a_page_that_cannot_be_finished_leaves_the_earlier_one(study, maps, tmp_path, monkeypatch):
    model, certificate = study
    path = tmp_path / "report.html"
    model.report(path, certificate=certificate, coordinates=maps)
    before = path.read_bytes()

    def fail(path, text):
        path.write_text(text[:100])
        raise OSError("no room")

    monkeypatch.setattr(gathering, "_write", fail)
    with pytest.raises(OSError, match="no room"):
        model.report(path, certificate=certificate, coordinates=maps)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_command_takes_a_saved_model_and_what_train_writes(study, maps, tmp_path, monkeypatch, capsys):
    model, certificate = study
    monkeypatch.setattr(IndiSeekModel, "certify", lambda self, seed: certificate)
    monkeypatch.setattr(pl, "umap_coordinates", None)
    monkeypatch.setattr(gathering, "maps_of", lambda codes, seed: {key: maps[key] for key in codes})
    model.save(tmp_path / "saved", save_mdata=True)
    assert cli.main(["report", str(tmp_path / "saved"), "--groupby", "state", "--replicate", "donor"]) == 0
    assert "Effects: well against ill" in (tmp_path / "saved" / "report.html").read_text(encoding="utf-8")
    model.save(tmp_path / "out" / "model")
    with mudata.set_options(pull_on_update=False):
        model.adata.write(tmp_path / "out" / "latents.h5mu")
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path / "out"), "--out", str(page), "--title", NAME]) == 0
    assert "<title>&lt;img" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    for arguments, said in (
        ([str(tmp_path / "no")], "expected a saved model or the output of train in"),
        ([str(tmp_path / "out" / "model")], "expected the model's cells beside it in"),
        ([str(tmp_path / "saved"), "--groupby", "state"], "--groupby and --replicate for effects"),
        ([str(tmp_path / "saved"), "--color", "nix"], "expected color to be a column"),
    ):
        assert cli.main(["report", *arguments, "--out", str(tmp_path / "other.html")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "other.html").exists()


def test_cells_that_lack_a_modality_are_not_on_the_maps(make_mdata, tmp_path):
    mdata = make_mdata(200)
    mdata.obs["has_prot"] = np.arange(200) % 4 > 0
    IndiSeekModel.setup_mudata(mdata, present={"prot": "has_prot"})
    model = IndiSeekModel(mdata, specific="nce-club")
    model.train(2, batch_size=64, accelerator="cpu", show_progress=False)
    model.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "150 of them with all modalities" in text
