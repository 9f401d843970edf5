"""How the variance of each feature divides: what another modality tells, what is its own, counting noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from indiseek._checks import check_number, check_seed

Array = NDArray[np.float64]
MIN_CELLS = 100
# With fewer cells that have it, a feature's moments are those of chance.
MIN_DETECTED = 10
_NORMAL_95 = 1.959964
# What a prediction and halves of the counts miss of the truth in simulations, as a multiple of the root of p (1 - p).
_MISSED = 0.04
_BLOCK = 512
_TINY = 1e-12
# Coordinates beyond a fifth of the cells leave too little to tell a projection from chance.
_CELLS_PER_COORDINATE = 5
_PARTS = ("shared", "specific", "noise")


@dataclass(frozen=True, eq=False)
class Features:
    """Values of the features of one modality in the same held-out cells.

    Attributes
    ----------
    names
        Names of the features.
    observed
        What was measured, ``(n_cells, n_features)``, on the scale on which variance is divided.
    predicted
        What another modality tells of it, ``(n_cells, n_features)``, by a fit to other cells.
    halves
        The same features from two thinned halves of the counts; None where the values are no counts.
    codes
        Specific codes made from the same two halves, ``(n_cells, n_specific)`` each; None where there are none.
    states
        Shared code of the other modality, ``(n_cells, n_shared)``: by how much a specific code moves a feature may
        depend on it. None where there are no codes.
    detected
        Number of cells that have each feature, ``(n_features,)``; by default those whose value is not the lowest.
    """

    names: tuple[str, ...]
    observed: NDArray[np.floating]
    predicted: NDArray[np.floating]
    halves: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
    codes: tuple[Array, Array] | None = None
    states: Array | None = None
    detected: NDArray[np.intp] | None = None


def feature_shares(
    features: Features, *, batch: ArrayLike | None = None, n_bootstrap: int = 200, seed: int = 0
) -> pd.DataFrame:
    r"""Divide the variance of each feature into what is shared, what is specific, and counting noise.

    .. math::
        \text{shared} = r^2 - \frac{1 - r^2}{n}, \quad
        \text{noise} = 1 - \frac{2 \rho}{1 + \rho}, \quad
        \text{specific} = 1 - \text{shared} - \text{noise},

    with r the correlation of measured and predicted values, of which the second term takes away what chance adds, and
    :math:`\rho` the correlation of the two halves. All values are taken within their batch. The part of *specific* that
    the codes hold is told from the halves too, so that a code which copies a feature's noise gains nothing: of what the
    prediction leaves of the one half, the projection on the codes of that half is compared with the other half,

    .. math::
        \text{in code} = \text{specific} \cdot
        \frac{\operatorname{cov}(P_{Z(a)} e_a, e_b)}{\operatorname{cov}(e_a, e_b)} .

    Intervals are of 95 %, by standard errors of a bootstrap over the cells and of what a prediction and halves of the
    counts miss in simulations, :math:`.04 \sqrt{p (1 - p)}`. They do not tell how much better another prediction, or
    another modality measured deeper, would do: *shared* is a lower bound.

    Parameters
    ----------
    features
        Values in held-out cells.
    batch
        Batch of each cell, ``(n_cells,)``.
    n_bootstrap
        Draws of the cells.
    seed
        Seed of the draws.

    Returns
    -------
    One row for each feature: ``feature``; ``shared``, ``specific`` and ``noise``, each with ``_low`` and ``_high``;
    ``in_code`` and ``left_out``, the part of ``specific`` that the specific code holds and the rest; ``detected``, the
    number of cells that have the feature, and ``n_cells``. The three shares are not below 0 and
    add up to 1; where *shared* leaves less than the halves say is noise, *noise* is what it leaves. NaN stands where a
    feature does not vary or fewer than 10 cells have it, for ``noise`` where the values are no counts (``specific``
    then holds it too), and for ``in_code`` without codes.

    Raises
    ------
    ValueError
        If there are fewer than 100 cells, or shapes differ.
    """
    check_number("n_bootstrap", n_bootstrap, low=20, whole=True)
    check_seed("seed", seed)
    n_cells = len(features.observed)
    if n_cells < MIN_CELLS:
        raise ValueError(f"expected at least {MIN_CELLS} held-out cells, got {n_cells}; hold out more.")
    shapes = {part.shape for part in (features.observed, features.predicted, *(features.halves or ()))}
    if len(shapes) > 1 or (n_cells, len(features.names)) not in shapes:
        raise ValueError(
            f"expected the same cells and features in all values, got shapes {sorted(shapes)} and "
            f"{len(features.names)} names; align them."
        )
    codes = np.zeros(n_cells, dtype=np.intp) if batch is None else pd.factorize(np.asarray(batch).ravel())[0]
    if len(codes) != n_cells:
        raise ValueError(f"expected one batch for each of {n_cells} cells, got {len(codes)}; align them.")
    rng = np.random.default_rng(seed)
    # The first row is the cells as they are.
    draws = rng.multinomial(n_cells, np.full(n_cells, 1.0 / n_cells), size=n_bootstrap).astype(np.float32)
    weights = np.vstack([np.ones((1, n_cells), dtype=np.float32), draws])
    projection = _projections(features, codes)
    blocks = [
        _of_block(features, slice(start, start + _BLOCK), codes, weights, projection)
        for start in range(0, len(features.names), _BLOCK)
    ]
    table = pd.DataFrame({key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]})
    table.insert(0, "feature", list(features.names))
    table["n_cells"] = n_cells
    return table


def within(values: ArrayLike, codes: NDArray[np.intp]) -> NDArray[np.floating]:
    """Values less the mean of their batch, ``(n_cells, n_columns)``."""
    given = np.asarray(values)
    sizes = np.bincount(codes)
    if len(sizes) == 1:
        centred: NDArray[np.floating] = given - given.mean(axis=0)
        return centred
    means = np.zeros((len(sizes), given.shape[1]))
    np.add.at(means, codes, given)
    return given - (means / sizes[:, None])[codes]


def _of_block(
    features: Features,
    columns: slice,
    codes: NDArray[np.intp],
    weights: NDArray[np.float32],
    projection: tuple[Array, Array] | None,
) -> dict[str, NDArray[np.generic]]:
    raw = features.observed[:, columns]
    detected = (raw > raw.min(axis=0)).sum(axis=0) if features.detected is None else features.detected[columns]
    y, p = (within(part[:, columns], codes).astype(np.float32) for part in (features.observed, features.predicted))
    yy, pp, yp = weights @ (y * y), weights @ (p * p), weights @ (y * p)
    known = detected >= MIN_DETECTED
    r2 = _ratio(yp * np.maximum(yp, 0.0), yy * pp)
    # A prediction that is the same for all cells tells nothing.
    r2[:, known & ~(pp[0] > _TINY)] = 0.0
    n_free = len(y) - len(np.unique(codes))
    shared = r2 - (1.0 - r2) / n_free
    noise = np.full_like(shared, np.nan)
    held = np.full(shared.shape[1], np.nan)
    if features.halves is not None:
        a, b = (within(half[:, columns], codes).astype(np.float32) for half in features.halves)
        aa, bb, ab = weights @ (a * a), weights @ (b * b), weights @ (a * b)
        rho = np.clip(_ratio(ab, np.sqrt(aa * bb)), 0.0, 1.0)
        noise = 1.0 - 2.0 * rho / (1.0 + rho)
        if projection is not None:
            held = _held(a, b, p, projection)
    drawn = dict(zip(_PARTS, (shared, 1.0 - shared - np.nan_to_num(noise), noise), strict=True))
    values = {"shared": np.clip(shared[0], 0.0, 1.0)}
    # What is predicted is no noise, whatever the halves of few counts say.
    values["noise"] = np.minimum(noise[0], 1.0 - values["shared"])
    values["specific"] = 1.0 - values["shared"] - np.nan_to_num(values["noise"])
    found: dict[str, NDArray[np.generic]] = {}
    for name in _PARTS:
        value = values[name]
        missed = _MISSED * np.sqrt(np.nan_to_num(value * (1.0 - value)))
        reach = _NORMAL_95 * np.hypot(drawn[name][1:].std(axis=0), missed)
        low, high = np.minimum(drawn[name][0] - reach, value), np.maximum(drawn[name][0] + reach, value)
        for key, number in ((name, value), (f"{name}_low", low), (f"{name}_high", high)):
            found[key] = np.where(known, np.clip(number, 0.0, 1.0), np.nan)
    specific = np.asarray(found["specific"], dtype=np.float64)
    found["in_code"], found["left_out"] = specific * held, specific * (1.0 - held)
    found["detected"] = detected
    return found


def _ratio(part: NDArray[np.float32], whole: NDArray[np.float32]) -> Array:
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > _TINY)
    return result


def _projections(features: Features, codes: NDArray[np.intp]) -> tuple[Array, Array] | None:
    """Orthonormal bases of what the codes of either half can tell, ``(n_cells, n_coordinates)`` each."""
    if features.codes is None or features.halves is None:
        return None
    bases = []
    for code in features.codes:
        coordinates = code
        if features.states is not None:
            products = np.einsum("ij,ik->ijk", code, features.states).reshape(len(code), -1)
            if (products.shape[1] + code.shape[1]) * _CELLS_PER_COORDINATE <= len(code):
                coordinates = np.hstack([code, products])
        u, s, _ = np.linalg.svd(within(coordinates, codes), full_matrices=False)
        bases.append(np.asarray(u[:, s > 1e-6 * max(s[0], _TINY)], dtype=np.float64))
    return bases[0], bases[1]


def _held(
    a: NDArray[np.floating], b: NDArray[np.floating], p: NDArray[np.floating], bases: tuple[Array, Array]
) -> Array:
    """Share of what is reproducible beyond the prediction that goes through the codes, ``(n_features,)``."""
    scale = np.maximum((p * p).sum(axis=0), _TINY)
    a, b = (half - p * ((half * p).sum(axis=0) / scale) for half in (a, b))
    total = (a * b).sum(axis=0)
    through, chance = np.zeros(len(total)), 0.0
    for own, other, basis in ((a, b, bases[0]), (b, a, bases[1])):
        through += ((basis.T @ own) * (basis.T @ other)).sum(axis=0) / 2
        chance += basis.shape[1] / len(own) / 2
    share = np.divide(through, total, out=np.zeros_like(through), where=total > _TINY)
    # As many arbitrary coordinates would hold this share of anything.
    held: Array = np.clip((share - chance) / (1.0 - chance), 0.0, 1.0)
    return held
