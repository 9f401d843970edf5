"""The rules of choice, on tables made by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from indiseek.tuning import choose_lam, choose_n_specific, choose_shared

COLUMNS = ["n_shared", "alignment", "infonce", "infonce_se", "content_rna", "content_prot", "excess_rna", "excess_prot"]


def shared(*rows: tuple[float, ...], index: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS, index=index)


def test_the_narrowest_within_one_standard_error_of_the_best_infonce():
    table = shared(
        (4, 10.0, 4.42, 0.03, 0.87, 0.93, 0.0, 0.04),
        (6, 10.0, 4.37, 0.03, 0.87, 0.93, 0.0, 0.03),
        (12, 10.0, 4.35, 0.03, 0.87, 0.93, 0.0, 0.03),
    )
    choice = choose_shared(table)
    assert (choice.row, choice.passed) == (1, True)
    assert "3 of 3 candidates with excess below 0.05" in choice.why
    # The standard error is that of the best: 4.42 is within .08 of it.
    table.loc[2, "infonce_se"] = 0.08
    assert choose_shared(table).row == 0


def test_retrieval_does_not_decide_alone():
    """The wide code retrieves best because it holds what only protein knows."""
    table = shared(
        (6, 0.0, 4.37, 0.03, 0.87, 0.93, 0.0, 0.03),
        (16, 0.0, 3.90, 0.03, 0.87, 0.93, 0.0, 0.33),
    )
    assert choose_shared(table).row == 0


def test_each_alignment_has_its_own_best_infonce_and_equals_go_to_the_least_excess():
    table = shared(
        (6, 0.0, 4.20, 0.01, 0.87, 0.93, 0.04, 0.0),
        (8, 0.0, 4.10, 0.01, 0.87, 0.93, 0.04, 0.0),
        (6, 5.0, 4.30, 0.01, 0.87, 0.93, 0.03, 0.0),
        (6, 9.0, 4.40, 0.01, 0.87, 0.93, 0.0, 0.02),
    )
    # At alignment 0 six dimensions are too few; at 5 and 9 they are the best there is.
    assert choose_shared(table).row == 3
    table.loc[3, "excess_prot"] = 0.035
    assert choose_shared(table).row == 2


def test_the_wider_limit_of_excess_counts_only_if_nothing_keeps_to_the_tight_one():
    table = shared(
        (4, 0.0, 4.0, 0.1, 0.87, 0.93, 0.0, 0.07),
        (6, 0.0, 4.0, 0.1, 0.87, 0.93, 0.0, 0.049),
    )
    assert choose_shared(table).row == 1
    table.loc[1, "excess_prot"] = 0.05
    choice = choose_shared(table)
    assert (choice.row, choice.passed) == (0, True)
    assert "2 of 2 candidates with excess below 0.10" in choice.why


def test_excess_of_any_modality_counts():
    table = shared((4, 0.0, 4.0, 0.1, 0.9, 0.9, 0.2, 0.0), (6, 0.0, 4.0, 0.1, 0.9, 0.9, 0.0, 0.0))
    assert choose_shared(table).row == 1


def test_if_no_excess_passes_the_least_is_taken_and_said_so():
    table = shared(
        (4, 0.0, 3.0, 0.1, 0.87, 0.93, 0.0, 0.4),
        (6, 0.0, 4.0, 0.1, 0.87, 0.93, 0.0, 0.2),
        (8, 0.0, 4.0, 0.1, 0.87, 0.93, 0.3, 0.1),
    )
    choice = choose_shared(table)
    assert (choice.row, choice.passed) == (1, False)
    assert choice.why == (
        "no candidate with the shared content keeps its excess below 0.10; this one has the least, 0.20"
    )


def test_a_code_that_lost_the_shared_content_of_one_modality_is_out_however_pure():
    table = shared(
        (4, 0.0, 4.0, 0.1, 0.90, 0.50, 0.0, 0.0),
        (6, 0.0, 4.0, 0.1, 0.88, 0.90, 0.2, 0.0),
        (8, 0.0, 4.0, 0.1, 0.872, 0.91, 0.02, 0.0),
    )
    assert choose_shared(table).row == 2
    table.loc[2, "content_rna"] = 0.869
    choice = choose_shared(table)
    assert (choice.row, choice.passed) == (1, False)


def test_if_no_candidate_is_near_the_best_of_all_modalities_the_nearest_is_taken():
    table = shared(
        (4, 0.0, 4.0, 0.1, 0.90, 0.50, 0.0, 0.0),
        (6, 0.0, 4.0, 0.1, 0.80, 0.80, 0.0, 0.0),
        (8, 0.0, 4.0, 0.1, 0.50, 0.90, 0.0, 0.0),
    )
    assert choose_shared(table).row == 1


def test_rows_are_named_by_their_label_and_the_table_is_left_alone():
    table = shared((8, 0.0, 4.0, 0.1, 0.9, 0.9, 0.0, 0.0), (6, 0.0, 4.0, 0.1, 0.9, 0.9, 0.0, 0.0), index=[7, 3])
    before = table.copy()
    assert choose_shared(table).row == 3
    pd.testing.assert_frame_equal(table, before)


def test_lam_of_the_best_reconstruction_that_does_not_leak():
    table = pd.DataFrame({"lam": [0.1, 1.0, 10.0], "reconstruction": [0.9, 0.5, 0.2], "leakage": [0.0, 0.029, 0.2]})
    choice = choose_lam(table, leakage=0.03)
    assert (choice.row, choice.passed) == (1, True)
    assert choice.why == "the best reconstruction (error 0.50) of the 2 of 3 candidates that leak less than 0.03"


def test_if_every_lam_leaks_the_one_that_leaks_least_is_taken_and_said_so():
    table = pd.DataFrame({"lam": [0.1, 1.0], "reconstruction": [0.9, 0.5], "leakage": [0.03, 0.2]})
    choice = choose_lam(table, leakage=0.03)
    assert (choice.row, choice.passed) == (0, False)
    assert choice.why == "no candidate keeps its leakage below 0.03; this one leaks least, 0.03"


@pytest.mark.parametrize(
    ("carried", "n"),
    [
        ([0.5, 0.949, 0.95, 1.0], 3),
        ([0.5, 0.5, 0.4], 1),
        ([0.1, 0.2], 2),
        ([-0.1, -0.02, -0.03], 3),
        ([0.0], 1),
    ],
)
def test_dimensions_that_carry_95_percent_of_the_most(carried, n):
    assert choose_n_specific(carried) == n


def test_the_share_is_an_option():
    assert choose_n_specific([0.3, 0.6, 0.9], share=0.5) == 2
