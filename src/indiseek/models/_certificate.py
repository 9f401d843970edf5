"""What the certificate of a trained model is measured on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from indiseek._checks import check_mapping, check_number
from indiseek.data import Cells, Groups, Matrix, fold_splits, progress, watched
from indiseek.metrics import Certificate, Thresholds, certify, pooled_certificate, thin_counts
from indiseek.models._features import drawn
from indiseek.train import Pipeline

if TYPE_CHECKING:
    from indiseek.models._base import MultimodalModel

MIN_HELD_OUT_CELLS = 100
# Readings take 5,000 cells and retrieval 10,000: thinned halves of more would cost minutes and tell nothing.
MOST_HELD_OUT_CELLS = 10_000
# Of train(), what the folds say, and what would write.
_NOT_FOR_FOLDS = {
    "train_size",
    "validation_size",
    "external_indexing",
    "split_by",
    "write_latents",
    "checkpoint_dir",
    "keep_checkpoint",
}


def certificate(
    pipeline: Pipeline,
    cells: Cells,
    rows: NDArray[np.intp],
    reference: Mapping[str, NDArray[Any]] | None,
    *,
    obs: Mapping[str, NDArray[Any]],
    feature_names: Mapping[str, Sequence[str]],
    new_groups: str | None,
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
        Cells, and positions of the held-out ones among them, which have all modalities; of more than 10,000 so many
        are drawn.
    reference
        Features of the training cells by modality, ``(n_cells, n_features)``; None if they are not at hand.
    obs
        Further columns that may be in the codes, by name, ``(n_cells,)`` each.
    feature_names
        Names of the features by modality.
    new_groups
        Column by which the split kept groups whole; None for none.
    n_permutations, seed, thresholds
        As in :func:`indiseek.metrics.certify`.
    show_progress
        Whether a progress bar is shown where it takes seconds.
    """
    first, last = pipeline.default, list(pipeline.stages)[-1]
    rows = drawn(rows, MOST_HELD_OUT_CELLS, seed)
    tensors = pipeline.tensors(cells, rows)
    values = {name: matrix[cells.at(name, rows)] for name, matrix in cells.values.items()}
    setup = cells.schema.setup
    covariates = {key: column[rows] for key, column in cells.covariates.items()} | _depths(pipeline, values)
    # The codes of categories are labels, no numbers.
    covariates |= {key: covariates[key].astype(str) for key in setup.categorical}
    # Of held-out donors of one batch there is nothing to tell of it.
    covariates = {key: values for key, values in covariates.items() if len(np.unique(values)) > 1}
    specific = _arrays(pipeline.codes(last, tensors)) if last != first else None
    return certify(
        _arrays(dict(zip(pipeline.names, tensors.features, strict=True))),
        _arrays(pipeline.codes(first, tensors)),
        specific,
        joint=pipeline.joint(first, tensors).cpu().numpy(),
        reference=reference,
        reconstruction=None if specific is None else _arrays(pipeline.reconstruction(last, tensors)),
        replicates=_replicates(pipeline, values, seed),
        batch=covariates.get(setup.batch_key) if setup.batch_key is not None else None,
        covariates=covariates | {name: column[rows] for name, column in obs.items()},
        feature_names=feature_names,
        new_groups=new_groups,
        n_permutations=n_permutations,
        seed=seed,
        thresholds=thresholds,
        watch=partial(watched, desc="certify", unit="check", disable=not show_progress),
    )


def cross_fitted(
    model: MultimodalModel,
    mdata: MuData | None,
    n_folds: int | None,
    train_kwargs: Mapping[str, Any] | None,
    certify_kwargs: dict[str, Any],
    *,
    show_progress: bool,
) -> Certificate:
    """Certificate of as many fits as there are folds, each on the fold that it has not seen.

    Parameters
    ----------
    model
        Trained model, whose options and cells the fits have.
    mdata
        Must be None: folds are of the cells of training.
    n_folds
        Number of folds.
    train_kwargs, certify_kwargs
        Arguments of ``train`` and ``certify``.
    show_progress
        Whether a progress bar is shown.
    """
    if n_folds is None:
        raise ValueError("expected train_kwargs together with cross_fit, got them alone; give cross_fit=5, or neither.")
    if mdata is not None:
        raise ValueError(
            "expected cross_fit of the cells of training, got other cells as mdata too; leave one of the two out."
        )
    check_number("cross_fit", n_folds, low=2, whole=True)
    cells, seed = model._unchanged_cells(), certify_kwargs["seed"]
    # Cells that lack a modality are for training alone.
    paired = np.flatnonzero(cells.is_paired)
    if len(paired) // n_folds < MIN_HELD_OUT_CELLS:
        most = len(paired) // MIN_HELD_OUT_CELLS
        raise ValueError(
            f"expected at least {MIN_HELD_OUT_CELLS} cells in each fold, got {len(paired)} cells for {n_folds} folds; "
            + (f"take at most cross_fit={most}." if most > 1 else "there are too few cells for folds.")
        )
    if train_kwargs is not None:
        check_mapping("train_kwargs", train_kwargs, "arguments of train() by name")
    given = dict(train_kwargs or {})
    if refused := sorted(_NOT_FOR_FOLDS & set(given)):
        raise ValueError(f"expected train_kwargs without {refused}, which the folds settle; leave them out.")
    split_by = model.fitted.split_options.get("split_by")
    groups = None if split_by is None else model._groups(split_by).codes
    categorical = [cells.covariates[key][paired] for key in cells.schema.setup.categorical]
    strata = categorical or [np.zeros(len(paired), dtype=np.intp)]
    of_paired = None if groups is None else Groups(str(split_by), groups[paired])
    if split_by is not None:
        certify_kwargs = certify_kwargs | {"obs": tuple(dict.fromkeys((*certify_kwargs["obs"], split_by)))}
    accelerator = {"cuda": "gpu"}.get(model.device.type, model.device.type)
    given = {"accelerator": accelerator, "seed": seed, "show_progress": False} | given
    found = []
    with progress(total=n_folds, desc="certify", unit="fit", disable=not show_progress) as bar:
        for split in fold_splits(n_folds, strata, of_paired, seed=seed):
            train, validation, test = (paired[part] for part in split)
            others = np.flatnonzero(~cells.is_paired)
            if groups is not None:
                others = others[~np.isin(groups[others], groups[np.concatenate([validation, test])])]
            train = np.sort(np.concatenate([train, others]))
            fit = copy.copy(model)
            fit._fitted = fit._chosen_on = None
            fit.train(external_indexing=[train, validation, test], write_latents=False, **given)
            found.append(fit.certify(**certify_kwargs, show_progress=False))
            bar.update()
    return pooled_certificate(found)


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
