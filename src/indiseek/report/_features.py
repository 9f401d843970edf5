"""The table of features: who knows what of each, and in two sentences what that comes to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from indiseek._checks import printable

# Least share of a feature's variance that is worth a name in a sentence.
WORTH_NAMING = 0.15
_SHARES = ("shared", "specific", "noise")
_PARTS = ("in_code", "left_out")
_TITLES = {
    "feature": "Feature",
    "modality": "Measured as",
    "shared": "Both know",
    "specific": "It alone",
    "noise": "Noise",
    "specific_low": "It alone, at least",
    "specific_high": "It alone, at most",
    "in_code": "It alone, in its space",
    "left_out": "It alone, in no space",
    "is_control": "Control",
}


def from_certificate(features: pd.DataFrame) -> pd.DataFrame:
    """Shares of each feature's variance from a certificate's table, whose features may be components.

    ``shared`` is what the other modalities predict, ``noise`` what another count of the same cells would not repeat,
    ``specific`` the rest.

    Parameters
    ----------
    features
        The table ``"features"`` of a certificate.
    """
    found = features.rename(columns={"specific": "in_specific_code", "shared": "in_shared_code"})
    found = found.assign(shared=found["predictable"], specific=found["private"])
    kept = ["modality", "feature", *_SHARES, "in_shared_code", "in_specific_code"]
    return found[[name for name in kept if name in found and found[name].notna().any()]]


def feature_rows(table: pd.DataFrame) -> dict[str, Any]:
    """Any table with a row a feature as plain values: columns with their titles and kinds, and rows.

    Parameters
    ----------
    table
        Names of features in the column ``feature`` or the index. ``shared``, ``specific`` and ``noise`` are shown as
        shares, and those of which one modality surely knows most come first; other columns of numbers and flags as they
        are.
    """
    frame = table if "feature" in table else table.rename_axis("feature").reset_index()
    frame = ranked(frame)
    columns, hidden = [], []
    for name in sorted(map(str, frame.columns), key=lambda name: list(_TITLES).index(name) if name in _TITLES else 99):
        values = frame[name]
        if pd.api.types.is_bool_dtype(values):
            kind = "flag"
        elif pd.api.types.is_numeric_dtype(values):
            kind = "share" if name.startswith(_SHARES) or name in _PARTS else "number"
        else:
            kind = "text"
        if (kind == "flag" and not values.any()) or (name == "modality" and values.nunique() == 1):
            hidden.append(name)
        title = _TITLES.get(name, name.replace("_", " "))
        columns.append({"name": name, "title": printable(title), "kind": kind, "shown": name not in hidden})
    rows = [
        [_plain(value) for value in row] for row in frame[[each["name"] for each in columns]].itertuples(index=False)
    ]
    return {"columns": columns, "rows": rows}


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Features of which one modality surely knows most first: by the lower end of the interval where there is one."""
    keys = [name for name in ("specific_low", "specific") if name in table]
    return table.sort_values(keys, ascending=False, na_position="last", kind="stable") if keys else table


def names_known_by_one(table: pd.DataFrame, *, most: int = 5) -> dict[str, list[tuple[str, float]]]:
    """Features of which one modality alone knows a good share, by modality, the largest share first.

    Parameters
    ----------
    table
        Table with ``modality``, ``feature`` and ``specific``; without them nothing is found.
    most
        Most features of each modality.
    """
    if not {"modality", "feature", "specific"} <= set(table.columns):
        return {}
    chosen = table[table["specific"] >= WORTH_NAMING]
    if "is_control" in chosen:
        chosen = chosen[~chosen["is_control"].astype(bool)]
    chosen = ranked(chosen)
    return {
        str(modality): list(zip(rows["feature"].astype(str)[:most], rows["specific"].astype(float)[:most], strict=True))
        for modality, rows in chosen.groupby("modality", sort=False)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.number):
        return float(f"{value:.4g}")
    return printable(str(value))
