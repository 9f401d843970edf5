"""Figures of features: shares, loadings, private parts, and maps that say whether there is anything to be seen."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from mudata import MuData

from indiseek import pl

N_CELLS = 300


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tables = []
    for name, n in (("rna", 80), ("prot", 200)):
        shares = rng.dirichlet(np.ones(3), size=n)
        rows = pd.DataFrame(shares, columns=["shared", "specific", "noise"])
        for part in ("shared", "specific", "noise"):
            rows[f"{part}_low"], rows[f"{part}_high"] = rows[part] - 0.05, rows[part] + 0.05
        rows["in_code"] = rows["specific"] * 0.7
        rows["left_out"] = rows["specific"] * 0.3
        rows["modality"], rows["feature"] = name, [f"{name}{j}_TotalSeqB" for j in range(n)]
        rows["is_control"] = np.arange(n) % 50 == 7
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def attributed(n_axes: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    tables = []
    for k in range(n_axes):
        for name, size in (("rna", 0.1), ("prot", 0.8)):
            loading = np.sort(rng.uniform(-size, size, 20))
            order = np.argsort(-np.abs(loading))
            tables.append(
                pd.DataFrame(
                    {
                        "dimension": k + 1,
                        "name": f"prot {k + 1}: {'noise' if k == n_axes - 1 else 'CD3'}",
                        "is_noise": k == n_axes - 1,
                        "modality": name,
                        "feature": [f"{name}{j}" for j in range(20)],
                        "loading": loading,
                        "stability": rng.uniform(size=20),
                        "rank": np.argsort(order) + 1,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def mdata() -> MuData:
    rng = np.random.default_rng(2)
    names = [f"c{i}" for i in range(N_CELLS)]
    parts = {}
    for name in ("rna", "prot"):
        counts = rng.poisson(3.0, (N_CELLS, 3)).astype(np.float32)
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(3)])
        parts[name] = AnnData(counts, obs=pd.DataFrame(index=names), var=var)
    with mudata.set_options(pull_on_update=False):
        found = MuData(parts)
    groups = rng.integers(3, size=N_CELLS)
    found.obs["kind"] = pd.Categorical([f"k{g}" for g in groups])
    found.obsm["X_indiseek_shared"] = np.eye(3)[groups] * 6 + rng.normal(size=(N_CELLS, 3))
    for name in ("rna", "prot"):
        found.obsm[f"X_indiseek_{name}"] = rng.normal(size=(N_CELLS, 4))
    return found


def texts(figure: Figure) -> list[str]:
    return [label.get_text() for ax in figure.axes for label in (*ax.get_yticklabels(), ax.title, ax.yaxis.label)]


def test_the_most_specific_features_come_first_and_controls_are_marked(table: pd.DataFrame):
    figure = pl.features(table, n_top=30)
    rna, prot = figure.axes
    assert prot.get_title() == "Protein: 30 of 200" and rna.get_title() == "RNA: 30 of 80"
    shown = [label.get_text() for label in prot.get_yticklabels()]
    best = table[table["modality"] == "prot"].nlargest(30, "specific")
    assert shown == [
        name.removesuffix("_TotalSeqB") + (" (control)" if control else "")
        for name, control in zip(best["feature"], best["is_control"], strict=True)
    ]
    # Bars of one feature reach from 0 to 1.
    reach = [bars[0].get_x() + bars[0].get_width() for bars in prot.containers]
    assert max(reach) == pytest.approx(1.0) and len(prot.containers) == 4
    by_shared = pl.features(table, modality="prot", sort_by="shared", n_top=5)
    best = table[table["modality"] == "prot"].nlargest(5, "shared")["feature"].str.removesuffix("_TotalSeqB")
    assert [label.get_text().removesuffix(" (control)") for label in by_shared.axes[0].get_yticklabels()] == list(best)


def test_a_feature_of_few_cells_does_not_come_first(table: pd.DataFrame):
    table.loc[80, ["specific", "specific_low", "specific_high"]] = 0.99, 0.0, 1.0
    figure = pl.features(table, modality="prot", n_top=10)
    assert "prot0" not in texts(figure)


def test_values_without_noise_or_codes_are_drawn(table: pd.DataFrame):
    table[["noise", "in_code", "left_out"]] = np.nan
    assert len(pl.features(table).axes) == 2


def test_loadings_are_of_the_modality_that_leads_and_without_noise():
    figure = pl.loadings(attributed(), n_top=5)
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert titles == ["prot 1", "prot 2"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 5 and all(name.startswith("prot") for name in names)
    assert len(pl.loadings(attributed(), with_noise=True).axes) == 3
    assert len(pl.loadings(attributed(), modality="rna", shown=[2]).axes) == 1
    both = pl.loadings(attributed(), modality=["rna", "prot"], shown=[1])
    assert any(name.endswith("(prot)") for name in texts(both))


def test_private_parts_are_drawn_on_maps_and_nothing_is_written(mdata: MuData):
    parts = pd.DataFrame(np.random.default_rng(0).normal(size=(N_CELLS, 2)), index=mdata.obs_names, columns=["A", "B"])
    before = mdata.obs.copy(), set(mdata.obsm)
    at = {"X_indiseek_prot": np.random.default_rng(1).normal(size=(N_CELLS, 2))}
    figure = pl.private(mdata, parts, color="kind", spaces="X_indiseek_prot", coordinates=at)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:6:2] == ["kind", "A, private", "B, private"] and figure.axes[0].get_ylabel() == "Protein-specific"
    assert mdata.obs.equals(before[0]) and set(mdata.obsm) == before[1]
    assert np.ptp(figure.axes[2].collections[0].get_facecolors(), axis=0).max() > 0.1


def test_pairs_tell_the_correlation(mdata: MuData):
    rng = np.random.default_rng(0)
    one = rng.normal(size=N_CELLS)
    parts = pd.DataFrame({"A": one, "B": -one + 0.1 * rng.normal(size=N_CELLS), "C": rng.normal(size=N_CELLS)})
    figure = pl.pairs(parts)
    assert len(figure.axes) == 9
    assert figure.axes[1].texts[0].get_text() == f"{parts['A'].corr(parts['B']):.2f}"


def test_structure_is_told_from_noise_and_from_long_tails():
    rng = np.random.default_rng(3)
    noise = [pl.structure(rng.normal(size=(300, 5)), n_controls=19, seed=seed).pvalue for seed in range(8)]
    assert np.mean(np.asarray(noise) <= 0.05) <= 0.25 and 0.2 < np.mean(noise) < 0.8
    grouped = rng.normal(size=(600, 5))
    grouped[:80, :2] += 5.0
    found = pl.structure(grouped, n_controls=19)
    assert found.pvalue == 0.05 and found.closeness > 0
    scaled = pl.structure(rng.normal(size=(300, 3)) * [100.0, 1.0, 0.01], n_controls=19)
    assert scaled.pvalue > 0.05


def test_the_title_says_where_there_is_nothing_to_be_seen(mdata: MuData):
    at = {key: np.random.default_rng(1).normal(size=(N_CELLS, 2)) for key in mdata.obsm if key.startswith("X_")}
    figure = pl.tested_map(mdata, color="kind", coordinates=at)
    labels = [ax.get_ylabel() for ax in figure.axes[:3]]
    assert labels[0] == "Shared"
    assert labels[1].startswith("RNA-specific\nno structure found\n(p = ")


def test_maps_take_the_axes_without_noise_where_they_are_written(mdata: MuData):
    mdata.obsm["X_indiseek_prot_axes"] = mdata.obsm["X_indiseek_prot"][:, :2]
    keys = ("X_indiseek_shared", "X_indiseek_rna", "X_indiseek_prot_axes")
    at = {key: np.random.default_rng(1).normal(size=(N_CELLS, 2)) for key in keys}
    figure = pl.spaces(mdata, color="kind", coordinates=at)
    assert figure.axes[2].get_ylabel() == "Protein-specific"


def test_what_cannot_be_drawn_is_named(table: pd.DataFrame, mdata: MuData):
    parts = pd.DataFrame({"A": np.zeros(N_CELLS)}, index=mdata.obs_names)
    with pytest.raises(TypeError, match=r"expected a table, got list; give what model.feature_table\(\) gave"):
        pl.features([])
    with pytest.raises(ValueError, match="got a table without .*'shared'"):
        pl.features(table.drop(columns="shared"))
    with pytest.raises(KeyError, match="expected modality to be one of .*got 'atac'"):
        pl.features(table, modality="atac")
    with pytest.raises(ValueError, match="expected something to show"):
        pl.loadings(attributed(), shown=[9])
    with pytest.raises(ValueError, match="expected parts of the 300 cells of mdata"):
        pl.private(mdata, parts.iloc[::-1])
    with pytest.raises(TypeError, match="expected parts as a table"):
        pl.pairs([1])
    with pytest.raises(ValueError, match="expected 2 to 10 features, got 1"):
        pl.pairs(parts)
    with pytest.raises(ValueError, match="expected finite codes of 100 cells"):
        pl.structure(np.zeros((50, 3)))
