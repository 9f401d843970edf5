"""Training curves as drawings that need no script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from indiseek._checks import printable

_NAME = re.compile(r"(?:(?P<stage>[^/]+)/)?(?P<split>train|validation)_(?P<quantity>.+)")
_WIDTH, _HEIGHT = 300.0, 130.0
# What a reader who has not trained a network is told of the terms that have a name.
_WORDS = {
    "loss": "what is minimised",
    "infonce": "how hard the partner is to find",
    "misalignment": "disagreement of partners",
    "nll": "misfit",
}


def curves(history: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """One drawing for each stage and quantity; the loss first in its stage, single points left out.

    Parameters
    ----------
    history
        ``model.history``: ``(n_epochs, 1)`` tables by ``"stage/train_quantity"`` or ``"stage/validation_quantity"``.
    """
    panels: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for name, table in history.items():
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        curve = table.iloc[:, 0].astype(float).replace([np.inf, -np.inf], np.nan).dropna()
        if len(curve) > 1:
            panels.setdefault((match["stage"] or "", match["quantity"]), {})[match["split"]] = curve
    stages = list(dict.fromkeys(stage for stage, _ in panels))
    ordered = sorted(panels.items(), key=lambda item: (stages.index(item[0][0]), item[0][1] != "loss"))
    return [_panel(stage, quantity, found) for (stage, quantity), found in ordered]


def _panel(stage: str, quantity: str, found: Mapping[str, pd.Series]) -> dict[str, Any]:
    epochs = np.concatenate([curve.index.to_numpy(dtype=float) for curve in found.values()])
    values = np.concatenate([curve.to_numpy() for curve in found.values()])
    left, width = epochs.min(), np.ptp(epochs) or 1.0
    low, height = values.min(), np.ptp(values) or 1.0
    lines = {}
    for split, curve in found.items():
        x = (curve.index.to_numpy(dtype=float) - left) / width * _WIDTH
        y = _HEIGHT - (curve.to_numpy() - low) / height * _HEIGHT
        lines[split] = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    base, _, of = quantity.partition("_")
    name = f"{base} of {of}" if base == "nll" and of else quantity.replace("_", " ")
    return {
        "title": printable(f"{stage}: {name}" if stage else name),
        "words": _WORDS.get(base, ""),
        "lines": lines,
        "low": f"{low:.3g}",
        "high": f"{values.max():.3g}",
        "first": f"{left:g}",
        "last": f"{left + np.ptp(epochs):g}",
    }
