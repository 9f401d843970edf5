"""The certificates of several fits as one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from indiseek.metrics import Thresholds, certify, pooled_certificate

N_FITS, N_CELLS = 4, 250


def fit(seed: int, *, leak: float = 0.0, **others):
    """Certificate of codes with axes of their own, of which the first modality's has so much leaked into it."""
    rng = np.random.default_rng(seed)
    known, own_a, own_b = (rng.normal(size=(N_CELLS, 3)) for _ in range(3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    z = np.sqrt(1 - leak) * own_a + np.sqrt(leak) * known
    features = {"a": np.hstack([known, own_a]), "b": np.hstack([known, own_b])}
    shared = dict.fromkeys(features, known @ turn)
    options = {"n_permutations": 99, "reconstruction": features, "joint": shared["a"]} | others
    return certify(features, shared, {"a": z @ turn, "b": own_b @ turn}, **options)


@pytest.fixture(scope="module")
def clean():
    return [fit(seed) for seed in range(N_FITS)]


def test_several_fits_tell_what_one_cannot(clean):
    assert {each.verdict_of("independence") for each in clean} == {"too few cells"}
    together = pooled_certificate(clean)
    assert together.verdict_of("independence") == "pass"
    assert together.n_fits == N_FITS and together.n_cells == N_FITS * N_CELLS
    assert str(together).startswith("Certificate on 1,000 held-out cells of 4 fits: ")
    assert "of 4 fits" in together._repr_html_()
    assert json.loads(together.to_json())["n_fits"] == N_FITS


def test_readings_are_means_and_errors_those_of_independent_cells(clean):
    tables = [each.table("independence") for each in clean]
    together = pooled_certificate(clean).table("independence")
    assert list(together.columns) == list(tables[0].columns)
    assert len(together) == len(tables[0])
    for name in ("map", "products", "total"):
        np.testing.assert_allclose(together[name], np.mean([table[name] for table in tables], axis=0))
    for name in ("se", "null_se", "guard"):
        expected = np.sqrt(np.square([table[name] for table in tables]).sum(axis=0)) / N_FITS
        np.testing.assert_allclose(together[name], expected)
    np.testing.assert_allclose((together["low"] + together["high"]) / 2, together["total"])


def test_a_leak_in_every_fit_fails():
    together = pooled_certificate([fit(seed, leak=0.2) for seed in range(N_FITS)])
    verdicts = together.verdicts.query("check == 'independence'").groupby("modality")["verdict"].unique()
    assert list(verdicts["a"]) == ["FAIL"] and list(verdicts["b"]) == ["pass"]


def test_other_checks_have_one_row_of_all_cells(clean):
    together = pooled_certificate(clean)
    for name, table in clean[0].tables.items():
        if name == "features":
            assert name not in together.tables
            continue
        assert len(together.table(name)) == len(table), name
        if "n_cells" in table:
            assert set(together.table(name)["n_cells"]) == {N_FITS * N_CELLS}, name
    assert together.verdict_of("completeness") == together.verdict_of("retrieval") == "pass"
    assert not together.to_frame().empty


def test_small_p_of_several_fits_are_put_together_by_fisher(clean):
    tables = [each.table("other forms")["p"].to_numpy() for each in clean]
    together = pooled_certificate(clean).table("other forms")["p"].to_numpy()
    statistic = -2 * np.log(tables).sum(axis=0)
    # Of 2 N_FITS degrees of freedom, in closed form.
    half = statistic / 2
    terms = [np.ones_like(half)]
    for k in range(1, N_FITS):
        terms.append(terms[-1] * half / k)
    np.testing.assert_allclose(together, np.exp(-half) * np.sum(terms, axis=0), rtol=1e-9)


def test_fits_with_more_cells_count_more(clean):
    many = pooled_certificate([clean[0], clean[1], pooled_certificate(clean[2:])])
    alike = pooled_certificate(clean)
    assert many.n_fits == alike.n_fits
    for name in ("total", "se"):
        np.testing.assert_allclose(many.table("independence")[name], alike.table("independence")[name])


def test_what_does_not_go_together_is_named(clean):
    with pytest.raises(ValueError, match="expected certificates of several fits, got none; do pass one a fit"):
        pooled_certificate([])
    other = fit(0, thresholds=Thresholds(independence=0.1))
    with pytest.raises(ValueError, match="expected certificates with the same limits, got others"):
        pooled_certificate([clean[0], other])
