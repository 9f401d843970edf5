"""The lines a certificate draws, and the words it says on either side of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd


@dataclass(frozen=True)
class Thresholds:
    """Limits of a certificate's verdicts.

    Attributes
    ----------
    leakage
        Largest R2 above the null from a specific code to any of its targets, default 0.02: with 700 to 1,900 cells and
        codes of about 10 dimensions a true leakage of 0 passes and one of 0.05 fails in at least 95 % of simulations.
        A leak spread over many dimensions is underestimated on few cells: with 50 dimensions a true 0.05 is found as
        0.02 on 700 cells and as 0.03 on 1,900.
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

    leakage: float = 0.02
    information: float = 0.1
    excess: float = 0.1
    completeness: float = 0.7
    foscttm: float = 0.25


class Verdict(NamedTuple):
    """One line of a certificate."""

    check: str
    modality: str
    value: float
    threshold: float
    passed: bool
    words: str


def judge(
    leakage: pd.DataFrame,
    content: pd.DataFrame,
    features: pd.DataFrame,
    retrieval: pd.DataFrame,
    thresholds: Thresholds,
) -> pd.DataFrame:
    """Return one row a verdict: check, modality, value, threshold, passed, and the sentence that says so.

    Where a joint shared code is given its excess is judged and that of the modalities' own codes only reported: the
    joint code is the space that is shown.
    """
    modalities = list(dict.fromkeys(content["modality"]))
    shown = "joint" if (content["code"] == "joint").any() else "shared"
    verdicts: list[Verdict] = []
    for modality in modalities if len(leakage) else ():
        targets = leakage[leakage["modality"] == modality]
        verdicts += [_leakage(modality, targets, thresholds.leakage)]
        verdicts += [_information(modality, targets, thresholds.information)]
    for modality in modalities:
        own = content[content["modality"] == modality].set_index("code")
        others = [other for other in modalities if other != modality]
        verdicts += [_excess(modality, others, shown, own.loc[shown], thresholds.excess)]
    for modality in modalities:
        own = content[content["modality"] == modality].set_index("code")
        noise = features.loc[features["modality"] == modality, "noise"].mean()
        verdicts += [_completeness(modality, shown, own, float(noise), thresholds.completeness)]
    verdicts += [_retrieval(pair, thresholds.foscttm) for _, pair in retrieval.iterrows()]
    return pd.DataFrame(verdicts, columns=list(Verdict._fields))


def _target(row: pd.Series) -> str:
    return {
        "shared": f"the shared code of {row['other']}",
        "features": f"{row['other']} itself",
        "predictable": f"the part of {row['modality']} that {row['other']} predicts",
    }[row["target"]]


def _leakage(modality: str, targets: pd.DataFrame, limit: float) -> Verdict:
    worst = targets.loc[targets["above_null"].idxmax()]
    passed = bool(worst["above_null"] < limit)
    figures = (
        f"R2 {_signless(worst['r2'])}, null {_signless(worst['null'])}, limit {limit:.2f} above it; "
        f"{modality} itself {_signless(worst['ceiling'])}"
    )
    if passed:
        words = (
            f"{modality}-specific space: independent of the shared space to within noise "
            f"(at most, to {_target(worst)}: {figures})"
        )
    else:
        words = f"{modality}-specific space: NOT independent, it still holds {_target(worst)} ({figures})"
    return Verdict("leakage", modality, float(worst["above_null"]), limit, passed, words)


def _information(modality: str, targets: pd.DataFrame, limit: float) -> Verdict:
    above = targets["infonce"] - targets["infonce_null"]
    worst = targets.loc[above.idxmax()]
    value = float(above.max())
    passed = value < limit
    finding = "finds no dependence of another form" if passed else "finds a dependence"
    words = (
        f"{modality}-specific space: a fresh critic {finding} (at most, on {_target(worst)}: "
        f"{_signless(value)} nats above its null, limit {limit:.2f}; distance correlation {_signless(worst['dcor'])}, "
        f"p {worst['dcor_p']:.2g})"
    )
    return Verdict("information", modality, value, limit, passed, words)


def _excess(modality: str, others: list[str], code: str, row: pd.Series, limit: float) -> Verdict:
    value = float(row["private"] - row["private_null"])
    passed = value < limit
    name = "Joint shared code" if code == "joint" else f"Shared code of {modality}"
    knower = " and ".join(others)
    figures = f"R2 {_signless(row['private'])}, null {_signless(row['private_null'])}, limit {limit:.2f} above it"
    known = f"and {_signless(row['predictable'])} of what {knower} can"
    if passed:
        words = f"{name}: holds next to nothing of {modality} that {knower} cannot know ({figures}) {known}"
    else:
        words = f"{name}: NOT only shared, it also holds what {knower} cannot know of {modality} ({figures}) {known}"
    return Verdict("excess", modality, value, limit, passed, words)


def _completeness(modality: str, code: str, own: pd.DataFrame, noise: float, limit: float) -> Verdict:
    shared = own.loc["shared", "features"]
    if "specific" in own.index:
        both = own.loc[["shared+specific", "others' shared+specific"], "features"].max()
        subject, parts = (
            "the codes explain",
            f"shared {shared:.2f}, specific adds {_signless(max(0.0, both - shared))}, ",
        )
        ending = " together"
    else:
        both = own.loc[code, "features"]
        subject, parts, ending = f"the {code} code explains", "", ""
    passed = bool(both >= limit)
    words = (
        f"{modality}: {subject}{'' if passed else ' ONLY'} {both:.2f} of its variance "
        f"({parts}limit {limit:.2f}{ending})"
    )
    if not math.isnan(noise):
        words += f"; counting noise is {noise:.2f} of a feature on average"
    return Verdict("completeness", modality, float(both), limit, passed, words)


def _retrieval(pair: pd.Series, limit: float) -> Verdict:
    passed = bool(pair["foscttm"] <= limit)
    words = (
        f"{pair['modality']} and {pair['other']}: the shared codes {'match' if passed else 'do NOT match'} cells "
        f"(FOSCTTM {pair['foscttm']:.3f}, chance 0.500, limit {limit:.2f}; the partner is among the {pair['k']} "
        f"nearest for {pair['recall']:.3f} of cells, chance {pair['recall_chance']:.3f})"
    )
    return Verdict("retrieval", f"{pair['modality']}, {pair['other']}", float(pair["foscttm"]), limit, passed, words)


def _signless(value: float) -> str:
    """Two decimals without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"
