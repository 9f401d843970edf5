from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest

from indiseek.metrics import Thresholds, certify, conditional_mean, infonce_bound, leakages

N_FEATURES = {"rna": 12, "prot": 10, "atac": 11}


def _cells(leak=0.0, *, n=360, modalities=("rna", "prot"), seed=0):
    """Shared state (3), private states (2 each); every modality linear in both; codes known up to rotation."""
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((n, 3))
    features, shared, specific, halves = {}, {}, {}, {}
    for name in modalities:
        p = rng.standard_normal((n, 2))
        mixed = np.hstack([c, p]) @ rng.standard_normal((5, N_FEATURES[name]))
        halves[name] = tuple(mixed + 0.2 * rng.standard_normal(mixed.shape) for _ in range(2))
        features[name] = (halves[name][0] + halves[name][1]) / 2
        shared[name] = c + 0.05 * rng.standard_normal(c.shape)
        specific[name] = np.sqrt(1 - leak) * p + np.sqrt(leak) * c[:, :2]
    return {"features": features, "shared": shared, "specific": specific}, halves


@pytest.fixture
def short(monkeypatch):
    """A critic of a few steps, for what does not depend on it."""
    monkeypatch.setattr("indiseek.metrics._certify.infonce_bound", partial(infonce_bound, max_steps=10))


@pytest.fixture(scope="module")
def clean():
    cells, halves = _cells()
    names = {"prot": [f"CD{i}" for i in range(10)]}
    return certify(**cells, replicates={"prot": halves["prot"]}, feature_names=names, n_permutations=49)


@pytest.fixture(scope="module")
def leaky():
    cells, _ = _cells(0.3)
    cells["shared"]["prot"] = np.hstack([cells["shared"]["prot"], cells["specific"]["prot"]])
    return certify(**cells, n_permutations=19)


def test_true_codes_pass(clean):
    assert clean.passed
    assert clean.verdicts["passed"].all()
    assert (clean.leakage["above_null"].abs() < 0.02).all()
    assert (clean.leakage["dcor_p"] > 0.02).all()
    assert (clean.leakage["dcor"].abs() < 0.01).all()
    assert (clean.leakage["infonce"] < 0.1).all()
    assert set(clean.leakage["target"]) == {"shared", "features", "predictable"}
    # The modality itself holds the shared state: the ceilings are high.
    assert (clean.leakage["ceiling"] > 0.5).all()
    assert (clean.leakage["dcor_ceiling"] > 0.2).all()
    assert (clean.leakage["infonce_ceiling"] > 0.3).all()


def test_leaking_codes_fail_where_they_leak(leaky):
    assert not leaky.passed
    assert not leaky.passes("leakage")
    assert not leaky.passes("information")
    assert not leaky.passes("excess")
    assert leaky.passes("completeness")
    excess = leaky.verdicts.query("check == 'excess'").set_index("modality")
    assert excess["passed"].to_dict() == {"rna": True, "prot": False}
    assert (leaky.leakage["dcor_p"] <= 0.05).all()
    # Two of three shared dimensions leak 0.3: R2 0.2 to the other's shared code.
    to_shared = leaky.leakage.query("target == 'shared' and other == 'rna'")["above_null"].item()
    assert to_shared == pytest.approx(0.2, abs=0.05)


def test_leakage_is_that_of_the_pure_functions(leaky):
    cells, _ = _cells(0.3)
    x = cells["features"]
    mean = conditional_mean(x["rna"], x["prot"])
    expected = leakages(cells["specific"]["rna"], {"features": x["prot"], "predictable": mean})
    table = leaky.leakage.query("modality == 'rna'").set_index("target")
    for target, leak in expected.items():
        assert table.loc[target, "r2"] == pytest.approx(leak.r2, abs=1e-9)
        assert table.loc[target, "null"] == pytest.approx(leak.null, abs=1e-9)


def test_features_are_split(clean):
    table = clean.features.query("modality == 'prot'")
    assert table["feature"].tolist() == [f"CD{i}" for i in range(10)]
    np.testing.assert_allclose(table["both"] + table["unexplained"], 1.0)
    np.testing.assert_allclose(table["predictable"] + table["private"] + table["noise"], 1.0)
    np.testing.assert_allclose(table["shared"], table["predictable"], atol=0.1)
    np.testing.assert_allclose(table["specific_share"], table["private"], atol=0.1)
    assert (table["noise"] > 0.0).all()
    assert (table["specific_above_noise"] <= table["specific_share"]).all()
    rna = clean.features.query("modality == 'rna'")
    assert rna["feature"].tolist() == [str(i) for i in range(12)]
    assert rna[["noise", "private", "specific_above_noise"]].isna().all(axis=None)


def test_content_separates_shared_from_private(clean):
    table = clean.content.set_index(["modality", "code"])
    for modality in ("rna", "prot"):
        assert table.loc[(modality, "specific"), "predictable"] < 0.03
        assert table.loc[(modality, "specific"), "private"] > 0.7
        assert table.loc[(modality, "shared"), "predictable"] > 0.9
        assert table.loc[(modality, "shared"), "private"] < 0.1
        assert table.loc[(modality, "shared+specific"), "features"] > 0.9
        assert table.loc[(modality, "others' shared+specific"), "features"] > 0.9


@pytest.mark.usefixtures("short")
def test_joint_code_is_judged_in_place_of_the_own_ones():
    cells, _ = _cells(n=200)
    joint = cells["shared"]["rna"] + cells["shared"]["prot"]
    # An own code with excess, which the joint one has not.
    cells["shared"]["prot"] = np.hstack([cells["shared"]["prot"], 3 * cells["specific"]["prot"]])
    certificate = certify(**cells, joint=joint, n_permutations=9)
    assert set(certificate.content["code"]) >= {"joint", "shared", "specific"}
    assert certificate.passes("excess")
    own = certificate.content.query("code == 'shared' and modality == 'prot'")
    assert own["private"].item() > 0.5
    assert "Joint shared code: holds next to nothing of prot that rna cannot know" in certificate.summary()
    # Codes of different width have no common space to match cells in.
    assert certificate.retrieval.empty
    assert "retrieval" not in set(certificate.verdicts["check"])
    assert len(certificate.to_frame())


def test_retrieval_stands_beside_chance(clean):
    row = clean.retrieval.iloc[0]
    assert (row["modality"], row["other"], row["k"]) == ("rna", "prot", 10)
    assert row["foscttm"] < 0.05 < row["foscttm_chance"] == 0.5
    assert row["recall"] > row["recall_chance"] == 10 / 360
    assert row["median_rank"] < row["median_rank_chance"] == 180.5


@pytest.mark.usefixtures("short")
def test_three_modalities():
    cells, _ = _cells(n=150, modalities=("rna", "prot", "atac"))
    cells["specific"]["atac"] = cells["shared"]["atac"]
    certificate = certify(**cells, n_permutations=9)
    assert len(certificate.leakage) == 3 * 2 * 3
    assert len(certificate.retrieval) == 3
    leak = certificate.verdicts.query("check == 'leakage'").set_index("modality")["passed"]
    assert leak.to_dict() == {"rna": True, "prot": True, "atac": False}
    assert "of atac that rna and prot cannot know" in certificate.summary()


@pytest.mark.usefixtures("short")
def test_reference_cells_are_used():
    cells, _ = _cells(n=600)
    test = {kind: {name: x[:120] for name, x in arrays.items()} for kind, arrays in cells.items()}
    reference = {name: x[120:] for name, x in cells["features"].items()}
    with_reference = certify(**test, reference=reference, n_permutations=0)
    alone = certify(**test, n_permutations=0)
    assert (with_reference.reference, alone.reference) == ("other cells", "cross-fitted")
    assert with_reference.features["predictable"].mean() > alone.features["predictable"].mean()


@pytest.mark.usefixtures("short")
def test_a_draw_of_cells():
    cells, halves = _cells(n=200)
    certificate = certify(**cells, replicates=halves, max_cells=110, n_permutations=0)
    assert certificate.n_cells == 110
    assert certificate.retrieval["recall_chance"].item() == 10 / 200


@pytest.mark.usefixtures("short")
def test_a_collapsed_shared_code_is_not_an_error():
    cells, _ = _cells(n=150)
    cells["shared"] = {name: np.ones((150, 2)) for name in cells["shared"]}
    certificate = certify(**cells, n_permutations=0)
    assert "shared" not in set(certificate.leakage["target"])
    assert not certificate.passes("retrieval")


def test_words(clean, leaky):
    passed, failed = clean.summary(), leaky.summary()
    assert passed.startswith("Certificate on 360 held-out cells: passed\n")
    assert "[pass] prot-specific space: independent of the shared space to within noise (at most, to " in passed
    assert "[pass] rna-specific space: a fresh critic finds no dependence of another form (at most, on " in passed
    assert "[pass] rna and prot: the shared codes match cells (FOSCTTM 0.0" in passed
    assert "counting noise is 0.0" in passed
    assert "-0.00" not in passed + failed
    assert failed.startswith("Certificate on 360 held-out cells: NOT passed\n")
    assert "[FAIL] rna-specific space: NOT independent, it still holds " in failed
    assert "[FAIL] Shared code of prot: NOT only shared, it also holds what rna cannot know of prot (R2 " in failed


def test_renderings(clean):
    record = json.loads(clean.to_json())
    assert record["passed"] is True
    assert record["thresholds"]["leakage"] == Thresholds().leakage == 0.02
    assert len(record["leakage"]) == len(clean.leakage)
    assert record["features"][0]["noise"] is None
    page = clean._repr_html_()
    assert page.count("<details>") == 4
    assert "independent of the shared space" in page
    assert "<script" not in page


def test_long_table_holds_every_number(clean):
    frame = clean.to_frame()
    assert list(frame.columns) == ["table", "modality", "code", "target", "other", "feature", "quantity", "value"]
    assert frame["value"].dtype == float
    found = frame.query("table == 'leakage' and modality == 'rna' and target == 'shared' and quantity == 'r2'")
    assert found["value"].item() == clean.leakage.query("modality == 'rna' and target == 'shared'")["r2"].item()
    verdict = frame.query("table == 'verdicts' and modality == 'rna' and target == 'leakage' and quantity == 'found'")
    assert verdict["value"].item() == clean.verdicts.query("modality == 'rna' and check == 'leakage'")["value"].item()


@pytest.mark.usefixtures("short")
def test_it_is_frozen_and_reproducible():
    cells, _ = _cells(n=120)
    first, second = (certify(**cells, n_permutations=5, seed=4) for _ in range(2))
    assert first.to_json() == second.to_json() != certify(**cells, n_permutations=5, seed=5).to_json()
    with pytest.raises(FrozenInstanceError):
        first.seed = 1


@pytest.mark.usefixtures("short")
def test_thresholds_decide():
    cells, _ = _cells(0.3, n=150)
    strict = certify(**cells, n_permutations=0)
    lax = certify(**cells, n_permutations=0, thresholds=Thresholds(leakage=1.0, information=9.0))
    assert not strict.passes("leakage")
    assert lax.passes("leakage") and lax.passes("information")
    np.testing.assert_array_equal(strict.leakage["r2"], lax.leakage["r2"])
    with pytest.raises(ValueError, match=r"expected check to be one of 'leakage', .*, got 'beauty'; do pick one"):
        lax.passes("beauty")


def test_errors():
    cells, halves = _cells(n=120)
    x = cells["features"]
    with pytest.raises(ValueError, match=r"expected at least 2 modalities in features, got \['rna'\]"):
        certify({"rna": x["rna"]}, cells["shared"], cells["specific"])
    with pytest.raises(ValueError, match=r"expected specific for the modalities \['rna', 'prot'\], got \['rna'\]"):
        certify(x, cells["shared"], {"rna": cells["specific"]["rna"]})
    with pytest.raises(ValueError, match=r"expected replicates for the modalities .* got \['protein'\]"):
        certify(**cells, replicates={"protein": halves["prot"]})
    with pytest.raises(ValueError, match=r"expected the same cells .* shared\['prot'\] 119"):
        certify(x, cells["shared"] | {"prot": cells["shared"]["prot"][1:]}, cells["specific"])
    with pytest.raises(ValueError, match=r"joint 119"):
        certify(**cells, joint=cells["shared"]["rna"][1:])
    with pytest.raises(ValueError, match=r"expected reference\['rna'\] with 12 features, got 11; do put it through"):
        certify(**cells, reference={"rna": x["rna"][:, 1:], "prot": x["prot"]})
    with pytest.raises(ValueError, match=r"expected the same cells .* got reference\['rna'\] 110, reference\['prot'\]"):
        certify(**cells, reference={"rna": x["rna"][:110], "prot": x["prot"]})
    with pytest.raises(ValueError, match=r"expected replicates\['prot'\] with 10 features, got 12"):
        certify(**cells, replicates={"prot": halves["rna"]})
    with pytest.raises(ValueError, match=r"expected features\['rna'\] with at least 100 cells, got 50"):
        certify(*({name: a[:50] for name, a in arrays.items()} for arrays in cells.values()))
    with pytest.raises(ValueError, match=r"expected finite values in specific\['rna'\], got NaN or inf in 120 of 120"):
        certify(x, cells["shared"], cells["specific"] | {"rna": cells["specific"]["rna"] * np.nan})
    with pytest.raises(ValueError, match=r"expected 10 feature_names for prot, got 2"):
        certify(**cells, feature_names={"prot": ["a", "b"]})
    with pytest.raises(ValueError, match=r"expected features\['prot'\] that vary over cells, got constants"):
        certify(x | {"prot": np.full((120, 3), 0.1)}, cells["shared"], cells["specific"])
    with pytest.raises(ValueError, match=r"expected 1 <= k <= 120, got 121"):
        certify(**cells, k=121)


def test_conditional_mean_is_the_truth():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3000, 3))
    truth = np.column_stack([x[:, 0] ** 2, x[:, 1] * 2.0])
    y = truth + 0.5 * rng.standard_normal(truth.shape)
    by_reference = conditional_mean(y[:500], x[:500], reference=(y[500:], x[500:]))
    crossed = conditional_mean(y[:500], x[:500])
    for estimate in (by_reference, crossed):
        assert np.square(estimate - truth[:500]).mean() < 0.1
    assert np.square(by_reference - truth[:500]).mean() < np.square(crossed - truth[:500]).mean()
    with pytest.raises(ValueError, match=r"expected the same columns in given and their reference, got 3 and 2"):
        conditional_mean(y, x, reference=(y, x[:, :2]))
    with pytest.raises(ValueError, match=r"got reference features 2999, reference given 3000"):
        conditional_mean(y, x, reference=(y[1:], x))


@pytest.mark.parametrize("with_joint", [True, False])
def test_without_specific_codes_the_rest_is_judged_alike(with_joint, short):
    cells, _ = _cells()
    joint = cells["shared"]["rna"] + cells["shared"]["prot"] if with_joint else None
    whole = certify(**cells, joint=joint, n_permutations=0)
    result = certify(**cells | {"specific": None}, joint=joint, n_permutations=0)
    assert set(result.verdicts["check"]) == {"excess", "completeness", "retrieval"}
    assert result.leakage.empty and "NOT passed" in result.summary()
    shown = "joint" if with_joint else "shared"
    assert set(result.content["code"]) == ({"shared", "joint"} if with_joint else {"shared"})
    for code in ("private", "predictable", "features"):
        ours, theirs = (table.content[table.content["code"] == shown][code].to_numpy() for table in (result, whole))
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        result.verdicts.query("check == 'completeness'")["value"],
        result.content[result.content["code"] == shown]["features"],
    )
    assert f"the {shown} code explains" in result.summary()
    np.testing.assert_array_equal(result.features["shared"], whole.features["shared"])
    assert result.features["specific"].isna().all()
    assert len(result.to_frame()) and "leakage" in result.to_json() and "<table" in result._repr_html_()
    with pytest.raises(ValueError, match="expected check to be one of 'excess', .*, got 'leakage'"):
        result.passes("leakage")
