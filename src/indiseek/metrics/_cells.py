"""The held-out cells that a certificate is drawn from, as checks see them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from ._conditional import conditional_mean
from ._copies import copies, seen_before
from ._probes import varying

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MIN_CELLS = 100


@dataclass(frozen=True, eq=False)
class Cells:
    """Arrays of the same held-out cells for every modality, as checks see them.

    Attributes
    ----------
    features, shared, specific
        By modality, ``(n_cells, ...)``; ``specific`` is empty where there are no specific codes.
    joint
        Joint shared code, or None.
    reference
        Features of training cells, or None.
    replicates, all_replicates
        Two halves of the features, and of everything measured, for some modalities.
    reconstruction
        Features as the codes give them back, for some modalities.
    batch
        Label of each cell's batch, or None.
    covariates
        By name, ``(n_cells, 1)`` for numbers and ``(n_cells, n_labels)`` indicators for labels.
    feature_names
        By modality.
    new_groups
        Name of the groups, such as donors, of which held-out cells are others than those of training; "" for none.
    n_copies, n_seen
        Cells that were left out: copies of other held-out cells, and of training cells.
    max_cells
        So many are read at most.
    n_permutations, k, seed
        Settings.
    """

    features: dict[str, Array]
    shared: dict[str, Array]
    specific: dict[str, Array]
    joint: Array | None
    reference: dict[str, Array] | None
    replicates: dict[str, tuple[Array, Array]]
    all_replicates: dict[str, tuple[Array, Array]]
    reconstruction: dict[str, Array]
    batch: NDArray[Any] | None
    covariates: dict[str, Array]
    feature_names: dict[str, list[str]]
    new_groups: str = ""
    n_copies: int = 0
    n_seen: int = 0
    max_cells: int = 5000
    n_permutations: int = 99
    k: int = 10
    seed: int = 0
    _whole: Cells | None = field(default=None, repr=False)
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(next(iter(self.features.values())))

    @property
    def n_reference(self) -> int:
        """Number of training cells handed in, 0 if none."""
        return 0 if self.reference is None else len(next(iter(self.reference.values())))

    @property
    def whole(self) -> Cells:
        """All cells, where these are a draw of them: for what takes little time."""
        return self if self._whole is None else self._whole

    def others(self, modality: str) -> list[str]:
        """Names of the other modalities."""
        return [name for name in self.features if name != modality]

    def pairs(self) -> list[tuple[str, str]]:
        """Each modality with each other one."""
        return list(permutations(self.features, 2))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made at the first call only: checks share what is dear."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def predictable(self, modality: str, other: str | None = None) -> Array:
        """The part of a modality that another one, or all others together, predict: ``E[X_i | X_j]``."""
        given = self.others(modality) if other is None else [other]
        return self.once(("predictable", modality, tuple(given)), lambda: self._conditional(modality, given))

    def _conditional(self, modality: str, given: list[str]) -> Array:
        reference = None
        if self.reference is not None:
            reference = self.reference[modality], np.hstack([self.reference[name] for name in given])
        inputs = np.hstack([self.features[name] for name in given])
        return conditional_mean(self.features[modality], inputs, reference=reference, seed=self.seed)

    def forbidden(self, modality: str, other: str) -> dict[str, Array]:
        """What a specific code should not hold: the other's shared code, and what the other knows of its modality."""
        targets = {"shared": self.shared[other], "predictable": self.predictable(modality, other)}
        # A collapsed code, or a mean that the other modality does not shift, holds nothing that could leak.
        return {name: array for name, array in targets.items() if self.varies(array)}

    @staticmethod
    def varies(array: Array) -> bool:
        """Whether any column varies over cells."""
        return bool(varying(array).any())

    def take(self, rows: NDArray[np.intp]) -> Cells:
        """Return some of the cells."""
        return replace(
            self,
            features={name: array[rows] for name, array in self.features.items()},
            shared={name: array[rows] for name, array in self.shared.items()},
            specific={name: array[rows] for name, array in self.specific.items()},
            joint=None if self.joint is None else self.joint[rows],
            replicates={name: (a[rows], b[rows]) for name, (a, b) in self.replicates.items()},
            all_replicates={name: (a[rows], b[rows]) for name, (a, b) in self.all_replicates.items()},
            reconstruction={name: array[rows] for name, array in self.reconstruction.items()},
            batch=None if self.batch is None else self.batch[rows],
            covariates={name: array[rows] for name, array in self.covariates.items()},
            _known={},
        )

    def draw(self, n_cells: int) -> Cells:
        """Return at most ``n_cells`` of the cells, drawn at random."""
        if self.n_cells <= n_cells:
            return replace(self, max_cells=n_cells)
        rows = np.sort(np.random.default_rng([self.seed, 6]).permutation(self.n_cells)[:n_cells])
        return replace(self.take(rows), _whole=self, max_cells=n_cells)

    def without_copies(self) -> Cells:
        """Return the cells that equal no other one and no training cell, and count the others.

        Raises
        ------
        ValueError
            If fewer than 100 cells are left.
        """
        table = np.hstack(list(self.features.values()))
        seen = np.zeros(self.n_cells, dtype=bool)
        if self.reference is not None:
            seen = seen_before(table, np.hstack(list(self.reference.values())))
        again = copies(table) & ~seen
        kept = np.flatnonzero(~(seen | again))
        if len(kept) == self.n_cells:
            return self
        if len(kept) < MIN_CELLS:
            raise ValueError(
                f"expected at least {MIN_CELLS} held-out cells that are no copies of other or training cells, got "
                f"{len(kept)} of {self.n_cells}; do hand in cells that training has not seen"
            )
        return replace(self.take(kept), n_copies=int(again.sum()), n_seen=int(seen.sum()))
