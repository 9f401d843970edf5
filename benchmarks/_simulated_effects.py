"""Effects put into the counts of real donors, of which it is known on what they act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from _types import column
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from indiseek.data import CLRPCA, LogNormalizePCA
from indiseek.effects import Labels, Profiles, canonical_pairs, log_centered, log_normalized, profiles

NAMES = ("rna", "prot")
_N_COMPONENTS = 30
_N_GENES, _N_PROTEINS = 40, 6
# Genes that hardly any cell has cannot carry an effect.
_LEAST_DETECTED = 0.4
_ODDS = 40.0


@dataclass(frozen=True, eq=False)
class TypeCells:
    """Cells of one type: counts, donors with at least 10 cells, their batch and condition.

    Attributes
    ----------
    counts
        By layer, ``(n_cells, n_features)``.
    features
        Their names.
    donor
        Donor of each cell as a number from 0.
    batch, case
        Of each donor.
    """

    counts: tuple[sparse.csr_matrix, sparse.csr_matrix]
    features: tuple[list[str], list[str]]
    donor: NDArray[np.intp]
    batch: NDArray[np.intp]
    case: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> TypeCells:
        """Some cells; their donors are numbered anew."""
        kept, donor = np.unique(self.donor[rows], return_inverse=True)
        counts = (self.counts[0][rows], self.counts[1][rows])
        return replace(self, counts=counts, donor=donor, batch=self.batch[kept], case=self.case[kept])

    def labelled(self, case: NDArray[np.bool_]) -> TypeCells:
        """The same cells under other labels of the donors."""
        return replace(self, case=case)

    @property
    def labels(self) -> Labels:
        """Labels of the donors."""
        return Labels(self.case, self.batch)

    @property
    def values(self) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
        """Both layers on the scale on which they are compared."""
        return log_normalized(self.counts[0]), log_centered(self.counts[1])


class Source:
    """The real cells, and components fitted once on all of them.

    Parameters
    ----------
    mdata
        The COVID cells of :func:`indiseek.datasets.covid_cite`.
    """

    def __init__(self, mdata: MuData) -> None:
        self._mdata = mdata
        self._counts = tuple(sparse.csr_matrix(mdata[name].X, dtype=np.float64) for name in NAMES)
        self._donor, self._type = column(mdata, "Donor"), column(mdata, "mergedcelltype")
        self._batch, self._condition = column(mdata, "Batch"), column(mdata, "cond_group")
        self._transforms = (LogNormalizePCA(n_components=_N_COMPONENTS), CLRPCA(n_components=_N_COMPONENTS))
        for transform, counts in zip(self._transforms, self._counts, strict=True):
            transform.fit(counts.astype(np.float32), np.arange(mdata.n_obs))

    def cells(self, name: str, *, of: str | None = None, min_cells: int = 10) -> TypeCells:
        """Cells of a type, all or of the donors of one condition."""
        chosen = self._type == name
        if of is not None:
            chosen &= self._condition == of
        sizes = pd.Series(self._donor[chosen]).value_counts()
        rows = np.flatnonzero(chosen & np.isin(self._donor, sizes.index[sizes >= min_cells]))
        donors, first, donor = np.unique(self._donor[rows], return_index=True, return_inverse=True)
        return TypeCells(
            (self._counts[0][rows], self._counts[1][rows]),
            tuple(list(map(str, self._mdata[name].var_names)) for name in NAMES),  # type: ignore[arg-type]
            donor,
            np.unique(self._batch[rows][first], return_inverse=True)[1],
            self._condition[rows][first] == "Severe",
        )

    def components_of_all(self) -> list[NDArray[np.float64]]:
        """Components of all cells."""
        return self._components(self._counts)

    def components(self, cells: TypeCells) -> list[NDArray[np.float64]]:
        """Components of cells, ``(n_cells, 30)`` each."""
        return self._components(cells.counts)

    def _components(self, values: tuple[sparse.csr_matrix, ...]) -> list[NDArray[np.float64]]:
        pairs = zip(self._transforms, values, strict=True)
        return [transform.apply_to(counts.astype(np.float32)).numpy().astype(np.float64) for transform, counts in pairs]

    def profiles(self, cells: TypeCells) -> Profiles:
        """What is compared of cells."""
        return profiles(cells.values, self.components(cells), cells.donor, names=NAMES, features=cells.features)


Change = Callable[[Source, TypeCells, np.random.Generator], TypeCells]


def two_groups(cells: TypeCells, rng: np.random.Generator, *, per_batch: int = 6) -> TypeCells:
    """At most so many donors of every batch, under labels that are drawn: as many cases as controls, or one more."""
    case = np.zeros(len(cells.batch), dtype=bool)
    kept = []
    one_more = bool(rng.integers(2))
    for batch in np.unique(cells.batch):
        donors = rng.permutation(np.flatnonzero(cells.batch == batch))[:per_batch]
        case[donors[: (len(donors) + one_more) // 2]] = True
        one_more ^= bool(len(donors) % 2)
        kept.append(donors)
    return cells.labelled(case).take(np.flatnonzero(np.isin(cells.donor, np.concatenate(kept))))


def confounded(cells: TypeCells, rng: np.random.Generator) -> TypeCells:
    """Two batches, in one 6 cases against 2, in the other 2 against 6."""
    case = np.zeros(len(cells.batch), dtype=bool)
    sizes = np.bincount(cells.batch)
    chosen, kept = np.argsort(-sizes, kind="stable")[:2], []
    for batch, n_cases in zip(chosen, (6, 2), strict=True):
        donors = rng.permutation(np.flatnonzero(cells.batch == batch))[:8]
        case[donors[: min(n_cases, len(donors) - 1)]] = True
        kept.append(donors)
    return cells.labelled(case).take(np.flatnonzero(np.isin(cells.donor, np.concatenate(kept))))


def none(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
    """Nothing happens."""
    return cells


def one_layer(layer: int, factor: float, *, along: bool) -> Change:
    """Counts of some features of one layer grow by a factor; along the first pair, half of them shrink.

    The features are those that the other layer tells least about, or, along the pair, those that go most with it.
    """

    def change(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
        return _pushed(cells, layer, _factors(source.profiles(cells), cells, layer, factor, along), rng)

    return change


def both_pushed(genes: float, proteins: float) -> Change:
    """Counts of the features of both layers that go most with the first pair grow or shrink by factors."""

    def change(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
        found = source.profiles(cells)
        pushes = [_factors(found, cells, i, factor, True) for i, factor in enumerate((genes, proteins))]
        return _pushed(_pushed(cells, 0, pushes[0], rng), 1, pushes[1], rng)

    return change


def in_half(genes: float, proteins: float, *, together: bool) -> Change:
    """Counts of the features least tied to the other layer grow in half of the cells: one half, or one for each."""

    def change(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
        found = source.profiles(cells)
        halves = rng.random((2, len(cells.donor))) < 0.5
        counts = []
        for i, factor in enumerate((genes, proteins)):
            kept = sparse.diags((~halves[0 if together else i]).astype(np.float64))
            pushed = _pushed(cells, i, _factors(found, cells, i, factor, False), rng).counts[i]
            counts.append(sparse.csr_matrix(pushed + kept @ (cells.counts[i] - pushed)))
        return replace(cells, counts=(counts[0], counts[1]))

    return change


def tilted(strength: float) -> Change:
    """Cells of cases are drawn again, with weights that grow along the first pair."""

    def change(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
        return _redrawn(cells, np.exp(strength * _scores(source, cells)), rng)

    return change


def enriched(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
    """The upper sixth of the cells along the first pair is drawn with odds of 40."""
    score = _scores(source, cells)
    return _redrawn(cells, np.where(score > np.quantile(score, 5 / 6), _ODDS, 1.0), rng)


def after(*changes: Change) -> Change:
    """One change after the other."""

    def change(source: Source, cells: TypeCells, rng: np.random.Generator) -> TypeCells:
        for each in changes:
            cells = each(source, cells, rng)
        return cells

    return change


def _scores(source: Source, cells: TypeCells) -> NDArray[np.float64]:
    """Score of each cell along the first pair, the mean of both layers, of variance 1."""
    first, second = source.components(cells)
    pairs = canonical_pairs(first, second, cells.donor, least=-1.0)
    score = pairs.first[:, 0] + pairs.second[:, 0]
    result: NDArray[np.float64] = (score - score.mean()) / score.std()
    return result


def _factors(found: Profiles, cells: TypeCells, layer: int, factor: float, along: bool) -> dict[str, float]:
    own = found.layers[layer]
    n = (_N_GENES, _N_PROTEINS)[layer]
    detected = np.asarray((cells.counts[layer] > 0).mean(axis=0)).ravel()
    often = dict(zip(cells.features[layer], detected >= _LEAST_DETECTED, strict=True))
    rows = np.array([i for i, name in enumerate(own.features) if often[name]])
    values = (cells.values[0].toarray(), cells.values[1])[layer]
    spread = dict(zip(cells.features[layer], values.std(axis=0), strict=True))
    tie = own.tie[rows] / np.array([[spread[own.features[row]]] for row in rows])
    order = np.argsort(-np.abs(tie[:, 0])) if along else np.argsort((tie**2).sum(axis=1))
    chosen = order[:n]
    signs = np.sign(tie[chosen, 0]) if along else np.ones(len(chosen))
    return {own.features[rows[i]]: float(factor**sign) for i, sign in zip(chosen, signs, strict=True)}


def _pushed(cells: TypeCells, layer: int, factors: dict[str, float], rng: np.random.Generator) -> TypeCells:
    """Counts of cases times factors: thinned where these are below 1, with Poisson counts added where above."""
    by_feature = np.array([factors.get(name, 1.0) for name in cells.features[layer]])
    counts = cells.counts[layer].copy()
    factor = np.where(np.repeat(cells.case[cells.donor], np.diff(counts.indptr)), by_feature[counts.indices], 1.0)
    thinned = rng.binomial(counts.data.astype(np.int64), np.minimum(factor, 1.0))
    counts.data = (thinned + rng.poisson(counts.data * np.maximum(factor - 1.0, 0.0))).astype(np.float64)
    counts.eliminate_zeros()
    return replace(cells, counts=(counts, cells.counts[1]) if layer == 0 else (cells.counts[0], counts))


def _redrawn(cells: TypeCells, weights: NDArray[np.float64], rng: np.random.Generator) -> TypeCells:
    """As many cells of each donor, those of cases with weights and with replacement."""
    rows = []
    for donor, case in enumerate(cells.case):
        here = np.flatnonzero(cells.donor == donor)
        chances = weights[here] / weights[here].sum() if case else None
        rows.append(rng.choice(here, size=len(here), p=chances) if case else here)
    return cells.take(np.concatenate(rows))


_NEW = "coordinated"
_REDRAWN, _GENES, _PROTEINS = tilted(1.5), one_layer(0, 2.4, along=False), one_layer(1, 1.5, along=False)
# By name: the change, and the spaces on which it acts.
SCENARIOS: dict[str, tuple[Change, frozenset[str]]] = {
    "none": (none, frozenset()),
    "RNA: the 40 genes least tied to protein x 2.4": (_GENES, frozenset({"rna"})),
    "RNA: the same x 1.7": (one_layer(0, 1.7, along=False), frozenset({"rna"})),
    "RNA alone, 40 genes along the shared axis x or / 2": (one_layer(0, 2.0, along=True), frozenset({"rna"})),
    "protein: the 6 least tied to RNA x 1.5": (_PROTEINS, frozenset({"prot"})),
    "protein alone, 6 along the shared axis x or / 1.7": (one_layer(1, 1.7, along=True), frozenset({"prot"})),
    "shared: cells redrawn along the first pair": (_REDRAWN, frozenset({"shared"})),
    "shared: sub-state enriched, odds 40": (enriched, frozenset({"shared"})),
    "shared redrawn, and RNA genes x 2.4": (after(_REDRAWN, _GENES), frozenset({"shared", "rna"})),
    "shared redrawn, and proteins x 1.5": (after(_REDRAWN, _PROTEINS), frozenset({"shared", "prot"})),
    "both layers pushed along the axis by factors 2 and 1.7": (both_pushed(2.0, 1.7), frozenset({"shared"})),
    "protein alone, 6 along the shared axis x or / 2": (one_layer(1, 2.0, along=True), frozenset({"prot"})),
    "RNA genes x 2.4 and proteins x 1.5, all cells": (after(_GENES, _PROTEINS), frozenset({"rna", "prot"})),
    "the same in half of the cells, another half for each": (
        in_half(2.4, 1.5, together=False),
        frozenset({"rna", "prot"}),
    ),
    "new state: the same half for both": (in_half(2.4, 1.5, together=True), frozenset({"rna", "prot", _NEW})),
    "new state, genes x 4 and proteins x 2": (in_half(4.0, 2.0, together=True), frozenset({"rna", "prot", _NEW})),
    "new state, genes x 8 and proteins x 4": (in_half(8.0, 4.0, together=True), frozenset({"rna", "prot", _NEW})),
}
