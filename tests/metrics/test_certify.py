from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pandas as pd
import pytest

from indiseek import pl
from indiseek.metrics import CHECKS, Finding, Thresholds, certify, conditional_mean, explained

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def clean(simulated):
    cells, halves = simulated()
    names = {"prot": [f"CD{i}" for i in range(10)]}
    reconstruction = {"rna": cells["features"]["rna"] + 0.01}
    return certify(**cells, replicates=halves, reconstruction=reconstruction, feature_names=names, n_permutations=19)


@pytest.fixture(scope="module")
def leaky(simulated):
    cells, _ = simulated(0.3)
    cells["shared"]["prot"] = np.hstack([cells["shared"]["prot"], cells["specific"]["prot"]])
    return certify(**cells, n_permutations=19)


def test_true_codes_pass(clean):
    assert clean.passed and clean.verdict == "pass", str(clean)
    assert set(clean.verdicts["verdict"]) <= {"pass", "note"}
    table = clean.table("independence")
    assert list(zip(table["modality"], table["target"], strict=True)) == [
        ("rna", "shared"),
        ("rna", "predictable"),
        ("prot", "shared"),
        ("prot", "predictable"),
    ]
    assert (table["total"].abs() < 0.03).all() and (table["high"] < 0.05).all()
    assert (clean.table("other forms")["p"] > clean.table("other forms")["p_limit"]).all()


def test_leaking_codes_fail_where_they_leak(leaky):
    assert leaky.verdict == "FAIL" and not leaky.passed
    for check in ("independence", "probes", "excess"):
        assert leaky.verdict_of(check) == "FAIL" and not leaky.passes(check)
    assert leaky.passes("completeness") and "retrieval" not in leaky.tables
    excess = leaky.verdicts.query("check == 'excess'").set_index("modality")["verdict"]
    assert excess.to_dict() == {"rna": "pass", "prot": "FAIL"}
    assert (leaky.table("other forms")["p"] == 1 / 80).all()
    # Two of three shared dimensions leak .3 of Z: .2 of the other's shared code.
    row = leaky.table("independence").query("modality == 'prot' and target == 'shared'").iloc[0]
    assert row["total"] == pytest.approx(0.2, abs=0.05) and row["low"] < 0.2 < row["high"]
    assert leaky.table("probes")["r2"].between(0.03, 0.25).all()


def test_few_cells_are_told_how_many_would_do(simulated):
    cells, _ = simulated(0.02, n=150)
    found = certify(**cells, n_permutations=0, checks=[BY_NAME["independence"]])
    assert found.verdict == "too few cells" and not found.passed
    row = found.verdicts.iloc[0]
    assert row["n_cells"] == 150 and row["cells_needed"] >= 300
    assert f"What to do: hand in about {row['cells_needed']:,} held-out cells instead of 150." in str(found)
    assert "rna-specific space: too few cells to tell whether it is independent of the shared code of prot" in str(
        found
    )


def test_readings_are_those_of_the_pure_functions(simulated, leaky):
    cells, _ = simulated(0.3)
    x, z = cells["features"], cells["specific"]["rna"]
    expected = explained(z, conditional_mean(x["rna"], x["prot"]))
    row = leaky.table("independence").query("modality == 'rna' and target == 'predictable'").iloc[0]
    assert row["map"] == pytest.approx(expected.map, abs=1e-9)
    assert row["products"] == pytest.approx(expected.products, abs=1e-9)


def test_within_batches_a_shift_does_not_hide_a_leak(simulated):
    rng = np.random.default_rng(5)
    cells, _ = simulated(0.25, n=1020)
    batch = np.repeat(["a", "b", "tiny"], [500, 500, 20])
    away = np.where(batch == "a", 6.0, -6.0)[:, None] * rng.standard_normal((1, 3))
    cells["shared"] = {name: code + away for name, code in cells["shared"].items()}
    checks = [BY_NAME["independence"], BY_NAME["independence within batches"]]
    found = certify(**cells, batch=batch, n_permutations=0, checks=checks)
    pooled = found.table("independence").query("target == 'shared'")["total"]
    inside = found.table("independence within batches").query("target == 'shared'")
    assert (pooled < 0.03).all()
    assert inside["total"].between(0.11, 0.22).all() and (inside["n_batches"] == 2).all()
    assert (inside["left_out"] == 1).all()
    assert "Within batches, rna-specific space: NOT independent" in str(found)
    assert "mean of 2 batches, 1 with under 100 cells left out)" in str(found)
    assert (inside["constant"] == 0).all()
    alone = certify(**cells, n_permutations=0, checks=checks)
    assert "independence within batches" not in alone.tables


def test_batches_are_left_out_for_two_reasons_and_counted_by_each(simulated):
    cells, _ = simulated(n=720)
    batch = np.repeat(["a", "b", "c", "tiny", "tinier"], [300, 250, 120, 30, 20])
    cells["shared"]["rna"][batch == "c"] = 0.0
    found = certify(**cells, batch=batch, checks=[BY_NAME["independence within batches"]])
    table = found.table("independence within batches").set_index(["modality", "target"])
    assert (table["left_out"] == 2).all()
    assert table["constant"].to_dict() == {key: int(key == ("prot", "shared")) for key in table.index}
    assert (table["n_batches"] == 3 - table["constant"]).all()
    assert "mean of 3 batches, 2 with under 100 cells left out)" in str(found)
    assert "mean of 2 batches, 2 with under 100 cells and 1 where nothing varies left out)" in str(found)


def test_completeness_is_of_the_reconstruction_where_there_is_one(clean, simulated):
    table = clean.table("completeness").set_index("modality")
    assert table["by"].to_dict() == {"rna": "reconstruction", "prot": "probe"}
    assert table.loc["rna", "in_codes"] == pytest.approx(1.0, abs=1e-3)
    assert 0.9 < table.loc["prot", "in_codes"] < 1.0
    assert "rna: complete, its codes give back 1.000 of its variance" in str(clean)
    assert "prot: complete, a probe finds at least 0.9" in str(clean)
    words = clean.verdicts.query("check == 'completeness'").set_index("modality")["words"]
    assert ("or more" in words["prot"], "or less" in words["prot"]) == (True, True)
    assert "or more" not in words["rna"] and "or less" not in words["rna"]
    # Half of it is not given back: FAIL by a reconstruction; by a probe it is a lower bound, and no FAIL.
    cells, _ = simulated()
    half = {name: x.mean(axis=0) + 0.3 * (x - x.mean(axis=0)) for name, x in cells["features"].items()}
    by_reconstruction = certify(**cells, reconstruction=lambda shared, specific: half, checks=[BY_NAME["completeness"]])
    assert by_reconstruction.verdict == "FAIL"
    assert "What to do: train rna with more specific dimensions: 0.49" in str(by_reconstruction)
    blind = {name: np.random.default_rng(1).standard_normal((330, 2)) for name in cells["shared"]}
    by_probe = certify(cells["features"], blind, blind, checks=[BY_NAME["completeness"]])
    assert by_probe.verdict == "too few cells"
    assert "completeness is not shown" in str(by_probe)
    assert "What to do: train rna with more dimensions, or hand in more held-out cells than 330: a probe" in str(
        by_probe
    )
    assert "are judged by those, with metrics.certify(reconstruction=...)." in str(by_probe)


def test_more_codes_never_hold_less(clean):
    table = clean.features.query("modality == 'prot'")
    assert table["feature"].tolist() == [f"CD{i}" for i in range(10)]
    assert (table["both"] >= table[["shared", "specific"]].max(axis=1)).all()
    np.testing.assert_allclose(table["both"] + table["unexplained"], 1.0)
    np.testing.assert_allclose(table["predictable"] + table["private"] + table["noise"], 1.0)
    np.testing.assert_allclose(table["shared"], table["predictable"], atol=0.1)
    np.testing.assert_allclose(table["specific_share"], table["private"], atol=0.1)
    assert (table["noise"] > 0.0).all()
    assert (table["specific_above_noise"] <= table["specific_share"]).all()
    np.testing.assert_allclose(table["reproducible_left_out"] + table["noise_left_out"], table["unexplained"])


def test_what_is_left_out_of_the_features_is_told_as_another_draw_would_show_it(simulated):
    rng = np.random.default_rng(2)
    cells, _ = simulated(n=600)
    # Everything measured: 4 values of the features, and 4 of the same variance that the features do not hold.
    kept, lost = rng.standard_normal((2, 600, 4))
    draws = [np.hstack([kept, lost]) + rng.standard_normal((600, 8)) for _ in range(2)]
    cells["features"]["rna"] = kept + rng.standard_normal((600, 4)) / np.sqrt(2)
    found = certify(
        **cells,
        replicates={"rna": tuple(draw[:, :4] for draw in draws)},
        all_replicates={"rna": tuple(draws)},
        checks=[BY_NAME["completeness"]],
    )
    row = found.table("completeness").set_index("modality").loc["rna"]
    # Of variance 2, another draw repeats half; of that the first four columns hold, at half the depth, a quarter of all
    # times the reliability of one draw, .5.
    assert row["all_reproducible"] == pytest.approx(0.5, abs=0.05)
    assert row["all_in_features"] == pytest.approx(0.125, abs=0.03)
    assert row["all_left_out"] == pytest.approx(0.375, abs=0.05)
    assert "reproducible, not in the codes 0.3" in str(found)
    assert f"counting noise {1 - row['all_reproducible']:.3f}" in str(found)


def test_content_separates_shared_from_private(clean):
    table = clean.content.set_index(["modality", "code"])
    for modality in ("rna", "prot"):
        assert table.loc[(modality, "specific"), "predictable"] < 0.03
        assert table.loc[(modality, "specific"), "private"] > 0.7
        assert table.loc[(modality, "shared"), "predictable"] > 0.9
        assert table.loc[(modality, "shared"), "private"] < 0.1


def test_covariates_are_told_with_a_null(simulated):
    cells, _ = simulated()
    z = cells["specific"]["rna"]
    covariates = {
        "depth": z[:, 0] + 0.5 * np.random.default_rng(0).standard_normal(330),
        "donor": np.where(z[:, 1] > 0, "x", "y"),
        "day": np.arange(330) % 3,
    }
    found = certify(**cells, covariates=covariates, checks=[BY_NAME["covariates"]])
    table = found.table("covariates").set_index(["covariate", "modality", "code"])
    assert table.loc[("depth", "rna", "specific"), "total"] == pytest.approx(0.8, abs=0.1)
    # The sign of a dimension: two thirds of it are linear, and more of it by cubes.
    assert table.loc[("donor", "rna", "specific"), "total"] > 0.6
    assert table["null"].abs().max() < 0.06
    assert (table.loc[["day"], "total"].abs() < 0.06).all()
    # All features tell what a code that is one side of them tells, and of what nothing tells nothing.
    assert table.loc[("depth", "rna", "specific"), "ceiling"] == pytest.approx(0.9, abs=0.2)
    assert table.loc[("depth", "prot", "specific"), "ceiling"] < 0.15
    assert (table.loc[["day"], "ceiling"].abs() < 0.1).all()
    assert found.passed and set(found.verdicts["verdict"]) == {"note"} and len(found.verdicts) == 2
    said = next(line for line in str(found).splitlines() if "rna, specific code: also holds depth" in line)
    assert re.search(
        r"\(explains 0\.\d+ of its variance, .*; of shuffled cells -?0\.0\d+, all features [01]\.\d+\)", said
    )


def test_duplicates_are_found_first_and_left_out(simulated):
    cells, _ = simulated(n=400)
    twice = {kind: {name: np.vstack([x, x[:50]]) for name, x in arrays.items()} for kind, arrays in cells.items()}
    reference = {name: x[380:] for name, x in cells["features"].items()}
    checks = [BY_NAME["duplicates"], BY_NAME["independence"]]
    found = certify(**twice, reference=reference, n_permutations=0, checks=checks)
    assert found.n_cells == 380 and found.verdict_of("duplicates") == "FAIL"
    assert "50 copies of other held-out cells and 20 of training cells among 450, left out" in str(found)
    alone = certify(**{kind: {n: x[:380] for n, x in a.items()} for kind, a in cells.items()}, checks=checks)
    assert alone.passes("duplicates")
    totals = [result.table("independence")["total"].to_numpy()[[0, 2]] for result in (found, alone)]
    np.testing.assert_allclose(*totals, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected at least 100 held-out cells that are no copies .* got 0 of 400"):
        certify(**cells, reference=cells["features"])


def test_joint_code_is_judged_in_place_of_the_own_ones(simulated):
    cells, _ = simulated()
    joint = cells["shared"]["rna"] + cells["shared"]["prot"]
    # An own code with excess, which the joint one has not.
    cells["shared"]["prot"] = np.hstack([cells["shared"]["prot"], 3 * cells["specific"]["prot"]])
    certificate = certify(**cells, joint=joint, checks=[BY_NAME["excess"], BY_NAME["retrieval"]])
    assert certificate.passes("excess")
    own = certificate.table("excess").query("code == 'shared' and modality == 'prot'")
    assert own["total"].item() > 0.5 and own["verdict"].item() == "FAIL"
    assert "Joint shared code: holds next to nothing of what only prot knows" in str(certificate)
    # Codes of different width have no common space to match cells in.
    assert "retrieval" not in certificate.tables


def test_retrieval_stands_beside_chance(clean):
    row = clean.table("retrieval").iloc[0]
    assert (row["modality"], row["other"], row["k"]) == ("rna", "prot", 10)
    assert row["foscttm"] < 0.05 < row["foscttm_chance"] == 0.5
    assert 0 < row["foscttm_se"] < 0.01
    assert row["recall"] > row["recall_chance"] == 10 / 330
    assert row["median_rank"] < row["median_rank_chance"] == 165.5


def test_three_modalities(simulated):
    cells, _ = simulated(n=320, modalities=("rna", "prot", "atac"))
    cells["specific"]["atac"] = cells["shared"]["atac"]
    checks = [BY_NAME[name] for name in ("independence", "retrieval", "other forms")]
    certificate = certify(**cells, n_permutations=1, checks=checks)
    assert len(certificate.table("independence")) == 3 * 2 * 2
    assert len(certificate.table("retrieval")) == 3
    leak = certificate.verdicts.query("check == 'independence'").groupby("modality")["verdict"].agg(set)
    assert leak.to_dict() == {"rna": {"pass"}, "prot": {"pass"}, "atac": {"FAIL"}}
    # Twelve questions: p has to be able to fall below .05 / 12.
    assert (certificate.table("other forms")["n_permutations"] == 239).all()


def test_reference_cells_are_used(simulated):
    cells, _ = simulated(n=400)
    test = {kind: {name: x[:120] for name, x in arrays.items()} for kind, arrays in cells.items()}
    reference = {name: x[120:] for name, x in cells["features"].items()}
    checks = [BY_NAME["features"], BY_NAME["independence"]]
    with_reference = certify(**test, reference=reference, checks=checks)
    alone = certify(**test, checks=checks)
    assert (with_reference.reference, alone.reference) == ("other cells", "cross-fitted")
    assert with_reference.features["predictable"].mean() > alone.features["predictable"].mean()
    assert set(with_reference.table("independence")["n_training"]) == {280}


def test_a_draw_of_cells(simulated):
    cells, halves = simulated(n=200)
    checks = [BY_NAME["independence"], BY_NAME["retrieval"]]
    certificate = certify(**cells, replicates=halves, max_cells=110, checks=checks)
    assert certificate.n_cells == 110
    assert certificate.table("retrieval")["recall_chance"].item() == 10 / 200


def test_a_collapsed_shared_code_is_not_an_error(simulated):
    cells, _ = simulated(n=320)
    cells["shared"] = {name: np.ones((320, 2)) for name in cells["shared"]}
    cells["specific"]["prot"] = np.hstack([cells["features"]["prot"]])
    names = ("independence", "probes", "other forms", "retrieval", "excess", "completeness")
    certificate = certify(**cells, n_permutations=3, checks=[BY_NAME[name] for name in names])
    assert set(certificate.table("independence")["target"]) == {"predictable"}
    # A shared code that holds nothing does not make a specific one independent.
    assert certificate.verdict_of("independence") == "FAIL"
    assert certificate.verdict_of("retrieval") == "FAIL"


def test_words(clean, leaky):
    passed, failed = str(clean), str(leaky)
    assert passed.startswith("Certificate on 330 held-out cells: passed\n")
    assert "[pass] prot-specific space: independent of the shared code of rna (explains " in passed
    assert "limit 0.050; map " in passed
    assert "[pass] rna-specific space: neither a network nor boosted trees predict the shared code of prot" in passed
    assert "[note] rna-specific space: no dependence of another form found on the shared code of prot (p = " in passed
    assert "[pass] rna and prot: the shared codes match cells (FOSCTTM 0.0" in passed
    assert "-0.000" not in passed + failed and "What to do" not in passed
    assert failed.startswith("Certificate on 330 held-out cells: NOT passed\n")
    assert "[FAIL] rna-specific space: NOT independent of the shared code of prot" in failed
    assert "[FAIL] Shared code of prot: NOT only shared, it also holds what only prot knows" in failed
    # After every verdict that is not pass, one line says what to do.
    unpassed = leaky.verdicts["verdict"].isin(["FAIL", "too few cells"])
    assert (leaky.verdicts["advice"] != "").tolist() == unpassed.tolist()
    assert failed.count("What to do: ") == unpassed.sum()
    assert repr(leaky) == "<Certificate on 330 cells: FAIL>"


def test_advice_has_its_numbers(simulated):
    cells, _ = simulated(0.3, n=1000)
    test = {kind: {name: x[:600] for name, x in arrays.items()} for kind, arrays in cells.items()}
    rng = np.random.default_rng(0)
    test["specific"] = {n: np.hstack([z, rng.standard_normal((600, 38))]) for n, z in test["specific"].items()}
    reference = {name: x[600:] for name, x in cells["features"].items()}
    found = certify(**test, reference=reference, checks=[BY_NAME["independence"]])
    assert (
        'What to do: train rna with about 4 dimensions instead of 40 (transforms={"rna": '
        "indiseek.data.LogNormalizePCA(n_components=4)}, for proteins CLRPCA): what 400 training cells leave uncertain "
        "of 40 dimensions leaks about 40^2 / 400 = 4.000, of 4 about 0.040." in str(found)
    )
    # Of donors that training has not seen more dimensions are not what is wrong.
    new = str(certify(**test, reference=reference, new_groups="donor", checks=[BY_NAME["independence"]]))
    assert "What to do: train on cells of more groups in 'donor': no fit has seen those of the held-out cells" in new
    assert "dimensions instead of" not in new
    # Nothing is known of the training cells.
    alone = str(certify(**test, checks=[BY_NAME["independence"]]))
    assert (
        "train rna with fewer dimensions than 40, for instance transforms=" in alone and "training cells" not in alone
    )


def test_more_cells_than_are_read_are_not_asked_for(simulated):
    cells, _ = simulated(0.02, n=700)
    rng = np.random.default_rng(0)
    cells["specific"] = {n: np.hstack([z, rng.standard_normal((700, 38))]) for n, z in cells["specific"].items()}
    check = [BY_NAME["independence"]]
    drawn, whole = certify(**cells, max_cells=600, checks=check), certify(**cells, checks=check)
    assert drawn.verdict == whole.verdict == "too few cells"
    needed = drawn.verdicts["cells_needed"].iloc[0]
    assert needed > 700 and (drawn.table("independence")["max_cells"] == 600).all()
    assert (
        f"What to do: about {needed:,} held-out cells would do, more than the 600 that are read at most: train rna "
        "with fewer dimensions than 40, for which fewer cells do, or hand in as many and raise max_cells" in str(drawn)
    )
    assert (
        f"What to do: hand in about {whole.verdicts['cells_needed'].iloc[0]:,} held-out cells instead of 700."
        in str(whole)
    )


def test_so_few_cells_that_nothing_is_known_of_products(simulated):
    cells, _ = simulated(n=100)
    rng = np.random.default_rng(0)
    cells["specific"] = {n: np.hstack([z, rng.standard_normal((100, 38))]) for n, z in cells["specific"].items()}
    found = str(certify(**cells, checks=[BY_NAME["independence"]]))
    assert "95 % interval open, limit 0.050; map" in found
    assert "products of 40 dimensions not readable from so few cells)" in found and "inf" not in found


def test_no_share_above_1_is_shown(simulated):
    cells, _ = simulated(n=150)
    found = certify(**cells, covariates={"depth": cells["shared"]["rna"][:, 0]}, checks=[BY_NAME["covariates"]])
    assert found.table("covariates")["total"].max() > 1.0
    assert found.verdicts["value"].max() == 1.0 and "explains 1.000 of its variance" in str(found)
    assert (found.verdicts["low"] <= found.verdicts["value"]).all() and (found.verdicts["high"] <= 1.0).all()


def test_renderings(clean, leaky):
    record = json.loads(clean.to_json())
    assert record["passed"] is True and record["verdict"] == "pass"
    assert record["thresholds"]["independence"] == Thresholds().independence == 0.05
    assert len(record["independence"]) == len(clean.table("independence"))
    assert json.loads(leaky.to_json())["features"][0]["noise"] is None
    page = clean._repr_html_()
    assert page.count("<details>") == len(clean.tables)
    assert "independent of the shared code" in page
    assert "<script" not in page and "What to do" in leaky._repr_html_()


def test_long_table_holds_every_number(clean):
    frame = clean.to_frame()
    assert list(frame.columns[:4]) == ["table", "modality", "code", "target"]
    assert list(frame.columns[-2:]) == ["quantity", "value"] and frame["value"].dtype == float
    found = frame.query(
        "table == 'independence' and modality == 'rna' and target == 'shared' and quantity == 'products'"
    )
    table = clean.table("independence").query("modality == 'rna' and target == 'shared'")
    assert found["value"].item() == table["products"].item()
    verdict = frame.query("table == 'verdicts' and modality == 'rna' and code == 'retrieval' and quantity == 'found'")
    assert verdict["value"].item() == clean.table("retrieval")["foscttm"].item()


def test_it_is_frozen_and_reproducible(simulated):
    cells, _ = simulated(n=130)
    checks = [BY_NAME["independence"], BY_NAME["probes"], BY_NAME["other forms"]]
    first, second = (certify(**cells, n_permutations=5, seed=4, checks=checks) for _ in range(2))
    assert first.to_json() == second.to_json() != certify(**cells, n_permutations=5, seed=5, checks=checks).to_json()
    with pytest.raises(FrozenInstanceError):
        first.seed = 1


def test_thresholds_decide(simulated):
    cells, _ = simulated(0.3)
    strict = certify(**cells, checks=[BY_NAME["independence"]])
    lax = certify(**cells, thresholds=Thresholds(independence=0.9), checks=[BY_NAME["independence"]])
    assert strict.verdict == "FAIL" and lax.verdict == "pass"
    np.testing.assert_array_equal(strict.table("independence")["total"], lax.table("independence")["total"])
    with pytest.raises(ValueError, match=r"expected check to be one of 'independence', got 'beauty'; do pick one"):
        lax.passes("beauty")
    with pytest.raises(ValueError, match=r"expected check to be one of 'independence', got 'beauty'; do pick one"):
        lax.table("beauty")


@dataclass(frozen=True)
class Emptiness:
    """A toy check, whole: name, what is measured, how it is judged."""

    name: str = "emptiness"

    def measure(self, cells, limits):
        """Share of values that are 0."""
        return pd.DataFrame([{"modality": name, "zeros": float((x == 0).mean())} for name, x in cells.features.items()])

    def judge(self, row, limits):
        """At most a half."""
        verdict = "pass" if row.zeros < 0.5 else "FAIL"
        return Finding(
            self.name,
            row.modality,
            "zeros",
            verdict,
            f"{row.modality}: {row.zeros:.3f} of its values are 0",
            value=row.zeros,
            limit=0.5,
            advice="" if verdict == "pass" else "take features that vary",
        )


def test_a_new_check_is_one_object_and_appears_everywhere(simulated):
    cells, _ = simulated(n=150)
    cells["features"]["prot"][:, 1:] = 0.0
    certificate = certify(**cells, checks=[BY_NAME["features"], Emptiness()])
    assert certificate.table("emptiness")["zeros"].tolist() == [0.0, pytest.approx(0.9)]
    assert certificate.verdict == "FAIL" and certificate.verdict_of("emptiness") == "FAIL"
    assert "[FAIL] prot: 0.900 of its values are 0.\n      What to do: take features that vary." in str(certificate)
    assert "emptiness" in json.loads(certificate.to_json()) and "emptiness" in certificate._repr_html_()
    assert "emptiness" in set(certificate.to_frame()["table"])
    labels = [label.get_text() for label in pl.certificate(certificate).axes[0].get_yticklabels()]
    assert labels == ["emptiness: rna, zeros", "emptiness: prot, zeros"]


def test_all_checks_have_names_of_their_own():
    assert len(BY_NAME) == len(CHECKS)
    # Copies are looked for before anything is measured.
    assert CHECKS[0].name == "duplicates"


def test_errors(simulated):
    cells, halves = simulated(n=120)
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
    with pytest.raises(ValueError, match=r"expected all_replicates only where there are replicates, got \['rna'\]"):
        certify(**cells, replicates={"prot": halves["prot"]}, all_replicates={"rna": halves["rna"]})
    with pytest.raises(ValueError, match=r"expected reconstruction\['rna'\] with 12 features, got 11"):
        certify(**cells, reconstruction={"rna": x["rna"][:, 1:]})
    with pytest.raises(ValueError, match=r"batch 119"):
        certify(**cells, batch=np.arange(119))
    with pytest.raises(ValueError, match=r"expected batch as one label a cell, got shape \(120, 2\)"):
        certify(**cells, batch=np.zeros((120, 2)))
    with pytest.raises(ValueError, match=r"expected covariates\['day'\] that vary over cells, got one value"):
        certify(**cells, covariates={"day": ["Monday"] * 120})
    with pytest.raises(ValueError, match=r"expected features\['rna'\] with at least 100 cells, got 50"):
        certify(*({name: a[:50] for name, a in arrays.items()} for arrays in cells.values()))
    with pytest.raises(ValueError, match=r"expected finite values in specific\['rna'\], got NaN or inf in 120 of 120"):
        certify(x, cells["shared"], cells["specific"] | {"rna": cells["specific"]["rna"] * np.nan})
    with pytest.raises(ValueError, match=r"expected 10 feature_names for prot, got 2"):
        certify(**cells, feature_names={"prot": ["a", "b"]})
    with pytest.raises(ValueError, match=r"expected features\['prot'\] that vary over cells, got constants"):
        certify(x | {"prot": np.full((120, 3), 0.1)}, cells["shared"], cells["specific"])
    with pytest.raises(ValueError, match=r"expected k to be a whole number of at least 1 and of at most 120, got 121"):
        certify(**cells, k=121)
    with pytest.raises(ValueError, match=r"expected max_cells to be a whole number of at least 100, got 50"):
        certify(**cells, max_cells=50)
    with pytest.raises(ValueError, match=r"expected n_permutations to be a whole number of at least 0, got -1"):
        certify(**cells, n_permutations=-1)


def test_conditional_mean_is_the_truth():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1600, 3))
    truth = np.column_stack([x[:, 0] ** 2, x[:, 1] * 2.0])
    y = truth + 0.5 * rng.standard_normal(truth.shape)
    by_reference = conditional_mean(y[:500], x[:500], reference=(y[500:], x[500:]))
    crossed = conditional_mean(y[:500], x[:500])
    for estimate in (by_reference, crossed):
        assert np.square(estimate - truth[:500]).mean() < 0.1
    assert np.square(by_reference - truth[:500]).mean() < np.square(crossed - truth[:500]).mean()
    with pytest.raises(ValueError, match=r"expected the same columns in given and their reference, got 3 and 2"):
        conditional_mean(y, x, reference=(y, x[:, :2]))
    with pytest.raises(ValueError, match=r"got reference features 1599, reference given 1600"):
        conditional_mean(y, x, reference=(y[1:], x))


@pytest.mark.parametrize("seed", range(3))
def test_what_few_reference_cells_miss_of_the_conditional_mean_is_no_excess(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1600, 5))
    # A code of the other modality alone, so that it holds nothing of y which that modality cannot know.
    truth = np.column_stack([x[:, 0] ** 2 + x[:, 1], x[:, 1] * x[:, 2], 2.0 * x[:, 3]])
    noise = rng.standard_normal(truth.shape)
    held_out, reference = slice(1500), slice(1500, None)
    for expected, error in ((truth, 0.06), (np.zeros_like(truth), 0.03)):
        y = expected + noise
        mean = conditional_mean(y[held_out], x[held_out], reference=(y[reference], x[reference]), seed=seed)
        # From 100 cells alone it is .07 to .09 and .00 to .03, and the code explains .05 to .11.
        assert np.square(mean - expected[held_out]).mean() < error * y.var()
        assert explained(truth[held_out], y[held_out] - mean).total < 0.02


def test_held_out_cells_never_make_a_column_of_the_conditional_mean_worse():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((160, 4)), rng.standard_normal((160, 8))
    y[:, 0] += x[:, 0] ** 2
    reference = y[63:], x[63:]
    mean = conditional_mean(y[:63], x[:63], reference=reference)
    # Nothing is learned from nine cells.
    alone = np.vstack([conditional_mean(y[i : i + 9], x[i : i + 9], reference=reference) for i in range(0, 63, 9)])
    error, error_alone = (np.square(y[:63] - estimate).mean(axis=0) for estimate in (mean, alone))
    assert (error <= error_alone + 1e-6).all() and (error < 0.999 * error_alone).any()
    # What held-out cells predict with the wrong sign is no reason to add the opposite.
    assert (np.abs(mean - alone).max(axis=0) < 1e-5).any()


def test_without_specific_codes_the_rest_is_judged_alike(simulated):
    cells, _ = simulated(n=200)
    whole = certify(**cells, checks=[BY_NAME["excess"], BY_NAME["retrieval"]])
    result = certify(**cells | {"specific": None})
    assert set(result.verdicts["check"]) == {"duplicates", "excess", "completeness", "retrieval"}
    for name in ("excess", "retrieval"):
        pd.testing.assert_frame_equal(result.table(name), whole.table(name))
    assert set(result.content["code"]) == {"shared"}
    assert result.features[["specific", "specific_share"]].isna().all(axis=None)
    assert "in the shared code (limit 0.700)" in str(result)
