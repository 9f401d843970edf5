"""The certificate as plain values for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from indiseek._checks import printable

# A reading of a clean code lies beyond so many standard errors once in twenty draws.
_NORMAL_95 = 1.96
# Width of the drawn scale.
_WIDTH = 200.0
# In the order in which they are shown.
_KINDS = {"FAIL": "fail", "too few cells": "few", "pass": "pass", "note": "note"}
_SIGNS = {"pass": "\u2713", "FAIL": "\u2717", "too few cells": "?", "note": "\u2022"}


class Certified(Protocol):
    """What is read of a certificate."""

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row a finding."""

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """What was measured, by check."""


def findings(certificate: Certified) -> list[dict[str, Any]]:
    """Verdicts in words, with figures, limits and the least that could have been told.

    Parameters
    ----------
    certificate
        :class:`indiseek.metrics.Certificate`.
    """
    found: list[dict[str, Any]] = []
    rows = sorted(certificate.verdicts.itertuples(index=False), key=lambda row: list(_KINDS).index(row.verdict))
    for row in rows:
        sentence, _, figures = str(row.words).partition(" (")
        # Of a sentence without figures, or that goes on after them, all is said at once.
        split = bool(figures) and figures.endswith(")")
        found.append(
            {
                "verdict": row.verdict,
                "kind": _KINDS[row.verdict],
                "sign": _SIGNS[row.verdict],
                "sentence": printable(sentence if split else str(row.words)),
                "figures": printable(figures[:-1]) if split else "",
                "advice": printable(str(row.advice)),
                "least": _least(certificate.tables.get(row.check), row),
                "scale": _scale(row),
            }
        )
    for i, finding in enumerate(found):
        # Said once.
        if finding["advice"] in [earlier["advice"] for earlier in found[:i]]:
            finding["advice"] = ""
    return found


def counts(certificate: Certified) -> dict[str, int]:
    """How many verdicts of each kind there are."""
    known = certificate.verdicts["verdict"]
    return {kind: int((known == name).sum()) for name, kind in _KINDS.items()}


def _least(table: pd.DataFrame | None, row: Any) -> str:
    """The smallest share that so many cells tell from none; empty where it is not known."""
    if table is None or "null_se" not in table or not np.isfinite(row.value):
        return ""
    same = table[(table["modality"] == row.modality) & np.isclose(table["total"].clip(upper=1.0), row.value)]
    if same.empty or not np.isfinite(same["null_se"].iloc[0]):
        return ""
    return f"{_NORMAL_95 * same['null_se'].iloc[0]:.3f}"


def _scale(row: Any) -> dict[str, float] | None:
    """Value, interval and limit as places on a line from 0: to twice the limit or beyond the interval, or to 1."""
    numbers = (row.value, row.low, row.high, row.limit)
    if not all(np.isfinite(each) for each in numbers) or row.limit <= 0:
        return None
    end = 1.0 if row.limit >= 0.5 else max(2 * row.limit, 1.1 * row.high)
    places = [round(_WIDTH * float(np.clip(each / end, 0, 1)), 1) for each in numbers]
    return dict(zip(("value", "low", "high", "limit"), places, strict=True))
