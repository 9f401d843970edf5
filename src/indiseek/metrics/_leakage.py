"""How much a specific code still holds of what it should not, with its null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from indiseek._checks import check_mapping, check_number, check_seed

from ._probes import PROBES, cross_predict, pair, weighted_r2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Leakage:
    """How much of a target a code holds, beside the same measurement on permuted cells.

    Attributes
    ----------
    r2
        Out-of-fold R2, the larger of the ridge and the nonlinear probe (0 nothing, 1 everything).
    null
        Mean of the same over permutations of the cells; slightly below 0 where nothing is to be found.
    ridge, nonlinear
        Out-of-fold R2 of each probe.
    ridge_null, nonlinear_null
        Mean over permutations for each probe.
    """

    r2: float
    null: float
    ridge: float
    nonlinear: float
    ridge_null: float
    nonlinear_null: float

    @property
    def above_null(self) -> float:
        """``r2 - null``: lower is better for a specific code, higher for a shared one."""
        return self.r2 - self.null


def leakage(
    specific: ArrayLike,
    target: ArrayLike,
    *,
    n_permutations: int = 5,
    n_splits: int = 5,
    seed: int = 0,
) -> Leakage:
    """How much of ``target`` a specific code still holds, with its null.

    Parameters
    ----------
    specific
        Specific codes of held-out cells, ``(n_cells, n_latent)``.
    target
        What the codes should not hold: the other modality's shared codes or features, ``(n_cells, n_targets)``.
    n_permutations
        Permutations of the target's cells for the null, default 5; with 0 the null is NaN.
    n_splits
        Number of folds, default 5.
    seed
        Seed of folds, landmarks and permutations, default 0.

    Returns
    -------
    Leakage
        Lower is better; ``above_null`` is what a verdict looks at.

    Raises
    ------
    ValueError
        If cells differ, values are not finite, all targets are constant, or an option is out of range.
    """
    found = leakages(specific, {"target": target}, n_permutations=n_permutations, n_splits=n_splits, seed=seed)
    return found["target"]


def leakages(
    specific: ArrayLike,
    targets: Mapping[str, ArrayLike],
    *,
    n_permutations: int = 5,
    n_splits: int = 5,
    seed: int = 0,
) -> dict[str, Leakage]:
    """Leakage of one specific code to several targets, for little more than the price of one.

    Targets and their permutations share each probe's factorisation; every number is the one :func:`leakage` gives.

    Parameters
    ----------
    specific
        Specific codes of held-out cells, ``(n_cells, n_latent)``.
    targets
        Named arrays that the codes should not hold, each ``(n_cells, n_targets)``.
    n_permutations
        Permutations of the targets' cells for the null, default 5; with 0 the null is NaN.
    n_splits
        Number of folds, default 5.
    seed
        Seed of folds, landmarks and permutations, default 0.

    Returns
    -------
    Leakage for each name.

    Raises
    ------
    ValueError
        If cells differ, values are not finite, all columns of a target are constant, or an option is out of range.
    """
    check_number("n_permutations", n_permutations, low=0, whole=True)
    check_seed("seed", seed)
    check_mapping("targets", targets, "arrays by name")
    pairs = [pair(specific, target, "specific", name) for name, target in targets.items()]
    x = pairs[0][0]
    rng = np.random.default_rng([seed, 1])
    orders = [np.arange(len(x)), *(rng.permutation(len(x)) for _ in range(n_permutations))]
    versions = [y[order] for _, y in pairs for order in orders]
    scores = np.empty((len(PROBES), len(pairs), len(orders)))
    for row, probe in zip(scores, PROBES, strict=True):
        predictions = cross_predict(x, versions, probe=probe, n_splits=n_splits, seed=seed)
        r2 = [weighted_r2(y, prediction) for y, prediction in zip(versions, predictions, strict=True)]
        row[:] = np.reshape(r2, row.shape)
    best = scores.max(axis=0)
    nulls = [values[..., 1:].mean(axis=-1) if n_permutations else best[:, 0] * np.nan for values in (best, *scores)]
    return {
        name: Leakage(
            r2=float(best[k, 0]),
            null=float(nulls[0][k]),
            ridge=float(scores[0, k, 0]),
            nonlinear=float(scores[1, k, 0]),
            ridge_null=float(nulls[1][k]),
            nonlinear_null=float(nulls[2][k]),
        )
        for k, name in enumerate(targets)
    }
