"""What every model must do for its user. A new one adds a line to the list."""

from __future__ import annotations

import gc
import logging
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from indiseek.data import LogNormalizePCA, Scale
from indiseek.models import IndiSeekModel, MultimodalModel


class Case(NamedTuple):
    """A model and arguments that make it small."""

    model: type[MultimodalModel]
    arguments: dict[str, Any]
    key: str

    def new(self, mdata: MuData, **more: Any) -> Any:
        return self.model(mdata, **self.arguments | more)


_SMALL = {"n_shared": 4, "n_specific": 3, "hidden": (32,)}
MODELS = [
    pytest.param(Case(IndiSeekModel, _SMALL | {"specific": "nce-club", "critic_hidden": (16,)}, "indiseek"), id="nce"),
    pytest.param(Case(IndiSeekModel, _SMALL | {"specific": "flow", "n_context": 5}, "indiseek"), id="flow"),
]
N_SHARED, N_SPECIFIC = 4, 3
FAST = {"max_epochs": 1, "batch_size": 50, "accelerator": "cpu", "show_progress": False}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def fitted(case: Case, make_mdata: Callable[[int], MuData]) -> tuple[Any, MuData]:
    """A trained model and its cells. Not to be changed."""
    mdata = make_mdata(200)
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 2})
    return model, mdata


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("indiseek")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def pair(**modalities: AnnData) -> MuData:
    with mudata.set_options(pull_on_update=False):
        return MuData(modalities)


def copy_of(mdata: MuData, change: Mapping[str, Callable[[AnnData], AnnData]] | None = None) -> MuData:
    change = change or {}
    return pair(**{name: change.get(name, lambda a: a)(adata.copy()) for name, adata in mdata.mod.items()})


def latents(model: Any, mdata: MuData | None = None, **options: Any) -> dict[str, np.ndarray]:
    codes = {"joint": model.get_latent_representation(mdata, **options)}
    for kind in ("shared", "specific"):
        for name in model.modalities:
            codes[f"{kind}_{name}"] = model.get_latent_representation(mdata, modality=name, kind=kind, **options)
    return codes


def assert_same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def assert_close(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], atol: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=0, atol=atol, err_msg=key)


def weights(model: Any) -> dict[str, np.ndarray]:
    return {key: value.cpu().numpy().copy() for key, value in model.module.state_dict().items()}


def content(mdata: MuData) -> dict[str, Any]:
    """Everything of a MuData, copied."""
    found: dict[str, Any] = {"mod": list(mdata.mod), "shape": mdata.shape}
    for name, part in {"": mdata, **mdata.mod}.items():
        found[f"{name}/obs"], found[f"{name}/var"] = part.obs.copy(), part.var.copy()
        found[f"{name}/uns"] = dict(part.uns)
        for slot in ("obsm", "varm", "obsp", "varp"):
            for key, value in getattr(part, slot).items():
                found[f"{name}/{slot}/{key}"] = value.copy()
        if name:
            for key, value in {"X": part.X, **part.layers}.items():
                found[f"{name}/{key}"] = value.toarray() if sparse.issparse(value) else np.array(value)
                found[f"{name}/{key}/type"] = (type(value), value.dtype)
    return found


def assert_content(now: Mapping[str, Any], before: Mapping[str, Any], added: set[str] = frozenset()) -> None:
    assert now.keys() - before.keys() == added
    assert before.keys() <= now.keys()
    for key, value in before.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(now[key], value)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(now[key], value)
        else:
            assert now[key] == value


class At(lightning.Callback):
    """Do something after a step of one stage."""

    def __init__(self, stage: int, action: Callable[[lightning.LightningModule], None], *, epoch: int = 0) -> None:
        self.stage, self.action, self.epoch = stage, action, epoch
        self.n_fits = 0

    def on_fit_start(self, *_: Any) -> None:
        self.n_fits += 1

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if self.n_fits - 1 == self.stage and trainer.current_epoch == self.epoch:
            self.action(pl_module)


def interrupt(_: lightning.LightningModule) -> None:
    raise KeyboardInterrupt


def diverge(pl_module: lightning.LightningModule) -> None:
    with torch.no_grad():
        next(pl_module.objective.encoder_parameters()).fill_(float("nan"))


class Modes(lightning.Callback):
    """Whether every training step of every stage ran in train mode."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        self.seen += [module.training for module in pl_module.objective.modules()]


# --- registration -----------------------------------------------------------------------------------------------


def test_modalities_are_detected_and_the_choice_is_said_in_one_line(case, mdata, log):
    model = case.new(mdata)
    assert model.modalities == ("rna", "prot")
    (record,) = log.records
    for word in ("150 cells", "'rna'", "300 features", "'prot'", "14 features", "clr", "log-normalize"):
        assert word in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "150 cells" in repr(model) and "none" in repr(model)


def test_setup_decides_modalities_order_and_layers(case, mdata, log):
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 0.5
    case.model.setup_mudata(mdata, modalities=["prot", "rna"], layers={"rna": "counts"})
    model = case.new(mdata)
    assert model.modalities == ("prot", "rna")
    assert "layer 'counts'" in log.records[-1].getMessage() and "log-normalize" in log.records[-1].getMessage()
    model.train(**FAST)
    plain = copy_of(mdata, {"rna": lambda a: AnnData(a.layers["counts"], obs=a.obs, var=a.var)})
    case.model.setup_mudata(plain, modalities=["prot", "rna"])
    from_x = case.new(plain)
    from_x.train(**FAST)
    assert_same(weights(model), weights(from_x))


def test_other_names_work_when_there_are_two_or_they_are_chosen(case, mdata):
    a, b, c = mdata["rna"], mdata["prot"], mdata["prot"].copy()
    c.var_names = [f"other_{name}" for name in c.var_names]
    assert case.new(pair(first=a.copy(), second=b.copy())).modalities == ("first", "second")
    three = pair(first=a.copy(), second=b.copy(), third=c)
    with pytest.raises(ValueError, match=r"setup_mudata\(mdata, modalities="):
        case.new(three)
    case.model.setup_mudata(three, modalities=["first", "second", "third"])
    model = case.new(three)
    model.train(**FAST)
    assert {key for key in three.obsm if key.startswith("X_")} == {
        f"X_{case.key}_{name}" for name in ("shared", "first", "second", "third")
    }
    for code in latents(model).values():
        assert code.shape[0] == 150 and np.isfinite(code).all()


def test_batch_key_is_refused_until_it_works(case, mdata):
    with pytest.raises(ValueError, match="expected batch_key=None, got 'batch'.*yet"):
        case.model.setup_mudata(mdata, batch_key="batch")


def test_unknown_choices_are_named(case, mdata):
    with pytest.raises(KeyError, match=r"expected modality 'atac', got a MuData with \['rna', 'prot'\]"):
        case.model.setup_mudata(mdata, modalities=["rna", "atac"])
    case.model.setup_mudata(mdata, layers={"rna": "counts"})
    with pytest.raises(KeyError, match="expected layer 'counts' in modality 'rna'"):
        case.new(mdata)


@pytest.mark.parametrize("wrong", ["anndata", "array", "nothing"])
def test_what_is_no_mudata_is_refused(case, mdata, wrong):
    thing = {"anndata": mdata["rna"], "array": np.zeros((200, 3)), "nothing": None}[wrong]
    with pytest.raises(TypeError, match="expected a MuData with two modalities, got"):
        case.new(thing)


def test_setup_anndata_says_what_to_call(case, mdata):
    with pytest.raises(TypeError, match="expected a MuData.*setup_mudata"):
        case.model.setup_anndata(mdata["rna"])


def test_a_mudata_that_was_changed_after_setup_is_checked_again(case, mdata):
    case.new(mdata)
    mdata.mod["prot"] = mdata["prot"][::-1].copy()
    with pytest.raises(ValueError, match="expected paired cells.*'prot'"):
        case.new(mdata)


def test_a_gene_and_a_protein_may_have_one_name(case, mdata):
    def rename(adata: AnnData) -> AnnData:
        adata.var_names = [mdata["rna"].var_names[0], *adata.var_names[1:]]
        return adata

    with warnings.catch_warnings(action="ignore", category=UserWarning):
        both = copy_of(mdata, {"prot": rename})
    # mudata has warned the user once; the model must work, and not warn again.
    case.new(both).train(**FAST)
    assert f"X_{case.key}_shared" in both.obsm


def _set(adata: AnnData, row: Any, column: Any, value: float) -> AnnData:
    x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X.copy()
    x[row, column] = value
    return AnnData(x, obs=adata.obs, var=adata.var)


BAD = {
    "nan": ("rna", lambda a: _set(a, 3, 4, np.nan), "expected finite values in modality 'rna'"),
    "inf": ("prot", lambda a: _set(a, 3, 4, np.inf), "expected finite values in modality 'prot'"),
    "negative": ("prot", lambda a: _set(a, 3, 4, -2), "expected counts of at least 0 in modality 'prot', got -2"),
    "empty cell": ("rna", lambda a: _set(a, 7, slice(None), 0), "only zeros in modality 'rna' in '[ACGT]+"),
    "empty protein": ("prot", lambda a: _set(a, slice(None), 2, 0), "only zeros in '.*_TotalSeqB'"),
    "constant": ("prot", lambda a: _set(a, slice(None), 2, 9), "the same value in every cell in '.*_TotalSeqB'"),
    "few cells": (None, lambda a: a[:99].copy(), "expected at least 100 cells, got 99"),
    "unpaired": ("prot", lambda a: a[:120].copy(), "expected paired cells"),
    "reordered cells": ("prot", lambda a: a[::-1].copy(), "the same cells in another order"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_and_left_as_it_was(case, mdata, kind):
    where, change, message = BAD[kind]
    bad = copy_of(mdata, {name: change for name in ("rna", "prot") if where in (name, None)})
    before = content(bad)
    with pytest.raises(ValueError, match=message):
        case.new(bad)
    assert_content(content(bad), before)


# --- latents ----------------------------------------------------------------------------------------------------


def test_latents_have_their_shapes_and_lie_where_they_should(case, fitted):
    model, mdata = fitted
    codes = latents(model)
    for key, code in codes.items():
        width = N_SPECIFIC if key.startswith("specific") else N_SHARED
        assert code.shape == (mdata.n_obs, width) and code.dtype == np.float32 and np.isfinite(code).all()
        if not key.startswith("specific"):
            np.testing.assert_allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-5)
    mean = codes["shared_rna"] + codes["shared_prot"]
    np.testing.assert_allclose(codes["joint"], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


def test_sizes_may_differ_by_modality(case, mdata):
    model = case.new(mdata, n_specific={"prot": 2, "rna": 6})
    model.train(**FAST)
    assert mdata.obsm[f"X_{case.key}_rna"].shape == (150, 6)
    assert mdata.obsm[f"X_{case.key}_prot"].shape == (150, 2)


def test_latents_are_written_for_scanpy_and_nothing_else_changes(case, make_mdata):
    mdata = make_mdata(150)
    rng = np.random.default_rng(0)
    mdata.obs["condition"] = rng.choice(["a", "b"], 150)
    mdata.uns["note"] = "mine"
    for adata in mdata.mod.values():
        adata.obs["size"] = rng.normal(size=150)
        adata.layers["counts"] = adata.X.copy()
        adata.uns["note"] = "mine"
        adata.obsm["X_mine"] = rng.normal(size=(150, 2))
    before = content(mdata)
    model = case.new(mdata)
    assert_content(content(mdata), before)
    model.train(**FAST, write_latents=False)
    latents(model)
    assert_content(content(mdata), before)
    model.write_latents()
    key = f"X_{case.key}"
    added = {f"/obsm/{key}_{name}" for name in ("shared", "rna", "prot")}
    added |= {f"{name}/obsm/{key}_{kind}" for name in ("rna", "prot") for kind in ("shared", "specific")}
    assert_content(content(mdata), before, added)
    codes = latents(model)
    for name in ("rna", "prot"):
        np.testing.assert_array_equal(mdata.obsm[f"{key}_{name}"], codes[f"specific_{name}"])
        np.testing.assert_array_equal(mdata[name].obsm[f"{key}_specific"], codes[f"specific_{name}"])
        np.testing.assert_array_equal(mdata[name].obsm[f"{key}_shared"], codes["joint"])
    np.testing.assert_array_equal(mdata.obsm[f"{key}_shared"], codes["joint"])


def test_train_writes_latents_unless_told_not_to(case, mdata):
    case.new(mdata).train(**FAST)
    assert f"X_{case.key}_shared" in mdata.obsm


def test_latents_are_written_into_other_cells_too(case, fitted, make_mdata):
    model, _ = fitted
    other = make_mdata(300)
    model.write_latents(other)
    np.testing.assert_array_equal(other["prot"].obsm[f"X_{case.key}_specific"], latents(model, other)["specific_prot"])


def test_indices_pick_cells_in_their_order(fitted):
    model, mdata = fitted
    whole = latents(model)
    positions = [17, 3, 3, 190]
    mask = np.zeros(mdata.n_obs, dtype=bool)
    mask[[5, 9]] = True
    for indices in (positions, np.array(positions), mask, mask.tolist()):
        some = latents(model, indices=indices)
        assert_close(some, {key: code[np.asarray(indices)] for key, code in whole.items()})
    assert_close(
        latents(model, mdata, indices=model.test_indices),
        {key: code[model.test_indices] for key, code in whole.items()},
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_batch_size_does_not_change_inference(fitted, batch_size):
    model, _ = fitted
    assert_close(latents(model, batch_size=batch_size), latents(model))


def test_another_mudata_and_views_give_the_codes_of_their_cells(fitted, make_mdata):
    model, mdata = fitted
    whole = latents(model)
    assert_close(latents(model, copy_of(mdata)), whole)
    bigger = make_mdata(320)
    assert_close({key: code[:200] for key, code in latents(model, bigger).items()}, whole)
    rows = np.array([150, 3, 44])
    view = mdata[rows]
    assert_close(latents(model, view), {key: code[rows] for key, code in whole.items()})


def test_few_cells_are_enough_for_inference(fitted, make_mdata):
    model, _ = fitted
    one = copy_of(make_mdata(10), {name: lambda a: a[:1].copy() for name in ("rna", "prot")})
    assert_close(latents(model, one), {key: code[:1] for key, code in latents(model).items()})


def test_features_in_another_order_are_put_in_order(fitted, make_mdata):
    model, _ = fitted
    rng = np.random.default_rng(0)
    shuffled = copy_of(
        make_mdata(200), {name: lambda a: a[:, rng.permutation(a.n_vars)].copy() for name in ("rna", "prot")}
    )
    assert_close(latents(model, shuffled), latents(model))


def test_other_features_are_refused_and_named(fitted, make_mdata):
    model, mdata = fitted
    first = mdata["rna"].var_names[0]
    missing = copy_of(make_mdata(200), {"rna": lambda a: a[:, 1:].copy()})
    with pytest.raises(ValueError, match=rf"in modality 'rna' the 300 features .* got 1 missing \({first}\)"):
        latents(model, missing)

    def renamed(adata: AnnData) -> AnnData:
        adata.var_names = ["stranger", *adata.var_names[1:]]
        return adata

    with pytest.raises(ValueError, match=rf"1 missing \({first}\) and 1 extra \(stranger\).*in any order"):
        latents(model, copy_of(make_mdata(200), {"rna": renamed}))
    with pytest.raises(ValueError, match="in modality 'prot' .* got 5 missing"):
        latents(model, copy_of(make_mdata(200), {"prot": lambda a: a[:, 5:].copy()}))


def test_bad_values_of_other_cells_are_refused(fitted, make_mdata):
    model, _ = fitted
    broken = copy_of(make_mdata(200), {"prot": lambda a: _set(a, 3, 4, np.nan)})
    before = content(broken)
    for call in (latents, lambda m, d: m.write_latents(d)):
        with pytest.raises(ValueError, match="expected finite values in modality 'prot'"):
            call(model, broken)
    assert_content(content(broken), before)
    with pytest.raises(ValueError, match="expected paired cells"):
        latents(model, copy_of(make_mdata(200), {"prot": lambda a: a[::-1].copy()}))


def test_cells_with_one_modality_get_its_codes(fitted, make_mdata):
    model, _ = fitted
    whole = latents(model)
    for name in ("rna", "prot"):
        alone = pair(**{name: make_mdata(200)[name].copy()})
        code = model.get_latent_representation(alone, modality=name)
        np.testing.assert_allclose(code, whole[f"shared_{name}"], atol=1e-5)
        np.testing.assert_allclose(model.get_latent_representation(alone), code, atol=0)
        specific = model.get_latent_representation(alone, modality=name, kind="specific", indices=[4, 2])
        assert specific.shape == (2, N_SPECIFIC) and np.isfinite(specific).all()
        (other,) = {"rna", "prot"} - {name}
        with pytest.raises(KeyError, match=f"expected modality '{name}'.*got '{other}'"):
            model.get_latent_representation(alone, modality=other)


WRONG_LATENTS = [
    ({"kind": "private", "modality": "rna"}, ValueError, "expected kind to be one of .*'shared'.* got 'private'"),
    ({"kind": "specific"}, ValueError, r"expected a modality for kind='specific', got None; choose one of \['rna'"),
    ({"modality": "atac"}, KeyError, r"expected modality to be one of \['rna', 'prot'\], got 'atac'"),
    ({"batch_size": 0}, ValueError, "expected batch_size of at least 1, got 0"),
    ({"indices": [200]}, IndexError, "200"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_LATENTS)
def test_wrong_requests_say_what_was_expected(fitted, options, error, message):
    with pytest.raises(error, match=message):
        fitted[0].get_latent_representation(**options)


def test_before_training_every_use_says_to_train(case, mdata, tmp_path):
    model = case.new(mdata)
    for use in (
        model.get_latent_representation,
        lambda: model.get_latent_representation(modality="rna", kind="specific"),
        model.write_latents,
        lambda: model.save(tmp_path / "model"),
        lambda: model.module,
    ):
        with pytest.raises(RuntimeError, match=r"expected a trained model.*call train\(\) first"):
            use()
    assert not (tmp_path / "model").exists()
    assert not model.is_trained and model.train_indices is None
    assert f"X_{case.key}_shared" not in mdata.obsm


def _h5mu(mdata: MuData, tmp_path: Any, backed: str | None) -> MuData:
    with mudata.set_options(pull_on_update=False):
        mdata.write(tmp_path / "cells.h5mu")
        return mudata.read_h5mu(tmp_path / "cells.h5mu", backed=backed)


def _cast(convert: Callable[[np.ndarray], Any]) -> Callable[..., MuData]:
    def change(adata: AnnData) -> AnnData:
        x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
        return AnnData(convert(x), obs=adata.obs, var=adata.var)

    return lambda mdata, tmp_path: copy_of(mdata, dict.fromkeys(mdata.mod, change))


FORMS = {
    "dense": _cast(np.asarray),
    "csr_matrix": _cast(sparse.csr_matrix),
    "csc_matrix": _cast(sparse.csc_matrix),
    "csr_array": _cast(sparse.csr_array),
    "int": _cast(lambda x: x.astype(np.int64)),
    "sparse int": _cast(lambda x: sparse.csr_matrix(x.astype(np.int32))),
    "float64": _cast(lambda x: x.astype(np.float64)),
    "from file": lambda mdata, tmp_path: _h5mu(mdata, tmp_path, None),
    "backed": lambda mdata, tmp_path: _h5mu(mdata, tmp_path, "r"),
    "backed dense": lambda mdata, tmp_path: _h5mu(FORMS["dense"](mdata, tmp_path), tmp_path, "r"),
}


@pytest.fixture(scope="module")
def reference(case: Case, make_mdata: Callable[[int], MuData]) -> dict[str, np.ndarray]:
    model = case.new(make_mdata(150))
    model.train(**FAST)
    return latents(model)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_values_gives_the_same_latents(case, mdata, reference, form, tmp_path):
    cells = FORMS[form](mdata, tmp_path)
    model = case.new(cells)
    model.train(**FAST, write_latents=not cells.isbacked)
    assert_same(latents(model), reference)


def test_a_view_gives_the_same_latents_and_its_parent_stays_as_it_was(case, make_mdata, reference):
    parent = make_mdata(200)
    before = content(parent)
    view = parent[:150]
    model = case.new(view)
    model.train(**FAST, write_latents=False)
    assert_same(latents(model), reference)
    assert_content(content(parent), before)


# --- training ---------------------------------------------------------------------------------------------------


def test_split_is_disjoint_complete_and_reported(fitted):
    model, mdata = fitted
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(mdata.n_obs))
    assert [len(part) for part in parts] == [160, 20, 20]


def test_test_cells_are_never_touched(case, make_mdata):
    mdata = make_mdata(200)
    model = case.new(mdata)
    model.train(**FAST)
    test = model.test_indices
    changed = make_mdata(200)
    for adata in changed.mod.values():
        x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X.copy()
        x[test] = x[test][:, ::-1]
        adata.X = sparse.csr_matrix(x) if sparse.issparse(adata.X) else x
    again = case.new(changed)
    again.train(**FAST)
    assert np.array_equal(again.test_indices, test)
    assert_same(weights(again), weights(model))
    assert not np.allclose(latents(again)["joint"][test], latents(model)["joint"][test])


def test_one_seed_gives_one_result_to_the_last_bit(case, make_mdata, reference):
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = case.new(make_mdata(150))
    model.train(**FAST)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert_same(latents(model), reference)
    other = case.new(make_mdata(150))
    other.train(**FAST, seed=1)
    assert not np.array_equal(other.test_indices, model.test_indices)
    assert not np.allclose(latents(other)["joint"], reference["joint"])


def test_the_users_split_is_taken(case, mdata):
    model = case.new(mdata)
    split = [np.arange(20, 120), np.arange(120, 140), np.arange(5)]
    model.train(**FAST, external_indexing=split)
    assert model.train_indices.tolist() == list(range(20, 120))
    assert model.validation_indices.tolist() == list(range(120, 140))
    assert model.test_indices.tolist() == list(range(5))
    model.train(**FAST, external_indexing=[part.copy() for part in split])
    model.train(**FAST)
    assert model.train_indices.tolist() == list(range(20, 120))
    with pytest.raises(ValueError, match="expected the split of the first training"):
        model.train(**FAST, external_indexing=[np.arange(100), np.arange(100, 150)])


def test_a_second_training_goes_on_with_the_same_split_in_train_mode(case, mdata):
    model = case.new(mdata)
    modes = Modes()
    model.train(**FAST | {"max_epochs": 2}, train_size=0.7, early_stopping=False, callbacks=[modes])
    stages = list(model.module.objectives)
    first, split, lengths = latents(model), model.train_indices, {k: len(v) for k, v in model.history.items()}
    # The split is kept without being named again.
    model.train(**FAST | {"max_epochs": 3}, early_stopping=False, callbacks=[modes])
    assert modes.seen and all(modes.seen)
    assert np.array_equal(model.train_indices, split)
    assert not np.allclose(latents(model)["joint"], first["joint"])
    for stage in stages:
        key = f"{stage}/train_loss"
        assert lengths[key] == 2
        assert len(model.history[key]) == 5
    for key, table in model.history.items():
        assert table.columns.tolist() == [key]
        assert table.index.tolist() == list(range(len(table))) and table.index.name == "epoch"
        assert np.isfinite(table.to_numpy()).all()
    with pytest.raises(ValueError, match="expected the split of the first training.*a test cell must stay one"):
        model.train(**FAST, train_size=0.6)


def test_history_covers_every_stage(fitted):
    model, _ = fitted
    stages = list(model.module.objectives)
    assert {key.split("/")[0] for key in model.history} == set(stages)
    for stage in stages:
        assert any(key.startswith(f"{stage}/validation_") for key in model.history)
        assert model.stage_seconds[stage] > 0
        assert stage in repr(model)


def test_networks_are_in_inference_mode_after_training(fitted):
    for objective in fitted[0].module.objectives.values():
        assert not any(module.training for module in objective.modules())


def test_early_stopping_stops(case, make_mdata):
    # With a learning rate of zero nothing gets better after the first epoch.
    mdata = make_mdata(150)
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 40}, lr=1e-12, patience=2)
    assert len(model.history["shared/train_loss"]) <= 8
    whole = case.new(mdata)
    whole.train(**FAST | {"max_epochs": 9}, lr=1e-12, patience=2, early_stopping=False)
    assert len(whole.history["shared/train_loss"]) == 9


def test_epochs_may_be_given_by_stage(case, mdata):
    model = case.new(mdata)
    stages = ["shared", "context", "specific"] if case.arguments.get("n_context") else ["shared", "specific"]
    epochs = {stage: 2 + number for number, stage in enumerate(stages)}
    model.train(**FAST | {"max_epochs": epochs}, early_stopping=False)
    assert {stage: len(model.history[f"{stage}/train_loss"]) for stage in stages} == epochs
    with pytest.raises(KeyError, match="expected max_epochs of the stages .*'shared'.* got .*'sharde'"):
        model.train(**FAST | {"max_epochs": {"sharde": 3}})


def test_last_batch_of_one_cell_is_no_trouble(case, make_mdata):
    mdata = make_mdata(150)
    # 101 training cells in batches of 50 leave one, and 11 validation cells in batches of 10 as well.
    split = [np.arange(101), np.arange(101, 112), np.arange(112, 150)]
    model = case.new(mdata)
    model.train(**FAST | {"batch_size": 10}, external_indexing=split)
    assert all(np.isfinite(code).all() for code in latents(model).values())


@pytest.mark.parametrize("again", [False, True])
def test_divergence_stops_at_once_and_leaves_model_and_data_as_they_were(case, mdata, again):
    model = case.new(mdata)
    if again:
        model.train(**FAST)
        before_codes, before_history = latents(model), {k: v.copy() for k, v in model.history.items()}
    before = content(mdata)
    for stage in (0, -1):
        number = stage if stage >= 0 else (2 if case.arguments.get("n_context") else 1)
        with pytest.raises(FloatingPointError, match=r"expected finite losses, got nan in \['.*in epoch 0"):
            model.train(**FAST | {"max_epochs": 3}, callbacks=[At(number, diverge)])
        assert_content(content(mdata), before)
        if again:
            assert_same(latents(model), before_codes)
            assert model.history.keys() == before_history.keys()
            for key, table in before_history.items():
                pd.testing.assert_frame_equal(model.history[key], table)
        else:
            assert not model.is_trained and not model.history
            with pytest.raises(RuntimeError, match="call train"):
                model.get_latent_representation()
    model.train(**FAST)
    assert model.is_trained


def test_a_refused_call_changes_nothing(case, mdata):
    model = case.new(mdata)
    before = content(mdata)
    with pytest.raises(ValueError, match="at least 50 training"):
        model.train(**FAST, train_size=0.2)
    assert model.train_indices is None
    assert_content(content(mdata), before)
    model.train(**FAST)
    assert len(model.train_indices) == 120


def test_ctrl_c_in_the_first_stage_leaves_usable_shared_codes(case, mdata, log):
    model = case.new(mdata)
    model.train(**FAST | {"max_epochs": 9}, callbacks=[At(0, interrupt, epoch=2)])
    assert "interrupted in stage 'shared' after 2 epochs" in log.records[-1].getMessage()
    assert "train()" in log.records[-1].getMessage()
    code = model.get_latent_representation()
    np.testing.assert_array_equal(mdata.obsm[f"X_{case.key}_shared"], code)
    assert f"X_{case.key}_rna" not in mdata.obsm
    with pytest.raises(RuntimeError, match=r"expected a finished stage 'specific', got an interrupted.*train\(\) again"):
        model.get_latent_representation(modality="rna", kind="specific")
    model.train(**FAST)
    assert len(model.history["shared/train_loss"]) == 3
    assert f"X_{case.key}_rna" in mdata.obsm


def test_ctrl_c_in_the_last_stage_leaves_all_codes_usable(case, mdata):
    model = case.new(mdata)
    last = 2 if case.arguments.get("n_context") else 1
    model.train(**FAST | {"max_epochs": 9}, callbacks=[At(last, interrupt, epoch=3)])
    assert all(np.isfinite(code).all() for code in latents(model).values())
    assert len(model.history["specific/train_loss"]) == 3


def test_ctrl_c_before_anything_is_learned_is_passed_on(case, mdata):
    model = case.new(mdata)
    before = content(mdata)
    with pytest.raises(KeyboardInterrupt):
        model.train(**FAST, callbacks=[At(0, interrupt)])
    assert not model.is_trained
    assert_content(content(mdata), before)


WRONG_TRAIN = [
    ({"batch_size": 1}, ValueError, "expected batch_size.* of at least 2, got 1"),
    ({"max_epochs": 0}, ValueError, "expected max_epochs.* of at least 1, got 0"),
    ({"lr": 0.0}, ValueError, "expected lr above 0, got 0.0"),
    ({"lr": float("nan")}, ValueError, "expected lr above 0, got nan"),
    ({"devices": 2}, ValueError, "expected devices=1, got 2"),
    ({"patience": 0}, ValueError, "expected patience of at least 1, got 0"),
    ({"train_size": 1.5}, ValueError, "expected train_size and validation_size"),
    ({"validation_size": 0.0}, ValueError, "expected train_size and validation_size"),
    ({"external_indexing": [[0, 1]]}, ValueError, "expected external_indexing"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_TRAIN)
def test_wrong_training_arguments_say_what_was_expected(case, mdata, options, error, message):
    model = case.new(mdata)
    with pytest.raises(error, match=message):
        model.train(**FAST | options)
    assert not model.is_trained


# --- transforms -------------------------------------------------------------------------------------------------


def test_the_users_transforms_are_used_and_stay_his_own(case, mdata, make_mdata):
    one, pca = Scale(), LogNormalizePCA(n_components=6, n_top_features=100)
    models = []
    for cells in (mdata, make_mdata(200)):
        model = case.new(cells, transforms={"prot": one, "rna": pca})
        model.train(**FAST)
        models.append((model, latents(model)))
    # A transform that is handed to two models is fitted by neither at the other's expense.
    for model, codes in models:
        assert model.get_features(modality="rna").shape[1] == 6
        assert_same(latents(model), codes)
    assert not one.state_dict() and not pca.state_dict()


def test_one_transform_may_serve_two_modalities(case, mdata):
    shared = Scale()
    together, apart = case.new(mdata, transforms={"rna": shared, "prot": shared}), None
    together.train(**FAST)
    apart = case.new(copy_of(mdata), transforms={"rna": Scale(), "prot": Scale()})
    apart.train(**FAST)
    assert_same(latents(together), latents(apart))


def test_features_are_what_the_transforms_give_centred_on_training_cells(fitted):
    model, mdata = fitted
    for name in model.modalities:
        features = model.get_features(modality=name)
        assert features.shape == (mdata.n_obs, len(model.feature_names(name)))
        np.testing.assert_allclose(features[model.train_indices].mean(0), 0, atol=1e-3)
        np.testing.assert_array_equal(model.get_features(modality=name, indices=[3, 1]), features[[3, 1]])
    assert model.feature_names("prot") == mdata["prot"].var_names.tolist()


def test_wrong_transforms_are_refused(case, mdata):
    with pytest.raises(KeyError, match=r"expected transforms for the modalities \['rna', 'prot'\], got .*\['x'\]"):
        case.new(mdata, transforms={"x": Scale()})
    with pytest.raises(TypeError, match="expected a transform for 'rna' out of .*, got function"):
        case.new(mdata, transforms={"rna": lambda x: x})


# --- memory -----------------------------------------------------------------------------------------------------


def test_nothing_keeps_cells_or_model_alive(case, make_mdata):
    mdata = make_mdata(150)
    model = case.new(mdata)
    model.train(**FAST)
    alive = weakref.ref(mdata), weakref.ref(model), weakref.ref(model.module)
    del model, mdata
    gc.collect()
    assert [reference() for reference in alive] == [None, None, None]
