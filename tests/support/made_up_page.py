"""A page of made-up cells, with names that nobody should be able to run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from indiseek.report import (
    FeatureValues,
    Page,
    Space,
    colours_of,
    curves,
    feature_rows,
    group_tables,
)

N_CELLS = 400
# What a file may call its features and columns, and what none of it may do.
IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script ><script>document.title='broken'</script>"
TEMPLATE = "{{ 7 * 7 }}"
NAMES_OF_FEATURES = [IMAGE, SCRIPT, TEMPLATE, "CD4", "CD8"]


def feature_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "modality": ["prot"] * 5,
            "feature": NAMES_OF_FEATURES,
            "shared": [0.2, 0.5, 0.9, 0.7, np.nan],
            "specific": [0.7, 0.4, 0.05, 0.2, np.nan],
            "noise": [0.1, 0.1, 0.05, 0.1, np.nan],
            "r": [0.4, 0.7, 0.95, 0.8, np.nan],
            "is_control": [False, False, True, False, False],
        }
    )


def page(**changes: object) -> Page:
    """A page of made-up cells: two blobs in the first space, shuffled in the second."""
    rng = np.random.default_rng(0)
    blob = np.repeat([0, 1], N_CELLS // 2)
    xy = rng.normal(size=(N_CELLS, 2)) * 0.4 + blob[:, None] * 8
    values = rng.poisson(3, size=(N_CELLS, 5)) + 5 * blob[:, None]
    obs = pd.DataFrame(
        {
            "blob": pd.Categorical(np.where(blob, "second", "first")),
            SCRIPT: pd.Categorical(np.where(rng.random(N_CELLS) < 0.5, IMAGE, "other")),
            "depth": values.sum(axis=1).astype(float),
        }
    )
    features = [FeatureValues("prot", NAMES_OF_FEATURES, np.log1p(values), "log(1 + count)")]
    epochs = pd.RangeIndex(10, name="epoch")
    history = {f"shared/{part}_loss": pd.DataFrame({"loss": 1 / (1 + epochs)}) for part in ("train", "validation")}
    parts = {"training": np.arange(300), "test": np.arange(300, 400)}
    content: dict[str, object] = {
        "title": f"RNA and {IMAGE}",
        "written": "written by indiseek",
        "summary": [f"What {IMAGE} says.", f"And {SCRIPT}."],
        "facts": [("Cells", "400"), (IMAGE, SCRIPT)],
        "spaces": [
            Space("Shared", "what both tell", xy),
            Space("RNA-specific", "what RNA tells", rng.permutation(xy)),
            Space("Everything", "all of it", xy[::-1], shown=False),
        ],
        "cells": pd.Index([f"cell{i}" for i in range(N_CELLS - 1)] + [SCRIPT]),
        "n_cells": N_CELLS,
        "colours": colours_of(obs, features),
        "first": "blob",
        "features": feature_rows(feature_table()),
        "features_note": IMAGE,
        "certificate": SCRIPT,
        "groups": group_tables(obs, ["blob"], parts),
        "curves": curves(history),
        "versions": [("indiseek", "0")],
        "code": IMAGE,
        "citation": ("Somebody.", "https://example.org/paper"),
    }
    return Page(**content | changes)
