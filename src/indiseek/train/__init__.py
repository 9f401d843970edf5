"""Training: one Lightning module for every objective."""

from indiseek.train._fit import Place, StageResult, fit_stage, resolve_device, resolve_place
from indiseek.train._seed import seeded
from indiseek.train._stage import StageModule, StageSettings, StageState, linear_ramp

__all__ = [
    "Place",
    "StageModule",
    "StageResult",
    "StageSettings",
    "StageState",
    "fit_stage",
    "linear_ramp",
    "resolve_device",
    "resolve_place",
    "seeded",
]
