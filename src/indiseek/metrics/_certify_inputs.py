"""The held-out cells a certificate is drawn from, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ._checks import as_cells, check_count, check_paired
from ._probes import varying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_MIN_CELLS = 100


@dataclass(frozen=True, eq=False)
class Cells:
    """Arrays of the same held-out cells for every modality."""

    features: dict[str, Array]
    shared: dict[str, Array]
    specific: dict[str, Array]
    joint: Array | None
    reference: dict[str, Array] | None
    replicates: dict[str, tuple[Array, Array]]
    feature_names: dict[str, list[str]]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(next(iter(self.features.values())))

    def others(self, modality: str) -> list[str]:
        """Names of the other modalities."""
        return [name for name in self.features if name != modality]

    def draw(self, n_cells: int, seed: int) -> Cells:
        """Return at most ``n_cells`` of the cells, drawn at random."""
        if self.n_cells <= n_cells:
            return self
        rows = np.sort(np.random.default_rng([seed, 6]).permutation(self.n_cells)[:n_cells])
        return replace(
            self,
            features={name: array[rows] for name, array in self.features.items()},
            shared={name: array[rows] for name, array in self.shared.items()},
            specific={name: array[rows] for name, array in self.specific.items()},
            joint=None if self.joint is None else self.joint[rows],
            replicates={name: (a[rows], b[rows]) for name, (a, b) in self.replicates.items()},
        )


def check_inputs(
    features: Mapping[str, ArrayLike],
    shared: Mapping[str, ArrayLike],
    specific: Mapping[str, ArrayLike] | None,
    *,
    joint: ArrayLike | None,
    reference: Mapping[str, ArrayLike] | None,
    replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None,
    feature_names: Mapping[str, Sequence[str]] | None,
    k: int,
) -> Cells:
    """Return the cells as finite matrices, or raise the ValueError that says what to mend."""
    modalities = list(features)
    if len(modalities) < 2:
        raise ValueError(f"expected at least 2 modalities in features, got {modalities}; do pass all paired modalities")
    for name, mapping in (("shared", shared), ("specific", specific), ("reference", reference)):
        if mapping is not None:
            _check_modalities(name, mapping, modalities, all_of_them=True)
    for name, optional in (("replicates", replicates), ("feature_names", feature_names)):
        _check_modalities(name, optional or {}, modalities, all_of_them=False)

    cells = Cells(
        features=_matrices("features", features, modalities),
        shared=_matrices("shared", shared, modalities),
        specific={} if specific is None else _matrices("specific", specific, modalities),
        joint=None if joint is None else as_cells(joint, "joint", min_cells=_MIN_CELLS),
        reference=None if reference is None else _matrices("reference", reference, modalities),
        replicates={
            name: (as_cells(a, f"replicates['{name}'][0]"), as_cells(b, f"replicates['{name}'][1]"))
            for name, (a, b) in (replicates or {}).items()
        },
        feature_names={},
    )
    named = [
        (f"{kind}['{name}']", array)
        for kind, arrays in (("features", cells.features), ("shared", cells.shared), ("specific", cells.specific))
        for name, array in arrays.items()
    ]
    named += [] if cells.joint is None else [("joint", cells.joint)]
    named += [
        (f"replicates['{name}'][{half}]", pair[half]) for name, pair in cells.replicates.items() for half in (0, 1)
    ]
    check_paired([array for _, array in named], [name for name, _ in named])
    if cells.reference is not None:
        check_paired(list(cells.reference.values()), [f"reference['{name}']" for name in cells.reference])
    for name, halves in cells.replicates.items():
        for half in halves:
            _check_columns(f"replicates['{name}']", half, cells.features[name])
    for name, array in (cells.reference or {}).items():
        _check_columns(f"reference['{name}']", array, cells.features[name])
    for name, array in cells.features.items():
        if not varying(array).any():
            raise ValueError(f"expected features['{name}'] that vary over cells, got constants; do pass other features")
    check_count(k, "k", low=1, high=cells.n_cells)
    return replace(cells, feature_names=_names(cells.features, feature_names or {}))


def _matrices(kind: str, mapping: Mapping[str, ArrayLike], modalities: Iterable[str]) -> dict[str, Array]:
    return {name: as_cells(mapping[name], f"{kind}['{name}']", min_cells=_MIN_CELLS) for name in modalities}


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
        if len(own) != len(names[name]):
            raise ValueError(
                f"expected {len(names[name])} feature_names for {name}, got {len(own)}; "
                "do give one for each column of its features"
            )
        names[name] = [str(feature) for feature in own]
    return names
