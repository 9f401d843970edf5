"""How a choice is made from a table of candidates: pure functions, one for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import pandas as pd

from indiseek.metrics import Thresholds

TIGHT_EXCESS: Final = 0.05
# Probes of the same content on several hundred cells differ by 0.01 to 0.02 from one fit to the next.
CONTENT_TOLERANCE: Final = 0.03
SHARE: Final = 0.95
# R2 of a cross-fitted probe above its null: the lowest that validation cells can tell from none.
LEAKAGE: Final = 0.02


class Choice(NamedTuple):
    """One candidate, by the label of its row.

    Attributes
    ----------
    row
        Label of the row.
    passed
        Whether it keeps to the limit; False for the least bad of candidates that all fail.
    why
        The reason, as the rest of a sentence.
    """

    row: int
    passed: bool
    why: str


def choose_shared(
    table: pd.DataFrame,
    *,
    excess: Sequence[float] = (TIGHT_EXCESS, Thresholds().excess),
    tolerance: float = CONTENT_TOLERANCE,
) -> Choice:
    """Choose the shared code: pure first, then complete, then as narrow as retrieval allows.

    1. Keep the candidates whose shared content is, for every modality, within `tolerance` of the best one's.
    2. Of these keep the ones whose excess is below the first limit in `excess` that any of them keeps to. If none
       keeps to any, take the one of the least excess, which has then not passed.
    3. Of these keep, for each alignment, the ones whose held-out InfoNCE is within one standard error of the lowest.
    4. Of these take the smallest ``n_shared``; among equals the least excess.

    InfoNCE comes after the others since it rewards a code for holding what only one modality knows.

    Parameters
    ----------
    table
        One row a candidate: ``n_shared``, ``alignment``, ``infonce``, ``infonce_se``, and for each modality
        ``content_<modality>`` and ``excess_<modality>``.
    excess
        Limits, the tightest first.
    tolerance
        R2 that a candidate may lack of the best one's shared content.

    Returns
    -------
    Choice
    """
    content = _columns(table, "content_")
    lacks = (content.max() - content).max(axis=1)
    # Modalities may have their best content in different candidates, none of which is near all of them.
    complete = lacks <= max(tolerance, float(lacks.min()))
    worst = _columns(table, "excess_").max(axis=1)
    for limit in excess:
        kept = table[complete & (worst < limit)]
        if len(kept):
            break
    else:
        index = worst[complete].idxmin()
        why = (
            f"no candidate with the shared content keeps its excess below {excess[-1]:.2f}; this one has the least, "
            f"{worst[index]:.2f}"
        )
        return Choice(index, False, why)
    best = kept.loc[kept.groupby("alignment")["infonce"].idxmin()].set_index("alignment")
    bound = kept["alignment"].map(best["infonce"] + best["infonce_se"])
    as_good = kept[kept["infonce"] <= bound]
    index = worst[as_good.index[as_good["n_shared"] == as_good["n_shared"].min()]].idxmin()
    why = (
        f"the narrowest of {len(kept)} of {len(table)} candidates with excess below {limit:.2f} and all of the shared "
        f"content, at an InfoNCE within one standard error of the best (excess {max(worst[index], 0.0):.2f}, InfoNCE "
        f"{table['infonce'][index]:.2f} nats)"
    )
    return Choice(index, True, why)


def choose_lam(table: pd.DataFrame, *, leakage: float = LEAKAGE) -> Choice:
    """Choose the weight of the reconstruction: the best reconstruction among those that do not leak.

    Parameters
    ----------
    table
        One row a candidate: ``reconstruction`` (held-out relative error) and ``leakage`` (R2 above its null, the worst
        of all targets).
    leakage
        Limit of the leakage. If no candidate keeps to it, the one that leaks least is taken, which has not passed.

    Returns
    -------
    Choice
    """
    kept = table[table["leakage"] < leakage]
    if kept.empty:
        index = table["leakage"].idxmin()
        why = f"no candidate keeps its leakage below {leakage:.2f}; this one leaks least, {table['leakage'][index]:.2f}"
        return Choice(index, False, why)
    index = kept["reconstruction"].idxmin()
    why = (
        f"the best reconstruction (error {table['reconstruction'][index]:.2f}) of the {len(kept)} of {len(table)} "
        f"candidates that leak less than {leakage:.2f}"
    )
    return Choice(index, True, why)


def choose_n_specific(carried: Sequence[float], *, share: float = SHARE) -> int:
    """Smallest number of ordered dimensions that carry a share of what the whole code does.

    Parameters
    ----------
    carried
        What the first 1, 2, ... dimensions carry.
    share
        Share wanted.

    Returns
    -------
    A number from 1 to ``len(carried)``; all dimensions where nothing is carried, since nothing is then known.
    """
    most = max(carried)
    if most <= 0:
        return len(carried)
    return next(n for n, value in enumerate(carried, start=1) if value >= share * most)


def _columns(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Columns of all modalities, by modality."""
    chosen = [name for name in table.columns if name.startswith(prefix)]
    return table[chosen].rename(columns=lambda name: name.removeprefix(prefix))
