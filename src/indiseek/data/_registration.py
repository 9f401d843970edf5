"""Which modalities of a MuData a model sees, registered with scvi-tools."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import MuDataLayerField

from indiseek.data._disk import DiskMatrix, Values
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

_RNA_NAMES = ("rna", "gex")
_PROTEIN_NAMES = ("prot", "protein", "adt", "ab")
# Antibody panels have at most a few hundred features, transcriptomes and accessible regions thousands.
_MANY_FEATURES = 500
_RESERVED = "shared"
# Only counts stay on disk; their features are held.
_MANY_BYTES = 2**30


@dataclass(frozen=True)
class Registration:
    """Modalities of a MuData in the order in which a model sees them.

    Attributes
    ----------
    modalities
        Names of the modalities.
    layers
        Layer of each; None for ``X``.
    """

    modalities: tuple[str, ...]
    layers: dict[str, str | None]


def make_registration(
    mdata: MuData,
    modalities: Sequence[str] | None,
    layers: Mapping[str, str | None] | None,
    *,
    at_least: int = 2,
) -> Registration:
    """Choose modalities and layers, and check that they can be used together.

    Parameters
    ----------
    mdata
        Paired cells.
    modalities
        Names in the order wanted; None to detect them.
    layers
        Layer by modality; ``X`` where none is named.
    at_least
        Fewest modalities that the model can use: 2, or 1.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData.
    KeyError
        If a modality is not in `mdata`, or `layers` names one that is not used.
    ValueError
        If the modalities cannot be detected, are too few, or hold different cells.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"expected a MuData with two modalities, got {type(mdata).__name__}; build one with "
            "mudata.MuData({'rna': rna, 'prot': protein})."
        )
    names = tuple(modalities) if modalities is not None else _detect(mdata, at_least)
    if isinstance(modalities, str) or len(names) < at_least or len(set(names)) < len(names):
        number = "two different modalities" if at_least > 1 else "one modality, none twice"
        raise ValueError(f"expected at least {number}, got {modalities!r}; for example modalities=['rna', 'prot'].")
    for name in names:
        if name not in mdata.mod:
            raise KeyError(f"expected modality {name!r}, got a MuData with {list(mdata.mod)}; name two of these.")
    if _RESERVED in names:
        raise ValueError(
            f"expected modality names other than {_RESERVED!r}, got {list(names)}; the name is taken by the shared "
            "space in .obsm: rename the modality."
        )
    unknown = sorted(set(layers or {}) - set(names))
    if unknown:
        raise KeyError(f"expected layers for the modalities {list(names)}, got layers for {unknown}; use their names.")
    registration = Registration(names, {name: (layers or {}).get(name) for name in names})
    _check_cells(mdata, registration)
    return registration


def _detect(mdata: MuData, at_least: int) -> tuple[str, ...]:
    names = list(mdata.mod)
    if at_least == 1 and len(names) == 1:
        return (names[0],)
    rna = [name for name in names if name.lower() in _RNA_NAMES]
    protein = [name for name in names if name.lower() in _PROTEIN_NAMES]
    if len(rna) == 1 and len(protein) == 1:
        return (rna[0], protein[0])
    if len(names) == 2:
        return (names[0], names[1])
    raise ValueError(
        f"expected two modalities, or one called {'/'.join(_RNA_NAMES)} and one called {'/'.join(_PROTEIN_NAMES)}, "
        f"got {names}; choose with IndiSeekModel.setup_mudata(mdata, modalities=['first', 'second'])."
    )


def _check_cells(mdata: MuData, registration: Registration) -> None:
    for name in registration.modalities:
        cells = mdata.mod[name].obs_names
        if not cells.is_unique:
            raise ValueError(
                f"expected unique cell names in modality {name!r}, got duplicates such as "
                f"{cells[cells.duplicated()][0]!r}; call .obs_names_make_unique() on every modality."
            )
        features = mdata.mod[name].var_names
        if not features.is_unique:
            raise ValueError(
                f"expected unique feature names in modality {name!r}, got duplicates such as "
                f"{features[features.duplicated()][0]!r}; call mdata[{name!r}].var_names_make_unique()."
            )
        if not cells.equals(mdata.obs_names):
            n_missing = len(mdata.obs_names.difference(cells))
            found = f"{n_missing} cells without it" if n_missing else "the same cells in another order"
            raise ValueError(
                f"expected paired cells, every cell of the MuData in every modality in the same order, got in {name!r} "
                f"{found}; keep the paired cells with muon.pp.intersect_obs(mdata)."
            )


def read_modality(mdata: MuData, name: str, layer: str | None, features: Sequence[str], *, as_sparse: bool) -> Values:
    """Read one modality of a MuData that the model was not trained on, with its features in the model's order.

    Parameters
    ----------
    mdata
        Cells.
    name, layer
        Modality, and its layer or None.
    features
        The model's feature names.
    as_sparse
        Form in which the model saw the training cells.

    Raises
    ------
    KeyError
        If the modality or layer is missing.
    ValueError
        If the features are not the model's, or values are not finite.
    """
    if name not in mdata.mod:
        raise KeyError(f"expected modality {name!r}, got a MuData with {list(mdata.mod)}; the model was trained on it.")
    adata = mdata.mod[name]
    wanted = pd.Index(features)
    missing = wanted.difference(adata.var_names, sort=False)
    extra = adata.var_names.difference(wanted, sort=False)
    if len(missing) or len(extra):
        parts = [
            f"{len(x)} {word} ({', '.join(x[:5])})" for x, word in ((missing, "missing"), (extra, "extra")) if len(x)
        ]
        raise ValueError(
            f"expected in modality {name!r} the {len(wanted)} features that the model was trained on, got "
            f"{' and '.join(parts)}; select the model's features, in any order."
        )
    values = canonical_values(adata, layer, name, as_sparse=as_sparse)
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
    if name.lower() in _PROTEIN_NAMES:
        return CLR()
    if name.lower() in _RNA_NAMES or len(summary.low) > _MANY_FEATURES:
        return LogNormalizePCA()
    return CLR()


def checked_values(
    mdata: MuData, registration: Registration, transforms: Mapping[str, Transform], *, at_least: int = 2
) -> tuple[dict[str, Values], dict[str, Transform]]:
    """Values in canonical form and a transform for each modality, or an error that says what to mend.

    Parameters
    ----------
    mdata
        Paired cells.
    registration
        Modalities and layers.
    transforms
        The user's transforms by modality; the others are chosen.
    at_least
        As in :func:`make_registration`.

    Raises
    ------
    ValueError
        If there are fewer than 100 cells, a value is NaN or infinite, counts are negative or fractions,
        or a cell or feature is empty or a feature constant.
    """
    # Again, because cells or modalities may have changed since they were registered.
    make_registration(mdata, registration.modalities, registration.layers, at_least=at_least)
    if mdata.n_obs < MIN_CELLS:
        raise ValueError(f"expected at least {MIN_CELLS} cells, got {mdata.n_obs}; a model cannot be fitted to fewer.")
    values: dict[str, Values] = {}
    chosen: dict[str, Transform] = {}
    for name in registration.modalities:
        adata = mdata.mod[name]
        values[name] = canonical_values(adata, registration.layers[name], name)
        summary = summary_of(values[name])
        check_finite(summary.n_bad, name)
        chosen[name] = transforms[name] if name in transforms else choose_transform(name, summary)
        check_training_values(summary, adata.obs_names, adata.var_names, name, counts=chosen[name].needs_counts)
        if isinstance(values[name], DiskMatrix):
            _warn_of_features(name, mdata.n_obs * chosen[name].max_output(adata.n_vars) * 4)
    return values, chosen


def _warn_of_features(name: str, n_bytes: int) -> None:
    if n_bytes > _MANY_BYTES:
        logger.warning(
            f"the features that the model sees of {name!r} take {n_bytes / 2**30:.1f} GiB of memory (cells x features "
            "x 4 bytes); where that is too much, select fewer features, or for counts pass "
            f"transforms={{{name!r}: indiseek.data.LogNormalizePCA()}}."
        )


def register(
    values: Mapping[str, Values], cells: pd.Index, features: Mapping[str, Sequence[str]], setup_args: dict[str, Any]
) -> AnnDataManager:
    """Register values with scvi-tools, outside the user's object.

    scvi-tools writes keys into the object that it registers. It is given a MuData of our own that
    shares the values, so that nothing of the user's changes. Values on disk are not in it.

    Parameters
    ----------
    values
        Values by modality.
    cells
        Names of the cells.
    features
        Names of the features by modality.
    setup_args
        Arguments of ``setup_mudata`` as scvi-tools records them.

    Returns
    -------
    The manager; its ``adata`` holds the values that lie in memory.
    """
    # With the modality's name, because a gene and a protein may have one name.
    var = {name: pd.DataFrame(index=[f"{name}:{feature}" for feature in features[name]]) for name in values}
    with mudata.set_options(pull_on_update=False):
        held = {name: None if isinstance(matrix, DiskMatrix) else matrix for name, matrix in values.items()}
        container = MuData(
            {name: AnnData(X=matrix, obs=pd.DataFrame(index=cells), var=var[name]) for name, matrix in held.items()}
        )
        fields = [
            MuDataLayerField(f"X_{name}", None, mod_key=name, is_count_data=False, mod_required=True) for name in values
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_args)
        manager.register_fields(container)
    return manager
