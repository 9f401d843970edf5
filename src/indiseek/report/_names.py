"""How names are spoken of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indiseek._checks import printable

_NAMES = {
    "rna": "RNA",
    "gex": "RNA",
    "prot": "protein",
    "protein": "protein",
    "adt": "protein",
    "ab": "protein",
    "atac": "chromatin (ATAC)",
}


def spoken(modality: str) -> str:
    """A modality as a sentence calls it."""
    return _NAMES.get(modality.lower(), printable(modality))


def sentence_case(words: str) -> str:
    """Words as a sentence or a title begins with them."""
    return words[:1].upper() + words[1:]


def in_words(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(values: Mapping[str, int]) -> str:
    """Numbers with what they are of, such as ``4,670 training, 686 validation``."""
    return ", ".join(f"{n:,} {name}" for name, n in values.items())
