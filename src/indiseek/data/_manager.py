"""Fields of cells as scvi-tools registers them: categories get codes, and those of new cells the same codes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import (
    BaseAnnDataField,
    MuDataCategoricalJointObsField,
    MuDataCategoricalObsField,
    MuDataLabelsWithUnlabeledObsField,
    MuDataLayerField,
    MuDataNumericalJointObsField,
)

from indiseek.data._disk import DiskMatrix, Values
from indiseek.data._setup import Setup


def register(
    values: Mapping[str, Values],
    features: Mapping[str, Sequence[str]],
    covariates: pd.DataFrame,
    setup: Setup,
    *,
    source: Mapping[str, Any] | None = None,
    labels: tuple[NDArray[Any], str] | None = None,
) -> AnnDataManager:
    """Register values and covariates with scvi-tools, outside the user's object.

    scvi-tools writes keys and columns into the object that it registers. It is given a MuData of our own that shares
    the values, so that nothing of the user's changes. Values on disk are not in it, nor those of some features or cells
    only.

    Parameters
    ----------
    values
        Values by modality.
    features
        Names of the features by modality.
    covariates
        ``(n_cells, n_covariates)``, with the names of the cells.
    setup
        Which of the covariates is what.
    source
        Registry of the cells of training, whose categories these cells have too.
    labels
        Label of each cell, ``(n_cells,)``, and the one that stands for none; None where none were set up.

    Returns
    -------
    The manager; its ``adata`` holds the values that lie in memory.

    Raises
    ------
    ValueError
        If a category is not one of those in `source`.
    """
    if source is not None:
        _check_categories(covariates, setup, source)
    # With the modality's name, because a gene and a protein may have one name.
    var = {name: pd.DataFrame(index=[f"{name}:{feature}" for feature in features[name]]) for name in values}
    with mudata.set_options(pull_on_update=False):
        held = {
            name: None
            if isinstance(matrix, DiskMatrix) or matrix.shape != (len(covariates), len(features[name]))
            else matrix
            for name, matrix in values.items()
        }
        obs = pd.DataFrame(index=covariates.index)
        container = MuData({name: AnnData(X=matrix, obs=obs, var=var[name]) for name, matrix in held.items()})
        container.obs = covariates.copy()
        fields: list[BaseAnnDataField] = [
            MuDataLayerField(f"X_{name}", None, mod_key=name, is_count_data=False, mod_required=True) for name in values
        ]
        if setup.batch_key is not None:
            fields.append(MuDataCategoricalObsField(REGISTRY_KEYS.BATCH_KEY, setup.batch_key))
        if setup.categorical_covariate_keys:
            keys = list(setup.categorical_covariate_keys)
            fields.append(MuDataCategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, keys))
        if setup.continuous_covariate_keys:
            keys = list(setup.continuous_covariate_keys)
            fields.append(MuDataNumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, keys))
        if labels is not None:
            key = str(setup.labels_key)
            container.obs[key] = labels[0]
            fields.append(MuDataLabelsWithUnlabeledObsField(REGISTRY_KEYS.LABELS_KEY, key, labels[1]))
        said = {"setup_method_name": "setup_mudata", "setup_args": setup.record()}
        manager = AnnDataManager(fields=fields, setup_method_args=said)
        with warnings.catch_warnings():
            # Its remark is for those who train with all categories; new cells may have few of one, or one unlabelled.
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            manager.register_fields(container, None if source is None else dict(source))
    return manager


def covariates_of(manager: AnnDataManager, setup: Setup) -> dict[str, NDArray[Any]]:
    """Covariates by column of ``.obs``, in the set-up's order: int64 codes of categories, float32 values of numbers."""
    found: dict[str, NDArray[Any]] = {}
    if setup.batch_key is not None:
        codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY))
        found[setup.batch_key] = codes.ravel().astype(np.int64)
    for registry_key, keys, dtype in (
        (REGISTRY_KEYS.CAT_COVS_KEY, setup.categorical_covariate_keys, np.int64),
        (REGISTRY_KEYS.CONT_COVS_KEY, setup.continuous_covariate_keys, np.float32),
    ):
        if keys:
            table = pd.DataFrame(manager.get_from_registry(registry_key))
            found |= {key: table[key].to_numpy().astype(dtype) for key in keys}
    return found


def categories_of(registry: Mapping[str, Any], setup: Setup) -> dict[str, list[Any]]:
    """Categories of each categorical covariate, in the order of their codes."""
    fields = registry["field_registries"]
    found = {}
    if setup.batch_key is not None:
        found[setup.batch_key] = list(fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["categorical_mapping"])
    if setup.categorical_covariate_keys:
        mappings = fields[REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]["mappings"]
        found |= {key: list(mappings[key]) for key in setup.categorical_covariate_keys}
    return found


def _check_categories(covariates: pd.DataFrame, setup: Setup, source: Mapping[str, Any]) -> None:
    for key, known in categories_of(source, setup).items():
        new = sorted(set(covariates[key]) - set(known), key=str)
        if new:
            remedy = ", or let IndiSeekModel.map_query read them as those of a known one" * (key == setup.batch_key)
            raise ValueError(
                f"expected in {key!r} categories that the model was trained with, {known}, got {new}; leave these "
                f"cells out, train with them{remedy}."
            )
