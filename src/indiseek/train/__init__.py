"""Training: stages as values, and one Lightning module for every objective."""

from indiseek.train._archive import archive_writer, is_intact, read_archive, to_plain, write_archive
from indiseek.train._checkpoint import CHECKPOINT_NAME, Checkpoint
from indiseek.train._fit import (
    Process,
    StageResult,
    fit_in_closed_form,
    fit_stage,
    resolve_device,
    resolve_process,
)
from indiseek.train._guards import amount_of, memory_explained, memory_of_all_explained, plain_torch, seeded
from indiseek.train._lightning import StageModule, StageState, linear_ramp
from indiseek.train._pipeline import INFERENCE_BATCH, Fitted, Pipeline, empty_transforms
from indiseek.train._run import MakeViews, Plan, Start, fit_pipeline, one_at_a_time
from indiseek.train._saved import malformed_named, read_beside, read_saved, reopened, saved_class, write_saved
from indiseek.train._stage import PATIENCE, Schedule, Shapes, Space, Stage, StageSettings, settings_of

__all__ = [
    "CHECKPOINT_NAME",
    "INFERENCE_BATCH",
    "PATIENCE",
    "Checkpoint",
    "Fitted",
    "MakeViews",
    "Pipeline",
    "Plan",
    "Process",
    "Schedule",
    "Shapes",
    "Space",
    "Stage",
    "StageModule",
    "StageResult",
    "StageSettings",
    "StageState",
    "Start",
    "amount_of",
    "malformed_named",
    "read_beside",
    "read_saved",
    "reopened",
    "saved_class",
    "write_saved",
    "archive_writer",
    "empty_transforms",
    "fit_in_closed_form",
    "fit_pipeline",
    "fit_stage",
    "is_intact",
    "linear_ramp",
    "memory_explained",
    "memory_of_all_explained",
    "one_at_a_time",
    "plain_torch",
    "read_archive",
    "resolve_device",
    "resolve_process",
    "seeded",
    "settings_of",
    "to_plain",
    "write_archive",
]
