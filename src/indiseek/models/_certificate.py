"""What the certificate of a trained model is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import Matrix, Transform
from indiseek.metrics import Certificate, Thresholds, certify, thin_counts
from indiseek.models._fitted import Fitted
from indiseek.models._module import INFERENCE_BATCH


def certificate(
    fitted: Fitted,
    values: Mapping[str, Matrix],
    reference: Mapping[str, NDArray[Any]] | None,
    *,
    feature_names: Mapping[str, Sequence[str]],
    n_permutations: int,
    seed: int,
    thresholds: Thresholds | None,
) -> Certificate:
    """Certificate of the codes of held-out cells.

    Parameters
    ----------
    fitted
        State of the model.
    values
        Values of the held-out cells by modality, in the model's order.
    reference
        Features of the training cells by modality, ``(n_cells, n_features)``; None if they are not at hand.
    feature_names
        Names of the features by modality.
    n_permutations, seed, thresholds
        As in :func:`indiseek.metrics.certify`.
    """
    module = fitted.module
    stages = list(module.objectives)
    first, last = stages[0], stages[-1]

    def by_name(tensors: Sequence[Tensor]) -> dict[str, NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in zip(values, tensors, strict=True)}

    cells = module.features(list(values.values()))
    return certify(
        by_name(cells.features),
        by_name(module.codes(first, cells, INFERENCE_BATCH)),
        by_name(module.codes(last, cells, INFERENCE_BATCH)) if last != first else None,
        joint=module.joint(first, cells, INFERENCE_BATCH).cpu().numpy(),
        reference=reference,
        replicates=_replicates(fitted.transforms, values, seed),
        covariates=_depths(fitted.transforms, values),
        feature_names=feature_names,
        n_permutations=n_permutations,
        seed=seed,
        thresholds=thresholds,
    )


def _depths(transforms: Mapping[str, Transform], values: Mapping[str, Matrix]) -> dict[str, NDArray[Any]]:
    """Logarithm of each cell's counts, for modalities that have counts in which cells differ."""
    depths = {
        f"depth of {name}": np.log1p(np.asarray(values[name].sum(axis=1), dtype=np.float64).ravel())
        for name, transform in transforms.items()
        if transform.needs_counts
    }
    return {name: depth for name, depth in depths.items() if np.ptp(depth) > 0}


def _replicates(
    transforms: Mapping[str, Transform], values: Mapping[str, Matrix], seed: int
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Features of two thinned halves of the counts, for modalities that have counts."""
    result = {}
    for name, transform in transforms.items():
        if transform.needs_counts:
            first, second = thin_counts(values[name], seed=seed)
            result[name] = (transform.apply_to(first).cpu().numpy(), transform.apply_to(second).cpu().numpy())
    return result
