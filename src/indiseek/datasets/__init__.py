"""Real paired data shipped with the package."""

from __future__ import annotations

from ._bmcite import bmcite
from ._covid_cite import covid_cite
from ._gating import PBMC_THRESHOLDS, gate_pbmc
from ._multibench import multibench_affect
from ._pbmc10k import pbmc10k_cite

__all__ = ["PBMC_THRESHOLDS", "bmcite", "covid_cite", "gate_pbmc", "multibench_affect", "pbmc10k_cite"]
