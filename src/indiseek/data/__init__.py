"""From a MuData to tensors: registration, transforms, splits, batches."""

from indiseek.data._batches import OrderedBatches, RowBatches
from indiseek.data._clr_pca import CLRPCA, TRANSFORMS
from indiseek.data._components import (
    ComponentSignal,
    count_components,
    reconstructed_components,
    whitenable_components,
)
from indiseek.data._convert import convert
from indiseek.data._disk import DiskMatrix, Matrix, Values, is_sparse, row_chunks
from indiseek.data._open import open_mudata
from indiseek.data._registration import Registration, checked_values, make_registration, read_modality, register
from indiseek.data._split import Split, given_split, random_split
from indiseek.data._transforms import CLR, LogNormalizePCA, Scale, Transform
from indiseek.data._views import thinned_views
from indiseek.data._zarr import checked_array, new_zarr

__all__ = [
    "CLR",
    "CLRPCA",
    "ComponentSignal",
    "DiskMatrix",
    "TRANSFORMS",
    "LogNormalizePCA",
    "Matrix",
    "OrderedBatches",
    "Registration",
    "RowBatches",
    "Scale",
    "Split",
    "Transform",
    "Values",
    "checked_array",
    "checked_values",
    "convert",
    "count_components",
    "given_split",
    "is_sparse",
    "make_registration",
    "new_zarr",
    "open_mudata",
    "random_split",
    "read_modality",
    "reconstructed_components",
    "register",
    "row_chunks",
    "thinned_views",
    "whitenable_components",
]
