"""What is handed to a certificate, checked."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from indiseek._checks import check_mapping, check_number, check_seed

from ._cells import MIN_CELLS, Cells
from ._checks import as_cells, check_paired
from ._probes import varying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Inverse = Callable[[dict[str, Array], dict[str, Array]], Mapping[str, ArrayLike]]


def check_inputs(
    features: Mapping[str, ArrayLike],
    shared: Mapping[str, ArrayLike],
    specific: Mapping[str, ArrayLike] | None,
    *,
    joint: ArrayLike | None,
    reference: Mapping[str, ArrayLike] | None,
    replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None,
    all_replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None,
    reconstruction: Mapping[str, ArrayLike] | Inverse | None,
    batch: ArrayLike | None,
    covariates: Mapping[str, ArrayLike] | None,
    feature_names: Mapping[str, Sequence[str]] | None,
    new_groups: str | None,
    n_permutations: int,
    k: int,
    seed: int,
) -> Cells:
    """Return the cells as finite matrices, or raise the ValueError that says what to mend."""
    for kind, given in (
        ("features", features),
        ("shared", shared),
        ("specific", specific),
        ("reference", reference),
        ("replicates", replicates),
        ("all_replicates", all_replicates),
        ("covariates", covariates),
        ("feature_names", feature_names),
    ):
        if given is not None or kind in ("features", "shared"):
            check_mapping(kind, given, "entries by name")
    if not (reconstruction is None or callable(reconstruction)):
        check_mapping("reconstruction", reconstruction, "arrays by modality")
    check_seed("seed", seed)
    if not (new_groups is None or isinstance(new_groups, str)):
        raise TypeError(f"expected new_groups as the name of a column, got {new_groups!r}; for example 'donor'")
    modalities = list(features)
    if len(modalities) < 2:
        raise ValueError(f"expected at least 2 modalities in features, got {modalities}; do pass all paired modalities")
    for name, mapping in (("shared", shared), ("specific", specific), ("reference", reference)):
        if mapping is not None:
            _check_modalities(name, mapping, modalities, all_of_them=True)
    for name, optional in (
        ("replicates", replicates),
        ("all_replicates", all_replicates),
        ("feature_names", feature_names),
    ):
        _check_modalities(name, optional or {}, modalities, all_of_them=False)
    if set(all_replicates or {}) - set(replicates or {}):
        raise ValueError(
            f"expected all_replicates only where there are replicates, got {list(all_replicates or {})}; do hand in "
            "the features of the same two halves as replicates"
        )

    cells = Cells(
        features=_matrices("features", features, modalities),
        shared=_matrices("shared", shared, modalities),
        specific={} if specific is None else _matrices("specific", specific, modalities),
        joint=None if joint is None else as_cells(joint, "joint", min_cells=MIN_CELLS),
        reference=None if reference is None else _matrices("reference", reference, modalities, min_cells=4),
        replicates=_halves("replicates", replicates),
        all_replicates=_halves("all_replicates", all_replicates),
        reconstruction={},
        batch=None if batch is None else _labels(batch, "batch"),
        covariates={name: _covariate(values, name) for name, values in (covariates or {}).items()},
        feature_names={},
        new_groups=new_groups or "",
        n_permutations=n_permutations,
        k=k,
        seed=seed,
    )
    back_given = reconstruction(cells.shared, cells.specific) if callable(reconstruction) else (reconstruction or {})
    check_mapping("reconstruction", back_given, "arrays by modality")
    _check_modalities("reconstruction", back_given, modalities, all_of_them=False)
    back = {name: as_cells(array, f"reconstruction['{name}']") for name, array in back_given.items()}
    cells = replace(cells, reconstruction=back)
    named = [
        (f"{kind}['{name}']", array)
        for kind, arrays in (("features", cells.features), ("shared", cells.shared), ("specific", cells.specific))
        for name, array in arrays.items()
    ]
    named += [] if cells.joint is None else [("joint", cells.joint)]
    named += [
        (f"{kind}['{name}'][{half}]", pair[half])
        for kind, pairs in (("replicates", cells.replicates), ("all_replicates", cells.all_replicates))
        for name, pair in pairs.items()
        for half in (0, 1)
    ]
    named += [(f"reconstruction['{name}']", array) for name, array in cells.reconstruction.items()]
    named += [] if cells.batch is None else [("batch", cells.batch)]
    named += [(f"covariates['{name}']", array) for name, array in cells.covariates.items()]
    check_paired([array for _, array in named], [name for name, _ in named])
    if cells.reference is not None:
        check_paired(list(cells.reference.values()), [f"reference['{name}']" for name in cells.reference])
    for name, halves in cells.replicates.items():
        for half in halves:
            _check_columns(f"replicates['{name}']", half, cells.features[name])
    for name, array in cells.reconstruction.items():
        if array.shape[1] != cells.features[name].shape[1]:
            raise ValueError(
                f"expected reconstruction['{name}'] with {cells.features[name].shape[1]} features, got "
                f"{array.shape[1]}; do give back the features that were handed in"
            )
    for name, array in (cells.reference or {}).items():
        _check_columns(f"reference['{name}']", array, cells.features[name])
    for name, array in cells.features.items():
        if not varying(array).any():
            raise ValueError(f"expected features['{name}'] that vary over cells, got constants; do pass other features")
    check_number("k", k, low=1, high=cells.n_cells, whole=True)
    check_number("n_permutations", n_permutations, low=0, whole=True)
    return replace(cells, feature_names=_names(cells.features, feature_names or {}))


def _matrices(
    kind: str, mapping: Mapping[str, ArrayLike], modalities: Iterable[str], *, min_cells: int = MIN_CELLS
) -> dict[str, Array]:
    return {name: as_cells(mapping[name], f"{kind}['{name}']", min_cells=min_cells) for name in modalities}


def _halves(kind: str, mapping: Mapping[str, tuple[ArrayLike, ArrayLike]] | None) -> dict[str, tuple[Array, Array]]:
    return {
        name: (as_cells(a, f"{kind}['{name}'][0]"), as_cells(b, f"{kind}['{name}'][1]"))
        for name, (a, b) in (mapping or {}).items()
    }


def _labels(values: ArrayLike, name: str) -> NDArray[Any]:
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise ValueError(f"expected {name} as one label a cell, got shape {labels.shape}; do pass one column")
    return labels.astype(str)


def _covariate(values: ArrayLike, name: str) -> Array:
    """Numbers as one column, labels as indicators; NaN and constants are the user's to mend."""
    array = np.asarray(values)
    if array.dtype.kind in "iuf" and array.ndim == 1:
        column = as_cells(array, f"covariates['{name}']")
    else:
        labels = _labels(array, f"covariates['{name}']")
        column = (labels[:, None] == np.unique(labels)).astype(float)
    if not varying(column).any():
        raise ValueError(f"expected covariates['{name}'] that vary over cells, got one value; do leave it out")
    return column


def _check_modalities(kind: str, mapping: Mapping[str, object], modalities: list[str], *, all_of_them: bool) -> None:
    wrong = set(mapping) ^ set(modalities) if all_of_them else set(mapping) - set(modalities)
    if wrong:
        raise ValueError(
            f"expected {kind} for the modalities {modalities}, got {list(mapping)}; do name them as in features"
        )


def _check_columns(name: str, array: Array, features: Array) -> None:
    if array.shape[1] != features.shape[1]:
        raise ValueError(
            f"expected {name} with {features.shape[1]} features, got {array.shape[1]}; "
            "do put it through the transform that made the features"
        )


def _names(features: dict[str, Array], given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    names = {name: [str(column) for column in range(array.shape[1])] for name, array in features.items()}
    for name, own in given.items():
        if isinstance(own, str) or not isinstance(own, Sized):
            raise TypeError(f"expected feature_names for {name} as a list of names, got {own!r}; do pass a list")
        if len(own) != len(names[name]):
            raise ValueError(
                f"expected {len(names[name])} feature_names for {name}, got {len(own)}; "
                "do give one for each column of its features"
            )
        names[name] = [str(feature) for feature in own]
    return names
