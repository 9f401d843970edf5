from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from indiseek.effects import Effects, compare

N_DONORS, N_CELLS = 16, 30


def arguments(seed: int = 0, *, push: float = 1.0, state: float = 1.0) -> dict:
    """Counts of two types of cells of 16 donors in two batches; in "b" genes 0 to 5 of cases are pushed.

    `state` pushes them, and proteins 0 to 2, in one half of the cells of cases.
    """
    rng = np.random.default_rng(seed)
    donor = np.tile(np.repeat(np.arange(N_DONORS), N_CELLS), 2)
    kind = np.repeat(["a", "b"], N_DONORS * N_CELLS)
    case = donor % 2 == 1
    axis = rng.normal(size=(len(donor), 1))
    rates = [np.exp(0.8 * axis * rng.choice([-1, 1], size=n)) * m for n, m in ((40, 2.0), (12, 20.0))]
    rates[0][:, :6] = 2.0
    rates[0][np.ix_(case & (kind == "b"), range(6))] *= push
    if state != 1:
        rates[1][:, :3] = 20.0
        half = np.flatnonzero(case & (kind == "b") & (rng.random(len(donor)) < 0.5))
        for rate, n in zip(rates, (6, 3), strict=True):
            rate[np.ix_(half, range(n))] *= state
    counts = {name: rng.poisson(rate).astype(np.float32) for name, rate in zip(("rna", "prot"), rates, strict=True)}
    # Of a new state the components know little, as the first ones of many features would.
    components = {name: np.log1p(values)[:, 6 * (state != 1) :] for name, values in counts.items()}
    obs = pd.DataFrame(
        {
            "donor": [f"D{d}" for d in donor],
            "batch": np.where(donor < 8, "x", "y"),
            "condition": pd.Categorical(np.where(case, "ill", "healthy")),
            "type": kind,
        }
    )
    counts["rna"] = sparse.csr_matrix(counts["rna"])
    return {"counts": counts, "components": components, "obs": obs}


def run(given: dict | None = None, **others) -> Effects:
    columns = {"groupby": "condition", "replicate": "donor", "within": "type", "batch": "batch"}
    return compare(**(given or arguments()), **columns | {"n_permutations": 99} | others)


def test_the_tables_say_where_the_condition_acts():
    found = run(
        arguments(push=2.0), features={"rna": [f"g{j}" for j in range(40)], "prot": [f"p{j}" for j in range(12)]}
    )
    assert found.calls == {"a": (), "b": ("rna",)}
    assert found.sides == ("healthy", "ill")
    effects = found.effects
    assert list(effects["space"]) == ["shared", "rna", "prot", "coordinated"] * 2
    assert {"group", "effect", "share", "pvalue", "least_pvalue", "qvalue", "call"} <= set(effects)
    assert (effects[["n_first", "n_second", "n_cells"]] == [8, 8, N_DONORS * N_CELLS]).all(axis=None)
    best = found.features.sort_values("pvalue")[["group", "modality", "feature"]].head(6)
    assert set(best["group"]) == {"b"} and set(best["feature"]) == {f"g{j}" for j in range(6)}
    assert "b: rna" in found.summary() and "a: none" in found.summary()
    assert "<table" in found._repr_html_()


def test_a_new_state_is_said_in_words_with_its_side():
    found = run(arguments(2, state=2.0))
    assert {"rna", "prot", "coordinated"} <= set(found.calls["b"]) and not found.calls["a"]
    assert "coordinated in ill, outside the known shared axes" in found.summary()
    turned = run(arguments(2, state=2.0), groups=("ill", "healthy"))
    assert "coordinated in ill, outside the known shared axes" in turned.summary()
    rows = [each.effects.query("space == 'coordinated' and group == 'b'").iloc[0] for each in (found, turned)]
    assert rows[0]["effect"] == pytest.approx(-rows[1]["effect"]) and rows[0]["effect"] > 0.1
    assert rows[0]["share"] == pytest.approx(rows[1]["share"])


def test_q_values_are_over_the_groups_of_one_space():
    effects = run(arguments(push=2.0)).effects
    for _, rows in effects.groupby("space"):
        low, high = sorted(rows["pvalue"])
        assert sorted(rows["qvalue"]) == pytest.approx([min(2 * low, high), high])


def test_effects_are_of_the_second_group_and_the_order_is_yours():
    given = arguments(push=2.0)
    one, other = run(given), run(given, groups=("ill", "healthy"))
    assert other.sides == ("ill", "healthy")
    np.testing.assert_allclose(one.features["total"], -other.features["total"])
    np.testing.assert_allclose(one.effects["effect"].abs(), other.effects["effect"].abs(), atol=0.05)


def test_the_seed_gives_the_same_tables():
    pd.testing.assert_frame_equal(run(seed=3).effects, run(seed=3).effects)
    assert (run(seed=3).effects["pvalue"] != run(seed=4).effects["pvalue"]).any()


def test_all_cells_are_one_group_where_none_is_named():
    assert list(run(within=None).calls) == ["all cells"]


def test_groups_of_cells_that_cannot_be_compared_are_named_with_the_reason():
    given = arguments()
    obs = given["obs"]
    few = (obs["type"] == "a") & obs["donor"].isin([f"D{d}" for d in range(1, 13, 2)])
    obs.loc[few & (obs.groupby(["type", "donor"]).cumcount() >= 4), "type"] = "c"
    found = run(given)
    assert list(found.calls) == ["b"]
    (reason,) = found.left_out.loc[found.left_out["group"] == "a", "reason"]
    assert reason == "8 'healthy' and 2 'ill' of 'donor' with 10 cells, of 3 that are needed"
    assert f"a: left out, {reason}" in found.summary()


def test_a_group_of_cells_with_each_side_in_batches_of_its_own_is_left_out():
    given = arguments()
    obs = given["obs"]
    case = obs["condition"] == "ill"
    apart = (obs["type"] == "a") & (case == (obs["batch"] == "x"))
    found = run({**given, "obs": obs.assign(type=obs["type"].mask(apart, "elsewhere"))})
    reasons = found.left_out.set_index("group")["reason"]
    assert "0 'healthy' and 0 'ill' in batches that have both" in reasons["a"]


def test_replicates_in_several_batches_are_exchanged_with_those_of_the_same():
    given = arguments()
    everywhere = given["obs"].assign(batch=np.arange(len(given["obs"])) % 2)
    pd.testing.assert_frame_equal(run({**given, "obs": everywhere}).effects, run(given, batch=None).effects)


def test_too_few_replicates_for_a_small_p_are_said():
    given = arguments()
    keep = given["obs"]["donor"].isin([f"D{d}" for d in range(6)]).to_numpy()
    small = {
        "counts": {name: values[keep] for name, values in given["counts"].items()},
        "components": {name: values[keep] for name, values in given["components"].items()},
        "obs": given["obs"][keep].reset_index(drop=True),
    }
    found = run(small)
    assert found.effects["least_pvalue"].eq(0.1).all()
    assert not found.effects["call"].any()
    assert "no p below 0.1 is possible with so few replicates" in found.summary()


def test_thinned_counts_are_embedded_anew():
    given = arguments()
    given["counts"]["rna"][given["obs"]["donor"].isin(["D0", "D1", "D2"]).to_numpy()] *= 3
    seen = []

    def embed(counts):
        seen.append(np.asarray(counts.sum(axis=1)).ravel())
        return np.log1p(counts.toarray())

    found = run(given, thin=embed)
    assert len(seen) == 2
    depths = seen[0].reshape(N_DONORS, N_CELLS).mean(axis=1)
    np.testing.assert_allclose(depths, depths.mean(), rtol=0.2)
    assert (found.effects["pvalue"] != run(given).effects["pvalue"]).any()


@pytest.mark.parametrize(
    ("others", "error", "words"),
    [
        ({"groupby": "disease"}, KeyError, "expected a column 'disease', got .*; name one of these"),
        (
            {"groupby": "donor"},
            ValueError,
            r"expected two values of 'donor' to compare, got 16: .*groups=\('D0', 'D1'\)",
        ),
        (
            {"groups": ("ill", "well")},
            ValueError,
            r"expected groups to be values of 'condition', got \['well'\]; use two",
        ),
        ({"groups": "ill"}, ValueError, "expected groups to be two values of 'condition', got 'ill'"),
        ({"replicate": "batch"}, ValueError, r"expected each 'batch' on one side of 'condition', got 2 on both"),
        ({"batch": "condition"}, ValueError, "cannot be told from the batch, by no method"),
        ({"min_cells": 31}, ValueError, "expected at least 3 replicates a side .* got in no group of cells as many"),
        ({"min_cells": 1}, ValueError, "expected min_cells to be a whole number of at least 2, got 1"),
        ({"n_permutations": 5}, ValueError, "expected n_permutations to be a whole number of at least 19, got 5"),
        ({"alpha": 1}, ValueError, "expected alpha to be a number above 0 and below 1, got 1"),
        ({"seed": -1}, ValueError, "expected seed to be a whole number of at least 0, got -1"),
    ],
)
def test_what_cannot_be_compared_is_refused(others: dict, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        run(**others)


def test_fewer_than_three_replicates_a_side_are_refused():
    given = arguments()
    merged = given["obs"].assign(donor=given["obs"]["donor"].where(given["obs"]["condition"] == "ill", "D0"))
    with pytest.raises(
        ValueError, match="expected at least 3 of 'donor' on each side of 'condition', got 1 'healthy' and"
    ):
        run({**given, "obs": merged})
