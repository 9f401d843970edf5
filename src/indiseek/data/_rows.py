"""Which rows: the split of the cells into training, validation and test, and the batches of an epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from indiseek._checks import check_seed

# Fractions of the cells where nothing is said. Verdicts on codes of ten dimensions need some 1,500 cells.
_VALIDATION_SIZE, _TEST_SIZE, _MOST_TEST, _TEST_CELLS = 0.1, 0.1, 0.25, 1500


class Split(NamedTuple):
    """Sorted positions of the cells of each part."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of cells that a split keeps whole.

    Attributes
    ----------
    name
        Column of ``.obs`` that they come from.
    codes
        Number of each cell's group, ``(n_cells,)``, from 0.
    keep
        Codes of covariates, ``(n_cells,)`` each, of which every category is to have training cells.
    """

    name: str
    codes: NDArray[np.intp]
    keep: tuple[NDArray[np.intp], ...] = ()

    def digest(self) -> str:
        """Digest of which cell is in which group."""
        return hashlib.sha256(self.codes.astype(np.int64).tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitOptions:
    """What a user asks of the split.

    Attributes
    ----------
    train_size, validation_size
        Fractions of the cells; the rest are test cells. None takes a tenth for validation, for testing a tenth or as
        many as a verdict needs, 1,500, where these are no more than a quarter, and the rest for training.
    external_indexing
        Positions of training, validation and (optionally) test cells, instead of a random split.
    groups
        Groups that are to stay whole, such as donors; None for none.
    paired
        Whether a cell has every modality, ``(n_cells,)``, where not all have. Validation and test cells are paired
        cells, and fractions are of these; the others are for training, but those of groups that are held out, which
        are in no part. None where all are paired.
    """

    train_size: float | None = None
    validation_size: float | None = None
    external_indexing: Sequence[ArrayLike] | None = None
    groups: Groups | None = None
    paired: NDArray[np.bool_] | None = None

    def n_train(self, n_cells: int, seed: int) -> int:
        """Number of paired training cells that these options give; ValueError and TypeError as in :meth:`split`."""
        if self.paired is not None:
            return int(self.paired[self.split(n_cells, seed).train].sum())
        if self.external_indexing is not None or self.groups is not None:
            return len(self.split(n_cells, seed).train)
        train_size, validation_size = self._sizes(n_cells)
        _check_sizes(train_size, validation_size)
        return max(1, round(train_size * n_cells))

    def split(self, n_cells: int, seed: int) -> Split:
        """Split so many cells.

        Raises
        ------
        ValueError
            As in :func:`random_split`, :func:`given_split` and :func:`grouped_split`, or if both of these are asked
            for.
        """
        if self.external_indexing is not None:
            if self.groups is not None:
                raise ValueError(
                    f"expected split_by or external_indexing, got both, {self.groups.name!r} and positions; leave one "
                    "out."
                )
            return self._given(n_cells)
        if self.paired is not None:
            return self._of_paired(seed)
        train_size, validation_size = self._sizes(n_cells)
        if self.groups is not None:
            return grouped_split(self.groups, train_size=train_size, validation_size=validation_size, seed=seed)
        return random_split(n_cells, train_size=train_size, validation_size=validation_size, seed=seed)

    def _given(self, n_cells: int) -> Split:
        split = given_split(n_cells, cast(Sequence[ArrayLike], self.external_indexing))
        if self.paired is not None:
            n_unpaired = int((~self.paired[np.concatenate(split[1:])]).sum())
            if n_unpaired:
                raise ValueError(
                    "expected in external_indexing validation and test cells with all modalities, on which codes are "
                    f"judged, got {n_unpaired} without one; give these for training."
                )
            _check(Split(split.train[self.paired[split.train]], split.validation, split.test))
        return split

    def _of_paired(self, seed: int) -> Split:
        """Split of the paired cells, with the others for training."""
        paired = cast(NDArray[np.bool_], self.paired)
        rows, groups = np.flatnonzero(paired), self.groups
        if groups is not None:
            own = np.unique(groups.codes[paired], return_inverse=True)[1]
            groups = Groups(groups.name, own, tuple(codes[paired] for codes in groups.keep))
        split = replace(self, groups=groups, paired=None).split(len(rows), seed)
        train, validation, test = (rows[part] for part in split)
        others = np.flatnonzero(~paired)
        if self.groups is not None:
            codes = self.groups.codes
            others = others[~np.isin(codes[others], codes[np.concatenate([validation, test])])]
        return Split(np.sort(np.concatenate([train, others])), validation, test)

    def _sizes(self, n_cells: int) -> tuple[float, float]:
        """Fractions of training and validation cells."""
        validation_size = _VALIDATION_SIZE if self.validation_size is None else self.validation_size
        if self.train_size is not None:
            return self.train_size, validation_size
        _check_sizes(None, validation_size)
        test_size = max(_TEST_SIZE, min(_TEST_CELLS / n_cells, _MOST_TEST))
        # Of what validation leaves.
        return (1.0 - validation_size) * (1.0 - test_size / (1.0 - _VALIDATION_SIZE)), validation_size

    def digest(self) -> dict[str, Any]:
        """:meth:`record`, with digests in place of positions."""
        parts = self.record()["external_indexing"] or []
        digests = [hashlib.sha256(repr(part).encode()).hexdigest() for part in parts]
        found = self.record() | {"external_indexing": digests or None}
        if self.paired is not None:
            found |= {"paired": hashlib.sha256(np.packbits(self.paired).tobytes()).hexdigest()}
        return found if self.groups is None else found | {"groups": self.groups.digest()}

    def record(self) -> dict[str, Any]:
        """The options as plain values."""
        indexing, validation_size = self.external_indexing, self.validation_size
        if self.train_size is not None and validation_size is None:
            validation_size = _VALIDATION_SIZE
        found = {
            "train_size": self.train_size,
            "validation_size": validation_size,
            "external_indexing": None if indexing is None else [_plain(part) for part in indexing],
        }
        # Files of before there were groups know nothing of them.
        return found if self.groups is None else found | {"split_by": self.groups.name}


def random_split(n_cells: int, *, train_size: float, validation_size: float, seed: int) -> Split:
    """Split at random.

    Parameters
    ----------
    n_cells
        Number of cells.
    train_size, validation_size
        Fractions; what they leave is the test part.
    seed
        Seed of the permutation.

    Raises
    ------
    ValueError
        If the fractions are not in (0, 1], add up to more than 1, or leave too few cells.
    """
    _check_sizes(train_size, validation_size)
    check_seed("seed", seed)
    n_train = round(train_size * n_cells)
    n_validation = min(round(validation_size * n_cells), n_cells - n_train)
    order = np.random.default_rng(seed).permutation(n_cells)
    parts = np.split(order, [n_train, n_train + n_validation])
    return _check(Split(*(np.sort(part) for part in parts)))


def grouped_split(groups: Groups, *, train_size: float, validation_size: float, seed: int) -> Split:
    """Split at random into whole groups.

    Groups go to the validation and then to the test cells, each if that brings the part nearer to its size and leaves
    training cells to every category of the covariates; the others are for training. Test and validation cells have one
    group each at the least, where a test part is asked for. The order is random, and takes the categories of the first
    covariate, the batch, in turn, so that each of them is tested where it has the groups.

    Parameters
    ----------
    groups
        Which cell belongs to which group.
    train_size, validation_size
        Fractions of the cells, which whole groups meet as well as they can; what they leave is the test part.
    seed
        Seed of the order.

    Raises
    ------
    ValueError
        If the fractions are not in (0, 1] or add up to more than 1, there are too few groups, or the parts are too
        small.
    """
    _check_sizes(train_size, validation_size)
    check_seed("seed", seed)
    n_cells, n_groups = len(groups.codes), int(groups.codes.max()) + 1
    sizes = np.bincount(groups.codes, minlength=n_groups)
    # Cells of each group by category; of what is left for training, no category may run out.
    tables = [_cross_table(groups.codes, codes, n_groups) for codes in groups.keep]
    left = set(range(n_groups))
    order = np.random.default_rng(seed).permutation(n_groups)
    parts: list[list[int]] = []
    for wanted in (validation_size * n_cells, (1.0 - train_size - validation_size) * n_cells):
        picked: list[int] = []
        # Half a cell is what rounding leaves of fractions that add up to 1.
        candidates = _in_turn(order[np.isin(order, sorted(left))], tables[:1])
        for group in candidates if wanted > 0.5 else []:
            rest = sorted(left - {group})
            size = sizes[picked].sum()
            nearer = abs(size + sizes[group] - wanted) < abs(size - wanted) or not picked
            if nearer and rest and all((table[rest].sum(axis=0) > 0).all() for table in tables):
                picked.append(group)
                left.discard(group)
        if wanted > 0.5 and not picked:
            raise ValueError(
                f"expected in {groups.name!r} groups enough for training, validation and test cells, with training "
                f"cells left to every batch and covariate, got {n_groups} groups; split by a finer column, or leave "
                "split_by out."
            )
        parts.append(picked)
    validation, test = (np.flatnonzero(np.isin(groups.codes, picked)) for picked in parts)
    return _check(Split(np.flatnonzero(np.isin(groups.codes, sorted(left))), validation, test))


def _in_turn(order: NDArray[np.intp], tables: list[NDArray[np.intp]]) -> list[int]:
    """Groups one of each category after the other, each of them in the order given."""
    if not tables:
        return [int(group) for group in order]
    category = tables[0].argmax(axis=1)[order]
    turn = np.array([np.count_nonzero(category[:i] == category[i]) for i in range(len(order))])
    return [int(group) for group in order[np.argsort(turn, kind="stable")]]


def _cross_table(rows: NDArray[np.intp], columns: NDArray[np.intp], n_rows: int) -> NDArray[np.intp]:
    table = np.zeros((n_rows, int(columns.max()) + 1), dtype=np.intp)
    np.add.at(table, (rows, columns), 1)
    return table


def _check_sizes(train_size: float | None, validation_size: float) -> None:
    given = [size for size in (train_size, validation_size) if size is not None]
    are_numbers = all(isinstance(size, Real) and not isinstance(size, bool) for size in given)
    if (
        not are_numbers
        or not 0 < validation_size < 1
        or not all(0 < size <= 1 for size in given)
        or sum(given) > 1 + 1e-9
    ):
        raise (ValueError if are_numbers else TypeError)(
            f"expected train_size and validation_size above 0 with a sum of at most 1, got {train_size!r} and "
            f"{validation_size!r}; for example 0.8 and 0.1 leave a tenth of the cells for testing."
        )


def positions(name: str, given: ArrayLike, n_cells: int, *, low: int = 0) -> NDArray[np.intp]:
    """Positions of cells, of a mask or of positions themselves.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    given
        Positions, or a boolean mask of all cells.
    n_cells
        How many cells there are.
    low
        Least position; below 0 where they may count from the end.

    Raises
    ------
    TypeError
        If they are no whole numbers.
    ValueError
        If one is out of range, or a mask is of another length.
    IndexError
        If one is out of range where positions may count from the end.
    """
    found = np.asarray(given)
    if found.dtype == bool:
        if found.shape != (n_cells,):
            raise ValueError(
                f"expected in {name} a mask of all {n_cells} cells, got one of shape {found.shape}; give one value for "
                "each cell, or positions."
            )
        return np.flatnonzero(found)
    if found.size == 0:
        return np.empty(0, dtype=np.intp)
    if found.dtype.kind not in "iu":
        raise TypeError(
            f"expected in {name} positions as whole numbers, or a boolean mask, got {found.dtype} values such as "
            f"{found.ravel()[0]!r}; convert them, for names with mdata.obs_names.get_indexer(names)."
        )
    if found.min() < low or found.max() >= n_cells:
        # As Python does it where positions may count from the end.
        raise (IndexError if low < 0 else ValueError)(
            f"expected positions between {low} and {n_cells - 1}, got {found.min()} to {found.max()}; "
            f"{name} takes positions in the MuData, not names."
        )
    return np.arange(n_cells)[found.ravel()]


def _plain(part: ArrayLike) -> list[Any]:
    """Positions as they are recorded, of a mask too."""
    found = np.asarray(part)
    return np.flatnonzero(found).tolist() if found.dtype == bool else found.tolist()


def given_split(n_cells: int, parts: Sequence[ArrayLike]) -> Split:
    """Take the user's own split.

    Parameters
    ----------
    n_cells
        Number of cells.
    parts
        Positions of the training, validation and (optionally) test cells, or boolean masks of all cells.

    Raises
    ------
    ValueError
        If there are not two or three parts, a position is out of range, or parts overlap.
    TypeError
        If positions are no whole numbers.
    """
    if isinstance(parts, str | bytes) or not isinstance(parts, Iterable) or len(list(parts)) not in (2, 3):
        n_parts = len(list(parts)) if isinstance(parts, Iterable) else 1
        raise ValueError(
            f"expected external_indexing with training, validation and optionally test positions, got {n_parts} "
            "parts; give a list of two or three arrays."
        )
    arrays = [np.sort(positions("external_indexing", part, n_cells)) for part in parts]
    every = np.concatenate(arrays)
    if len(np.unique(every)) < len(every):
        raise ValueError("expected parts without common cells, got overlapping ones; give each cell to one part.")
    return _check(Split(arrays[0], arrays[1], arrays[2] if len(arrays) == 3 else np.empty(0, dtype=np.intp)))


def _check(split: Split) -> Split:
    if len(split.train) < 50 or len(split.validation) < 10:
        raise ValueError(
            f"expected at least 50 training and 10 validation cells, got {len(split.train)} and "
            f"{len(split.validation)}; give more cells or other fractions."
        )
    return split


class RowBatches:
    """Shuffled row numbers, a new order each epoch, on the device.

    The rows that do not fill a last batch are left out for that epoch, so that every batch has the
    same number of negatives.

    Parameters
    ----------
    n_rows
        Number of training cells.
    batch_size
        Cells in a batch; all of them where there are fewer.
    n_extra
        Further independent batches that come with each batch, for the steps of a critic.
    seed
        Seed of the orders.
    device
        Where the row numbers are needed.
    rank, world_size
        Which of how many processes this is. Each has an equal, contiguous share of the same batches, whose size is
        rounded down to a multiple of `world_size`.
    """

    def __init__(
        self,
        n_rows: int,
        *,
        batch_size: int,
        n_extra: int = 0,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n_rows = n_rows
        self.batch_size = min(batch_size, n_rows) // world_size * world_size
        self.n_extra = n_extra
        self.device = device
        self._n_own = self.batch_size // world_size
        self._first_own = rank * self._n_own
        # On the CPU, so that one seed gives one order on every device.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def state(self) -> Tensor:
        """Random state from which the next epoch's orders come."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def __len__(self) -> int:
        return self.n_rows // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        orders = [
            torch.randperm(self.n_rows, generator=self._generator).to(self.device) for _ in range(1 + self.n_extra)
        ]
        for start in range(self._first_own, len(self) * self.batch_size, self.batch_size):
            yield tuple(order[start : start + self._n_own] for order in orders)


class OrderedBatches:
    """Row numbers in order, in pieces of nearly equal size, for held-out cells.

    Pieces of equal size matter where the value of a loss depends on the number of negatives.

    Parameters
    ----------
    n_rows
        Number of cells.
    batch_size
        Most cells in a batch.
    device
        Where the row numbers are needed.
    """

    def __init__(self, n_rows: int, *, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.n_rows = n_rows
        self.n_batches = math.ceil(n_rows / batch_size)
        self.device = device

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.arange(self.n_rows, device=self.device).tensor_split(self.n_batches)
