"""Cells as a model knows them: values by modality, covariates, and which modalities are there."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, cast

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse
from scvi.data import AnnDataManager
from torch import Tensor

from indiseek.data._disk import DiskMatrix, Values, identity_of, is_sparse, picked_cells
from indiseek.data._labels import check_labels, read_labels, text_of_labels
from indiseek.data._manager import categories_of, covariates_of, register
from indiseek.data._matching import FeatureMatch
from indiseek.data._pairing import check_names
from indiseek.data._presence import Presence
from indiseek.data._reading import read_to_encode, read_to_train
from indiseek.data._setup import Setup, check_covariates, check_pairs, column_of, covariate_columns, make_setup
from indiseek.data._transforms import Transform
from indiseek.data._values import MIN_CELLS, lies_on_disk, stored_values

# Cells that are looked at to see whether values have changed.
_SAMPLE_CELLS = 64
# What is copied at once of values that do not lie side by side.
_STEP_BYTES = 2**24


class CellTensors(NamedTuple):
    """What an objective is given of cells: the same rows of every tensor.

    Attributes
    ----------
    features
        One ``(n_cells, n_features)`` tensor for each modality; ``(n_cells, 0)`` for one that no cell here has.
    condition
        Frozen codes of the stages that come before, one ``(n_cells, n_condition)`` tensor for each modality; empty for
        a stage that is given none.
    views
        Augmented features, made before training for objectives that compare views of a cell, one
        ``(n_cells, n_views, n_features)`` tensor for each modality; empty where there are none. They take
        ``4 * n_views`` bytes for each feature and cell.
    covariates
        One ``(n_cells,)`` tensor for each covariate that was set up, the batch key first: int64 codes of categories,
        float32 values of numbers.
    present
        One ``(n_cells,)`` tensor of bools for each modality: whether a cell has it. Empty where every cell has all.
    labels
        Where labels were set up, one ``(n_cells,)`` int64 tensor of them, -1 for cells without; else empty. An
        objective may put weights of the cells beside it.
    """

    features: tuple[Tensor, ...]
    condition: tuple[Tensor, ...] = ()
    views: tuple[Tensor, ...] = ()
    covariates: tuple[Tensor, ...] = ()
    present: tuple[Tensor, ...] = ()
    labels: tuple[Tensor, ...] = ()

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.features[0])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.features[0].device

    def condition_of_others(self, modality: int) -> Tensor:
        """Frozen codes of all modalities but one, side by side, ``(n_cells, (n_modalities - 1) * n_condition)``."""
        return torch.cat([code for j, code in enumerate(self.condition) if j != modality], dim=-1)

    def take(self, rows: Tensor) -> CellTensors:
        """The same rows of every tensor."""
        return CellTensors(*(tuple(t.index_select(0, rows) for t in tensors) for tensors in self))

    def split(self, n_cells: int) -> tuple[CellTensors, CellTensors]:
        """The first `n_cells` and the others, in the same memory."""
        return (
            CellTensors(*(tuple(t[:n_cells] for t in tensors) for tensors in self)),
            CellTensors(*(tuple(t[n_cells:] for t in tensors) for tensors in self)),
        )

    def to(self, device: torch.device) -> CellTensors:
        """Every tensor on `device`."""
        return CellTensors(*(tuple(t.to(device) for t in tensors) for tensors in self))


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What cells must have to be a model's: the set-up, and what was found in the cells of training.

    Attributes
    ----------
    setup
        Modalities, layers and covariates.
    features
        Names of the features by modality.
    sparse
        Whether a modality's values are handled as CSR.
    registry
        What scvi-tools has noted of the fields: among others the categories of each categorical covariate.
    dropped
        Names, by modality, of features that had one value in all cells of training: other cells may have them or not.
    labels
        Names of the labels, in the order of their codes; empty where none were set up.
    categories
        Categories of each categorical covariate, in the order of their codes.
    n_categories
        Number of categories by covariate, in the set-up's order; 0 for one of numbers.
    """

    setup: Setup
    features: dict[str, list[str]]
    sparse: dict[str, bool]
    registry: dict[str, Any]
    dropped: dict[str, list[str]] = field(default_factory=dict)
    labels: tuple[Any, ...] = ()
    categories: dict[str, list[Any]] = field(init=False)
    n_categories: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Look up and count the categories."""
        categories = categories_of(self.registry, self.setup)
        object.__setattr__(self, "categories", categories)
        n_categories = {key: len(categories.get(key, ())) for key in self.setup.covariates}
        object.__setattr__(self, "n_categories", n_categories)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the model's order."""
        return self.setup.modalities

    def read(
        self,
        mdata: MuData,
        *,
        counts: Collection[str] = (),
        one_is_enough: bool = False,
        matches: Mapping[str, FeatureMatch] | None = None,
        columns: pd.DataFrame | None = None,
    ) -> Cells:
        """Cells other than those of training, with features and categories in the model's order.

        Parameters
        ----------
        mdata
            Cells with the model's features in any order.
        counts
            Modalities of which the model takes counts.
        one_is_enough
            Whether cells that have just one of the modalities are taken.
        matches
            Which features are which by modality, where they need not be the model's; the values are of those matched.
        columns
            The covariates, instead of those in ``.obs``.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData.
        KeyError
            If a modality, a layer or a covariate is missing.
        ValueError
            If features or categories are not the model's, cells are not paired, or values are not finite or, of
            modalities in `counts`, no counts.
        """
        here = [name for name in self.modalities if isinstance(mdata, MuData) and name in mdata.mod]
        if not (one_is_enough and len(here) == 1):
            # Checks the type too.
            make_setup(
                mdata,
                self.modalities,
                self.setup.layers,
                unpaired=self.setup.unpaired,
                present=self.setup.present,
                at_least=1,
                are_new=True,
            )
            here = list(self.modalities)
        presence = None
        if here == list(self.modalities) and matches is None:
            presence = self.setup.presence(mdata, are_new=True)
        else:
            check_names(mdata, here)
        values = {
            name: read_to_encode(
                mdata.mod[name],
                self.setup.layers[name],
                name,
                features=self.features[name],
                dropped=self.dropped.get(name, ()),
                as_sparse=self.sparse[name],
                counts=name in counts,
                match=None if matches is None else matches[name],
                has=None if presence is None else presence.kept[name],
            )
            for name in here
        }
        columns = covariate_columns(mdata, self.setup) if columns is None else columns
        features = {name: self.features[name] for name in here}
        labels = None if self.setup.labels_key is None else read_labels(mdata, self.setup, self.labels)[0]
        text = None if labels is None else text_of_labels(labels, self.labels, self.setup)
        manager = register(values, features, columns, self.setup, source=self.registry, labels=text)
        covariates = covariates_of(manager, self.setup)
        return Cells(self, mdata.obs_names, values, covariates, manager, self.stored(mdata), presence, labels)

    def stored(self, mdata: MuData) -> dict[str, Any]:
        """By modality, what tells whether a MuData has changed as it stores values and features; by "", of covariates.

        What is not there any more is None.
        """
        found: dict[str, Any] = {"": _stamp_of_columns(mdata, self.setup)}
        for name in self.modalities:
            if name not in mdata.mod:
                continue
            part, layer = mdata.mod[name], self.setup.layers[name]
            is_there = layer is None or layer in part.layers
            values = stored_values(part, layer) if is_there else None
            found[name] = (None if values is None else _stamp(values), hash(tuple(part.var_names)))
            if self.setup.may_be_unpaired:
                key = self.setup.present.get(name)
                said = None if key not in mdata.obs else hash(tuple(mdata.obs[key]))
                found[name] += (hash(tuple(part.obs_names)), said)
        return found


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a schema: rows in, tensors out.

    Attributes
    ----------
    schema
        What the cells have.
    names
        Their names.
    values
        Values by modality, ``(n_cells, n_features)``, in memory or on disk; without a modality that none has. Where
        some cells lack a modality, of those that have it.
    covariates
        ``(n_cells,)`` by column of ``.obs``: int64 codes of categories, float32 values of numbers.
    manager
        scvi-tools' record of their fields.
    stored
        What told the values apart, as the MuData stored them, when they were read.
    presence
        Which cells have which modality; None where each has all in `values`, whose rows are the cells then.
    labels
        Where labels were set up, ``(n_cells,)`` positions among those of the schema, -1 for cells without.
    digest
        Digest of the names of the cells in their order, and of which modality they have.
    """

    schema: Schema
    names: pd.Index
    values: dict[str, Values]
    covariates: dict[str, NDArray[Any]]
    manager: AnnDataManager
    stored: dict[str, Any]
    presence: Presence | None = None
    labels: NDArray[np.int64] | None = None
    digest: str = field(init=False)
    # As `stored`, of the values as they are held: memory that may be the MuData's own.
    _held: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Note what the cells are, to see later whether they still are."""
        digest = digest_of_names(self.names) + ("" if self.presence is None else self.presence.digest())
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "_held", {name: _stamp(values) for name, values in self.values.items()})

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def to_train_on(
        cls,
        mdata: MuData,
        setup: Setup,
        transforms: Mapping[str, Transform],
        *,
        at_least: int = 2,
        n_components: int | None = None,
    ) -> tuple[Self, dict[str, Transform]]:
        """Cells on which a model can be trained, and a transform for each modality.

        Parameters
        ----------
        mdata
            The cells.
        setup
            What to see of them.
        transforms
            The user's transforms by modality; the others are chosen.
        at_least
            As in :func:`make_setup`.
        n_components
            Principal components of the transforms that are chosen, as in :func:`choose_transform`.

        Raises
        ------
        ValueError
            If there are fewer than 100 cells, or paired cells, a value is NaN or infinite, counts are negative or
            fractions, a cell has no counts, no feature of a modality varies, or :func:`check_covariates` refuses the
            covariates.
        """
        # Again, because cells, modalities or columns may have changed since they were set up.
        make_setup(
            mdata,
            setup.modalities,
            setup.layers,
            unpaired=setup.unpaired,
            present=setup.present,
            at_least=at_least,
        )
        presence = setup.presence(mdata)
        columns = covariate_columns(mdata, setup)
        if mdata.n_obs < MIN_CELLS:
            raise ValueError(
                f"expected at least {MIN_CELLS} cells, got {mdata.n_obs}; a model cannot be fitted to fewer."
            )
        if presence is not None:
            check_pairs(columns, setup, presence)
        read = {
            name: read_to_train(
                mdata.mod[name],
                setup.layers[name],
                name,
                transforms.get(name),
                None if presence is None else presence.kept[name],
                None if setup.batch_key is None else _own(columns[setup.batch_key].to_numpy(), presence, name),
                n_components=n_components,
            )
            for name in setup.modalities
        }
        values = {name: each.values for name, each in read.items()}
        features = {name: each.features for name, each in read.items()}
        check_covariates(columns, setup)
        labels, text = None, None
        names: tuple[Any, ...] = ()
        if setup.labels_key is not None:
            labels, names = read_labels(mdata, setup)
            check_labels(labels, names, setup, presence)
            text = text_of_labels(labels, names, setup)
        manager = register(values, features, columns, setup, labels=text)
        schema = Schema(
            setup=setup,
            features=features,
            sparse={name: is_sparse(matrix) for name, matrix in values.items()},
            registry=manager.registry,
            dropped={name: each.dropped for name, each in read.items() if each.dropped},
            labels=names,
        )
        covariates = covariates_of(manager, setup)
        cells = cls(schema, mdata.obs_names, values, covariates, manager, schema.stored(mdata), presence, labels)
        return cells, {name: each.transform for name, each in read.items()}

    def check_names(self, mdata: MuData) -> None:
        """Raise ValueError if `mdata`, of which these cells were read, has other cells now, or another order of them.

        Parameters
        ----------
        mdata
            The MuData.
        """
        parts = {"": mdata.obs_names} | {
            name: part.obs_names for name, part in mdata.mod.items() if name in self.values
        }
        gone = [name for name in self.values if name not in parts]
        if gone:
            raise ValueError(
                f"expected the modalities of the MuData that the model was made with, got it without {gone}; put them "
                "back, or pass the cells that you want as mdata."
            )
        for name, names in parts.items():
            known = self._names_in(name)
            if names.equals(known):
                continue
            n_left = len(known.intersection(names))
            what, which = f"{n_left} of them and {len(names) - n_left} others", "it"
            if n_left == len(names) == len(known):
                each = ", ".join(f"{part!r}: mdata[{part!r}]" for part in self.values)
                what, which = "the same cells in another order", f"mudata.MuData({{{each}}})"
            raise ValueError(
                f"expected the {len(known)} cells with which the model was made, got {what}"
                f"{f' in modality {name!r}' if name else ''}, because the MuData has changed since; pass {which} as "
                "mdata, as in get_latent_representation(mdata) or write_latents(mdata), for codes of its cells as they "
                "are now."
            )

    @property
    def changed(self) -> str | None:
        """First modality whose values in memory are not those that were read; None where all are.

        Of each it looks at 64 cells and a checksum of all, of a file at what the file system says of it.
        """
        return next((name for name in self.values if not _is_same(self.values[name], self._held[name])), None)

    def is_unchanged(self, mdata: MuData) -> bool:
        """Whether `mdata`, of which these cells were read, still holds them: names in order, values and covariates."""
        parts = {"": mdata.obs_names} | {n: mdata.mod[n].obs_names for n in self.values if n in mdata.mod}
        return (
            len(parts) == 1 + len(self.values)
            and all(names.equals(self._names_in(name)) for name, names in parts.items())
            and self.changed is None
            and self.schema.stored(mdata) == self.stored
        )

    def same_values(self, other: Cells) -> bool:
        """Whether other cells have the same names and, as far as a sample tells, the same values."""
        return self.digest == other.digest and all(
            name in other.values and _is_same(values, self._held[name]) for name, values in other.values.items()
        )

    def same_covariates(self, other: Cells) -> bool:
        """Whether other cells, as many, have the same covariates and labels."""
        return all(np.array_equal(column, other.covariates[key]) for key, column in self.covariates.items()) and (
            self.labels is None or np.array_equal(self.labels, cast(NDArray[np.int64], other.labels))
        )

    def digest_of_labels(self) -> str | None:
        """Digest of the labels and their names; None where none were set up."""
        if self.labels is None:
            return None
        return hashlib.sha256(repr((self.schema.labels, self.labels.tolist())).encode()).hexdigest()

    def _names_in(self, modality: str) -> pd.Index:
        """Names of the cells that a modality holds; those of the MuData for ``""``."""
        return self.names if self.presence is None or not modality else self.presence.names[modality]

    @property
    def is_paired(self) -> NDArray[np.bool_]:
        """Whether a cell has every modality that any of these cells has, ``(n_cells,)``."""
        return np.ones(len(self), dtype=bool) if self.presence is None else self.presence.with_all

    def alike(self, rows: NDArray[np.intp] | None = None) -> list[NDArray[np.intp]]:
        """Positions of cells that have the same modalities, those with all first; of all cells, or of those at `rows`.

        Positions keep their order; there is no entry for what no cell has.
        """
        rows = np.arange(len(self)) if rows is None else rows
        return [rows[here] for _, here in self.kinds(rows)]

    def kinds(self, rows: NDArray[np.intp]) -> list[tuple[str | None, NDArray[np.intp]]]:
        """Positions in `rows` of cells with the same modalities: those with all under None, then by the only one.

        There is no entry for what no cell has.
        """
        if self.presence is None:
            return [(None, np.arange(len(rows)))]
        both = self.presence.with_all[rows]
        masks = [(None, both), *((name, mask[rows] & ~both) for name, mask in self.presence.has.items())]
        return [(only, np.flatnonzero(mask)) for only, mask in masks if mask.any()]

    def at(self, modality: str, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where in `values` of a modality the cells at `rows` lie, without those that lack it."""
        if self.presence is None:
            return rows
        places = self.presence.places[modality][rows]
        return places[places >= 0]

    def among_paired(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Positions among :meth:`paired` of the cells at `rows`, without those that lack a modality."""
        if self.presence is None:
            return rows
        both = self.presence.with_all
        places: NDArray[np.intp] = (np.cumsum(both) - 1)[rows[both[rows]]]
        return places

    def paired(self) -> Cells:
        """The cells that have all modalities, as cells of their own; values in memory are copied."""
        if self.presence is None:
            return self
        rows = np.flatnonzero(self.presence.with_all)
        return replace(
            self,
            names=self.names[rows],
            values={name: picked_cells(matrix, self.at(name, rows)) for name, matrix in self.values.items()},
            covariates={key: column[rows] for key, column in self.covariates.items()},
            presence=None,
            labels=None if self.labels is None else self.labels[rows],
        )

    @property
    def only(self) -> str | None:
        """The one modality that these cells have where the schema has more; None where they have all."""
        return None if len(self.values) == len(self.schema.modalities) else next(iter(self.values))

    def tensors(self, transforms: Sequence[Transform], rows: NDArray[np.intp] | None = None) -> CellTensors:
        """Features and covariates of all cells, or of those at `rows`, on the device of the transforms.

        Parameters
        ----------
        transforms
            One fitted transform for each modality of the schema, in its order.
        rows
            Positions of the cells wanted, which must have the same modalities (:meth:`alike`): what a cell lacks has no
            value, and so none that could be taken for one.

        Raises
        ------
        ValueError
            If they do not.
        """
        names, n_cells = self.schema.modalities, len(self) if rows is None else len(rows)
        mixed = [] if len(self.alike(rows)) < 2 else [n for n in self.values if not self._has(n, rows).all()]
        if mixed:
            raise ValueError(
                f"expected cells with the same modalities, got {n_cells}, of which some lack {mixed[0]!r}; take those "
                "with all of them, or each kind by itself."
            )
        places = {name: self._rows_in(name, rows) for name in self.values if self._has(name, rows).all()}
        device = transforms[0].device
        features, covariates, present = [], [], []
        for name, transform in zip(names, transforms, strict=True):
            is_here = name in places
            empty = torch.empty((n_cells, 0), dtype=torch.float32, device=device)
            features.append(transform.apply_to(self.values[name], places[name]) if is_here else empty)
            present.append(torch.full((n_cells,), is_here, device=device))
        for values in self.covariates.values():
            covariates.append(torch.as_tensor(_at(values, rows), device=device))
        labels = () if self.labels is None else (torch.as_tensor(_at(self.labels, rows), device=device),)
        are_all_here = len(places) == len(names)
        return CellTensors(
            tuple(features),
            covariates=tuple(covariates),
            present=() if are_all_here else tuple(present),
            labels=labels,
        )

    def _has(self, modality: str, rows: NDArray[np.intp] | None) -> NDArray[np.bool_]:
        """Whether the cells, or those at `rows`, have a modality."""
        if self.presence is None:
            return np.ones(1, dtype=bool)
        mask = self.presence.has[modality]
        return mask if rows is None else mask[rows]

    def _rows_in(self, modality: str, rows: NDArray[np.intp] | None) -> NDArray[np.intp] | None:
        if self.presence is None:
            return rows
        return self.at(modality, np.arange(len(self)) if rows is None else rows)


def _at(values: NDArray[Any], rows: NDArray[np.intp] | None) -> NDArray[Any]:
    return values if rows is None else values[rows]


def _own(column: NDArray[Any], presence: Presence | None, modality: str) -> NDArray[Any]:
    """A column of all cells for those that have a modality, in the order of its values."""
    if presence is None:
        return column
    rows = np.flatnonzero(presence.has[modality])
    return column[rows[np.argsort(presence.places[modality][rows])]]


def digest_of_names(names: pd.Index) -> str:
    """Digest of names in their order."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


def _stamp(values: Any) -> Any:
    """What tells whether values have changed, in memory or on disk."""
    if isinstance(values, DiskMatrix):
        return values.identity, [_digest(piece) for piece in values.sample()]
    if lies_on_disk(values):
        return identity_of(values)
    return _digest(values)


def _is_same(values: Values, stamp: Any) -> bool:
    if not isinstance(values, DiskMatrix):
        return bool(_digest(values) == stamp)
    identity, sample = stamp
    # A file that was written again, as MuData.write does for new codes, may hold the same values.
    return values.identity in (None, identity) or [_digest(piece) for piece in values.sample()] == sample


def _stamp_of_columns(mdata: MuData, setup: Setup) -> str | None:
    """What tells whether covariates or labels have changed; None where one is gone or cannot be used any more."""
    try:
        columns = covariate_columns(mdata, setup)
        if setup.labels_key is not None and column_of(mdata, setup.labels_key, setup.modalities) is not None:
            # As words: what is hashed may be of several types.
            codes, names = read_labels(mdata, setup)
            columns[setup.labels_key] = text_of_labels(codes, names, setup)[0]
    except (KeyError, ValueError):
        return None
    if columns.empty:
        return ""
    return hashlib.blake2b(pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes()).hexdigest()


def _digest(values: Any) -> str:
    """Digest of 64 cells spread over all, and of a checksum of all values; of CSC, of 64 features."""
    found = hashlib.blake2b(repr((values.shape, str(values.dtype))).encode(), digest_size=16)
    if sparse.issparse(values):
        starts = values.indptr
        for i in _spread(len(starts) - 1):
            part = slice(starts[i], starts[i + 1])
            found.update(values.indices[part].astype(np.int64).tobytes() + values.data[part].tobytes())
        values = values.data
    else:
        values = np.asarray(values)
        found.update(values[_spread(len(values))].tobytes())
    found.update(repr((values.size, _checksum(values))).encode())
    return found.hexdigest()


def _checksum(values: NDArray[Any]) -> int:
    """Checksum that takes about as long as a sum, and unlike that tells cells that have changed places."""
    found, values = 0, values.T if values.flags.f_contiguous else values
    step = max(1, _STEP_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        found = zlib.crc32(np.ascontiguousarray(values[start : start + step]).view(np.uint8).data, found)
    return found


def _spread(n: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, max(0, n - 1), _SAMPLE_CELLS).astype(np.intp))[:n]
