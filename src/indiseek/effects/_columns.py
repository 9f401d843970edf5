"""Condition, replicate, group of cells and batch of each cell, and whether they can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indiseek.effects._labels import Labels

Words = NDArray[np.str_]
Rows = NDArray[np.intp]
MIN_REPLICATES = 3
ALL_CELLS = "all cells"


@dataclass(frozen=True, eq=False)
class Columns:
    """What is compared with what.

    Attributes
    ----------
    rows
        Positions of the cells of the two sides.
    sides
        The two values of the condition.
    case
        Whether each of these cells is of the second side.
    replicate, group, stratum
        Replicate, group of cells, and batch or batches of the replicate, of each of these cells.
    name
        Name of the column with the replicates.
    """

    rows: Rows
    sides: tuple[str, str]
    case: NDArray[np.bool_]
    replicate: Words
    group: Words
    stratum: Words
    name: str

    @classmethod
    def of(
        cls,
        obs: pd.DataFrame,
        *,
        groupby: str,
        replicate: str,
        within: str | None,
        batch: str | None,
        groups: Sequence[Any] | None,
    ) -> Self:
        """Read and check columns; as :func:`indiseek.effects.compare` raises."""
        for key in (groupby, replicate, within, batch):
            if key is not None and key not in obs:
                raise KeyError(f"expected a column {key!r}, got {list(obs.columns)}; name one of these.")
        sides = _sides(obs[groupby], groupby, groups)
        condition = obs[groupby].astype(str).to_numpy()
        rows = np.flatnonzero(np.isin(condition, sides))
        case = condition[rows] == sides[1]
        names = obs[replicate].astype(str).to_numpy()[rows]
        both = sorted(set(names[case]) & set(names[~case]))
        if both:
            raise ValueError(
                f"expected each {replicate!r} on one side of {groupby!r}, got {len(both)} on both, such as {both[:3]}; "
                "compare other groups, or name a column of samples as replicate if replicates were measured twice."
            )
        lanes = np.full(len(rows), "") if batch is None else obs[batch].astype(str).to_numpy()[rows]
        # Replicates that were measured in the same batches can be exchanged, were it one or all of them.
        together = pd.Series(lanes).groupby(names).agg(lambda found: " + ".join(sorted(set(found))))
        columns = cls(
            rows=rows,
            sides=sides,
            case=case,
            replicate=names,
            group=np.full(len(rows), ALL_CELLS) if within is None else obs[within].astype(str).to_numpy()[rows],
            stratum=together.loc[names].to_numpy(),
            name=replicate,
        )
        columns._check(groupby, batch)
        return columns

    def _check(self, groupby: str, batch: str | None) -> None:
        """Raise ValueError if the sides cannot be compared at all."""
        labels = self.replicates(np.arange(len(self.rows)), 1)[2]
        n_each = int((~labels.case).sum()), int(labels.case.sum())
        if min(n_each) < MIN_REPLICATES:
            raise ValueError(
                f"expected at least {MIN_REPLICATES} of {self.name!r} on each side of {groupby!r}, got "
                f"{self._words(n_each)}; replicates are what effects are measured against, and cells are none."
            )
        if not labels.informative.any():
            raise ValueError(
                f"expected a {batch!r} with both {self.sides[0]!r} and {self.sides[1]!r}, got each in batches of its "
                f"own: what {groupby!r} does cannot be told from the batch, by no method; measure both in one batch."
            )

    def cell_groups(self) -> Iterator[tuple[str, Rows]]:
        """Each group of cells and which of the cells are in it."""
        for name in np.unique(self.group):
            yield str(name), np.flatnonzero(self.group == name)

    def replicates(self, members: Rows, min_cells: int) -> tuple[Rows, Rows, Labels]:
        """Positions of those cells whose replicate has enough, its number for each, and labels of the replicates."""
        found, sizes = np.unique(self.replicate[members], return_counts=True)
        members = members[np.isin(self.replicate[members], found[sizes >= min_cells])]
        _, first, donor = np.unique(self.replicate[members], return_index=True, return_inverse=True)
        batch = np.unique(self.stratum[members][first], return_inverse=True)[1]
        return self.rows[members], donor, Labels(self.case[members][first], batch)

    def reason_against(self, labels: Labels, min_cells: int) -> str:
        """Why replicates with these labels cannot be compared; empty if they can."""
        if min(labels.n_each) >= MIN_REPLICATES:
            return ""
        n_each = int((~labels.case).sum()), int(labels.case.sum())
        found = f"{self._words(n_each)} of {self.name!r} with {min_cells} cells"
        if min(n_each) >= MIN_REPLICATES:
            found += f", and {self._words(labels.n_each)} in batches that have both"
        return f"{found}, of {MIN_REPLICATES} that are needed"

    def _words(self, n_each: tuple[int, int]) -> str:
        return " and ".join(f"{n} {side!r}" for n, side in zip(n_each, self.sides, strict=True))


def _sides(condition: pd.Series, groupby: str, groups: Sequence[Any] | None) -> tuple[str, str]:
    here = sorted(condition.dropna().astype(str).unique())
    if groups is None:
        if len(here) != 2:
            raise ValueError(
                f"expected two values of {groupby!r} to compare, got {len(here)}: {here[:10]}; name two of them, as in "
                f"groups={tuple((*here, 'a', 'b')[:2])}."
            )
        return here[0], here[1]
    if isinstance(groups, str) or len(groups) != 2 or str(groups[0]) == str(groups[1]):
        raise ValueError(f"expected groups to be two values of {groupby!r}, got {groups!r}; two of {here[:10]}.")
    unknown = [each for each in groups if str(each) not in here]
    if unknown:
        raise ValueError(f"expected groups to be values of {groupby!r}, got {unknown}; use two of {here[:10]}.")
    return str(groups[0]), str(groups[1])
