"""Cells as a model knows them: values by modality, covariates, and which modalities are there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from scvi.data import AnnDataManager
from torch import Tensor

from indiseek.data._disk import DiskMatrix, Values, is_sparse
from indiseek.data._manager import categories_of, covariates_of, register
from indiseek.data._setup import PROTEIN_NAMES, RNA_NAMES, Setup, check_names, covariate_columns, make_setup
from indiseek.data._summary import Summary
from indiseek.data._transforms import CLR, LogNormalizePCA, Scale, Transform
from indiseek.data._values import (
    MIN_CELLS,
    canonical_values,
    check_counts,
    check_finite,
    check_training_values,
    n_not_finite,
    summary_of,
)

logger = logging.getLogger(__name__)

# Antibody panels have at most a few hundred features, transcriptomes and accessible regions thousands.
_MANY_FEATURES = 500
# Only counts stay on disk; their features are held.
_MANY_BYTES = 2**30


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
    """

    features: tuple[Tensor, ...]
    condition: tuple[Tensor, ...] = ()
    views: tuple[Tensor, ...] = ()
    covariates: tuple[Tensor, ...] = ()
    present: tuple[Tensor, ...] = ()

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
    n_categories
        Number of categories by covariate, in the set-up's order; 0 for one of numbers.
    """

    setup: Setup
    features: dict[str, list[str]]
    sparse: dict[str, bool]
    registry: dict[str, Any]
    n_categories: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Count the categories."""
        categories = categories_of(self.registry, self.setup)
        n_categories = {key: len(categories.get(key, ())) for key in self.setup.covariates}
        object.__setattr__(self, "n_categories", n_categories)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the model's order."""
        return self.setup.modalities

    def read(self, mdata: MuData, *, one_is_enough: bool = False) -> Cells:
        """Cells other than those of training, with features and categories in the model's order.

        Parameters
        ----------
        mdata
            Cells with the model's features in any order.
        one_is_enough
            Whether cells that have just one of the modalities are taken.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData.
        KeyError
            If a modality, a layer or a covariate is missing.
        ValueError
            If features or categories are not the model's, cells are not paired, or values are not finite.
        """
        here = [name for name in self.modalities if isinstance(mdata, MuData) and name in mdata.mod]
        if not (one_is_enough and len(here) == 1):
            # Checks the type too.
            make_setup(mdata, self.modalities, self.setup.layers, at_least=1)
            here = list(self.modalities)
        for name in here:
            check_names(mdata, name)
        values = {name: self._read_one(mdata, name) for name in here}
        columns = covariate_columns(mdata, self.setup)
        features = {name: self.features[name] for name in here}
        manager = register(values, features, columns, self.setup, source=self.registry)
        return Cells(self, mdata.obs_names, values, covariates_of(manager, self.setup), manager)

    def _read_one(self, mdata: MuData, name: str) -> Values:
        """One modality, with its features in the model's order."""
        adata = mdata.mod[name]
        wanted = pd.Index(self.features[name])
        missing = wanted.difference(adata.var_names, sort=False)
        extra = adata.var_names.difference(wanted, sort=False)
        if len(missing) or len(extra):
            parts = [
                f"{len(x)} {word} ({', '.join(x[:5])})"
                for x, word in ((missing, "missing"), (extra, "extra"))
                if len(x)
            ]
            raise ValueError(
                f"expected in modality {name!r} the {len(wanted)} features that the model was trained on, got "
                f"{' and '.join(parts)}; select the model's features, in any order."
            )
        values = canonical_values(adata, self.setup.layers[name], name, as_sparse=self.sparse[name])
        check_finite(n_not_finite(values), name)
        order = adata.var_names.get_indexer(wanted)
        if np.array_equal(order, np.arange(len(order))):
            return values
        if isinstance(values, DiskMatrix):
            return values.ordered(order)
        values = values[:, order]
        if not isinstance(values, np.ndarray):
            # Sums over a cell run in this order: sorted, they are the model's to the last bit.
            values.sort_indices()
        return values


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
        Values by modality, ``(n_cells, n_features)``, in memory or on disk; without a modality that none has.
    covariates
        ``(n_cells,)`` by column of ``.obs``: int64 codes of categories, float32 values of numbers.
    manager
        scvi-tools' record of their fields.
    """

    schema: Schema
    names: pd.Index
    values: dict[str, Values]
    covariates: dict[str, NDArray[Any]]
    manager: AnnDataManager

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def to_train_on(
        cls, mdata: MuData, setup: Setup, transforms: Mapping[str, Transform], *, at_least: int = 2
    ) -> tuple[Self, dict[str, Transform]]:
        """Cells on which a model can be trained, and a transform for each modality.

        Parameters
        ----------
        mdata
            Paired cells.
        setup
            What to see of them.
        transforms
            The user's transforms by modality; the others are chosen.
        at_least
            As in :func:`make_setup`.

        Raises
        ------
        ValueError
            If there are fewer than 100 cells, a value is NaN or infinite, counts are negative or fractions,
            or a cell or feature is empty or a feature constant, or a covariate has one value only.
        """
        # Again, because cells, modalities or columns may have changed since they were set up.
        make_setup(mdata, setup.modalities, setup.layers, at_least=at_least)
        columns = covariate_columns(mdata, setup)
        if mdata.n_obs < MIN_CELLS:
            raise ValueError(
                f"expected at least {MIN_CELLS} cells, got {mdata.n_obs}; a model cannot be fitted to fewer."
            )
        values: dict[str, Values] = {}
        chosen: dict[str, Transform] = {}
        for name in setup.modalities:
            adata = mdata.mod[name]
            values[name] = canonical_values(adata, setup.layers[name], name)
            summary = summary_of(values[name])
            check_finite(summary.n_bad, name)
            chosen[name] = transforms[name] if name in transforms else choose_transform(name, summary)
            check_training_values(summary, adata.obs_names, adata.var_names, name, counts=chosen[name].needs_counts)
            if isinstance(values[name], DiskMatrix):
                _warn_of_features(name, mdata.n_obs * chosen[name].max_output(adata.n_vars) * 4)
        for key, column in columns.items():
            if column.nunique() < 2:
                raise ValueError(
                    f"expected {key!r} to differ between cells, got {column.iloc[0]!r} in all; leave it out of the "
                    "set-up."
                )
        features = {name: mdata.mod[name].var_names.tolist() for name in setup.modalities}
        manager = register(values, features, columns, setup)
        schema = Schema(
            setup=setup,
            features=features,
            sparse={name: is_sparse(matrix) for name, matrix in values.items()},
            registry=manager.registry,
        )
        return cls(schema, mdata.obs_names, values, covariates_of(manager, setup), manager), chosen

    @property
    def digest(self) -> str:
        """Digest of the names of the cells in their order."""
        return digest_of_names(self.names)

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
            Positions of the cells wanted.
        """
        found = {
            name: transform.apply_to(self.values[name], rows)
            for name, transform in zip(self.schema.modalities, transforms, strict=True)
            if name in self.values
        }
        any_of = next(iter(found.values()))
        n_cells, device = len(any_of), any_of.device
        features = [found.get(name, any_of[:, :0]) for name in self.schema.modalities]
        covariates = tuple(
            torch.as_tensor(values if rows is None else values[rows], device=device)
            for values in self.covariates.values()
        )
        present: tuple[torch.Tensor, ...] = ()
        if self.only is not None:
            present = tuple(
                torch.full((n_cells,), name in self.values, device=device) for name in self.schema.modalities
            )
        return CellTensors(tuple(features), covariates=covariates, present=present)


def digest_of_names(names: pd.Index) -> str:
    """Digest of names in their order."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


def choose_transform(name: str, summary: Summary) -> Transform:
    """Transform for a modality that the user has said nothing about.

    Parameters
    ----------
    name
        Name of the modality.
    summary
        What is known of its values.
    """
    if not summary.whole:
        return Scale()
    check_counts(summary, name)
    if name.lower() in PROTEIN_NAMES:
        return CLR()
    if name.lower() in RNA_NAMES or len(summary.low) > _MANY_FEATURES:
        return LogNormalizePCA()
    return CLR()


def _warn_of_features(name: str, n_bytes: int) -> None:
    if n_bytes > _MANY_BYTES:
        logger.warning(
            f"the features that the model sees of {name!r} take {n_bytes / 2**30:.1f} GiB of memory (cells x features "
            "x 4 bytes); where that is too much, select fewer features, or for counts pass "
            f"transforms={{{name!r}: indiseek.data.LogNormalizePCA()}}."
        )
