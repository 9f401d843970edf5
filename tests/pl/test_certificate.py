from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from indiseek import pl


def _certified(*, specific: bool = True, n_genes: int = 40) -> SimpleNamespace:
    leakage = pd.DataFrame(
        {
            "modality": ["rna", "prot"],
            "other": ["prot", "rna"],
            "target": ["shared", "predictable"],
            "above_null": [0.01, 0.25],
            "ceiling": [0.8, 0.9],
        }
    )
    features = pd.DataFrame(
        {
            "modality": ["rna"] * n_genes + ["prot"] * 3,
            "feature": [f"PC{i + 1}" for i in range(n_genes)] + ["CD3_TotalSeqB", "CD4_TotalSeqB", "CD8a_TotalSeqB"],
            "shared": 0.5,
            "specific_share": 0.3 if specific else np.nan,
            "unexplained": 0.2 if specific else 0.5,
            "noise": [np.nan] * n_genes + [0.1, 0.2, 0.3],
        }
    )
    return SimpleNamespace(
        leakage=leakage if specific else leakage.iloc[:0], features=features, thresholds=SimpleNamespace(leakage=0.02)
    )


def test_leakage_stands_beside_its_limit_and_ceiling():
    ax = pl.certificate(_certified()).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "rna-specific: shared code of prot",
        "prot-specific: what rna predicts",
    ]
    assert [bar.get_width() for bar in ax.patches] == [0.8, 0.9, 0.01, 0.25]
    assert "limit 0.02" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_parts_of_every_feature_are_stacked_and_many_features_cut():
    _, rna, prot = pl.certificate(_certified()).axes
    assert rna.get_title() == "rna, first 30 of 40" and prot.get_title() == "prot"
    assert [label.get_text() for label in prot.get_xticklabels()] == ["CD3", "CD4", "CD8a"]
    tops = [bar.get_y() + bar.get_height() for bar in prot.patches]
    assert tops == pytest.approx([0.5] * 3 + [0.8] * 3 + [1.0] * 3)
    assert not rna.lines and prot.lines[0].get_ydata() == pytest.approx([0.9, 0.8, 0.7])


def test_without_specific_codes_only_the_features_are_drawn():
    rna, prot = pl.certificate(_certified(specific=False)).axes
    assert rna.get_title().startswith("rna") and prot.get_title() == "prot"
    assert [bar.get_height() for bar in prot.patches] == [0.5] * 6
    assert "specific adds" not in [text.get_text() for text in prot.get_legend().get_texts()]
