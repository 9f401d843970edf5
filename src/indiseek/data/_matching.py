"""Features of other cells that are a model's: by their names, whatever way these are written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mudata import MuData
from numpy.typing import NDArray

from indiseek._checks import printable
from indiseek.data._anndata import how_to_build
from indiseek.data._pairing import check_names
from indiseek.data._setup import RNA_NAMES

_SEPARATORS = re.compile(r"[\s_.\-]+")
_VERSION = re.compile(r"^(ens[a-z]*\d+)-\d+$")
# What panels and tools write around the name of an antibody, after case and separators are one.
_PREFIX = re.compile(r"^(?:(?:p|adt|ab|prot|protein|totalseq-?[abc])[-:]|prot:)+")
_SUFFIX = re.compile(r"(?:-(?:totalseq-?[abc]|totalseq[abc]?|tsa|tsb|tsc|adt|ab|prot|protein))+$")
# Of names that are in two modalities, one gets it.
_NUMBER = re.compile(r"-1$")
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class FeatureMatch:
    """Which features of other cells are which of a model's.

    Attributes
    ----------
    matched
        Names of the model's features that are there, in the model's order.
    renamed
        Those of them that are written in another way, with the name that they have there.
    missing
        Names of the model's features that are not there.
    extra
        Names of features there that the model does not know.
    """

    matched: tuple[str, ...]
    renamed: dict[str, str]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def overlap(self) -> float:
        """Fraction of the model's features that are there."""
        return len(self.matched) / (len(self.matched) + len(self.missing))

    def __str__(self) -> str:
        n_all = len(self.matched) + len(self.missing)
        parts = [f"{len(self.matched):,} of {n_all:,} features ({100 * self.overlap:.0f} %)"]
        if self.renamed:
            pairs = [f"{there} as {name}" for name, there in self.renamed.items()]
            parts.append(f"{len(pairs):,} of them by another spelling ({_some(pairs)})")
        if self.missing:
            parts.append(f"{len(self.missing):,} missing ({_some(self.missing)})")
        if self.extra:
            parts.append(f"{len(self.extra):,} others not used ({_some(self.extra)})")
        return ", ".join(parts)

    def positions(self, there: Sequence[str]) -> NDArray[np.intp]:
        """Positions among the names `there` of the features that are matched, in the model's order."""
        place = {name: i for i, name in enumerate(there)}
        return np.array([place[self.renamed.get(name, name)] for name in self.matched], dtype=np.intp)


def match_features(
    features: Sequence[str], there: Sequence[str], modality: str, *, known: Collection[str] = ()
) -> FeatureMatch:
    """Match names of features: as they are, and where that finds none, by ever freer ways to read them.

    Upper and lower case, the separators ``_``, ``.``, ``-`` and blanks, and versions of Ensembl identifiers are looked
    through first. Of a modality that is not RNA, prefixes such as ``p_`` and ``adt_`` and suffixes such as
    ``_TotalSeqB`` and ``_prot`` follow, then a ``-1`` at the end. A name that two of the remaining ones could be is
    not matched.

    Parameters
    ----------
    features
        Names of the model's features, unique.
    there
        Names of the other cells' features, unique.
    modality
        Name of the modality.
    known
        Names that are no features of the model and yet not extra.
    """
    found = {name: name for name in set(features).intersection(there)}
    ways: list[Callable[[str], str]] = [_plain]
    if modality.lower() not in RNA_NAMES:
        ways += [_bare, _unnumbered]
    for way in ways:
        left = _unique(way, [name for name in features if name not in found])
        used = set(found.values())
        right = _unique(way, [name for name in there if name not in used])
        found |= {name: right[key] for key, name in left.items() if key in right}
    used = {*found.values(), *known}
    return FeatureMatch(
        matched=tuple(name for name in features if name in found),
        renamed={name: found[name] for name in features if found.get(name, name) != name},
        missing=tuple(name for name in features if name not in found),
        extra=tuple(name for name in there if name not in used),
    )


# New cells are read as they are alike.
_ONE_KIND = (
    "take one kind after the other, those with both (muon.pp.intersect_obs(mdata)), and of each modality a MuData of "
    "the cells that have nothing else"
)


def match_modalities(
    mdata: MuData,
    features: Mapping[str, Sequence[str]],
    dropped: Mapping[str, Collection[str]],
    *,
    min_overlap: float,
) -> dict[str, FeatureMatch]:
    """:func:`match_features` of each modality of a model that other cells have.

    Parameters
    ----------
    mdata
        Other cells.
    features, dropped
        By modality, names of the model's features, and of those that training left out.
    min_overlap
        Least fraction of a modality's features that must be there.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData.
    KeyError
        If it has none of the modalities.
    ValueError
        If names are not unique, modalities do not hold the same cells, or too few features are there.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"expected a MuData, got {type(mdata).__name__}; {how_to_build(mdata)}.")
    here = [name for name in features if name in mdata.mod]
    if not here:
        raise KeyError(
            f"expected at least one of the modalities {list(features)}, got {list(mdata.mod)}; rename yours: "
            f"mudata.MuData({{{next(iter(features))!r}: mdata[{next(iter(mdata.mod), '...')!r}]}})."
        )
    check_names(mdata, here, otherwise=_ONE_KIND)
    matches = {
        name: match_features(features[name], mdata.mod[name].var_names.tolist(), name, known=dropped.get(name, ()))
        for name in here
    }
    for name, match in matches.items():
        if not match.matched or match.overlap < min_overlap:
            theirs = mdata.mod[name].var_names.tolist()
            raise ValueError(
                f"expected in modality {name!r} at least {100 * min_overlap:g} % of the features that the model was "
                f"trained on, got {match}; theirs are such as {_some(theirs)}, the model's such as "
                f"{_some(features[name])}: give them the model's names, leave the modality out, or lower min_overlap."
            )
    return matches


def _unique(way: Callable[[str], str], names: Sequence[str]) -> dict[str, str]:
    """Names by the way they are read, without those that are read as another is."""
    read = [way(name) for name in names]
    counts = Counter(read)
    return {key: name for key, name in zip(read, names, strict=True) if counts[key] == 1 and key}


def _plain(name: str) -> str:
    return _VERSION.sub(r"\1", _SEPARATORS.sub("-", name.casefold().strip()))


def _bare(name: str) -> str:
    return _without_affixes(_plain(name))


def _unnumbered(name: str) -> str:
    return _without_affixes(_NUMBER.sub("", _plain(name)))


def _without_affixes(plain: str) -> str:
    # Where there is nothing else, such a word is the name.
    return _SUFFIX.sub("", _PREFIX.sub("", plain)) or plain


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return printable(", ".join(names[:_NAMES_SHOWN])) + more
