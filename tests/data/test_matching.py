"""Names of features: as they are written, and the ways in which panels and tools write them otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from indiseek.data import match_features


def test_names_that_are_the_same_are_matched_in_any_order_and_others_are_listed():
    match = match_features(["a", "b", "c", "d"], ["x", "d", "b", "a", "old"], "rna", known=["old"])
    assert match.matched == ("a", "b", "d")
    assert match.renamed == {}
    assert match.missing == ("c",)
    assert match.extra == ("x",)
    assert match.overlap == 0.75
    np.testing.assert_array_equal(match.positions(["x", "d", "b", "a", "old"]), [3, 2, 1])


@pytest.mark.parametrize(
    ("theirs", "modality"),
    [
        ("hla.dr_TotalSeqB", "rna"),
        ("HLA DR TotalSeqB", "prot"),
        ("HLA-DR", "prot"),
        ("p_HLA-DR", "prot"),
        ("prot:HLA-DR", "adt"),
        ("ADT_HLA.DR", "prot"),
        ("HLA-DR-1", "prot"),
        ("HLA-DR_TotalSeqC", "ab"),
        ("HLA-DR_TotalSeqB-1", "prot"),
        ("hla_dr_prot", "protein"),
        ("HLA-DR-ADT", "prot"),
        ("adt_p_HLA-DR", "surface"),
    ],
)
def test_other_spellings_are_found_and_listed(theirs, modality):
    match = match_features(["CD4_TotalSeqB", "HLA-DR_TotalSeqB"], [theirs, "CD4_TotalSeqB"], modality)
    assert match.matched == ("CD4_TotalSeqB", "HLA-DR_TotalSeqB")
    assert match.renamed == {"HLA-DR_TotalSeqB": theirs}
    assert match.missing == match.extra == ()
    np.testing.assert_array_equal(match.positions([theirs, "CD4_TotalSeqB"]), [1, 0])
    assert f"1 of them by another spelling ({theirs} as HLA-DR_TotalSeqB)" in str(match)


def test_genes_are_matched_by_case_separators_and_version_alone():
    match = match_features(
        ["ENSG00000010610.5", "CD8A", "HLA-DRA", "NKX2-1", "CD4", "AL691432.2"],
        ["ENSG00000010610.9", "Cd8a", "HLA.DRA", "NKX2", "CD4_TotalSeqB", "AL691432.1"],
        "rna",
    )
    assert match.renamed == {"ENSG00000010610.5": "ENSG00000010610.9", "CD8A": "Cd8a", "HLA-DRA": "HLA.DRA"}
    assert match.missing == ("NKX2-1", "CD4", "AL691432.2")
    assert match.extra == ("NKX2", "CD4_TotalSeqB", "AL691432.1")


def test_a_name_that_two_could_be_is_not_matched_but_one_that_is_written_alike_is():
    match = match_features(["CD3", "CD4", "CD8"], ["p_CD3", "CD3-ADT", "CD4", "p_CD4", "CD8-1", "cd8"], "prot")
    assert match.matched == ("CD4", "CD8")
    # The name that needs the least reading wins.
    assert match.renamed == {"CD8": "cd8"}
    assert match.missing == ("CD3",)
    assert set(match.extra) == {"p_CD3", "CD3-ADT", "p_CD4", "CD8-1"}
    twice = match_features(["CD4_TotalSeqA", "CD4_TotalSeqB"], ["cd4"], "prot")
    assert twice.matched == () and twice.extra == ("cd4",)


@pytest.mark.parametrize("name", ["ab", "p_", "prot", "ADT", "-1"])
def test_names_that_are_nothing_but_such_words_stay_names(name):
    match = match_features([name, "CD4"], ["CD4", "CD8"], "prot")
    assert match.matched == ("CD4",)
    assert match_features([name], [name.upper()], "prot").matched == (name,)


def test_the_description_counts_and_shows_a_few():
    features = [f"gene{i}" for i in range(1000)]
    assert str(match_features(features, features, "rna")) == "1,000 of 1,000 features (100 %)"
    said = str(match_features(features, ["other", *features[:912]], "rna"))
    assert said == (
        "912 of 1,000 features (91 %), 88 missing (gene912, gene913, gene914, gene915, gene916, ...), 1 others not "
        "used (other)"
    )
