"""The lines a certificate draws, and the words it says on either side of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    pass

TARGET_WORDS = {
    "shared": "the shared code of {other}",
    "features": "{other} itself",
    "predictable": "the part of {modality} that {other} predicts",
}


@dataclass(frozen=True)
class Thresholds:
    """Limits of a certificate's verdicts.

    Attributes
    ----------
    leakage
        Largest R2 above the null from a specific code to any of its targets, default 0.03: with 700 to 1,900 cells a
        true leakage of 0 passes and one of 0.05 fails in at least 95 % of simulations.
    information
        Largest InfoNCE bound above its null, in nats, from a specific code to any of its targets, default 0.1. It sees
        a dependence that leaves every conditional mean at 0.
    excess
        Largest R2 above the null from a shared code to what the other modalities cannot know, default 0.1.
    completeness
        Smallest share of a modality's variance that its codes explain together, default 0.7.
    foscttm
        Largest FOSCTTM between the shared codes of two modalities, default 0.25, half of chance.
    """

    leakage: float = 0.03
    information: float = 0.1
    excess: float = 0.1
    completeness: float = 0.7
    foscttm: float = 0.25


def judge(
    leakage: pd.DataFrame,
    content: pd.DataFrame,
    retrieval: pd.DataFrame,
    thresholds: Thresholds,
) -> pd.DataFrame:
    """Return one row a verdict: check, modality, value, threshold, passed, and the sentence that says so.

    Where a joint shared code is given its excess is judged, and that of each modality's own shared code is only
    reported: the joint code is the space that is shown.
    """
    rows: list[tuple[str, str, float, float, bool, str]] = []
    modalities = list(dict.fromkeys(leakage["modality"]))
    for modality in modalities:
        targets = leakage[leakage["modality"] == modality]
        rows.append(_leakage(modality, targets, thresholds.leakage))
        rows.append(_information(modality, targets, thresholds.information))
    shown = "joint" if (content["code"] == "joint").any() else "shared"
    for modality in modalities:
        of_modality = content[content["modality"] == modality].set_index("code")
        rows.append(_excess(modality, modalities, shown, of_modality.loc[shown], thresholds.excess))
    for modality in modalities:
        both = content[(content["modality"] == modality) & (content["code"] == "all")].iloc[0]
        rows.append(_completeness(modality, both, thresholds.completeness))
    for _, pair in retrieval.iterrows():
        rows.append(_retrieval(pair, thresholds.foscttm))
    return pd.DataFrame(rows, columns=["check", "modality", "value", "threshold", "passed", "words"])


