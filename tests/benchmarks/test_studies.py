"""The benchmark of batches: its cells, its measures and its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def study(make_mdata):
    """Cells of two batches with two types, the first 100 for training."""
    from _study import Study

    mdata = make_mdata(200)
    n = np.arange(mdata.n_obs)
    columns = {"batch": n % 2, "type": n // 2 % 2, "condition": n // 4 % 2}
    mdata.obs = pd.DataFrame({k: v.astype(str) for k, v in columns.items()}, index=mdata.obs_names)
    return Study(mdata, n[:100], n[:0], n[100:])


def test_held_out_donors_are_two_of_each_batch_and_in_one_set_only():
    from _study import held_out_donors

    rows = [(b, c, f"{b}{c}{i}") for b in ("B1", "B2", "B3") for c in ("HC", "Severe") for i in range(4)]
    obs = pd.DataFrame(rows * 3, columns=["batch", "condition", "donor"])
    sets = held_out_donors(obs)
    assert not set(sets["donors A"]) & set(sets["donors B"])
    of = obs.drop_duplicates().set_index("donor")
    for donors in sets.values():
        assert len(donors) == 6
        assert of.loc[donors].groupby(["batch", "condition"]).size().tolist() == [1] * 6
    assert held_out_donors(obs.sample(frac=1, random_state=0)) == sets


def test_drawn_cells_are_equally_many_of_each_type_and_batch():
    from _batches import drawn

    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b", "rare", "one batch"], [600, 100, 9, 50])
    batch = rng.choice(["0", "1"], len(types), p=[0.8, 0.2])
    batch[types == "one batch"] = "0"
    rows = drawn(np.arange(len(types)), types, batch, rng)
    counts = pd.crosstab(types[rows], batch[rows])
    assert counts.index.tolist() == ["a", "b"] and (counts["0"] == counts["1"]).all()
    assert len(np.unique(rows)) == len(rows)


def test_measures_tell_batch_and_type_apart(study):
    from _batches import measures

    rng = np.random.default_rng(0)
    n = study.mdata.n_obs
    codes = {key: 10.0 * study.column(key).astype(float)[:, None] for key in ("batch", "type")}
    found = {key: measures(study, code + rng.normal(size=(n, 2)), 0) for key, code in codes.items()}
    assert found["batch"]["bCB"] > 0.95 and 0.3 < found["type"]["bCB"] < 0.7
    assert found["type"]["F1"] > 0.95 and found["type"]["across"] > 0.95 and found["type"]["accT"] > 0.95
    assert found["batch"]["F1"] < 0.7 and found["batch"]["across"] < 0.7


def test_components_or_modalities_are_on_one_scale(study):
    from _integration import of_both

    # Thirty components of RNA before those of protein, of which there are fewer.
    variances = {}
    for name, code in of_both(study).items():
        assert code.shape[0] == study.mdata.n_obs and code.shape[1] > 30
        np.testing.assert_allclose(code[study.train].mean(axis=0), 0, atol=1e-4)
        variances[name] = np.split(code[study.train].var(axis=0), [30])
    np.testing.assert_allclose(np.hstack(variances["components alike"]), 1, rtol=1e-3)
    np.testing.assert_allclose([v.sum() for v in variances["modalities alike"]], 1, rtol=1e-3)


def test_labels_are_asked_of_cells_with_one_modality_and_with_both(study, monkeypatch):
    import _query

    asked = []

    class Model:
        def map_query(self, mdata):
            assert mdata.n_obs == 100

        def transfer_labels(self, mdata, *, labels):
            asked.append((tuple(mdata.mod), labels))
            table = {"label": mdata.obs["type"], "probability": 1.0, "unlike_reference": mdata.obs["type"] == "1"}
            # Another order than that of the cells.
            return pd.DataFrame(table, index=mdata.obs_names)[::-1]

    def trained(reference, seed):
        assert reference.mdata.n_obs == 100 and len(reference.test) == 0
        return Model()

    monkeypatch.setattr(_query, "trained", trained)
    found = _query.transferred(study, 0)
    assert asked == [(("rna",), "type"), (("prot",), "type"), (("rna", "prot"), "type")]
    assert found["RNA"]["transfer_labels"] == {"accuracy": 1.0, "F1": 1.0, "unlike": 0.5}
    withheld = _query.withheld(study, 0, "1")
    assert withheld["cells"] == 50
    assert withheld["protein"] == {"unlike": 1.0, "unlike, others": 0.0, "probability": 1.0}


def test_the_page_has_a_row_for_each_space_and_says_what_was_not_run():
    from _studies_page import page

    figures = {"bCB": 0.5, "F1": 0.8, "across": 0.7, "accT": 0.9, "condition": 0.6}
    fits = [{"spaces": {"corrected": figures | {"bCB": b}}, "specific": {}, "s": 1.0} for b in (0.4, 0.6)]
    query = [{"both": {"corrected": {"accuracy": 0.75, "F1": 0.5}}}]
    text = page({("batches", "random", 5500, "harmony"): fits, ("query", "donors A", 5500, "harmony"): query})
    assert "| Harmony, PCA 30 + 30 | corrected | 0.500 [0.400, 0.600] | 0.800 [0.800, 0.800] |" in text
    assert "| both | Harmony, PCA 30 + 30 | corrected | 0.750 | 0.500 |  | 1 |" in text
    assert "Specific codes" not in text and "withheld" not in text
    assert text.endswith(
        "Not run: IndiSeek, batch_key, IndiSeek, no batch_key, PCA 30 + 30, totalVI, batch_key, MOFA+, groups."
    )
