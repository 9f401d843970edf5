from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from indiseek import pl


def _certified(*, specific: bool = True, n_genes: int = 40) -> SimpleNamespace:
    verdicts = pd.DataFrame(
        {
            "check": ["independence", "independence", "independence", "other forms", "covariates"],
            "modality": ["rna", "prot", "prot", "rna", "all"],
            "target": ["the shared code of prot"] * 3 + ["any", "depth"],
            "verdict": ["pass", "FAIL", "too few cells", "note", "note"],
            "value": [0.01, 0.25, 0.04, np.nan, 0.9],
            "low": [-0.01, 0.2, 0.02, np.nan, 0.8],
            "high": [0.03, 0.3, np.inf, np.nan, 1.0],
            "limit": [0.05, 0.05, 0.05, np.nan, np.nan],
        }
    )
    features = pd.DataFrame(
        {
            "modality": ["rna"] * n_genes + ["prot"] * 3,
            "feature": [f"PC{i + 1}" for i in range(n_genes)] + ["CD3_TotalSeqB", "CD4-TotalSeqC", "CD8a_TotalSeq-A"],
            "shared": 0.5,
            "specific_share": 0.3 if specific else np.nan,
            "unexplained": 0.2 if specific else 0.5,
            "noise": [np.nan] * n_genes + [0.1, 0.2, 0.3],
        }
    )
    return SimpleNamespace(verdicts=verdicts, features=features)


def test_every_finding_with_a_size_stands_beside_its_interval_and_limit():
    ax = pl.certificate(_certified()).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "independence: rna, the shared code of prot",
        "independence: prot, the shared code of prot",
        "independence: prot, the shared code of prot",
        "covariates: all, depth",
    ]
    assert [text.get_text() for text in ax.texts] == ["0.010", "0.250", "0.040", "0.900"]
    # Three verdicts and notes, each with a marker and a colour of its own.
    drawn = {bars.get_label(): bars for bars in ax.containers}
    assert list(drawn) == ["pass", "FAIL", "too few cells", "note"]
    points = {name: bars.lines[0] for name, bars in drawn.items()}
    assert points["FAIL"].get_xdata() == pytest.approx([0.25]) and points["FAIL"].get_ydata() == pytest.approx([2])
    assert (
        len({line.get_color() for line in points.values()}) == len({line.get_marker() for line in points.values()}) == 4
    )
    interval = drawn["FAIL"].lines[2][0].get_segments()[0]
    assert interval[:, 0] == pytest.approx([0.2, 0.3])
    # An open interval is not drawn to infinity.
    assert np.isfinite(drawn["too few cells"].lines[2][0].get_segments()[0]).all()
    limits = [line for line in ax.collections if line.get_label() == "limit"][0].get_segments()
    assert [segment[0, 0] for segment in limits[:3]] == [0.05] * 3


def test_parts_of_every_feature_are_stacked_and_many_features_cut():
    _, rna, prot = pl.certificate(_certified()).axes
    assert rna.get_title() == "rna, first 30 of 40" and prot.get_title() == "prot"
    assert [label.get_text() for label in prot.get_xticklabels()] == ["CD3", "CD4", "CD8a"]
    tops = [bar.get_y() + bar.get_height() for bar in prot.patches]
    assert tops == pytest.approx([0.5] * 3 + [0.8] * 3 + [1.0] * 3)
    assert not rna.lines and prot.lines[0].get_ydata() == pytest.approx([0.9, 0.8, 0.7])


def test_without_specific_codes_nothing_is_added():
    _, rna, prot = pl.certificate(_certified(specific=False)).axes
    assert rna.get_title().startswith("rna") and prot.get_title() == "prot"
    assert [bar.get_height() for bar in prot.patches] == [0.5] * 6
    assert "specific adds" not in [text.get_text() for text in prot.get_legend().get_texts()]


def test_long_labels_are_cut():
    result = _certified()
    result.verdicts.loc[0, "target"] = "a very long target " * 6
    label = pl.certificate(result).axes[0].get_yticklabels()[0].get_text()
    assert len(label) == 64 and label.endswith("...")
