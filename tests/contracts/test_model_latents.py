"""Latents of every model: shapes, order, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from model_contract import FAST, assert_close, assert_content, content, copy_of, latents, with_value
from small import pair


def test_latents_have_their_shapes_and_lie_where_they_should(case, fitted):
    model, mdata = fitted
    codes = latents(model)
    for key, code in codes.items():
        stage = case.first if key == "joint" else key.rsplit("_", 1)[0]
        assert code.shape == (mdata.n_obs, case.width(stage, key.rsplit("_", 1)[-1]))
        assert code.dtype == np.float32 and np.isfinite(code).all()
        on_sphere = np.allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-5)
        assert on_sphere is (stage in case.on_sphere)
    mean = codes[f"{case.first}_rna"] + codes[f"{case.first}_prot"]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.allclose(codes["joint"], mean, atol=1e-5) is (case.first in case.on_sphere)


def test_sizes_may_differ_by_modality(case, mdata):
    model = case.new(mdata, **case.by_modality)
    model.train(**FAST)
    for name, width in case.own_widths.items():
        assert mdata.obsm[case.key(name)].shape == (150, width)
    (argument,) = case.by_modality
    with pytest.raises(
        KeyError, match=rf"expected {argument} of the modalities \['rna', 'prot'\], got \['rna'\]; name"
    ):
        case.new(mdata, **{argument: {"rna": 3}})


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
    more = case.more_keys.values()
    added = {f"/obsm/{key}" for key in (case.joint_key, case.key("rna"), case.key("prot"), *more)}
    added |= {f"{name}/obsm/{key}" for name in ("rna", "prot") for key in (case.joint_key, case.own_key, *more)}
    assert_content(content(mdata), before, added)
    codes = latents(model)
    for name in ("rna", "prot"):
        np.testing.assert_array_equal(mdata.obsm[case.key(name)], codes[f"{case.last}_{name}"])
        np.testing.assert_array_equal(mdata[name].obsm[case.own_key], codes[f"{case.last}_{name}"])
        np.testing.assert_array_equal(mdata[name].obsm[case.joint_key], codes["joint"])
    np.testing.assert_array_equal(mdata.obsm[case.joint_key], codes["joint"])
    for stage, key in case.more_keys.items():
        np.testing.assert_array_equal(mdata.obsm[key], model.get_latent_representation(kind=stage))
        np.testing.assert_array_equal(mdata.obsm[key], mdata["rna"].obsm[key])


def test_train_writes_latents_unless_told_not_to(case, mdata):
    case.new(mdata).train(**FAST)
    assert case.joint_key in mdata.obsm


def test_latents_are_written_into_other_cells_too(case, fitted, make_mdata):
    model, _ = fitted
    other = make_mdata(300)
    model.write_latents(other)
    np.testing.assert_array_equal(other["prot"].obsm[case.own_key], latents(model, other)[f"{case.last}_prot"])


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


def test_batch_size_does_not_change_inference(fitted):
    model, _ = fitted
    whole = latents(model)
    for batch_size in (7, 64, 10_000):
        assert_close(latents(model, batch_size=batch_size), whole)
    some = latents(model, indices=range(20), batch_size=1)
    assert_close(some, {key: code[:20] for key, code in whole.items()})


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
    broken = copy_of(make_mdata(200), {"prot": lambda a: with_value(a, 3, 4, np.nan)})
    before = content(broken)
    for call in (latents, lambda m, d: m.write_latents(d)):
        with pytest.raises(ValueError, match="expected finite values in modality 'prot'"):
            call(model, broken)
    assert_content(content(broken), before)
    with pytest.raises(ValueError, match="expected paired cells"):
        latents(model, copy_of(make_mdata(200), {"prot": lambda a: a[::-1].copy()}))


def test_cells_with_one_modality_get_its_codes(case, fitted, make_mdata):
    model, _ = fitted
    whole = latents(model)
    for name in ("rna", "prot"):
        alone = pair(**{name: make_mdata(200)[name].copy()})
        code = model.get_latent_representation(alone, modality=name)
        np.testing.assert_allclose(code, whole[f"{case.first}_{name}"], atol=1e-5)
        np.testing.assert_allclose(model.get_latent_representation(alone), code, atol=0)
        own = model.get_latent_representation(alone, modality=name, kind=case.last, indices=[4, 2])
        assert own.shape == (2, case.width(case.last, name)) and np.isfinite(own).all()
        (other,) = {"rna", "prot"} - {name}
        with pytest.raises(KeyError, match=f"expected modality '{name}'.*got '{other}'"):
            model.get_latent_representation(alone, modality=other)


def test_codes_of_one_modality_are_those_of_the_pair_unless_a_warning_says_so(case, fitted, make_mdata, log):
    model, _ = fitted
    whole = latents(model)
    for stage in case.widths:
        for name in ("rna", "prot"):
            alone = pair(**{name: make_mdata(200)[name].copy()})
            log.clear()
            code = model.get_latent_representation(alone, modality=name, kind=stage)
            warned = any("is predicted from" in record.getMessage() for record in log.records)
            assert warned is model.module.objective(stage).sees_others
            assert np.allclose(code, whole[f"{stage}_{name}"], atol=1e-5) is not warned


WRONG_LATENTS = [
    ({"kind": "private", "modality": "rna"}, ValueError, "expected kind to be one of .* got 'private'"),
    ({"modality": "atac"}, KeyError, r"expected modality to be one of \['rna', 'prot'\], got 'atac'"),
    ({"batch_size": 0}, ValueError, "expected batch_size to be a whole number of at least 1, got 0"),
    ({"indices": [200]}, IndexError, "200"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_LATENTS)
def test_wrong_requests_say_what_was_expected(fitted, options, error, message):
    with pytest.raises(error, match=message):
        fitted[0].get_latent_representation(**options)


def test_only_stages_that_write_a_joint_code_give_one(case, fitted, make_mdata):
    model, _ = fitted
    assert list(model.module.objectives) == list(case.widths)
    joint = model.get_latent_representation(kind=case.first)
    np.testing.assert_array_equal(joint, model.get_latent_representation())
    alone = pair(rna=make_mdata(200)["rna"].copy())
    for stage in list(case.widths)[1:]:
        if stage in case.more_keys:
            with pytest.raises(
                ValueError, match=rf"cells with all of \['rna', 'prot'\] for kind='{stage}', got cells wi"
            ):
                model.get_latent_representation(alone, kind=stage)
            continue
        with pytest.raises(
            ValueError, match=rf"expected a modality for kind='{stage}', got None; choose one of \['rna'"
        ):
            model.get_latent_representation(kind=stage)


def test_before_training_every_use_says_to_train(case, mdata, tmp_path):
    model = case.new(mdata)
    for use in (
        model.get_latent_representation,
        lambda: model.get_latent_representation(modality="rna", kind=case.last),
        model.write_latents,
        lambda: model.save(tmp_path / "model"),
        lambda: model.module,
    ):
        with pytest.raises(RuntimeError, match=r"expected a trained model.*call train\(\) first"):
            use()
    assert not (tmp_path / "model").exists()
    assert not model.is_trained and model.train_indices is None
    assert case.joint_key not in mdata.obsm
