"""Settings of a wrong type or out of range are refused by every public function, before any work, in the one form."""

from __future__ import annotations

import re

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

from indiseek import metrics, pl, simulation
from indiseek.data import CLRPCA, LogNormalizePCA, ScalePCA, convert, mudata_of, open_mudata, random_split
from indiseek.datasets import gate_pbmc
from indiseek.models import CoMMModel, DisentangledSSLModel, IndiSeekModel, embed, load_model
from indiseek.nn import Encoder

FORM = re.compile(r"expected .+, got .+[;:] .+", re.DOTALL)

NUMBER = (None, "x", float("nan"), [1], -1)
WHOLE = (*NUMBER, 1.5)
SEED = (None, "0", -1, 1.5, [1], True, 2**40)
FLAG = ("no", None, 1.5)
PATH = (None, 5, "", ["x"])
MAPPING = ("x", 5, [1])
NAMES = (5, 1.5, [1])


def refused(call, values, **given):
    """Check that each of the values is refused in the one form, by an error of our own."""
    ((name, _),) = given.items()
    for value in values:
        with pytest.raises((TypeError, ValueError, KeyError)) as caught:
            call(**{name: value})
        message = str(caught.value.args[0])
        assert FORM.match(message), (name, value, message)
        assert "indiseek" in str(caught.traceback[-1].path), (name, value, message)


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(120, 3)), rng.normal(size=(120, 3))
    return {
        "features": {name: np.hstack([shared, own]) for name in ("rna", "prot")},
        "shared": dict.fromkeys(("rna", "prot"), shared),
        "specific": dict.fromkeys(("rna", "prot"), own),
    }


CERTIFY = {
    "features": (None, *MAPPING),
    "shared": (None, *MAPPING),
    "specific": MAPPING,
    "reference": MAPPING,
    "reconstruction": MAPPING,
    "replicates": MAPPING,
    "all_replicates": MAPPING,
    "covariates": MAPPING,
    "feature_names": (*MAPPING, {"rna": 5}),
    "n_permutations": WHOLE,
    "k": WHOLE,
    "max_cells": (*WHOLE, 5),
    "seed": SEED,
    "thresholds": ("x", 5, {"foscttm": 0.2}),
    "checks": (None, "x", 5, [1]),
}


@pytest.mark.parametrize("name", CERTIFY)
def test_settings_of_certify(codes, name):
    refused(lambda **given: metrics.certify(**codes | given), CERTIFY[name], **{name: None})


def test_settings_of_the_metrics(codes):
    a, b = codes["shared"]["rna"], codes["specific"]["rna"]
    counts = np.random.default_rng(0).poisson(3, (20, 4))
    for call in (
        lambda seed: metrics.foscttm(a, b, seed=seed),
        lambda seed: metrics.infonce_bound(a, b, seed=seed),
        lambda seed: metrics.distance_correlation(a, b, seed=seed),
        lambda seed: metrics.explained(a, b, seed=seed),
        lambda seed: metrics.leakage(a, b, seed=seed),
        lambda seed: metrics.probe_r2(a, b, seed=seed),
        lambda seed: metrics.completeness(a, a, b, seed=seed),
        lambda seed: metrics.conditional_mean(a, b, seed=seed),
        lambda seed: metrics.noise_share(a, b, seed=seed),
        lambda seed: metrics.thin_counts(counts, seed=seed),
    ):
        refused(call, SEED, seed=0)
    for call in (
        lambda n: metrics.foscttm(a, b, chunk_size=n),
        lambda n: metrics.recall_at_k(a, b, k=n),
        lambda n: metrics.cca(a, b, a, b, n_components=n),
        lambda n: metrics.leakage(a, b, n_permutations=n),
        lambda n: metrics.probe_r2(a, b, n_splits=n),
        lambda n: metrics.conditional_mean(a, b, n_splits=n),
        lambda n: metrics.conditional_mean(a, b, n_splits=n, reference=(a, b)),
        lambda n: metrics.infonce_bound(a, b, max_steps=n),
    ):
        refused(call, WHOLE, n=0)
    refused(lambda metric: metrics.foscttm(a, b, metric=metric), (None, 5, ["cosine"], "x"), metric=None)
    types = ["x", "y", "z"] * (len(a) // 3) + ["x"] * (len(a) % 3)
    refused(lambda n: metrics.modality_weight(a, b, types, n_neighbors=n), (*WHOLE, 0), n=None)
    refused(lambda n: metrics.modality_weight(a, b, types, pseudocount=n), (*NUMBER, 0), n=None)
    refused(lambda n: metrics.modality_weight(a, b, types, min_cells=n), ("x", 1.5, 0), n=None)
    refused(lambda metric: metrics.modality_weight(a, b, types, metric=metric), (None, 5, "x"), metric=None)
    refused(lambda weight: metrics.modality_weight(a, b, types, weight=weight), (5, "x", [1]), weight=None)
    refused(lambda labels: metrics.modality_weight(a, b, labels), (None, 5, "x"), labels=None)
    refused(lambda counts: metrics.thin_counts(counts), (None, "x", [1], 5), counts=None)
    refused(lambda draw: metrics.overdispersion(draw, counts), (None, "x", [1]), draw=None)
    refused(lambda names: metrics.completeness(a, a, b, feature_names=names), (5, "abc"), names=None)
    refused(lambda reference: metrics.conditional_mean(a, b, reference=reference), (5, (a,)), reference=None)
    refused(lambda targets: metrics.leakages(a, targets), MAPPING, targets=None)
    refused(lambda foscttm: metrics.Thresholds(foscttm=foscttm), (*NUMBER, 2), foscttm=None)


def test_settings_of_the_simulations():
    for function in (
        simulation.simulate_gaussian,
        simulation.simulate_factors,
        simulation.simulate_disentangled,
        simulation.simulate_trifeature,
    ):
        refused(lambda n_cells, f=function: f(n_cells), (*WHOLE, True), n_cells=None)
        refused(lambda seed, f=function: f(50, seed=seed), (None, "0", -1, 1.5), seed=None)
    refused(lambda rho: simulation.simulate_gaussian(50, rho=rho), (*NUMBER, 1, True), rho=None)
    refused(lambda rotate: simulation.simulate_gaussian(50, rotate=rotate), FLAG, rotate=None)
    refused(lambda sizes: simulation.simulate_factors(50, n_specific=sizes), (None, 5, "ab", {"a": 1}), sizes=None)
    refused(lambda noise: simulation.simulate_factors(50, noise=noise), (*NUMBER, True), noise=None)
    refused(lambda matched: simulation.simulate_trifeature(50, matched=matched), ("x", [1], 2, -1), matched=None)
    refused(lambda slope: simulation.ContentStyleProcess(slope=slope), (*NUMBER, True), slope=None)
    refused(lambda causal: simulation.ContentStyleProcess(causal=causal), FLAG, causal=None)
    refused(lambda p: simulation.ContentStyleProcess(change_probability=p), NUMBER, p=None)


def test_settings_of_the_figures(trained):
    model, mdata = trained
    keys = ["X_indiseek_shared"]
    points = {keys[0]: np.zeros((mdata.n_obs, 2))}

    def spaces(**given):
        return pl.spaces(**{"mdata": mdata, "color": "CD3_TotalSeqB", "spaces": keys, "coordinates": points} | given)

    for name, values in {
        "mdata": (None, "x", 5),
        "color": (None, *NAMES),
        "spaces": NAMES,
        "coordinates": MAPPING,
        "seed": SEED,
        "clip": (None, 5, (1,), (2, 1), ("a", "b")),
        "cmap": (None, "x", 5, [1]),
        "point_size": NUMBER[1:],
        "panel_size": NUMBER,
    }.items():
        refused(spaces, values, **{name: None})

    def umap(**given):
        return pl.umap_coordinates(**{"mdata": mdata, "keys": keys} | given)

    for name, values in {
        "mdata": (None, 5),
        "keys": (None, *NAMES),
        "seed": SEED,
        "n_neighbors": WHOLE,
        "min_dist": (*NUMBER, 5),
    }.items():
        refused(umap, values, **{name: None})
    refused(lambda color: pl.check_colors(mdata, color), (None, *NAMES), color=None)
    refused(lambda history: pl.training_curves(history), (None, *MAPPING), history=None)
    refused(lambda size: pl.training_curves(model.history, panel_size=size), NUMBER, size=None)
    for function in (pl.certificate, pl.tuning, pl.estimators):
        refused(lambda result, f=function: f(result), (None, 5, "x"), result=None)


def test_settings_of_what_is_read_and_written(trained, tmp_path):
    model, mdata = trained
    target = tmp_path / "codes.zarr"
    (tmp_path / "file").write_text("mine")

    def convert_(**given):
        convert(**{"source": tmp_path / "cells.h5mu", "target": target} | given)

    def embed_(**given):
        embed(**{"model": model, "mdata": None, "target": target} | given)

    # Several files are opened as one.
    one = PATH[:-1]
    for name, values in {"source": one, "target": PATH, "shuffle": FLAG, "seed": SEED, "show_progress": FLAG}.items():
        if name == "target":
            continue
        refused(convert_, values, **{name: None})
    for name, values in {"model": (None, "x"), "target": PATH, "overwrite": FLAG, "show_progress": FLAG}.items():
        refused(embed_, values, **{name: None})
    refused(lambda path: open_mudata(path), one, path=None)
    refused(lambda path: model.save(path), PATH, path=None)
    for name in ("overwrite", "save_mdata", "save_anndata"):
        refused(lambda **given: model.save(tmp_path / "model", **given), FLAG, **{name: None})
    for load in (load_model, IndiSeekModel.load):
        refused(lambda path, f=load: f(path), PATH, path=None)
    model.save(tmp_path / "model")
    refused(lambda own: load_model(tmp_path / "model", own_code=own), (None, 5, "x"), own=None)
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        for write in (lambda p: model.save(p), lambda p: embed(model, None, p / "codes.zarr", show_progress=False)):
            with pytest.raises(OSError, match="expected a (folder|new directory).*, got .*; "):
                write(place)
    with pytest.raises(FileExistsError, match="expected a new path, got /"):
        embed(model, None, "/", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine" and not target.exists()
    with pytest.raises(RuntimeError, match="expected a device that this machine has, got 'nonsense'"):
        model.to_device("nonsense")


def test_settings_of_models_and_data(trained, real_cells):
    model, mdata = trained
    refused(lambda obs: model.certify(mdata, obs=obs), (None, "x", *NAMES), obs=None)
    refused(lambda seed: model.certify(mdata, seed=seed), SEED, seed=None)
    refused(lambda n: model.certify(mdata, n_permutations=n), WHOLE, n=None)
    setup = IndiSeekModel.setup_mudata
    for name, values in {
        "modalities": NAMES,
        "layers": MAPPING,
        "batch_key": (5, ["x"], {"a": 1}),
        "categorical_covariate_keys": ("x", *NAMES),
        "continuous_covariate_keys": ("x", *NAMES),
    }.items():
        refused(lambda **given: setup(real_cells, **given), values, **{name: None})
    for kind in (IndiSeekModel, CoMMModel, DisentangledSSLModel):
        refused(lambda transforms, f=kind: f(real_cells, transforms=transforms), (*MAPPING, {5: 1}), transforms=None)
        refused(lambda encoder, f=kind: f(real_cells, encoder=encoder), (None, "x", 5), encoder=None)
    refused(lambda n: CoMMModel(real_cells, n_latent=n), (*WHOLE, {"rna": 4}), n=None)
    refused(lambda own: Encoder(own=own), (None, *MAPPING), own=None)
    for transform in (LogNormalizePCA, CLRPCA, ScalePCA):
        # None has them counted.
        refused(lambda n, f=transform: f(n_components=n), [n for n in WHOLE if n is not None], n=None)
        refused(lambda n, f=transform: f(at_least=n), WHOLE, n=None)
    refused(lambda n: LogNormalizePCA(target_sum=n), NUMBER, n=None)
    refused(lambda seed: random_split(300, train_size=0.8, validation_size=0.1, seed=seed), SEED, seed=None)
    refused(lambda mdata: gate_pbmc(mdata), (None, "x"), mdata=None)
    refused(lambda key: mudata_of(real_cells["rna"], key), (5, [1], {"a": 1}, "x"), key=None)


def test_settings_of_train(real_cells, tmp_path, monkeypatch):
    model = IndiSeekModel(real_cells)
    monkeypatch.setattr("indiseek.train._run._fit_from", None)
    alone = {"max_epochs": 1, "accelerator": "cpu"}
    for name, values in {
        "seed": SEED,
        "checkpoint_dir": PATH[1:],
        "write_latents": FLAG,
        "keep_checkpoint": FLAG,
        "show_progress": FLAG,
        "callbacks": ("x", ["x"], 5, [None]),
        "strategy": ("ddp", "fsdp", "nonsense"),
        "logger": ("x",),
        "profiler": ("x",),
        "benchmark": ("x",),
        "accelerator": ("tpu", "nonsense", 5, None),
    }.items():
        refused(lambda **given: model.train(**alone | given), values, **{name: None})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="expected a folder at .*file, or a place to make one, got .*; give another"):
        model.train(**alone, checkpoint_dir=tmp_path / "file")
    assert not model.is_trained


def test_one_callback_alone_and_none_are_taken(mdata):
    class Counts(lightning.Callback):
        n = 0

        def on_train_epoch_end(self, *_):
            self.n += 1

    counts = Counts()
    for callbacks in (counts, None):
        model = IndiSeekModel(mdata, n_shared=4, encoder=Encoder(hidden=(16,)))
        model.train(1, accelerator="cpu", show_progress=False, callbacks=callbacks)
    assert counts.n == 1
    assert isinstance(model.adata, MuData) and isinstance(model.history["shared/train_loss"], pd.DataFrame)
