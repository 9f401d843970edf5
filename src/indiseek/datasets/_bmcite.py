"""CITE-seq of bone marrow, of a file that the user has."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

_TO_HAVE = (
    'in R, MuDataSeurat::WriteH5MU(SeuratData::LoadData("bmcite"), "bmcite.h5mu") writes the file, after '
    'SeuratData::InstallData("bmcite")'
)
# As Seurat names its assays, and as they are called here.
_MODALITIES = {"rna": ("RNA", "rna"), "prot": ("ADT", "adt", "prot")}
_COUNTS = "counts"
_TYPES = "celltype.l2"


def bmcite(path: str | Path) -> MuData:
    """Paired RNA and surface protein counts of human bone marrow, the cells of the IndiSeek paper.

    The cells do not come with this package, and nothing is downloaded. Those of [1]_ (GSE128639) with cell types are
    the data set ``bmcite`` of the R package SeuratData: 30,672 cells, 25 proteins, 27 types. R writes them to a file
    with ``MuDataSeurat::WriteH5MU(SeuratData::LoadData("bmcite"), "bmcite.h5mu")``, after
    ``SeuratData::InstallData("bmcite")``.

    Parameters
    ----------
    path
        That file, or any MuData (``.h5mu``) with modalities ``RNA`` and ``ADT``, or ``rna`` and ``prot``, with counts
        in the layer ``counts`` or in ``.X``, and the column ``celltype.l2`` of ``.obs``.

    Returns
    -------
    mudata.MuData
        The same cells in the same order in both modalities:

        - ``rna`` and ``prot``: ``.X`` of shape ``(n_cells, n_features)``, raw counts, CSR or dense, float32, and
          nothing that Seurat has computed;
        - ``.obs``: ``celltype.l2``, and what else the file has, such as ``celltype.l1``, ``donor`` and ``lane``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, the cells of the modalities differ, or there are no counts.

    References
    ----------
    .. [1] Stuart et al., "Comprehensive integration of single-cell data", Cell 177, 1888-1902 (2019).

    Examples
    --------
    >>> mdata = indiseek.datasets.bmcite("bmcite.h5mu")
    >>> model = indiseek.IndiSeekModel(mdata)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with the cells, got {str(path)!r}, which is none; {_TO_HAVE}.")
    if path.suffix != ".h5mu":
        raise ValueError(f"expected an .h5mu, got {path.name!r}; {_TO_HAVE}.")
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        # A gene and a protein may have one name; they stand in different modalities here.
        warnings.filterwarnings("ignore", message=r"(Variable |var_)names are not unique", category=UserWarning)
        found = mudata.read_h5mu(path)
        named = {name: next((each for each in words if each in found.mod), None) for name, words in _MODALITIES.items()}
        missing = [_MODALITIES[name][0] for name, each in named.items() if each is None]
        # Seurat's columns stand with the MuData; mudata puts those of a modality there with its name before them.
        columns = [name for name in found.obs if str(name).split(":")[-1] == _TYPES]
        if missing or not columns:
            raise ValueError(
                f"expected modalities RNA and ADT and the column {_TYPES!r} of .obs, got {path.name!r} without "
                f"{missing + ([] if columns else [_TYPES])}; {_TO_HAVE}."
            )
        parts = {name: _raw(found.mod[str(each)], name, path) for name, each in named.items()}
        if not parts["rna"].obs_names.equals(parts["prot"].obs_names):
            raise ValueError(
                f"expected the same cells in the same order in both modalities, got {path.name!r} with "
                f"{parts['rna'].n_obs} and {parts['prot'].n_obs} cells; {_TO_HAVE}."
            )
        mdata = MuData(parts)
        mdata.obs = found.obs.loc[parts["rna"].obs_names].rename(columns={columns[0]: _TYPES})
    return mdata


def _raw(adata: AnnData, name: str, path: Path) -> AnnData:
    """Counts alone, with the names of cells and features."""
    values = adata.layers[_COUNTS] if _COUNTS in adata.layers else adata.X
    counts = sparse.csr_matrix(values, dtype=np.float32) if sparse.issparse(values) else np.asarray(values, np.float32)
    stored: Any = counts.data if sparse.issparse(counts) else counts
    if (stored < 0).any() or (stored != np.rint(stored)).any():
        raise ValueError(
            f"expected raw counts in the layer {_COUNTS!r} or in .X of {name!r}, got values of {path.name!r} that are "
            f"negative or not whole; {_TO_HAVE}."
        )
    return AnnData(counts, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
