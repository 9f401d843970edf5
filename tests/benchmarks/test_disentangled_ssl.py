"""The published grid of DisentangledSSL: its points, and one of each kind on few cells."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BETAS = [0, 0.001, 0.01, 0.1, 0.5, 1, 5, 10, 50, 100, 300, 500, 1000]
LAMBDAS = [0, 0.001, 0.01, 0.1, 1, 10, 100]


@pytest.fixture
def benchmark(fresh_module):
    return fresh_module("disentangled_ssl")


@pytest.mark.parametrize("label", ["as published", "equations"])
def test_grid_has_every_published_weight(benchmark, label):
    points = [point for name, (_, point) in benchmark.ROWS["published"].items() if name.startswith(label)]
    assert [point.first.beta for point in points if point.lam is None] == BETAS
    assert [point.lam for point in points if point.lam is not None] == LAMBDAS
    assert {point.first.beta for point in points if point.lam is not None} == {0.01}


def test_as_published_and_equations_are_told_apart_by_what_the_page_says(benchmark):
    rows = benchmark.ROWS["published"]
    published, ours = (rows[f"{label}, beta 0.01, lambda 1"][1] for label in ("as published", "equations"))
    assert (published.form, published.first.as_published, published.first.initial_sd) == ("code", True, 0.01)
    assert (ours.form, ours.first.as_published, ours.first.initial_sd) == ("paper", False, None)
    assert published.orthogonality == ours.orthogonality == "published"


@pytest.mark.parametrize("label", ["as published", "equations"])
def test_a_point_of_each_kind_on_few_cells(benchmark, label):
    cells = benchmark.Cells.draw("published", 0, 600)
    row, point = benchmark.ROWS["published"][f"{label}, beta 0.01, lambda 1"]
    point = replace(point, first=replace(point.first, hidden=(16,), n_code=5))
    shared = row(cells, replace(point, lam=None), 0, True)
    specific = row(cells, point, 0, True)
    assert list(shared) == list(benchmark.SHARED_COLUMNS) and list(specific) == list(benchmark.SPECIFIC_COLUMNS)
    assert all(0.3 < value < 0.95 for value in [*shared.values(), *specific.values()])


def test_linear_algebra_solves_the_published_data(benchmark):
    cells = benchmark.Cells.draw("published", 0, 4000)
    row, _ = benchmark.ROWS["published"]["CCA, residual"]
    found = row(cells)
    assert found["C: Yc"] > 0.7 and found["Z1: Y1"] > 0.7
    assert all(math.isclose(found[name], 0.5, abs_tol=0.06) for name in ("C: Y1", "C: Y2", "Z1: Yc"))
