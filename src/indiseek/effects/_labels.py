"""Which labels of donors could have been, if the condition did nothing: those that a permutation within batch gives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of donors, and those that could have been.

    Attributes
    ----------
    case
        Whether a donor is of the second group, ``(n_donors,)``.
    batch
        Batch of each donor as a number from 0, ``(n_donors,)``.
    """

    case: NDArray[np.bool_]
    batch: NDArray[np.intp]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """Whether a donor's batch has donors of both groups, ``(n_donors,)``."""
        size, cases = np.bincount(self.batch), np.bincount(self.batch, self.case)
        both: NDArray[np.bool_] = ((cases > 0) & (cases < size))[self.batch]
        return both

    @property
    def n_each(self) -> tuple[int, int]:
        """Number of donors of the first and the second group that can be compared within a batch."""
        kept = self.informative
        return int((kept & ~self.case).sum()), int((kept & self.case).sum())

    @property
    def n_free(self) -> int:
        """Degrees of freedom that batches and condition leave."""
        return len(self.batch) - len(np.unique(self.batch)) - 1

    @property
    def n_possible(self) -> int:
        """Number of labellings within batch."""
        return prod(comb(int((self.batch == b).sum()), int(self.case[self.batch == b].sum())) for b in self._batches)

    @property
    def least_pvalue(self) -> float:
        """Least p value of a two-sided test with all labellings."""
        half = all(2 * self.case[self.batch == b].sum() == (self.batch == b).sum() for b in self._batches)
        return (2 if half else 1) / self.n_possible

    @property
    def _batches(self) -> NDArray[np.intp]:
        return np.unique(self.batch[self.informative])

    def centered(self, values: Array) -> Array:
        """Values less the mean of their batch; donors along the first axis."""
        found = np.array(values, dtype=np.float64)
        for b in np.unique(self.batch):
            found[self.batch == b] -= found[self.batch == b].mean(axis=0)
        return found

    def contrasts(self, n_permutations: int, seed: int) -> Array:
        r"""Rows that give the difference between the groups, as observed and under other labels.

        Of labels :math:`l` the row is :math:`\tilde l / \tilde l^T \tilde l`, with :math:`\tilde l` centred within
        batch, so that its product with values of donors is the coefficient of a regression on batch and condition.

        Parameters
        ----------
        n_permutations
            Most labellings beside the one observed; all that are possible, where these are fewer.
        seed
            Seed of the draws.

        Returns
        -------
        ``(1 + n_permutations, n_donors)``, the observed labels first.
        """
        if self.n_possible <= n_permutations + 1:
            drawn = self._all()
        else:
            drawn = self._random(n_permutations, np.random.default_rng(seed))
        rows = self.centered(np.vstack([self.case, drawn]).astype(np.float64).T).T
        contrasts: Array = rows / (rows[0] @ rows[0])
        return contrasts

    def _all(self) -> NDArray[np.bool_]:
        """Every labelling but the observed one."""
        members = [np.flatnonzero(self.batch == b) for b in self._batches]
        choices = [combinations(each, int(self.case[each].sum())) for each in members]
        base = self.case & ~self.informative
        found = np.tile(base, (self.n_possible, 1))
        for row, chosen in enumerate(product(*choices)):
            for each in chosen:
                found[row, list(each)] = True
        return found[(found != self.case).any(axis=1)]

    def _random(self, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        found = np.tile(self.case, (n, 1))
        for b in self._batches:
            here = np.flatnonzero(self.batch == b)
            order = rng.random((n, len(here))).argsort(axis=1)
            found[:, here] = self.case[here][order]
        return found


def min_p(statistics: Array) -> float:
    """P value of the best of several statistics, corrected for the choice.

    Parameters
    ----------
    statistics
        ``(1 + n_permutations, n_statistics)``, higher is further from the null, the observed labels first.

    Returns
    -------
    ``(b + 1) / (m + 1)`` of m permutations, of which b reach a least p value as small as that of the observed labels.
    """
    best = np.min([_ranks(column) for column in statistics.T], axis=0)
    return float((best <= best[0]).mean())


def _ranks(values: Array) -> NDArray[np.intp]:
    """How many of the values are as high, of each; those that differ by rounding alone are the same."""
    ordered = np.sort(values)
    slack = 1e-9 * np.abs(values)
    return np.asarray(len(values) - np.searchsorted(ordered, values - slack, side="left"), dtype=np.intp)
