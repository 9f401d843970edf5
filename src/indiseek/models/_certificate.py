"""What the certificate of a trained model is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import Cells, Matrix, watched
from indiseek.metrics import Certificate, Thresholds, certify, thin_counts
from indiseek.train import Pipeline


def certificate(
    pipeline: Pipeline,
    cells: Cells,
    rows: NDArray[np.intp],
    reference: Mapping[str, NDArray[Any]] | None,
    *,
    obs: Mapping[str, NDArray[Any]] | None,
    feature_names: Mapping[str, Sequence[str]],
    n_permutations: int,
    seed: int,
    thresholds: Thresholds | None,
    show_progress: bool,
) -> Certificate:
    """Certificate of the codes of held-out cells.

    Parameters
    ----------
    pipeline
        Transforms and networks.
    cells, rows
        Cells, and positions of the held-out ones among them.
    reference
        Features of the training cells by modality, ``(n_cells, n_features)``; None if they are not at hand.
    obs
        Further columns that may be in the codes, by name, ``(n_held_out,)`` each.
    feature_names
        Names of the features by modality.
    n_permutations, seed, thresholds
        As in :func:`indiseek.metrics.certify`.
    show_progress
        Whether a progress bar is shown where it takes seconds.
    """
    first, last = pipeline.default, list(pipeline.stages)[-1]
    tensors = pipeline.tensors(cells, rows)
    values = {name: matrix[rows] for name, matrix in cells.values.items()}
    setup = cells.schema.setup
    covariates = {key: column[rows] for key, column in cells.covariates.items()} | _depths(pipeline, values)
    # The codes of categories are labels, no numbers.
    covariates |= {key: covariates[key].astype(str) for key in setup.categorical}
    specific = _arrays(pipeline.codes(last, tensors)) if last != first else None
    return certify(
        _arrays(dict(zip(pipeline.names, tensors.features, strict=True))),
        _arrays(pipeline.codes(first, tensors)),
        specific,
        joint=pipeline.joint(first, tensors).cpu().numpy(),
        reference=reference,
        reconstruction=None if specific is None else _arrays(pipeline.reconstruction(last, tensors)),
        replicates=_replicates(pipeline, values, seed),
        batch=None if setup.batch_key is None else covariates[setup.batch_key],
        covariates=covariates | {name: np.asarray(column) for name, column in (obs or {}).items()},
        feature_names=feature_names,
        n_permutations=n_permutations,
        seed=seed,
        thresholds=thresholds,
        watch=partial(watched, desc="certify", unit="check", disable=not show_progress),
    )


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _depths(pipeline: Pipeline, values: Mapping[str, Matrix]) -> dict[str, NDArray[Any]]:
    """Logarithm of each cell's counts, for modalities that have counts in which cells differ."""
    depths = {
        f"depth of {name}": np.log1p(np.asarray(values[name].sum(axis=1), dtype=np.float64).ravel())
        for name in pipeline.names
        if pipeline.transform(name).needs_counts
    }
    return {name: depth for name, depth in depths.items() if np.ptp(depth) > 0}


def _replicates(
    pipeline: Pipeline, values: Mapping[str, Matrix], seed: int
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Features of two thinned halves of the counts, for modalities that have counts."""
    result = {}
    for name in pipeline.names:
        transform = pipeline.transform(name)
        if transform.needs_counts:
            first, second = thin_counts(values[name], seed=seed)
            result[name] = (transform.apply_to(first).cpu().numpy(), transform.apply_to(second).cpu().numpy())
    return result
