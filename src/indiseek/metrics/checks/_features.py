"""What the codes hold of every feature, and what another draw of the cell would repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from indiseek.metrics._noise import noise_share
from indiseek.metrics._probes import column_r2, feature_r2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from indiseek.metrics._cells import Cells
    from indiseek.metrics._thresholds import Thresholds

    from ._check import Finding

    Array = NDArray[np.float64]


class Features:
    """One row a feature: R2 from the codes, and its variance split by who knows it. Shown, not judged.

    ``shared``, ``specific``
        R2 of a fresh probe from the modality's shared and specific code.
    ``both``
        From all codes together: by the reconstruction where there is one (``by`` says so), else the best of the
        probes, which is a lower bound.
    ``specific_share``, ``unexplained``
        What ``both`` adds to ``shared``, and what it leaves.
    ``predictable``
        Share that the other modalities predict.
    ``noise``, ``private``
        With replicates: counting noise, and the rest that is reproducible and that no other modality predicts.
    ``specific_above_noise``
        ``specific_share`` less ``noise``, not below 0.
    ``reproducible``
        Share that another draw of the cell would repeat.
    ``reproducible_left_out``, ``noise_left_out``
        What ``both`` leaves, as reproducible at least and as counting noise at most.
    """

    name = "features"

    def measure(self, cells: Cells, limits: Thresholds) -> pd.DataFrame:
        """One row a feature of each modality."""
        tables = [feature_table(cells, modality) for modality in cells.features]
        return pd.concat([table.drop(columns="variance") for table in tables], ignore_index=True)

    def pool(self, rows: pd.DataFrame, limits: Thresholds) -> None:
        """Nothing: the components of one fit are not those of another."""

    def judge(self, row: Any, limits: Thresholds) -> Finding | None:
        """Return None: completeness is judged by modality."""
        return None


def feature_table(cells: Cells, modality: str) -> pd.DataFrame:
    """The table of one modality, with each feature's ``variance``; measured once."""
    return cells.once(("features", modality), lambda: _measure(cells, modality))


def _measure(cells: Cells, modality: str) -> pd.DataFrame:
    x, c = cells.features[modality], cells.shared[modality]
    others = cells.others(modality)
    nothing = np.full(x.shape[1], np.nan)

    def r2(*codes: Array) -> Array:
        return feature_r2(np.hstack(codes), x, probe="nonlinear", seed=cells.seed)

    shared, specific, by = r2(c), nothing, "probe"
    found = [shared] if cells.joint is None else [shared, r2(cells.joint)]
    if cells.specific:
        z = cells.specific[modality]
        specific = r2(z)
        found += [specific, r2(c, z), r2(np.hstack([cells.shared[other] for other in others]), z)]
    # More codes cannot hold less: where a probe on all of them finds less, that is the probe.
    both = np.max(found, axis=0)
    if modality in cells.reconstruction:
        both, by = column_r2(x, cells.reconstruction[modality]), "reconstruction"
    specific_share = np.maximum(both - np.maximum(shared, 0.0), 0.0) if cells.specific else nothing
    known = np.clip(column_r2(x, cells.predictable(modality)), 0.0, 1.0)
    noise, reproducible = nothing, nothing
    if modality in cells.replicates:
        halves = cells.replicates[modality]
        given = np.hstack([cells.features[other] for other in others])
        noise = (1.0 - known) * noise_share(*halves, given=given, seed=cells.seed)
        reproducible = 1.0 - noise_share(*halves)
    left = np.clip(1.0 - both, 0.0, 1.0)
    lost = np.clip(reproducible - np.clip(both, 0.0, 1.0), 0.0, left)
    return pd.DataFrame(
        {
            "modality": modality,
            "feature": cells.feature_names[modality],
            "shared": shared,
            "specific": specific,
            "both": both,
            "by": by,
            "specific_share": specific_share,
            "unexplained": 1.0 - both,
            "predictable": known,
            "private": 1.0 - known - noise,
            "noise": noise,
            "specific_above_noise": np.maximum(specific_share - noise, 0.0),
            "reproducible": reproducible,
            "reproducible_left_out": lost,
            "noise_left_out": left - lost,
            "variance": x.var(axis=0),
        }
    )
