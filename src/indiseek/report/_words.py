"""What was found, in two or three sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from indiseek._checks import printable
from indiseek.report._features import WORTH_NAMING, names_known_by_one
from indiseek.report._verdicts import Certified, counts

_NAMES = {
    "rna": "RNA",
    "gex": "RNA",
    "prot": "protein",
    "protein": "protein",
    "adt": "protein",
    "ab": "protein",
    "atac": "chromatin (ATAC)",
}
_MOST_NAMED = 3


def spoken(modality: str) -> str:
    """A modality as a sentence calls it."""
    return _NAMES.get(modality.lower(), printable(modality))


def certificate_sentence(certificate: Certified, n_cells: int) -> str:
    """The verdicts in one sentence.

    Parameters
    ----------
    certificate
        :class:`indiseek.metrics.Certificate`.
    n_cells
        Held-out cells.
    """
    found = counts(certificate)
    on = f"on {n_cells:,} cells that no fit has seen"
    few = f"for {found['few']} the cells are too few to tell" if found["few"] else ""
    if found["fail"]:
        failed = certificate.verdicts.loc[certificate.verdicts["verdict"] == "FAIL", "words"]
        names = "; ".join(printable(str(words).partition(" (")[0]) for words in failed.head(_MOST_NAMED))
        more = f"; and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
        others = f"; {found['pass']} passed{', ' + few if few else ''}"
        return f"Of the checks {on}, {found['fail']} failed ({names}{more}){others}."
    if few:
        return f"No check failed {on}: {found['pass']} passed, and {few}."
    return f"All {found['pass']} checks passed {on}: the spaces hold what they should, and not what they should not."


def feature_sentences(table: pd.DataFrame, modalities: Sequence[str]) -> list[str]:
    """Which features one modality alone knows, and how far control antibodies are from nothing.

    Parameters
    ----------
    table
        Table of features, as :func:`indiseek.report.feature_rows` takes it.
    modalities
        Names of all modalities.
    """
    if not {"modality", "feature", "specific"} <= set(table.columns):
        return []
    found = names_known_by_one(table)
    sentences = []
    for modality, features in found.items():
        tag = _tag(table.loc[table["modality"] == modality, "feature"].astype(str).tolist())
        names = ", ".join(f"{printable(name.removesuffix(tag))} ({share:.0%})" for name, share in features)
        others = " and ".join(spoken(name) for name in modalities if name != modality)
        sentences.append(
            f"What {spoken(modality)} alone knows, most of all: {names}. So much of what these features vary between "
            f"cells cannot be told from {others}, and is no counting noise."
        )
    if not found:
        words = " and ".join(spoken(str(name)) for name in dict.fromkeys(table["modality"]))
        sentences.append(
            f"No feature of {words} has {WORTH_NAMING:.0%} or more of its variation between cells in one measurement "
            "alone."
        )
    return sentences + _controls(table)


def _controls(table: pd.DataFrame) -> list[str]:
    if "is_control" not in table or not table["is_control"].any():
        return []
    controls = table[table["is_control"].astype(bool)].dropna(subset=["specific"])
    if controls.empty or controls["specific"].max() < WORTH_NAMING:
        return []
    return [
        f"Control antibodies, which have no target, have up to {controls['specific'].max():.0%} there too: part of it "
        "is background of the measurement."
    ]


def _tag(names: Sequence[str]) -> str:
    """What the names of a panel all end with, such as ``_TotalSeqB``."""
    _, separator, tag = names[0].rpartition("_")
    return separator + tag if len(names) > 1 and separator and all(n.endswith(separator + tag) for n in names) else ""


def counted(values: Mapping[str, int]) -> str:
    """Numbers with what they are of, such as ``4,670 training, 686 validation``."""
    return ", ".join(f"{n:,} {name}" for name, n in values.items())
