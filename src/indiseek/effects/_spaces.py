"""Does the condition act on what both layers share, or on one of them alone? Tests of one type of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from indiseek.effects._labels import Labels, min_p
from indiseek.effects._moderated import moderated_t, permuted_t
from indiseek.effects._profiles import Profiles

Array = NDArray[np.float64]
SHARED = "shared"
POWERS = (0, 1, 2)
_SHRINKAGE = 0.5
_TINY = 1e-12


def compare_profiles(profiles: Profiles, labels: Labels, *, n_permutations: int = 999, seed: int = 0) -> pd.DataFrame:
    r"""Test the shared space and what each layer has alone.

    An effect on a layer alone must show in the layer and in what the other layer does not know of it, whatever the
    noise of the other layer's scores: of a feature it is

    .. math::
        c_j = \mathrm{sign} \cdot \min_e (|\Delta F_j|, |\Delta F_j^{(e)}|), \quad e = 0, 1, 2

    and 0 where the signs differ, with :math:`F^{(e)}` of :meth:`Profiles.private` and all differences as moderated t.
    Sums of squares and of fourth powers and the maximum over the features, of :math:`\Delta F` and of c, are compared
    with those of other labels within batch; p is the larger of the two. An effect on the shared space must show in the
    scores of both layers: in the sum of squares that are weighted by the pairs' correlations, in Hotelling's statistic
    with the covariance shrunk by half to its diagonal, or in one pair.

    Parameters
    ----------
    profiles
        Means of donors.
    labels
        Their labels.
    n_permutations, seed
        As in :meth:`Labels.contrasts`.

    Returns
    -------
    One row for each space, ``"shared"`` and the layers' names:

    - ``effect``: of a layer the root mean square of the private effect over its features, on the layer's scale; of the
      shared space the length of the shift that both layers agree in, in standard deviations of cells within donors.
    - ``share``: of a layer the private share of the whole effect, in squares of t less what chance gives; of the shared
      space the cosine of the two layers' shifts.
    - ``pvalue``: the larger of ``p_first`` and ``p_second``, of a layer those of the whole and of the private effect,
      of the shared space those of the two layers' scores. NaN where there is no canonical pair, or no feature.
    - ``least_pvalue``: the least that so many labellings allow.
    """
    contrasts = labels.contrasts(n_permutations, seed)
    rows = [_shared(profiles, labels, contrasts), *(_alone(profiles, i, labels, contrasts) for i in (0, 1))]
    least = max(1 / len(contrasts), labels.least_pvalue)
    return pd.DataFrame(rows).assign(least_pvalue=least)


def feature_effects(profiles: Profiles, labels: Labels) -> pd.DataFrame:
    """Effects on features by moderated t, with batch in the regression.

    Parameters
    ----------
    profiles
        Means of donors.
    labels
        Their labels.

    Returns
    -------
    One row for each feature: ``modality``, ``feature``; ``total``, ``shared`` and ``private``, the effect on the scale
    of the layer and its two parts; ``pvalue`` and ``qvalue`` of the private part; ``total_pvalue`` and
    ``total_qvalue`` of the whole.
    """
    contrast = labels.contrasts(0, 0)[0]
    tables = []
    for i, layer in enumerate(profiles.layers):
        total, total_pvalue = _moderated(layer.means, labels, contrast)
        parts = [_moderated(profiles.private(i, e), labels, contrast) for e in POWERS]
        private = consensus([total, *(effect for effect, _ in parts)])
        pvalue = np.where(private != 0, np.max([total_pvalue, *(p for _, p in parts)], axis=0), 1.0)
        tables.append(
            pd.DataFrame(
                {
                    "modality": layer.name,
                    "feature": layer.features,
                    "total": total,
                    "shared": total - private,
                    "private": private,
                    "pvalue": pvalue,
                    "qvalue": false_discovery_control(pvalue),
                    "total_pvalue": total_pvalue,
                    "total_qvalue": false_discovery_control(total_pvalue),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def consensus(effects: list[Array]) -> Array:
    """The smallest of several estimates of an effect, and 0 where they do not have one sign."""
    least = np.abs(effects[0])
    positive = negative = np.ones(least.shape, dtype=bool)
    for effect in effects:
        least = np.minimum(least, np.abs(effect))
        positive, negative = positive & (effect > 0), negative & (effect < 0)
    return np.where(positive, least, np.where(negative, -least, 0.0))


def _alone(profiles: Profiles, i: int, labels: Labels, contrasts: Array) -> dict[str, object]:
    layer = profiles.layers[i]
    versions = [labels.centered(values) for values in (layer.means, *(profiles.private(i, e) for e in POWERS))]
    if not layer.means.shape[1]:
        return {"space": layer.name, "effect": 0.0, "share": 0.0, **_both([np.nan, np.nan])}
    scores = [permuted_t(values, contrasts, labels.n_free) for values in versions]
    total, private = scores[0], consensus(scores)
    # Weak effects of many features, strong ones of some, one feature alone.
    pvalues = [
        min_p(np.column_stack([(t**2).sum(axis=1), (t**4).sum(axis=1), np.abs(t).max(axis=1)]))
        for t in (total, private)
    ]
    whole, own = _beyond_chance(total), _beyond_chance(private)
    size = _beyond_chance(consensus([contrasts @ values for values in versions]))
    return {
        "space": layer.name,
        "effect": float(np.sqrt(size / layer.means.shape[1])),
        "share": min(1.0, own / whole) if whole > 0 else 0.0,
        **_both(pvalues),
    }


def _both(pvalues: list[float]) -> dict[str, float]:
    return {"p_first": pvalues[0], "p_second": pvalues[1], "pvalue": float(np.max(pvalues))}


def _beyond_chance(values: Array) -> float:
    """Sum of squares under the observed labels, less the mean under others; not below 0."""
    squares = (values**2).sum(axis=1)
    return max(0.0, float(squares[0] - squares[1:].mean())) if len(squares) > 1 else 0.0


def _shared(profiles: Profiles, labels: Labels, contrasts: Array) -> dict[str, object]:
    if not len(profiles.correlation):
        return {"space": SHARED, "effect": 0.0, "share": 0.0, **_both([np.nan, np.nan])}
    pvalues, shifts = [], []
    for layer in profiles.layers:
        centered = labels.centered(layer.shared)
        shift = contrasts @ centered
        covariance = centered.T @ centered / len(centered)
        scale = np.maximum(np.diag(covariance), _TINY)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(scale)
        statistics = [
            ((profiles.correlation * shift) ** 2).sum(axis=1),
            (shift * np.linalg.solve(shrunk, shift.T).T).sum(axis=1),
            (np.abs(shift) / np.sqrt(scale)).max(axis=1),
        ]
        pvalues.append(min_p(np.column_stack(statistics)))
        shifts.append(shift[0])
    agreement = float(shifts[0] @ shifts[1])
    return {
        "space": SHARED,
        "effect": float(np.sqrt(max(0.0, agreement))),
        "share": agreement / max(_TINY, float(np.linalg.norm(shifts[0]) * np.linalg.norm(shifts[1]))),
        **_both(pvalues),
    }


def _moderated(means: Array, labels: Labels, contrast: Array) -> tuple[Array, Array]:
    """Effect and p value of each feature."""
    effect = contrast @ means
    case = labels.centered(labels.case.astype(np.float64))
    residual = labels.centered(means) - np.outer(case, effect)
    variance = np.maximum((residual**2).sum(axis=0) / labels.n_free, _TINY)
    return effect, moderated_t(effect, variance, float(contrast @ contrast), labels.n_free)
