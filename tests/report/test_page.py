"""The text of the page, without a browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from made_up_page import IMAGE, SCRIPT, feature_table, page
from scipy import sparse

from indiseek.report import (
    FeatureValues,
    certificate_sentence,
    colours_of,
    feature_rows,
    feature_sentences,
    render,
)


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._raw = ""

    def handle_data(self, data):
        self.text += "" if self._raw else data


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def steps(feature: dict) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(feature["values"])), dtype=np.uint8)


def test_nothing_is_loaded_and_no_name_is_markup():
    text = render(page())
    found = Reader(text)
    names = [tag for tag, _ in found.elements]
    assert "img" not in names
    assert names.count("script") == 2
    loading = {
        (tag, key)
        for tag, attributes in found.elements
        for key in attributes
        if key in ("src", "href", "srcset", "style")
    }
    assert loading == {("link", "href"), ("a", "href")}
    assert [a["href"] for tag, a in found.elements if tag == "link"] == ["data:,"]
    assert not [a for tag, a in found.elements if any(key.startswith("on") for key in a)]
    assert "@import" not in text and "url(" not in text
    for name in (IMAGE, SCRIPT, "{{ 7 * 7 }}"):
        assert name in found.text
    assert "49" not in found.text.split("Features: who knows what")[1].split("Certificate")[0]


def test_values_come_back_and_few_bytes_say_them():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(300, 3))
    dense[7, 0] = np.nan
    genes = sparse.random(300, 4, density=0.1, random_state=0, format="csr")
    found = colours_of(
        pd.DataFrame(
            {
                "few": pd.Categorical(["b", "a", None] * 100, categories=["b", "a"]),
                "name": [f"c{i}" for i in range(300)],
            }
        ),
        [FeatureValues("rna", list("wxyz"), genes, "log"), FeatureValues("prot", list("abc"), dense, "value")],
    )
    assert [each["name"] for each in found.columns] == ["few"]  # a column of names is no colour
    few = found.columns[0]
    assert few["categories"] == ["b", "a"]
    assert list(base64.b64decode(few["codes"]))[:4] == [0, 1, 255, 0]
    assert [f["name"] for f in found.features] == ["a", "b", "c", "w", "x", "y", "z"]
    a = found.features[0]
    assert steps(a)[7] == 255
    back = a["low"] + (a["high"] - a["low"]) * steps(a) / 252
    np.testing.assert_allclose(np.delete(back, 7), np.delete(dense[:, 0], 7), atol=(a["high"] - a["low"]) / 504 + 1e-12)
    w = found.features[3]
    np.testing.assert_allclose(
        w["high"] * steps(w) / 252, genes[:, [0]].toarray().ravel(), atol=w["high"] / 126 + 1e-12
    )


def test_of_too_many_features_named_ones_and_panels_stay():
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(200, 600)) * np.arange(1, 601)
    values = [
        FeatureValues("rna", [f"g{i}" for i in range(600)], genes, ""),
        FeatureValues("prot", ["p"], genes[:, :1], ""),
    ]
    found = colours_of(pd.DataFrame(), values, first=[("rna", "g0")], feature_bytes=3000)
    names = [f["name"] for f in found.features]
    assert found.n_features == 601
    assert 4 < len(names) < 15
    assert names[:2] == ["p", "g0"]
    assert all(int(name[1:]) > 550 for name in names[2:])  # and of the others those that vary most
    assert sum(len(f["values"]) for f in found.features) <= 3000


def test_a_column_without_values_or_with_numbers_beyond_measure():
    obs = pd.DataFrame(
        {
            "none": [np.nan] * 4,
            "large": [-1.7e308, 1.7e308, np.inf, 0],
            "flag": [True, False, True, True],
            "same": [1, 1, 1, 1],
        }
    )
    found = {each["name"]: each for each in colours_of(obs, []).columns}
    assert set(found) == {"large", "flag", "same"}
    assert found["flag"]["categories"] == ["False", "True"]
    assert list(base64.b64decode(found["large"]["values"])) == [0, 252, 255, 126]
    assert list(base64.b64decode(found["same"]["values"])) == [0] * 4


def test_any_table_of_features_is_taken():
    rows = feature_rows(feature_table())
    assert [c["name"] for c in rows["columns"]][:5] == ["feature", "modality", "shared", "specific", "noise"]
    assert rows["rows"][0][0] == IMAGE and rows["rows"][-1][0] == "CD8"
    other = feature_rows(pd.DataFrame({"r": [0.1, 0.9], "r_low": [0.0, 0.8]}, index=["a", "b"]))
    assert [(c["name"], c["kind"]) for c in other["columns"]] == [
        ("feature", "text"),
        ("r", "number"),
        ("r_low", "number"),
    ]
    text = render(page(features=other))
    assert data_of(text)["table"]["rows"] == [["a", 0.1, 0.0], ["b", 0.9, 0.8]]


def test_the_first_sentences():
    table = feature_table()
    first, second = feature_sentences(table.assign(is_control=[False, True, False, False, False]), ["rna", "prot"])
    assert first.startswith(f"What protein alone knows, most of all: {IMAGE} (70 %), CD4 (20 %).")
    assert "cannot be told from RNA" in first
    assert "up to 40 %" in second
    (none,) = feature_sentences(table.assign(specific=0.01), ["rna", "prot"])
    assert none.startswith("No feature of protein has 15 % or more")
    assert feature_sentences(table[["feature", "r"]], ["rna", "prot"]) == []
    tagged = table.assign(feature=[f"{name}_TotalSeqB" for name in table["feature"]])
    assert "_TotalSeqB" not in feature_sentences(tagged, ["rna", "prot"])[0]


def test_what_is_surely_known_to_one_comes_before_what_may_be():
    table = pd.DataFrame(
        {"modality": "prot", "feature": ["wide", "sure"], "specific": [0.9, 0.6], "specific_low": [0.1, 0.5]}
    )
    assert [row[0] for row in feature_rows(table)["rows"]] == ["sure", "wide"]
    assert feature_sentences(table, ["prot"])[0].startswith("What protein alone knows, most of all: sure (60 %), wide")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "note"], "All 1 checks passed"),
        (["pass", "too few cells"], "No check failed on 200 cells that no fit has seen: 1 passed, and for 1"),
        (
            ["FAIL", "pass"],
            "NOT all is as it should be: the RNA-specific space still holds some of what the other measurement",
        ),
    ],
)
def test_the_sentence_of_the_certificate(verdicts, expected):
    class Certified:
        def __init__(self) -> None:
            self.verdicts = pd.DataFrame(
                {"verdict": verdicts, "words": "words (figures)", "check": "probes", "modality": "rna"}
            )
            self.tables: dict = {}

    assert certificate_sentence(Certified(), 200).startswith(expected)


def test_the_size_of_a_page():
    rng = np.random.default_rng(0)
    from indiseek.report import Space

    n = 7000
    spaces = [Space(str(i), "", rng.normal(size=(n, 2))) for i in range(3)]
    features = [FeatureValues("prot", [f"p{i}" for i in range(14)], rng.normal(size=(n, 14)), "value")]
    names = pd.Index([f"ACGTACGTACGTACGT-{i}" for i in range(n)])
    text = render(page(spaces=spaces, colours=colours_of(pd.DataFrame(index=range(n)), features), cells=names))
    assert len(text.encode()) < 500_000
    genes = [FeatureValues("rna", [f"g{i}" for i in range(1500)], rng.normal(size=(n, 1500)), "value")]
    text = render(page(spaces=spaces, colours=colours_of(pd.DataFrame(index=range(n)), genes), cells=names))
    assert 5_000_000 < len(text.encode()) < 8_000_000
