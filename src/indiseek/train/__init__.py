"""Training: one Lightning module for every objective."""

from indiseek.train._fit import StageResult, fit_stage, resolve_device
from indiseek.train._seed import seeded
from indiseek.train._stage import StageModule, StageSettings, linear_ramp

__all__ = ["StageModule", "StageResult", "StageSettings", "fit_stage", "linear_ramp", "resolve_device", "seeded"]
