"""One certificate of several fits, each certified on held-out cells of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ._certificate import Certificate
from ._certify import verdicts_of
from .checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._thresholds import Thresholds
    from .checks import PooledCheck

# What says of which codes and target a row of a table tells.
_KEYS = ("modality", "code", "target", "other", "others", "covariate")


def pooled_certificate(certificates: Sequence[Certificate]) -> Certificate:
    """Put the certificates of several fits together, so that the verdicts are of all their held-out cells.

    Codes of two fits have axes of their own and cannot be read as one. What is read of each can be: a mean of
    independent readings, weighted by their cells, has a standard error as small as one of all cells. The table
    ``features`` is left out, because the components of one fit are not those of another.

    Parameters
    ----------
    certificates
        Of fits of one model, with the same limits, no held-out cell in two of them.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If there is none, or their limits differ.
    """
    if not certificates:
        raise ValueError("expected certificates of several fits, got none; do pass one a fit")
    first = certificates[0]
    if any(each.thresholds != first.thresholds for each in certificates):
        raise ValueError("expected certificates with the same limits, got others; do certify all fits with the same")
    tables, found = {}, []
    for check in CHECKS:
        of_fits = [each.tables[check.name] for each in certificates if check.name in each.tables]
        table = _pooled(check, of_fits, first.thresholds)
        if len(table):
            tables[check.name] = table
            found.append((check, table))
    return Certificate(
        verdicts_of(found, first.thresholds),
        tables,
        n_cells=sum(each.n_cells for each in certificates),
        n_permutations=first.n_permutations,
        seed=first.seed,
        reference=first.reference,
        thresholds=first.thresholds,
        n_fits=sum(each.n_fits for each in certificates),
    )


def _pooled(check: PooledCheck, tables: Sequence[pd.DataFrame], limits: Thresholds) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame()
    together = pd.concat(tables, ignore_index=True)
    keys = [key for key in _KEYS if key in together]
    rows = [check.pool(group, limits) for _, group in together.groupby(keys, sort=False, dropna=False)]
    return pd.DataFrame([row for row in rows if row is not None], columns=together.columns)
