"""Compare two groups of replicates in every group of cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from indiseek._checks import check_number, check_seed
from indiseek.effects._columns import MIN_REPLICATES, Columns
from indiseek.effects._coordination import COORDINATED, coordination
from indiseek.effects._layers import log_centered, log_normalized, thinned
from indiseek.effects._profiles import profiles
from indiseek.effects._result import Effects
from indiseek.effects._spaces import SHARED, compare_profiles, feature_effects

Array = NDArray[np.float64]
Group = tuple[str, NDArray[np.intp]]
# Of a layer's effect; what the pairs fail to take out of a strong shared effect is less.
MIN_SHARE = 0.1
# Mean rank correlation; what known sub-states leave beside the known axes is less.
MIN_COORDINATION = 0.1


def compare(
    counts: Mapping[str, Any],
    components: Mapping[str, Array],
    obs: pd.DataFrame,
    *,
    groupby: str,
    replicate: str,
    within: str | None = None,
    batch: str | None = None,
    groups: Sequence[Any] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    centered: Collection[str] = ("prot",),
    min_cells: int = 10,
    n_permutations: int = 999,
    alpha: float = 0.05,
    seed: int = 0,
    thin: Callable[[Any], Array] | None = None,
    watch: Callable[[list[Group]], Iterable[Group]] | None = None,
) -> Effects:
    """Tell whether a condition acts on what two layers share, on the first alone, or on the second alone.

    And whether what it does to each alone is one state of the same cells: :func:`coordination`.

    Parameters
    ----------
    counts
        Counts of the two layers by name, ``(n_cells, n_features)`` each, that can be indexed by rows.
    components
        Components of them by name, ``(n_cells, n_components)`` each, in which shared axes are looked for.
    obs
        Columns of the cells.
    groupby, replicate, within, batch
        Columns of `obs`: the condition; the replicate, such as the donor; the groups of cells that are compared one by
        one, by default all cells as one; the batch within which labels are permuted.
    groups
        Two values of the condition; needed where it has more.
    features
        Names of the features by layer; by default their numbers.
    centered
        Layers whose logarithms are centred in each cell, as for proteins; others are scaled to 10,000 counts.
    min_cells
        Fewest cells of a replicate.
    n_permutations
        Most labellings beside the one observed.
    alpha
        Limit of the q values.
    seed
        Seed of the permutations, and of the thinning.
    thin
        What makes components of the first layer's counts. Given, these counts are thinned, so that the replicates of a
        group of cells have one mean depth, and `components` of that layer are not used.
    watch
        What gives the groups of cells one after another, such as :class:`tqdm.tqdm`.

    Returns
    -------
    The tables.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        If a number is none.
    ValueError
        If a number is out of range, there are not two groups, a replicate is in both, fewer than 3 replicates of either
        are left in every group of cells, or no batch has both.
    """
    check_number("min_cells", min_cells, low=2, whole=True)
    check_number("n_permutations", n_permutations, low=19, whole=True)
    check_number("alpha", alpha, above=0, below=1)
    check_seed("seed", seed)
    columns = Columns.of(obs, groupby=groupby, replicate=replicate, within=within, batch=batch, groups=groups)
    names = list(counts)
    tables, details, left_out = [], [], []
    every = list(columns.cell_groups())
    for group, members in every if watch is None else watch(every):
        chosen, donor, labels = columns.replicates(members, int(min_cells))
        if reason := columns.reason_against(labels, int(min_cells)):
            left_out.append({"group": group, "reason": reason})
            continue
        parts = {name: counts[name][chosen] for name in names}
        axes = {name: components[name][chosen] for name in names}
        if thin is not None:
            parts[names[0]] = thinned(parts[names[0]], donor, int(seed))
            axes[names[0]] = thin(parts[names[0]])
        values = [log_centered(parts[name]) if name in centered else log_normalized(parts[name]) for name in names]
        found = profiles(
            values,
            list(axes.values()),
            donor,
            names=names,
            features=None if features is None else [features[name] for name in names],
        )
        n_first, n_second = labels.n_each
        sizes = {"n_pairs": len(found.correlation), "n_first": n_first, "n_second": n_second, "n_cells": len(chosen)}
        draws = {"n_permutations": int(n_permutations), "seed": int(seed)}
        table = compare_profiles(found, labels, **draws)
        together = coordination(values, list(axes.values()), donor, found, labels, **draws)
        table = pd.concat([table, pd.DataFrame([together]).assign(least_pvalue=table["least_pvalue"].iloc[0])])
        tables.append(table.assign(**sizes))
        tables[-1].insert(0, "group", group)
        details.append(feature_effects(found, labels))
        details[-1].insert(0, "group", group)
    if not tables:
        reasons = "; ".join(f"{row['group']}: {row['reason']}" for row in left_out)
        raise ValueError(
            f"expected at least {MIN_REPLICATES} replicates a side in a batch that has both, got in no group of cells "
            f"as many ({reasons}); take a coarser within, fewer min_cells, or more {replicate!r}."
        )
    return Effects(
        effects=_judged(pd.concat(tables, ignore_index=True), float(alpha)),
        features=pd.concat(details, ignore_index=True),
        left_out=pd.DataFrame(left_out, columns=["group", "reason"]),
        sides=columns.sides,
        alpha=float(alpha),
    )


def _judged(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Table with q values over the groups of each space, and what is called."""
    qvalue = pd.Series(np.nan, index=table.index)
    for _, pvalues in table["pvalue"].dropna().groupby(table["space"]):
        qvalue[pvalues.index] = false_discovery_control(pvalues.to_numpy())
    limit = table["space"].map({SHARED: 0.0, COORDINATED: MIN_COORDINATION}).fillna(MIN_SHARE)
    call = (qvalue <= alpha) & (table["share"] > limit)
    place = int(table.columns.get_loc("least_pvalue")) + 1
    table.insert(place, "qvalue", qvalue)
    table.insert(place + 1, "call", call)
    return table
