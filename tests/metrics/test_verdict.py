from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indiseek.metrics import Explained
from indiseek.metrics._verdict import at_least, at_most, cells_for, cells_to_tell, two_digits


def _reading(total=0.0, *, se=0.01, n_cells=1000, products=0.0, guard=None):
    return Explained(
        map=total - products,
        products=products,
        se_map=se,
        se=se,
        null_se=se,
        guard_map=se if guard is None else guard,
        guard=se if guard is None else guard,
        concentration=0.3,
        n_cells=n_cells,
        n_inputs=10,
    )


@pytest.mark.parametrize(
    ("value", "se", "n_cells", "expected"),
    [
        (0.00, 0.010, 1000, "pass"),
        (0.04, 0.010, 1000, "too few cells"),
        (0.06, 0.010, 1000, "too few cells"),
        (0.08, 0.010, 1000, "FAIL"),
        # Few cells never pass, whatever they read, and may fail.
        (0.00, 0.001, 299, "too few cells"),
        (0.30, 0.050, 137, "FAIL"),
        (0.00, np.inf, 1000, "too few cells"),
        # A reading far below 0 is an accident, which does not make a wide interval a pass.
        (-0.20, 0.050, 1000, "too few cells"),
    ],
)
def test_three_verdicts(value, se, n_cells, expected):
    assert at_most(value, se, 0.05, n_cells=n_cells) == expected
    assert _reading(value, se=se, n_cells=n_cells).verdict(0.05) == expected


def test_at_least_is_the_mirror():
    assert at_least(0.9, 0.01, 0.7, n_cells=500) == "pass"
    assert at_least(0.5, 0.01, 0.7, n_cells=500) == "FAIL"
    assert at_least(0.7, 0.01, 0.7, n_cells=500) == "too few cells"
    assert (
        at_least(0.9, 0.01, 0.7, n_cells=150) == "too few cells" != at_least(0.9, 0.01, 0.7, n_cells=150, min_cells=0)
    )


def test_the_map_alone_can_fail_and_products_alone_too():
    # Products read below 0 do not take a leak of the map back.
    assert _reading(0.04, products=-0.06, se=0.015).verdict(0.05) == "FAIL"
    assert _reading(0.10, products=0.10).verdict(0.05) == "FAIL"
    assert _reading(0.04, products=0.04, guard=0.001).verdict(0.05) == "too few cells"


def test_what_passes_does_so_with_the_error_it_would_have_at_the_limit():
    sure = _reading(0.0, se=0.001, n_cells=300)
    # sqrt(4 * .05 * .9 / 300) = .0245, of which 2.05 exceed the limit.
    assert sure.verdict(0.05) == "pass"
    assert replace(sure, concentration=0.9).verdict(0.05) == "too few cells"


def test_cells_for_a_verdict_are_those_whose_error_suffices():
    needed = cells_for(_reading(se=0.04, n_cells=500), 0.05)
    assert needed == pytest.approx(500 * 0.04 * 2.9 / 0.05, rel=0.1)
    assert _reading(se=0.04 * 500 / needed, n_cells=needed).verdict(0.05) == "pass"
    assert cells_for(_reading(se=0.0001), 0.05) == 300
    open_products = replace(_reading(se=np.inf, n_cells=137), n_inputs=50)
    assert 1000 < cells_for(open_products, 0.05) < 4000
    # Near the limit the distance decides, and on it no number of cells does.
    assert cells_to_tell(_reading(0.0, se=0.04, n_cells=500), 0.05) == cells_for(_reading(se=0.04, n_cells=500), 0.05)
    near = _reading(0.06, se=0.01)
    assert cells_to_tell(near, 0.05) == pytest.approx(1000 * 2.33**2, rel=0.05)
    assert replace(near, guard=0.01 / 2.4, guard_map=0.01).verdict(0.05) == "FAIL"
    assert cells_to_tell(_reading(0.051, se=0.01), 0.05) == cells_to_tell(_reading(0.05, se=0.01), 0.05) == 0
    assert [two_digits(x) for x in (0.0, np.inf, 301, 1234.5, 25_001)] == [0, 0, 310, 1300, 26_000]
