"""Codes of new cells: features matched and estimated, one modality, new batches; and nothing changed on failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from model_contract import assert_content, content, copy_of
from mudata import MuData
from scipy import sparse
from small import pair

from indiseek.data import open_mudata
from indiseek.datasets import pbmc10k_cite
from indiseek.models import ClosedForm, IndiSeekModel, NCEClub, QuerySummary
from indiseek.nn import Encoder

N_TRAIN, N_NEW = 1200, 300
SMALL = {"n_shared": 4, "encoder": Encoder(hidden=(32,)), "specific": ClosedForm(n_landmarks=100, refine=False)}
FIT = {"max_epochs": 25, "batch_size": 256, "accelerator": "cpu", "show_progress": False}
WHOLE = {"X_indiseek_shared", "X_indiseek", "X_indiseek_rna", "X_indiseek_prot"}


@pytest.fixture(scope="module")
def blood() -> tuple[MuData, MuData]:
    """Cells of training and new ones, of the same 400 genes and 14 proteins."""
    full = pbmc10k_cite()
    rows = np.random.default_rng(0).permutation(full.n_obs)[: N_TRAIN + N_NEW]
    genes = np.sort(np.argsort(-full["rna"].X[rows].getnnz(axis=0), kind="stable")[100:500])

    def part(which: np.ndarray) -> MuData:
        return pair(rna=full["rna"][which][:, genes].copy(), prot=full["prot"][which].copy())

    return part(np.sort(rows[:N_TRAIN])), part(np.sort(rows[N_TRAIN:]))


@pytest.fixture(scope="module")
def model(blood) -> IndiSeekModel:
    model = IndiSeekModel(copy_of(blood[0]), **SMALL)
    model.train(**FIT)
    return model


@pytest.fixture(scope="module")
def of_batches(blood) -> IndiSeekModel:
    """Trained on two lanes; in the second, half of the genes and proteins are seen half as often."""
    cells = copy_of(blood[0])
    lane = np.where(np.arange(N_TRAIN) % 2, "one", "two")
    for name, part in cells.mod.items():
        _change(part, lane == "two", seed=len(name))
    cells.obs["lane"] = lane
    IndiSeekModel.setup_mudata(cells, batch_key="lane")
    model = IndiSeekModel(cells, **SMALL)
    model.train(**FIT)
    return model


@pytest.fixture
def new(blood) -> MuData:
    return copy_of(blood[1])


def _change(part: AnnData, rows: np.ndarray, *, seed: int, times: float = 2.0) -> None:
    """Multiply the counts of half of the features in some of the cells."""
    factor = np.where(np.random.default_rng(seed).random(part.n_vars) < 0.5, times, 1.0)
    values = part.X.toarray() if sparse.issparse(part.X) else np.array(part.X)
    values[rows] *= factor
    part.X = sparse.csr_matrix(values) if sparse.issparse(part.X) else values


def _written(mdata: MuData) -> dict[str, np.ndarray]:
    found = {key: np.asarray(code) for key, code in mdata.obsm.items() if key.startswith("X_")}
    for name, part in mdata.mod.items():
        found |= {f"{name}/{key}": np.asarray(code) for key, code in part.obsm.items() if key.startswith("X_")}
    return found


def _wrong(found: np.ndarray, truth: np.ndarray) -> float:
    """Squared error relative to the variance of the truth."""
    return float(np.square(found - truth).sum() / np.square(truth - truth.mean(axis=0)).sum())


def _mapped(model: IndiSeekModel, mdata: MuData, **options: Any) -> dict[str, np.ndarray]:
    model.map_query(mdata, **options)
    return _written(mdata)


@pytest.fixture
def truth(model, new) -> dict[str, np.ndarray]:
    """What the new cells get with all of their features."""
    whole = copy_of(new)
    model.write_latents(whole)
    return _written(whole)


def test_cells_with_all_features_get_the_codes_of_write_latents_to_the_last_bit(model, new, truth, log):
    summary = model.map_query(new)
    found = _written(new)
    assert found.keys() == truth.keys() and set(new.obsm) >= WHOLE
    for key, code in truth.items():
        np.testing.assert_array_equal(found[key], code, err_msg=key)
    assert isinstance(summary, QuerySummary) and not summary.moved and summary.batches == {}
    assert [match.overlap for match in summary.features.values()] == [1.0, 1.0]
    assert repr(summary).splitlines()[:2] == ["300 cells", "  'rna': 400 of 400 features (100 %)"]
    assert "features" not in log.text


FORMS: dict[str, Callable[[AnnData], AnnData]] = {
    "another order": lambda a: a[:, ::-1].copy(),
    "CSC": lambda a: AnnData(sparse.csc_matrix(a.X), obs=a.obs, var=a.var),
    "dense": lambda a: AnnData(a.X.toarray() if sparse.issparse(a.X) else a.X, obs=a.obs, var=a.var),
    "view": lambda a: a[np.arange(a.n_obs)],
}


# anndata says it whenever something is written into a view.
@pytest.mark.filterwarnings("ignore:Setting element:anndata.ImplicitModificationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_cells_does_not_matter(model, new, truth, form):
    found = _mapped(model, pair(**{name: FORMS[form](part) for name, part in new.mod.items()}))
    for key, code in truth.items():
        np.testing.assert_array_equal(found[key], code, err_msg=key)


def test_cells_on_disk_and_views_of_a_mudata(model, new, truth, tmp_path):
    with mudata.set_options(pull_on_update=False):
        new.write(tmp_path / "new.h5mu")
    opened = open_mudata(tmp_path / "new.h5mu")
    for key, code in _mapped(model, opened).items():
        np.testing.assert_array_equal(code, truth[key], err_msg=key)
    some = copy_of(pair(**{name: part[:40] for name, part in new.mod.items()}))
    np.testing.assert_allclose(_mapped(model, some)["X_indiseek"], truth["X_indiseek"][:40], rtol=0, atol=1e-5)


def test_other_spellings_and_further_features_change_nothing_but_the_names_that_are_told(model, new, truth, log):
    other = copy_of(new)
    other["prot"].var_names = ["p_" + name.removesuffix("_TotalSeqB").lower() for name in new["prot"].var_names]
    more = AnnData(sparse.random(N_NEW, 5, 0.5, "csr", np.float32), obs=new["rna"].obs)
    more.var_names = [f"more{i}" for i in range(5)]
    both = AnnData(sparse.hstack([more.X, new["rna"].X], "csr"), obs=new["rna"].obs)
    both.var_names = [*more.var_names, *new["rna"].var_names]
    cells = pair(rna=both, prot=other["prot"])
    summary = model.map_query(cells)
    for key, code in truth.items():
        np.testing.assert_array_equal(_written(cells)[key], code, err_msg=key)
    assert summary.features["rna"].extra == tuple(more.var_names)
    assert summary.features["prot"].renamed["CD3_TotalSeqB"] == "p_cd3"
    assert "14 of 14 features (100 %), 14 of them by another spelling (p_cd" in log.text
    assert "p_cd14 as CD14_TotalSeqB, " in log.text
    assert "400 of 400 features (100 %), 5 others not used (more0, more1, more2, more3, more4)" in log.text


@pytest.mark.parametrize("missing", [0.1, 0.4])
def test_missing_features_are_estimated_and_not_zero(model, new, truth, missing, log):
    rng = np.random.default_rng(3)
    kept = {n: np.sort(rng.permutation(a.n_vars)[: round(a.n_vars * (1 - missing))]) for n, a in new.mod.items()}
    cells = pair(**{name: part[:, kept[name]].copy() for name, part in new.mod.items()})
    found = _mapped(model, cells)
    filled = copy_of(new)
    for name, part in filled.mod.items():
        gone = np.setdiff1d(np.arange(part.n_vars), kept[name])
        values = part.X.toarray() if sparse.issparse(part.X) else np.array(part.X)
        values[:, gone] = 0
        part.X = sparse.csr_matrix(values) if sparse.issparse(part.X) else values
    zeros = _mapped(model, filled)
    for key in ("X_indiseek_shared", "X_indiseek"):
        assert _wrong(found[key], truth[key]) < 0.6 * _wrong(zeros[key], truth[key]), key
    assert _wrong(found["X_indiseek"], truth["X_indiseek"]) < (0.1 if missing == 0.1 else 0.35)
    n_genes = len(kept["rna"])
    assert f"'rna': {n_genes} of 400 features ({n_genes / 4:.0f} %), {400 - n_genes} missing (" in log.text


@pytest.mark.parametrize("only", ["rna", "prot"])
def test_cells_with_one_modality_lie_among_those_with_both(model, new, truth, only, log):
    cells = pair(**{only: new[only].copy()})
    found = _mapped(model, cells)
    assert set(cells.obsm) >= {"X_indiseek_shared", "X_indiseek", f"X_indiseek_{only}"}
    assert found.keys() == {key for key in truth if "/" not in key or key.startswith(only)} - (
        WHOLE - {"X_indiseek_shared", "X_indiseek", f"X_indiseek_{only}"}
    )
    np.testing.assert_array_equal(found["X_indiseek_shared"], model.get_latent_representation(cells))
    np.testing.assert_array_equal(
        found[f"X_indiseek_{only}"], model.get_latent_representation(cells, modality=only, kind="specific")
    )
    assert found["X_indiseek"].shape == truth["X_indiseek"].shape
    # The other modality is known in part only; its mean would be known without the cells.
    n_rna = model.get_features(modality="rna").shape[1]
    other = slice(n_rna, -4) if only == "rna" else slice(0, n_rna)
    assert _wrong(found["X_indiseek"][:, other], truth["X_indiseek"][:, other]) < 0.9
    assert _wrong(found["X_indiseek"], truth["X_indiseek"]) < 0.5
    assert f"no modality but {only!r}" in log.text


def test_a_model_without_components_maps_cells_with_one_modality_too(blood, new):
    model = IndiSeekModel(copy_of(blood[0]), **SMALL | {"specific": NCEClub(critic_hidden=(16,))})
    model.train(**FIT | {"max_epochs": 3})
    whole, part = copy_of(new), pair(rna=new["rna"].copy())
    model.map_query(whole)
    model.map_query(part)
    assert part.obsm["X_indiseek"].shape == whole.obsm["X_indiseek"].shape
    assert _wrong(part.obsm["X_indiseek"], whole.obsm["X_indiseek"]) < 0.8


def test_a_loaded_model_maps_as_the_trained_one_and_asks_for_the_reference_where_it_needs_it(model, new, tmp_path, log):
    model.save(tmp_path / "model")
    fewer = pair(rna=new["rna"][:, :300].copy(), prot=new["prot"].copy())
    only = pair(rna=new["rna"].copy())
    expected = {name: _mapped(model, copy_of(cells)) for name, cells in {"fewer": fewer, "only": only}.items()}
    loaded = IndiSeekModel.load(tmp_path / "model", model.adata, accelerator="cpu")
    for name, cells in {"fewer": fewer, "only": only}.items():
        for key, code in _mapped(loaded, copy_of(cells)).items():
            np.testing.assert_array_equal(code, expected[name][key], err_msg=key)
    # Without the reference, or with other cells in its place.
    for other in (None, copy_of(new)):
        alone = IndiSeekModel.load(tmp_path / "model", other, accelerator="cpu")
        np.testing.assert_array_equal(
            _mapped(alone, copy_of(new))["X_indiseek"], model.get_latent_representation(new, kind="everything")
        )
        before = content(fewer)
        with pytest.raises(RuntimeError, match=r"expected the cells that the model was trained on, which estimating"):
            alone.map_query(fewer)
        assert_content(content(fewer), before)
        log.clear()
        found = _mapped(alone, copy_of(only))
        np.testing.assert_array_equal(found["X_indiseek_shared"], expected["only"]["X_indiseek_shared"])
        assert "X_indiseek" not in found and "'X_indiseek' is left out" in log.text


# Batches


def _with_lane(new: MuData, lane: Any, *, like: str | None = None, times: float = 1.0) -> MuData:
    cells = copy_of(new)
    for name, part in cells.mod.items():
        if like == "two":
            _change(part, np.ones(N_NEW, dtype=bool), seed=len(name))
        if times != 1.0:
            _change(part, np.ones(N_NEW, dtype=bool), seed=99 + len(name), times=times)
    if lane is not None:
        cells.obs["lane"] = lane
    return cells


def test_cells_of_known_batches_are_those_of_write_latents(of_batches, new, log):
    cells = _with_lane(new, np.where(np.arange(N_NEW) % 2, "one", "two"))
    other = copy_of(cells)
    other.obs["lane"] = cells.obs["lane"]
    of_batches.write_latents(other)
    assert of_batches.map_query(cells).batches == {}
    for key, code in _written(other).items():
        np.testing.assert_array_equal(_written(cells)[key], code, err_msg=key)
    assert "read as of" not in log.text


@pytest.mark.parametrize("lane", ["three", None])
@pytest.mark.parametrize("like", ["one", "two"])
def test_a_new_batch_is_read_as_the_nearest_and_it_is_said(of_batches, new, lane, like, log):
    cells, known = _with_lane(new, lane, like=like), _with_lane(new, like, like=like)
    summary = of_batches.map_query(cells)
    assert summary.batches == {"all cells" if lane is None else lane: like}
    assert f"300 cells are read as of {like!r}, the nearest in the mean of the features" in log.text
    of_batches.write_latents(known)
    for key, code in _written(known).items():
        np.testing.assert_array_equal(_written(cells)[key], code, err_msg=key)
    assert "lane" not in cells.obs if lane is None else set(cells.obs["lane"]) == {"three"}
    # As the user says, of a model with its reference or without.
    far = "two" if like == "one" else "one"
    assert of_batches.map_query(cells, batch=far).batches.popitem()[1] == far
    of_batches.write_latents(known := _with_lane(new, far, like=like))
    np.testing.assert_array_equal(cells.obsm["X_indiseek"], known.obsm["X_indiseek"])


def test_known_and_new_batches_beside_each_other(of_batches, new):
    lane = np.repeat(["one", "three"], N_NEW // 2)
    cells, known = _with_lane(new, lane), _with_lane(new, "one")
    summary = of_batches.map_query(cells, batch="one", fit_batch=True)
    assert summary.batches == {"three": "one"} and "moved to the reference" in repr(summary)
    of_batches.write_latents(known)
    code, truth = cells.obsm["X_indiseek"], known.obsm["X_indiseek"]
    np.testing.assert_allclose(code[: N_NEW // 2], truth[: N_NEW // 2], rtol=0, atol=1e-5)
    assert np.abs(code[N_NEW // 2 :] - truth[N_NEW // 2 :]).max() > 1e-3


@pytest.mark.parametrize("with_batches", [True, False])
@pytest.mark.parametrize("only", [None, "prot"])
def test_fitting_a_new_batch_takes_out_its_shift(of_batches, model, new, with_batches, only):
    used = of_batches if with_batches else model
    lane = "three" if with_batches else None
    options = {"batch": "one"} if with_batches else {}

    def cells(times: float) -> MuData:
        made = _with_lane(new, lane, times=times)
        if only is None:
            return made
        one = pair(**{only: made[only]})
        one.obs = made.obs[[key for key in made.obs if key == "lane"]]
        return one

    truth = _mapped(used, cells(1.0), **options)["X_indiseek"]
    shifted = _mapped(used, cells(4.0), **options)["X_indiseek"]
    fitted = _mapped(used, cells(4.0), fit_batch=True, **options)["X_indiseek"]
    means = [np.square(code.mean(axis=0) - truth.mean(axis=0)).sum() for code in (shifted, fitted)]
    assert means[1] < 0.15 * means[0]
    assert _wrong(fitted, truth) < 0.6 * _wrong(shifted, truth)


# What cannot be used


def _labels(model: IndiSeekModel) -> None:
    model.adata.obs["kind"] = pd.Categorical(np.where(np.arange(model.adata.n_obs) % 2, "odd", "even"))


BAD: dict[str, tuple[Callable[[MuData], Any], dict[str, Any], type[Exception], str]] = {
    "no MuData": (lambda m: m["rna"], {}, TypeError, r"expected a MuData, got AnnData"),
    "no modality": (
        lambda m: pair(gene=m["rna"].copy()),
        {},
        KeyError,
        r"expected at least one of the modalities \['rna', 'prot'\], got \['gene'\]; rename yours",
    ),
    "little overlap": (
        lambda m: pair(rna=m["rna"][:, :100].copy(), prot=m["prot"]),
        {},
        ValueError,
        r"expected in modality 'rna' at least 50 % of the features .*, got 100 of 400 features \(25 %\), 300 missing",
    ),
    "no overlap": (
        lambda m: pair(prot=AnnData(m["prot"].X[:, :3], obs=m["prot"].obs)),
        {"min_overlap": 0},
        ValueError,
        r"expected in modality 'prot' at least 0 % of the features .*, got 0 of 14 features \(0 %\)",
    ),
    "no counts": (
        lambda m: pair(rna=AnnData(m["rna"].X * 0.3, obs=m["rna"].obs, var=m["rna"].var), prot=m["prot"]),
        {},
        ValueError,
        r"expected in modality 'rna' counts",
    ),
    "unpaired": (lambda m: pair(rna=m["rna"][:200].copy(), prot=m["prot"]), {}, ValueError, r"expected paired cells"),
    "overlap out of range": (lambda m: m, {"min_overlap": 1.5}, ValueError, r"expected min_overlap to be a number"),
    "flag": (lambda m: m, {"fit_batch": 1}, TypeError, r"expected fit_batch to be True or False"),
    "several batches": (lambda m: m, {"batch": ["one"]}, TypeError, r"expected batch to be the name of one batch"),
    "unknown batch": (
        lambda m: m,
        {"batch": "three"},
        ValueError,
        r"expected batch to be one that the model was trained with, \['one', 'two'\], got 'three'",
    ),
    "nothing to fit": (
        lambda m: _with_lane(m, "one"),
        {"fit_batch": True},
        ValueError,
        r"expected cells of a new batch for fit_batch=True, got only batches that the model was trained with",
    ),
    "too few to fit": (
        lambda m: _with_lane(m, np.where(np.arange(N_NEW) < 99, "three", "one")),
        {"fit_batch": True},
        ValueError,
        r"expected at least 100 cells of each new batch for fit_batch=True, got \{'three': 99\}",
    ),
    "no lane for some": (
        lambda m: _with_lane(m, pd.Series(np.where(np.arange(N_NEW) < 9, None, "one"), m.obs_names)),
        {},
        ValueError,
        r"expected a value of 'lane' for every cell, got 9 cells without one",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("verb", ["map_query", "transfer_labels"])
def test_bad_input_is_named_and_nothing_is_changed(of_batches, new, name, verb):
    make, options, error, message = BAD[name]
    _labels(of_batches)
    bad = make(new)
    before, trained = content(bad) if isinstance(bad, MuData) else None, content(of_batches.adata)
    arguments = () if verb == "map_query" else ("kind",)
    with pytest.raises(error, match=message):
        getattr(of_batches, verb)(bad, *arguments, **options)
    if before is not None:
        assert_content(content(bad), before)
    assert_content(content(of_batches.adata), trained)


def test_unknown_categories_of_other_covariates_are_refused(blood, new):
    cells = copy_of(blood[0])
    cells.obs["kit"] = np.where(np.arange(N_TRAIN) % 2, "v2", "v3")
    IndiSeekModel.setup_mudata(cells, categorical_covariate_keys=["kit"])
    model = IndiSeekModel(cells, **SMALL)
    model.train(**FIT | {"max_epochs": 1})
    new.obs["kit"] = "v4"
    before = content(new)
    with pytest.raises(ValueError, match=r"expected in 'kit' categories that the model was trained with"):
        model.map_query(new)
    assert_content(content(new), before)
    with pytest.raises(ValueError, match="expected no batch for a model that was set up without batch_key, got 'v2'"):
        model.map_query(new, batch="v2")


def test_an_untrained_model_maps_nothing(blood, new):
    model = IndiSeekModel(copy_of(blood[0]), **SMALL)
    for call in (model.map_query, lambda cells: model.transfer_labels(cells, "kind")):
        with pytest.raises(RuntimeError, match="expected a trained model, got one that is not"):
            call(new)


def test_codes_are_written_all_or_not_at_all(model, new, monkeypatch):
    def out_of_memory(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(type(model.module), "codes", out_of_memory)
    before = content(new)
    with pytest.raises(MemoryError):
        model.map_query(new)
    assert_content(content(new), before)


def test_a_reference_that_was_changed_in_place_does_not_matter_where_it_is_not_needed(blood, new):
    cells = copy_of(blood[0])
    model = IndiSeekModel(cells, **SMALL)
    model.train(**FIT | {"max_epochs": 1})
    model.write_latents(whole := copy_of(new))
    cells["rna"].X.data[:] = np.log1p(cells["rna"].X.data)
    np.testing.assert_array_equal(_mapped(model, copy_of(new))["X_indiseek"], whole.obsm["X_indiseek"])
    fewer = pair(rna=new["rna"][:, :300].copy(), prot=new["prot"])
    with pytest.raises(ValueError, match="they were changed in place"):
        model.map_query(fewer)


def test_a_batch_without_training_cells_is_nothing_to_be_moved_to(blood, new):
    cells = copy_of(blood[0])
    lane = np.where(np.arange(N_TRAIN) < 30, "rare", np.where(np.arange(N_TRAIN) % 2, "one", "two"))
    cells.obs["lane"] = lane
    IndiSeekModel.setup_mudata(cells, batch_key="lane")
    model = IndiSeekModel(cells, **SMALL)
    split = [np.arange(30, 900), np.arange(900, N_TRAIN), np.arange(30)]
    model.train(**FIT | {"max_epochs": 1, "external_indexing": split})
    other = _with_lane(new, "three")
    assert model.map_query(other).batches["three"] in ("one", "two")
    before = content(other)
    with pytest.raises(ValueError, match="expected training cells of the batch as which new cells are read, got none"):
        model.map_query(other, batch="rare", fit_batch=True)
    assert_content(content(other), before)
