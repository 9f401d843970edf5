"""What one modality knows of another: the conditional mean, the target that separates shared from specific."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._checks import as_cells, check_paired
from ._kernel_ridge import fit_predict
from ._probes import cross_predict, pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_N_LANDMARKS = 600
_MAX_REFERENCE = 20_000


def conditional_mean(
    features: ArrayLike,
    given: ArrayLike,
    *,
    reference: tuple[ArrayLike, ArrayLike] | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Array:
    """Estimate ``E[features | given]`` of held-out cells.

    What a specific code holds of it is leakage; what a shared code holds of ``features`` minus it is excess.

    Parameters
    ----------
    features
        Features of one modality, ``(n_cells, n_features)``.
    given
        Features of the other modality or modalities side by side, ``(n_cells, n_given)``.
    reference
        The same two arrays for other cells of the same kind (training cells), on which the regression is fitted; at
        most 20,000 of them are used. If None, it is cross-fitted inside the held-out cells.
    n_splits
        Number of folds of the cross-fit, default 5.
    seed
        Seed, default 0.

    Returns
    -------
    Array of shape ``(n_cells, n_features)``.

    Raises
    ------
    ValueError
        If cells or features differ or values are not finite.
    """
    x, y = pair(given, features, "given", "features")
    if reference is None:
        (mean,) = cross_predict(x, [y], probe="nonlinear", n_splits=n_splits, seed=seed)
        return mean
    reference_y = as_cells(reference[0], "reference features", min_cells=4)
    reference_x = as_cells(reference[1], "reference given", min_cells=4)
    check_paired((reference_y, reference_x), ("reference features", "reference given"))
    for name, held_out, fitted in (("features", y, reference_y), ("given", x, reference_x)):
        if held_out.shape[1] != fitted.shape[1]:
            raise ValueError(
                f"expected the same columns in {name} and their reference, got {held_out.shape[1]} and "
                f"{fitted.shape[1]}; do put them through one transform"
            )
    rng = np.random.default_rng([seed, 4])
    cells = rng.permutation(len(reference_x))[:_MAX_REFERENCE]
    return fit_predict(
        reference_x[cells],
        reference_y[cells],
        x,
        groups=[slice(0, y.shape[1])],
        nonlinear=True,
        rng=rng,
        n_landmarks=_N_LANDMARKS,
    )
