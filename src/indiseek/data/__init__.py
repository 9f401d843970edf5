"""From a MuData to tensors: registration, transforms, splits, batches."""

from indiseek.data._anndata import how_to_build, mudata_of
from indiseek.data._cells import Cells, CellTensors, Schema, digest_of_names
from indiseek.data._components import CLRPCA, ComponentTransform, LogNormalizePCA, ScalePCA
from indiseek.data._convert import convert
from indiseek.data._disk import DiskMatrix, Matrix, Values, is_sparse, row_chunks
from indiseek.data._estimated import EstimatedTransform, LeastSquares
from indiseek.data._files import mudata_writer, replace_files, write_mudata
from indiseek.data._folds import fold_splits
from indiseek.data._known_transforms import TRANSFORMS, check_transforms
from indiseek.data._labels import check_labels_of_training
from indiseek.data._locks import FileLock, only_writer
from indiseek.data._matching import FeatureMatch, match_features, match_modalities
from indiseek.data._open import open_mudata
from indiseek.data._ours import check_replaceable, is_ours, mark
from indiseek.data._progress import progress, watched
from indiseek.data._reading import choose_transform
from indiseek.data._rows import (
    Groups,
    OrderedBatches,
    RowBatches,
    Split,
    SplitOptions,
    given_split,
    grouped_split,
    positions,
    random_split,
)
from indiseek.data._setup import (
    Setup,
    check_covariates,
    column_of,
    confounded_columns,
    covariate_columns,
    isotype_controls,
    make_setup,
    note_setup,
    noted_setup,
    setup_line,
)
from indiseek.data._signal import ComponentSignal, count_components, reconstructed_components
from indiseek.data._sources import files_of
from indiseek.data._transforms import CLR, Scale, Transform, to_tensor
from indiseek.data._views import thinned_views
from indiseek.data._workspace import make_folder, settle
from indiseek.data._zarr import checked_array, new_zarr

__all__ = [
    "CLR",
    "CLRPCA",
    "CellTensors",
    "Cells",
    "ComponentSignal",
    "ComponentTransform",
    "DiskMatrix",
    "EstimatedTransform",
    "FeatureMatch",
    "FileLock",
    "Groups",
    "LeastSquares",
    "LogNormalizePCA",
    "Matrix",
    "OrderedBatches",
    "RowBatches",
    "Scale",
    "ScalePCA",
    "Schema",
    "Setup",
    "Split",
    "SplitOptions",
    "TRANSFORMS",
    "Transform",
    "Values",
    "check_covariates",
    "check_replaceable",
    "check_labels_of_training",
    "check_transforms",
    "checked_array",
    "choose_transform",
    "confounded_columns",
    "column_of",
    "convert",
    "count_components",
    "covariate_columns",
    "digest_of_names",
    "files_of",
    "given_split",
    "fold_splits",
    "grouped_split",
    "how_to_build",
    "is_ours",
    "is_sparse",
    "isotype_controls",
    "make_folder",
    "make_setup",
    "mark",
    "match_features",
    "match_modalities",
    "mudata_of",
    "mudata_writer",
    "new_zarr",
    "note_setup",
    "noted_setup",
    "only_writer",
    "open_mudata",
    "positions",
    "progress",
    "random_split",
    "reconstructed_components",
    "replace_files",
    "row_chunks",
    "settle",
    "setup_line",
    "thinned_views",
    "to_tensor",
    "watched",
    "write_mudata",
]
