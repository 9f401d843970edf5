from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True, eq=False)
class Colour:
    """Values of one feature or annotation for every cell, and how to call them."""

    title: str
    values: pd.Series
    is_log_counts: bool = False

    @property
    def is_categorical(self) -> bool:
        return isinstance(self.values.dtype, pd.CategoricalDtype)


def find_colour(mdata: MuData, name: str) -> Colour:
    """Look ``name`` up in ``mdata.obs``, then among features and ``.obs`` columns of the modalities.

    ``"modality:name"`` looks in that modality only.
    """
    if name in mdata.obs:
        return Colour(name, _annotation(mdata.obs[name]))
    modality, _, within = name.partition(":")
    if within and modality in mdata.mod:
        candidates, wanted = [modality], within
    else:
        candidates, wanted = list(mdata.mod), name
    found = [key for key in candidates if wanted in mdata.mod[key].var_names or wanted in mdata.mod[key].obs]
    if not found:
        raise KeyError(_not_found(mdata, name))
    if len(found) > 1:
        choices = " or ".join(repr(f"{key}:{name}") for key in found)
        raise ValueError(f"expected a name that is found once, got {name!r} in {found}; write {choices}")
    adata = mdata.mod[found[0]]
    if wanted in adata.var_names:
        values = _column(adata, wanted)
        is_counts = bool((values >= 0).all() and (values == np.rint(values)).all())
        values = np.log1p(values) if is_counts else values
        series = pd.Series(values, index=adata.obs_names).reindex(mdata.obs_names)
        return Colour(_short_name(adata, wanted), series, is_log_counts=is_counts)
    return Colour(wanted, _annotation(adata.obs[wanted].reindex(mdata.obs_names)))


def _annotation(column: pd.Series) -> pd.Series:
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number:
        return column.astype(np.float64)
    categories = column.astype("category")
    return categories.cat.remove_unused_categories()


def _column(adata: AnnData, name: str) -> np.ndarray:
    x = adata[:, name].X
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64).ravel()


def _short_name(adata: AnnData, name: str) -> str:
    """``name`` without a tag such as ``_TotalSeqB`` that every feature of the modality ends with."""
    stem, separator, tag = name.rpartition("_")
    shared = stem and adata.n_vars > 1 and all(str(other).endswith(separator + tag) for other in adata.var_names)
    return stem if shared else name


def _not_found(mdata: MuData, name: str) -> str:
    names = [str(column) for column in mdata.obs]
    for adata in mdata.mod.values():
        names += [str(entry) for entry in (*adata.var_names, *adata.obs)]
    by_lower: dict[str, str] = {}
    for entry in names:
        # Users leave out tags such as _TotalSeqB, which would drown a one-letter slip.
        for spelling in (entry.lower(), entry.lower().partition("_")[0]):
            by_lower.setdefault(spelling, entry)
    begins = [entry for lower, entry in by_lower.items() if lower.startswith(name.lower())]
    similar = [by_lower[lower] for lower in difflib.get_close_matches(name.lower(), by_lower, n=5)]
    close = list(dict.fromkeys([*begins, *similar]))[:5]
    advice = f"did you mean one of {close}?" if close else "see mdata.obs and the var_names of each modality"
    return f"expected a column of .obs or a feature of {list(mdata.mod)}, got {name!r}; {advice}"
