"""From a MuData to tensors: registration, transforms, splits, batches."""

from indiseek.data._cells import Cells, CellTensors, Schema, choose_transform, digest_of_names
from indiseek.data._convert import convert
from indiseek.data._disk import DiskMatrix, Matrix, Values, is_sparse, row_chunks
from indiseek.data._files import mudata_writer, replace_files, write_mudata
from indiseek.data._locks import FileLock, only_writer
from indiseek.data._open import open_mudata
from indiseek.data._ours import check_replaceable, is_ours, mark
from indiseek.data._rows import OrderedBatches, RowBatches, Split, SplitOptions, given_split, random_split
from indiseek.data._setup import Setup, make_setup, note_setup, noted_setup
from indiseek.data._sources import files_of
from indiseek.data._transforms import CLR, TRANSFORMS, LogNormalizePCA, Scale, Transform, check_transforms
from indiseek.data._views import thinned_views
from indiseek.data._workspace import settle
from indiseek.data._zarr import checked_array, new_zarr

__all__ = [
    "CLR",
    "CellTensors",
    "Cells",
    "DiskMatrix",
    "FileLock",
    "TRANSFORMS",
    "LogNormalizePCA",
    "Matrix",
    "OrderedBatches",
    "RowBatches",
    "Scale",
    "Schema",
    "Setup",
    "Split",
    "SplitOptions",
    "Transform",
    "Values",
    "check_replaceable",
    "check_transforms",
    "checked_array",
    "convert",
    "choose_transform",
    "convert",
    "digest_of_names",
    "files_of",
    "given_split",
    "make_setup",
    "mudata_writer",
    "is_ours",
    "is_sparse",
    "mark",
    "new_zarr",
    "note_setup",
    "noted_setup",
    "only_writer",
    "open_mudata",
    "random_split",
    "replace_files",
    "row_chunks",
    "settle",
    "thinned_views",
    "write_mudata",
]
