"""From a MuData to tensors: registration, transforms, splits, batches."""

from indiseek.data._anndata import how_to_build, mudata_of
from indiseek.data._cells import Cells, CellTensors, Schema, digest_of_names
from indiseek.data._convert import convert
from indiseek.data._disk import DiskMatrix, Matrix, Values, is_sparse, row_chunks
from indiseek.data._files import mudata_writer, replace_files, write_mudata
from indiseek.data._open import open_mudata
from indiseek.data._progress import progress
from indiseek.data._reading import choose_transform
from indiseek.data._rows import OrderedBatches, RowBatches, Split, SplitOptions, given_split, positions, random_split
from indiseek.data._setup import (
    Setup,
    covariate_columns,
    isotype_controls,
    make_setup,
    note_setup,
    noted_setup,
    setup_line,
)
from indiseek.data._transforms import CLR, TRANSFORMS, LogNormalizePCA, Scale, Transform, check_transforms
from indiseek.data._views import thinned_views
from indiseek.data._zarr import checked_array, new_zarr

__all__ = [
    "CLR",
    "CellTensors",
    "Cells",
    "DiskMatrix",
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
    "check_transforms",
    "checked_array",
    "convert",
    "covariate_columns",
    "choose_transform",
    "convert",
    "covariate_columns",
    "digest_of_names",
    "given_split",
    "make_setup",
    "mudata_of",
    "mudata_writer",
    "how_to_build",
    "is_sparse",
    "isotype_controls",
    "new_zarr",
    "note_setup",
    "noted_setup",
    "open_mudata",
    "positions",
    "progress",
    "random_split",
    "replace_files",
    "row_chunks",
    "setup_line",
    "thinned_views",
    "write_mudata",
]
