"""Training: stages as values, and one Lightning module for every objective."""

from indiseek.train._archive import digest_of_names, read_archive, to_plain, write_archive
from indiseek.train._checkpoint import CHECKPOINT_NAME, Checkpoint
from indiseek.train._fit import (
    Process,
    StageResult,
    fit_in_closed_form,
    fit_stage,
    resolve_device,
    resolve_process,
)
from indiseek.train._fitted import Fitted, empty_transforms
from indiseek.train._guards import amount_of, memory_explained, memory_of_all_explained, seeded
from indiseek.train._module import StageModule, StageState, linear_ramp
from indiseek.train._pipeline import INFERENCE_BATCH, Pipeline
from indiseek.train._run import Plan, Start, fit_pipeline
from indiseek.train._stage import Schedule, Shapes, Space, Stage, StageSettings, settings_of

__all__ = [
    "CHECKPOINT_NAME",
    "INFERENCE_BATCH",
    "Checkpoint",
    "Fitted",
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
    "digest_of_names",
    "empty_transforms",
    "fit_in_closed_form",
    "fit_pipeline",
    "fit_stage",
    "linear_ramp",
    "memory_explained",
    "memory_of_all_explained",
    "read_archive",
    "resolve_device",
    "resolve_process",
    "seeded",
    "settings_of",
    "to_plain",
    "write_archive",
]
