"""What one modality knows of another: the conditional mean, the target that separates shared from specific."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from indiseek._checks import check_number

from ._checks import as_cells, check_paired
from ._kernel_ridge import fit_predict
from ._probes import cross_predict, pair
from ._regression import ensemble_predict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_N_LANDMARKS = 600
_MAX_REFERENCE = 20_000
_N_MEMBERS = 3


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
        most 20,000 of them are used. Kernel ridge and an ensemble of networks compete, and the one that errs less on
        an eighth of these cells is taken. What it misses, because these cells are few, is learned by kernel ridge that
        is cross-fitted inside the held-out cells, and of that each column gets the share, 0 to 1, that lowers its
        error most. If None, kernel ridge is cross-fitted inside the held-out cells.
    n_splits
        Number of folds of the cross-fit, default 5. With `reference` and fewer than two cells a fold there is none.
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
    check_number("n_splits", n_splits, low=2, whole=True)
    if not isinstance(reference, tuple | list) or len(reference) != 2:
        raise TypeError(f"expected reference as features and given, got {reference!r}; do pass a pair of arrays")
    reference_y = as_cells(reference[0], "reference features", min_cells=4)
    reference_x = as_cells(reference[1], "reference given", min_cells=4)
    check_paired((reference_y, reference_x), ("reference features", "reference given"))
    for name, held_out, fitted in (("features", y, reference_y), ("given", x, reference_x)):
        if held_out.shape[1] != fitted.shape[1]:
            raise ValueError(
                f"expected the same columns in {name} and their reference, got {held_out.shape[1]} and "
                f"{fitted.shape[1]}; do put them through one transform"
            )
    cells = np.random.default_rng([seed, 4]).permutation(len(reference_x))[:_MAX_REFERENCE]
    mean = _better(reference_x[cells], reference_y[cells], x, seed)
    return mean + _missed(x, y - mean, n_splits, seed)


def _missed(x: Array, residual: Array, n_splits: int, seed: int) -> Array:
    """What is left of the conditional mean in the residuals of held-out cells, as far as these tell.

    Otherwise a shared code of the others, which is a function of them alone, finds it there and looks as if it held
    what they cannot know: 15 % of the residuals after a regression on 800 cells.
    """
    if len(x) < 2 * n_splits:
        return np.zeros_like(residual)
    (missed,) = cross_predict(x, [residual], probe="nonlinear", n_splits=n_splits, seed=seed)
    norm = np.square(missed).sum(axis=0)
    share = np.divide((residual * missed).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)
    return np.clip(share, 0.0, 1.0) * missed


def _better(x: Array, y: Array, x_new: Array, seed: int) -> Array:
    """Prediction of kernel ridge or of networks, whichever errs less on a part of the reference cells."""
    n_stop = max(2, len(x) // 8)
    stop, fitted = np.arange(n_stop), np.arange(n_stop, len(x))
    # The networks predict both at once; kernel ridge is fitted again on all cells if it wins.
    networks = ensemble_predict(x, y, np.vstack([x[stop], x_new]), held_out=stop, n_members=_N_MEMBERS, seed=seed)
    kernels = _kernel_ridge(x[fitted], y[fitted], x[stop], seed)
    if np.square(networks[:n_stop] - y[stop]).sum() < np.square(kernels - y[stop]).sum():
        return networks[n_stop:]
    return _kernel_ridge(x, y, x_new, seed)


def _kernel_ridge(x: Array, y: Array, x_new: Array, seed: int) -> Array:
    return fit_predict(
        x,
        y,
        x_new,
        groups=[slice(0, y.shape[1])],
        nonlinear=True,
        rng=np.random.default_rng([seed, 5]),
        n_landmarks=_N_LANDMARKS,
    )
