from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from indiseek import pl


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {"rho": rho, "n_dims": d, "n_cells": 64, "mutual_information": d * rho, "jeffreys": 2 * d * rho}
        | {"info_nce": d * rho - 0.1 * run, "nce_club": 3 * d * rho + run, "vclub": 2.5 * d * rho, "seed": run}
        for d in (5, 1)
        for rho in (0.9, 0.3)
        for run in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_one_panel_for_each_dimension_with_truth_and_ceiling(table):
    figure = pl.estimators(table)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["1 pair", "5 pairs"]
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    truth = lines["true information"]
    np.testing.assert_allclose(truth.get_xdata(), [0.3, 0.9])
    np.testing.assert_allclose(truth.get_ydata(), [1.5, 4.5])
    np.testing.assert_allclose(lines["true Jeffreys divergence"].get_ydata(), [3, 9])
    np.testing.assert_allclose(lines["log N, ceiling of InfoNCE"].get_ydata(), math.log(64))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_markers_are_means_over_runs_and_bars_their_range(table):
    ax = pl.estimators(table).axes[0]
    bars = {container.get_label(): container for container in ax.containers}
    assert set(bars) == {"InfoNCE", "NCE-CLUB", "vCLUB"}
    marks, _, (segments,) = bars["NCE-CLUB"]
    np.testing.assert_allclose(np.asarray(marks.get_ydata(), dtype=float), [0.9 + 0.5, 2.7 + 0.5])
    ends = np.array([segment[:, 1] for segment in segments.get_segments()], dtype=float)
    np.testing.assert_allclose(ends, [[0.9, 1.9], [2.7, 3.7]])


def test_the_table_is_not_changed(table):
    before = table.copy()
    pl.estimators(table)
    pd.testing.assert_frame_equal(table, before)


def test_errors_say_what_was_expected(table):
    with pytest.raises(KeyError, match=r"expected the columns .* got none called \['vclub'\]; add them to the table"):
        pl.estimators(table.drop(columns="vclub"))
    table.loc[0, "n_cells"] = 128
    with pytest.raises(ValueError, match="expected one n_cells in all rows, got .*128.*; the ceiling depends on it"):
        pl.estimators(table)
    with pytest.raises(ValueError, match=r"expected one n_cells in all rows, got \[\]"):
        pl.estimators(table[:0])
