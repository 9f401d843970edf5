"""A MuData of an AnnData that holds two modalities in its own way, or of plain arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from indiseek.data._arrays import of_arrays

# Words of 10x Genomics in .var["feature_types"], and names of the modalities here.
_FEATURE_TYPES = {
    "Gene Expression": "rna",
    "Antibody Capture": "prot",
    "Peaks": "atac",
    "Multiplexing Capture": "hto",
    "CRISPR Guide Capture": "crispr",
    "Custom": "custom",
}
_TYPES = "feature_types"
_PROTEIN_WORDS = ("protein", "prot", "adt", "antibody", "citeseq", "cite_seq")


def mudata_of(
    adata: AnnData | Mapping[str, Any], protein_obsm_key: str | None = None, *, obs: pd.DataFrame | None = None
) -> MuData:
    """Build a MuData of plain arrays, or of an AnnData that holds proteins beside the genes.

    Parameters
    ----------
    adata
        A dict of arrays by modality, ``{"image": x, "text": y}``: numpy arrays, tables (their names are kept), sparse
        matrices or tensors of the same cells in the same order, ``(n_cells, n_features)``. Further axes, such as those
        of images, are laid one behind the other, ``(n_cells, n_channels * height * width)``.

        Or an AnnData as 10x Genomics and totalVI have it: genes in ``X``, and proteins in ``.obsm``, as a table or an
        array; or genes and proteins side by side with ``.var["feature_types"]``. It is not changed.
    protein_obsm_key
        Key of the proteins in ``.obsm``, totalVI's ``protein_expression_obsm_key``. By default the features are split
        by ``.var["feature_types"]`` where there are two types of them, and else the one key is taken whose name says
        protein, prot, adt or antibody.
    obs
        With a dict of arrays, a table of what else is known of the cells, such as their type or batch.

    Returns
    -------
    Modalities as they are named in the dict. Of an AnnData ``rna`` and ``prot``, or one for each type of features;
    layers go with the features, ``.obs`` with the first modality and everything else of ``.obsm`` with the MuData.

    Raises
    ------
    TypeError
        If `adata` is neither an AnnData nor a dict, an array holds no numbers, or `obs` is no table or goes with no
        dict.
    KeyError
        If there is no such key in ``.obsm``.
    ValueError
        If there are no proteins, or several keys could be theirs; or if the arrays are of different numbers of cells
        or name them differently.

    Examples
    --------
    >>> mdata = indiseek.data.mudata_of({"image": pixels, "text": embedding})
    >>> indiseek.CoMMModel(mdata).train()

    >>> mdata = indiseek.data.mudata_of(adata, protein_obsm_key="protein_expression")
    >>> model = indiseek.IndiSeekModel(mdata)
    """
    if isinstance(adata, Mapping) and protein_obsm_key is None:
        return of_arrays(adata, obs)
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"expected an AnnData or a dict of arrays, got {type(adata).__name__}; a MuData needs no building, and a "
            "dict no protein_obsm_key."
        )
    if obs is not None:
        raise TypeError("expected obs with a dict of arrays, got it with an AnnData, which has its own; leave it out.")
    if protein_obsm_key is None and _types_of(adata):
        parts = _by_type(adata)
        used: set[str] = set()
    else:
        key = _protein_key(adata) if protein_obsm_key is None else protein_obsm_key
        if not isinstance(key, str) or key not in adata.obsm:
            raise KeyError(f"expected proteins in .obsm[{key!r}], got keys {sorted(adata.obsm)}; name one of them.")
        genes = AnnData(adata.X, obs=adata.obs.copy(), var=adata.var.copy(), layers=dict(adata.layers))
        parts, used = {"rna": genes, "prot": _proteins(adata, key)}, {key}
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(parts)
        mdata.obs = adata.obs.copy()
        for key, value in adata.obsm.items():
            if key not in used | set(parts):
                mdata.obsm[key] = value
    return mdata


def how_to_build(thing: Any, protein_obsm_key: str | None = None) -> str:
    """What its user can write to get a MuData of `thing`, whose proteins may be said to be under a key of ``.obsm``."""
    if isinstance(thing, AnnData):
        keys = [protein_obsm_key] if protein_obsm_key in thing.obsm else _protein_keys(thing)
        if _types_of(thing) and protein_obsm_key is None:
            return "build one with mdata = indiseek.data.mudata_of(adata), which splits it by .var['feature_types']"
        if keys:
            return f"build one with mdata = indiseek.data.mudata_of(adata, protein_obsm_key={keys[0]!r})"
    if isinstance(thing, Mapping):
        return "build one of arrays by modality with mdata = indiseek.data.mudata_of(arrays)"
    return "build one with mudata.MuData({'rna': rna, 'prot': protein})"


def _types_of(adata: AnnData) -> list[str]:
    """The types of features, where there are two or more."""
    types = adata.var[_TYPES].dropna().astype(str).unique().tolist() if _TYPES in adata.var else []
    return types if len(types) > 1 else []


def _by_type(adata: AnnData) -> dict[str, AnnData]:
    types = adata.var[_TYPES].astype(str)
    names = {kind: _FEATURE_TYPES.get(kind, kind.lower().replace(" ", "_")) for kind in _types_of(adata)}
    parts = {}
    for number, (kind, name) in enumerate(sorted(names.items(), key=lambda item: item[1] != "rna")):
        part = adata[:, (types == kind).to_numpy()].copy()
        # Of the cells, not of these features.
        for slot in (part.obsm, part.obsp, part.uns):
            slot.clear()
        if number:
            part.obs = pd.DataFrame(index=part.obs_names)
        parts[name] = part
    return parts


def _protein_keys(adata: AnnData) -> list[str]:
    return [str(key) for key in adata.obsm if any(word in str(key).lower() for word in _PROTEIN_WORDS)]


def _protein_key(adata: AnnData) -> str:
    keys = _protein_keys(adata)
    if len(keys) != 1:
        what = f"several keys that could be theirs, {keys}" if keys else f"keys {sorted(adata.obsm)}"
        raise ValueError(
            f"expected proteins in .obsm, or two types in .var[{_TYPES!r}], got {what}; name the key in "
            "protein_obsm_key, or build the MuData yourself: mudata.MuData({'rna': rna, 'prot': protein})."
        )
    return keys[0]


def _proteins(adata: AnnData, key: str) -> AnnData:
    """The proteins in ``.obsm`` as a modality; without a table's names, totalVI keeps them in ``.uns``."""
    values = adata.obsm[key]
    names: list[Hashable]
    if isinstance(values, pd.DataFrame):
        names, values = values.columns.tolist(), values.to_numpy()
    else:
        noted = np.asarray(adata.uns.get("protein_names", [])).ravel()
        names = noted.tolist() if len(noted) == values.shape[1] else [f"protein_{i}" for i in range(values.shape[1])]
    values = values if sparse.issparse(values) else np.asarray(values)
    return AnnData(values, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=pd.Index(map(str, names))))
