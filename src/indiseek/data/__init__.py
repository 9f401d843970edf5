"""From a MuData to tensors: registration, transforms, splits, batches."""

from indiseek.data._batches import OrderedBatches, RowBatches
from indiseek.data._registration import Registration, checked_values, make_registration, read_modality, register
from indiseek.data._split import Split, given_split, random_split
from indiseek.data._transforms import CLR, TRANSFORMS, LogNormalizePCA, Matrix, Scale, Transform

__all__ = [
    "CLR",
    "TRANSFORMS",
    "LogNormalizePCA",
    "Matrix",
    "OrderedBatches",
    "Registration",
    "RowBatches",
    "Scale",
    "Split",
    "Transform",
    "checked_values",
    "given_split",
    "make_registration",
    "random_split",
    "read_modality",
    "register",
]
