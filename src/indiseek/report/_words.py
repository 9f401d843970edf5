"""What was found, in two or three sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from indiseek._checks import printable
from indiseek.report._features import WORTH_NAMING, names_known_by_one
from indiseek.report._names import in_words, spoken
from indiseek.report._verdicts import Certified, counts

FEATURES_NOTE = (
    "How much of a feature's variation between held-out cells the other measurement tells too, how much it alone "
    "knows, and how much another count of the same cell would not repeat. What one alone knows may be biology; it may "
    "also be background of an antibody, or depth: look at the map before you name a population."
)
"""How to read the table of features."""

# What it means that a check has failed: of one modality, of several, and whether it is said of their spaces.
_FAILED = {
    "independence": ("{} space still holds", "{} spaces still hold", "some of what the other measurement tells"),
    "excess": ("the shared space holds", "the shared space holds", "some of what only {} tells"),
    "completeness": ("the spaces leave out", "the spaces leave out", "part of {}"),
    "retrieval": ("the shared codes", "the shared codes", "do not match cells"),
    "duplicates": ("some cells", "some cells", "are copies of others"),
}
# Which say the same of a space.
_ALIKE = {"independence within batches": "independence", "probes": "independence"}


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
        failed = certificate.verdicts[certificate.verdicts["verdict"] == "FAIL"]
        n_judged = found["fail"] + found["few"] + found["pass"]
        others = f", and {few}" if few else ""
        return (
            f"NOT all is as it should be: {_reasons(failed)}. So say {found['fail']} of {n_judged} checks {on}{others}."
        )
    if few:
        return f"No check failed {on}: {found['pass']} passed, and {few}."
    return f"All {found['pass']} checks passed {on}: the spaces hold what they should, and not what they should not."


def _reasons(failed: pd.DataFrame) -> str:
    """What failed verdicts come to, each said once."""
    of_check: dict[str, list[str]] = {}
    for row in failed.itertuples(index=False):
        check = _ALIKE.get(row.check, row.check)
        words = str(row.words).partition(" (")[0]
        modalities = of_check.setdefault(check if check in _FAILED else printable(words), [])
        if row.modality not in modalities:
            modalities.append(row.modality)
    said = []
    for check, modalities in of_check.items():
        if check not in _FAILED:
            said.append(check)
            continue
        names = [spoken(name) for name in modalities]
        one, several, rest = _FAILED[check]
        spaces = "the " + " and the ".join(f"{name}-specific" for name in names)
        begin = (one if len(names) == 1 else several).replace("{}", spaces)
        said.append(f"{begin} {rest.replace('{}', ' and '.join(names))}")
    return "; ".join(said)


def certificate_note(n_cells: int | None, n_test: int, least: int) -> str:
    """What a certificate was measured on and what its verdicts mean, or why there is none.

    Parameters
    ----------
    n_cells
        Cells of the certificate; None where there is none.
    n_test, least
        Test cells that there are, and that it needs.
    """
    if n_cells is None:
        return f"None was made: it needs at least {least} held-out cells, and there are {n_test}."
    return (
        f"Measured on {n_cells:,} cells that no fit has seen. FAIL means that the limit is exceeded, too few cells "
        "that the interval reaches over it, a note is told and not judged."
    )


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
        names = ", ".join(f"{printable(name.removesuffix(tag))} ({100 * share:.0f} %)" for name, share in features)
        others = in_words([spoken(name) for name in modalities if name != modality])
        sentences.append(
            f"What {spoken(modality)} alone knows, most of all: {names}. So much of what these features vary between "
            f"cells cannot be told from {others}, and is no counting noise."
        )
    if not found:
        words = " and ".join(spoken(str(name)) for name in dict.fromkeys(table["modality"]))
        sentences.append(
            f"No feature of {words} has {100 * WORTH_NAMING:.0f} % or more of its variation between cells in one "
            "measurement alone."
        )
    return sentences + _controls(table)


def _controls(table: pd.DataFrame) -> list[str]:
    if "is_control" not in table or not table["is_control"].any():
        return []
    controls = table[table["is_control"].astype(bool)].dropna(subset=["specific"])
    if controls.empty or controls["specific"].max() < WORTH_NAMING:
        return []
    most = f"{100 * controls['specific'].max():.0f} %"
    return [
        f"Control antibodies, which have no target, have up to {most} there too: part of it is background of the "
        "measurement."
    ]


def _tag(names: Sequence[str]) -> str:
    """What the names of a panel all end with, such as ``_TotalSeqB``."""
    _, separator, tag = names[0].rpartition("_")
    return separator + tag if len(names) > 1 and separator and all(n.endswith(separator + tag) for n in names) else ""
