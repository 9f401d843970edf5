"""What a model is to see of a MuData: which modalities, layers and covariates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Self

import numpy as np
import pandas as pd
from mudata import MuData

from indiseek._checks import check_choice, check_mapping, check_strings
from indiseek.data._anndata import how_to_build
from indiseek.data._pairing import check_names
from indiseek.data._presence import Presence, find_presence

RNA_NAMES = ("rna", "gex")
PROTEIN_NAMES = ("prot", "protein", "adt", "ab")
# Names of spaces in .obsm, which modalities cannot have.
_RESERVED = "shared"
_ISOTYPE = re.compile(r"isotype|^igg\d|(mouse|rat|hamster)[ _.-]*igg", re.IGNORECASE)
# They part the paths of h5mu and zarr, and of modules of torch.
_NOT_IN_NAMES = "./"
# Of fewer cells nothing can be learned, and a random split may leave none of them for training.
_LEAST_OF_A_CATEGORY = 10
MIN_PAIRED = 100
# Key in .uns.
_NOTE = "indiseek_setup"
_REFUSE, _KEEP = "refuse", "keep"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Modalities, layers and covariates, as ``setup_mudata`` was told or as they were found.

    Attributes
    ----------
    modalities
        Names of the modalities in the order in which a model sees them.
    layers
        Layer of each; None for ``X``.
    batch_key
        Column of ``.obs`` with the batch; None for none.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns of ``.obs``: categories, and numbers.
    unpaired
        ``"keep"`` where cells may have one modality only, ``"refuse"`` where all must have all.
    present
        By modality, column of ``.obs`` that says which cells have it, where the modality itself does not say so.
    labels_key
        Column of ``.obs`` with labels that a stage is to learn; None for none.
    unlabeled_category
        Its value for cells without a label, beside missing values; None for missing values alone.
    """

    modalities: tuple[str, ...]
    layers: dict[str, str | None]
    batch_key: str | None = None
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()
    unpaired: str = _REFUSE
    present: dict[str, str] = field(default_factory=dict)
    labels_key: str | None = None
    unlabeled_category: Any = None

    @property
    def categorical(self) -> tuple[str, ...]:
        """Columns with categories, the batch first."""
        batch = () if self.batch_key is None else (self.batch_key,)
        return (*batch, *self.categorical_covariate_keys)

    @property
    def covariates(self) -> tuple[str, ...]:
        """All columns of ``.obs``, in the order in which objectives are given them."""
        return (*self.categorical, *self.continuous_covariate_keys)

    def record(self) -> dict[str, Any]:
        """Values that h5mu and zarr can hold; what is not there is left out."""
        found = {
            "modalities": list(self.modalities),
            "layers": {name: layer for name, layer in self.layers.items() if layer is not None},
            "batch_key": self.batch_key,
            "categorical_covariate_keys": list(self.categorical_covariate_keys),
            "continuous_covariate_keys": list(self.continuous_covariate_keys),
            "unpaired": None if self.unpaired == _REFUSE else self.unpaired,
            "present": dict(self.present),
            "labels_key": self.labels_key,
        }
        found = {key: value for key, value in found.items() if value}
        # Which may be 0 or an empty word.
        return found | ({} if self.unlabeled_category is None else {"unlabeled_category": self.unlabeled_category})

    @property
    def may_be_unpaired(self) -> bool:
        """Whether cells may lack a modality."""
        return self.unpaired == _KEEP or bool(self.present)

    def presence(self, mdata: MuData, *, are_new: bool = False) -> Presence | None:
        """Which cells have which modality; None where all have all, as they must where nothing else was said.

        Raises
        ------
        KeyError, TypeError, ValueError
            If names are not unique, or cells are not those that the modalities hold.
        """
        if self.unpaired != _KEEP:
            check_names(mdata, self.modalities)
        return find_presence(mdata, self.modalities, self.present, are_new=are_new) if self.may_be_unpaired else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`record`, also from one that was on disk."""
        modalities = tuple(map(str, record["modalities"]))
        layers = {str(name): str(layer) for name, layer in record.get("layers", {}).items()}
        keys = ("categorical_covariate_keys", "continuous_covariate_keys")
        batch_key, labels_key = record.get("batch_key"), record.get("labels_key")
        unlabeled = record.get("unlabeled_category")
        return cls(
            modalities=modalities,
            layers={name: layers.get(name) for name in modalities},
            batch_key=None if batch_key is None else str(batch_key),
            unpaired=str(record.get("unpaired", _REFUSE)),
            present={str(name): str(key) for name, key in record.get("present", {}).items()},
            labels_key=None if labels_key is None else str(labels_key),
            # Files give back numpy's scalars.
            unlabeled_category=unlabeled.item() if isinstance(unlabeled, np.generic) else unlabeled,
            **{key: tuple(map(str, record.get(key, ()))) for key in keys},
        )


def make_setup(
    mdata: MuData,
    modalities: Sequence[str] | None = None,
    layers: Mapping[str, str | None] | None = None,
    *,
    batch_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    unpaired: str = _REFUSE,
    present: Mapping[str, str] | None = None,
    labels_key: str | None = None,
    unlabeled_category: Any = None,
    at_least: int = 2,
    are_new: bool = False,
) -> Setup:
    """Choose modalities, layers and covariates, and check that they can be used together.

    Parameters
    ----------
    mdata
        Paired cells.
    modalities
        Names in the order wanted; None to detect them.
    layers
        Layer by modality; ``X`` where none is named.
    batch_key, categorical_covariate_keys, continuous_covariate_keys
        Columns of ``.obs``, of the MuData or else of a modality.
    unpaired
        Whether cells that lack a modality are taken: ``"refuse"`` or ``"keep"``.
    present
        By modality, column of ``.obs`` that says which of its cells have it.
    labels_key, unlabeled_category
        Column of ``.obs`` with labels, and its value for cells without one.
    at_least
        Fewest modalities that the model can use: 2, or 1.
    are_new
        Whether these are other cells than those of training, of which columns in `present` may be missing.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData, or `present` does not name columns of True and False.
    KeyError
        If a modality or a column does not exist, or `layers` names a modality that is not used.
    ValueError
        If the modalities cannot be detected, are too few, or hold different cells, or a covariate cannot be used.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"expected a MuData with two modalities, got {type(mdata).__name__}; {how_to_build(mdata)}.")
    if layers is not None:
        check_mapping("layers", layers, "layers by modality")
    if batch_key is not None and not isinstance(batch_key, str):
        raise TypeError(f"expected batch_key to be the name of a column of .obs, got {batch_key!r}; give a string.")
    if modalities is not None and not isinstance(modalities, str):
        modalities = check_strings("modalities", modalities)
    names = tuple(modalities) if modalities is not None else _detect(mdata, at_least)
    if isinstance(modalities, str) or len(names) < at_least or len(set(names)) < len(names):
        number = "two different modalities" if at_least > 1 else "one modality, none twice"
        raise ValueError(f"expected at least {number}, got {modalities!r}; for example modalities=['rna', 'prot'].")
    for name in names:
        if name not in mdata.mod:
            raise KeyError(f"expected modality {name!r}, got a MuData with {list(mdata.mod)}; name two of these.")
    for name in names:
        _check_modality_name(name)
    if _RESERVED in names:
        raise ValueError(
            f"expected modality names other than {_RESERVED!r}, got {list(names)}; the name is taken by the shared "
            "space in .obsm: rename the modality."
        )
    unknown = sorted(set(layers or {}) - set(names))
    if unknown:
        raise KeyError(f"expected layers for the modalities {list(names)}, got layers for {unknown}; use their names.")
    check_choice("unpaired", unpaired, (_REFUSE, _KEEP))
    setup = Setup(
        modalities=names,
        layers={name: (layers or {}).get(name) for name in names},
        batch_key=batch_key,
        categorical_covariate_keys=_keys("categorical_covariate_keys", categorical_covariate_keys),
        continuous_covariate_keys=_keys("continuous_covariate_keys", continuous_covariate_keys),
        unpaired=unpaired,
        present=_present(present, names),
        labels_key=labels_key,
        unlabeled_category=unlabeled_category,
    )
    _check_labels_key(mdata, setup)
    setup.presence(mdata, are_new=are_new)
    covariate_columns(mdata, setup)
    return setup


def _check_labels_key(mdata: MuData, setup: Setup) -> None:
    """Raise if `setup` names no column of labels, or a value for cells without a label and no column."""
    key, unlabeled = setup.labels_key, setup.unlabeled_category
    if key is None:
        if unlabeled is not None:
            raise ValueError(
                f"expected labels_key beside unlabeled_category={unlabeled!r}, got None; name the column of labels."
            )
        return
    if not isinstance(key, str):
        raise TypeError(f"expected labels_key to be the name of a column of .obs, got {key!r}; give a string.")
    if unlabeled is not None and not isinstance(unlabeled, str | int | np.integer):
        raise TypeError(
            f"expected unlabeled_category to be a word or a whole number, got {unlabeled!r}; missing values are no "
            "labels without it."
        )
    if key in setup.covariates:
        raise ValueError(
            f"expected labels_key to be another column than the covariates {list(setup.covariates)}, got {key!r}; what "
            "codes are to be independent of cannot be what they are to tell."
        )
    required_column(mdata, key, setup.modalities)


def _present(present: Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    """Columns by modality; TypeError or KeyError for what does not name any."""
    if present is None:
        return {}
    check_mapping("present", present, "columns of .obs by modality")
    for name, key in present.items():
        if name not in names:
            raise KeyError(f"expected present for the modalities {list(names)}, got {name!r}; use their names.")
        if not isinstance(key, str):
            shape = getattr(key, "shape", None)
            raise TypeError(
                f"expected in present the name of a column of .obs for {name!r}, got {type(key).__name__}"
                f"{'' if shape is None else f' of shape {tuple(shape)}'}; put the mask there, so that it goes with the "
                f"cells: mdata.obs['has_{name}'] = mask, and say present={{{name!r}: 'has_{name}'}}."
            )
    return dict(present)


def _check_modality_name(name: Any) -> None:
    """Raise ValueError if a modality's name cannot be part of a key of ``.obsm``, of a file and of a path in it."""
    if (
        isinstance(name, str)
        and name.strip() == name != ""
        and name.isprintable()
        and not set(name) & set(_NOT_IN_NAMES)
    ):
        return
    raise ValueError(
        f"expected names of modalities that files and .obsm can have, got {name!r}; give it a name without "
        f"{' '.join(_NOT_IN_NAMES)}, line breaks or spaces around it: mudata.MuData({{'rna': mdata[{name!r}], ...}})."
    )


def note_setup(mdata: MuData, model: str, setup: Setup) -> None:
    """Note in ``.uns`` what models of a class are to see, so that it goes with copies, subsets and files."""
    mdata.uns[_NOTE] = {**mdata.uns.get(_NOTE, {}), model: setup.record()}


def noted_setup(mdata: MuData, model: str) -> Setup | None:
    """What :func:`note_setup` has noted for a class of models; None where it has not."""
    notes = mdata.uns.get(_NOTE, {}) if isinstance(mdata, MuData) else {}
    return Setup.from_record(notes[model]) if model in notes else None


def covariate_columns(mdata: MuData, setup: Setup) -> pd.DataFrame:
    """Columns of the covariates, ``(n_cells, n_covariates)``, from ``.obs`` of the MuData or else of a modality.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a covariate is named twice, has missing values, or is to be continuous and is not.
    """
    keys = setup.covariates
    if len(set(keys)) < len(keys):
        raise ValueError(f"expected each covariate once, got {list(keys)}; name a column in one place.")
    found = {}
    for key in keys:
        column = required_column(mdata, key, setup.modalities)
        n_missing = int(column.isna().sum())
        if n_missing:
            raise ValueError(
                f"expected a value of {key!r} for every cell, got {n_missing} cells without one; fill them in, or "
                "leave these cells out."
            )
        if key in setup.continuous_covariate_keys:
            numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
            if not numeric or not (column.abs() < float("inf")).all():
                raise ValueError(
                    f"expected finite numbers in {key!r}, got {column.dtype} values such as {column.iloc[0]!r}; "
                    "name it in categorical_covariate_keys if its values are categories."
                )
        found[key] = column.to_numpy()
    return pd.DataFrame(found, index=mdata.obs_names)


def check_pairs(columns: pd.DataFrame, setup: Setup, presence: Presence) -> None:
    """Check that paired cells are enough, in all and in each category.

    Parameters
    ----------
    columns
        As :func:`covariate_columns` gives them.
    setup
        Which of them is what.
    presence
        Which cells have which modality.

    Raises
    ------
    ValueError
        If fewer than 100 cells, or than 10 of a category, have all modalities.
    """
    both = presence.with_all
    if both.sum() < MIN_PAIRED:
        raise ValueError(
            f"expected at least {MIN_PAIRED} cells with all of {list(setup.modalities)}, by which modalities are "
            f"compared, got {presence.describe()}; a model cannot be fitted to fewer."
        )
    for key in setup.categorical:
        sizes = columns[key][both].value_counts().reindex(columns[key].unique(), fill_value=0)
        few = sizes.loc[lambda sizes: sizes < _LEAST_OF_A_CATEGORY]
        if len(few):
            found = ", ".join(f"{name!r} with {n}" for name, n in few.head(5).items())
            raise ValueError(
                f"expected in each category of {key!r} at least {_LEAST_OF_A_CATEGORY} cells with all of "
                f"{list(setup.modalities)}, got {len(few)} with fewer ({found}); leave these cells out and let "
                "IndiSeekModel.map_query place them in the trained model, or leave the column out of the set-up."
            )


def check_covariates(columns: pd.DataFrame, setup: Setup) -> None:
    """Check that what a model is to be trained on can be corrected for its covariates.

    Parameters
    ----------
    columns
        As :func:`covariate_columns` gives them.
    setup
        Which of them is what.

    Raises
    ------
    ValueError
        If a covariate has one value only, a category has fewer than 10 cells, or two covariates part the cells in the
        same way.
    """
    for key, column in columns.items():
        if column.nunique() < 2:
            raise ValueError(
                f"expected {key!r} to differ between cells, got {column.iloc[0]!r} in all; leave it out of the set-up."
            )
    for key in setup.categorical:
        few = columns[key].value_counts().loc[lambda sizes: sizes < _LEAST_OF_A_CATEGORY]
        if len(few):
            found = ", ".join(f"{name!r} with {n}" for name, n in few.head(5).items())
            raise ValueError(
                f"expected in each category of {key!r} at least {_LEAST_OF_A_CATEGORY} cells, got {len(few)} with "
                f"fewer ({found}); join them to others, or leave these cells out."
            )
    for key, other in combinations(setup.categorical, 2):
        if len(columns[[key, other]].drop_duplicates()) == columns[key].nunique() == columns[other].nunique():
            raise ValueError(
                f"expected covariates that differ, got {key!r} and {other!r}, which part the cells in the same way; "
                "name one of them."
            )


def confounded_columns(mdata: MuData, setup: Setup) -> list[str]:
    """Columns of ``.obs`` that are the same for all cells of a batch and differ between batches.

    What such a column says of the cells cannot be told from the batch, and is corrected away with it.
    """
    if setup.batch_key is None:
        return []
    batch, batches = pd.factorize(covariate_columns(mdata, setup)[setup.batch_key])
    found: list[str] = []
    for table in [mdata.obs, *(mdata.mod[name].obs for name in setup.modalities)]:
        for key, column in table.items():
            # As they are called where they come from: a MuData has a modality's columns with its name before them.
            known = {setup.batch_key, *(f"{name}:{setup.batch_key}" for name in mdata.mod)}
            if str(key) in (*known, *setup.covariates, *found) or pd.api.types.is_float_dtype(column):
                continue
            value, values = pd.factorize(column, use_na_sentinel=False)
            own = batch if len(table) == len(batch) else batch[mdata.obs_names.get_indexer(table.index)]
            pairs = np.unique(own * len(values) + value)
            if 1 < len(values) <= len(batches) == len(pairs):
                found.append(str(key))
    return found


def column_of(mdata: MuData, key: str, modalities: Sequence[str]) -> pd.Series | None:
    """Column of ``.obs`` of the MuData or else of one of the modalities; None where there is none.

    Where a modality does not hold all cells, the others of the column come from the next one that has it.
    """
    tables = [mdata.obs, *(mdata.mod[name].obs for name in modalities if name in mdata.mod)]
    found = [table[key] for table in tables if key in table]
    if not found or len(found[0]) == mdata.n_obs:
        return found[0] if found else None
    parts = [column.astype(object) if column.dtype == "category" else column for column in found]
    joined = parts[0].reindex(mdata.obs_names)
    for part in parts[1:]:
        joined = joined.combine_first(part.reindex(mdata.obs_names))
    return joined


def required_column(mdata: MuData, key: str, modalities: Sequence[str]) -> pd.Series:
    """Column as :func:`column_of` gives it; KeyError where there is none."""
    column = column_of(mdata, key, modalities)
    if column is None:
        raise KeyError(
            f"expected a column {key!r} in .obs, got {list(mdata.obs.columns)} in the MuData and no such column in a "
            "modality; add it, or name one that is there."
        )
    return column


def setup_line(
    model: str,
    mdata: Any,
    modalities: Any,
    layers: Mapping[str, str | None] | None,
    batch_key: str | None,
    others: Mapping[str, Any],
    labels_key: str | None = None,
) -> str:
    """Message for arguments of other models' set-up, such as totalVI's, with the line to write instead.

    Parameters
    ----------
    model
        Name of the class.
    mdata, modalities, layers, batch_key, labels_key
        As in :func:`make_setup`; `modalities` may be totalVI's mapping from its arguments to names.
    others
        The arguments that are another model's.
    """
    said = dict(modalities) if isinstance(modalities, Mapping) else {}
    here = list(mdata.mod) if isinstance(mdata, MuData) else []
    wanted, found = [], dict(layers or {})
    for argument, known in (("rna_layer", RNA_NAMES), ("protein_layer", PROTEIN_NAMES)):
        likely = [name for name in here if str(name).lower() in known]
        name = said.get(argument, likely[0] if likely else known[0])
        wanted.append(name)
        if others.get(argument) is not None:
            found[name] = others[argument]
    chosen = wanted if not modalities or said else list(modalities)
    parts = ["mdata", f"modalities={chosen!r}", *([f"layers={found!r}"] if found else [])]
    parts += [f"batch_key={batch_key!r}"] if batch_key is not None else []
    parts += [f"labels_key={labels_key!r}"] if labels_key is not None else []
    got = sorted(others) or f"modalities={said!r}"
    return f"expected arguments of {model}.setup_mudata, got {got}; write {model}.setup_mudata({', '.join(parts)})."


def isotype_controls(modality: str, features: Sequence[str]) -> list[str]:
    """Names of the features of a modality of proteins that look like isotype controls."""
    if modality.lower() not in PROTEIN_NAMES:
        return []
    return [name for name in features if _ISOTYPE.search(name)]


def _keys(name: str, keys: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise TypeError(f"expected {name} to be a list of columns of .obs, got {keys!r}; write [{keys!r}].")
    return () if keys is None else check_strings(name, keys)


def _detect(mdata: MuData, at_least: int) -> tuple[str, ...]:
    names = list(mdata.mod)
    if at_least == 1 and len(names) == 1:
        return (names[0],)
    rna = [name for name in names if name.lower() in RNA_NAMES]
    protein = [name for name in names if name.lower() in PROTEIN_NAMES]
    if len(rna) == 1 and len(protein) == 1:
        return (rna[0], protein[0])
    if len(names) == 2:
        return (names[0], names[1])
    raise ValueError(
        f"expected two modalities, or one called {'/'.join(RNA_NAMES)} and one called {'/'.join(PROTEIN_NAMES)}, "
        f"got {names}; choose with IndiSeekModel.setup_mudata(mdata, modalities=['first', 'second'])."
    )
