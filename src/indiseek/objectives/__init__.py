"""Objectives: the networks and losses of one stage each."""

from indiseek.nn import Activation
from indiseek.objectives._base import Batch, Objective, ObjectiveOutput, joint_code
from indiseek.objectives._clip import CLIPObjective, clip_loss
from indiseek.objectives._conditional_flow import ConditionalFlowObjective
from indiseek.objectives._nce_club import Independence, IndependentOf, NCEClubObjective

__all__ = [
    "Activation",
    "Batch",
    "CLIPObjective",
    "ConditionalFlowObjective",
    "Independence",
    "IndependentOf",
    "NCEClubObjective",
    "Objective",
    "ObjectiveOutput",
    "clip_loss",
    "joint_code",
]
