"""Objectives: the networks and losses of one stage each."""

from indiseek.objectives._augmented_view import augmented_view, n_masked_features
from indiseek.objectives._base import Objective, ObjectiveOutput, joint_code
from indiseek.objectives._batch_corrected import BatchCorrectedObjective
from indiseek.objectives._clip import CLIPObjective, clip_loss
from indiseek.objectives._closed_form_flow import ClosedFormFlowObjective
from indiseek.objectives._comm import Augment, CoMMObjective, Form, Negatives, nt_xent
from indiseek.objectives._components import ComponentsObjective
from indiseek.objectives._conditional_flow import ConditionalFlowObjective
from indiseek.objectives._disentangled_shared import Bottleneck, DisentangledSharedObjective
from indiseek.objectives._disentangled_specific import (
    DisentangledSpecificObjective,
    Orthogonality,
    SpecificForm,
    orthogonality_loss,
)
from indiseek.objectives._distance_info_nce import DistanceInfoNCEObjective, distance_info_nce_loss
from indiseek.objectives._everything import EverythingObjective
from indiseek.objectives._gather import (
    across_processes,
    gather,
    gather_objects,
    gathered_sum,
    own_share,
    rank,
    world_size,
)
from indiseek.objectives._invertible import InvertibleObjective
from indiseek.objectives._nce_club import Independence, IndependentOf, NCEClubObjective

__all__ = [
    "Augment",
    "Bottleneck",
    "BatchCorrectedObjective",
    "CLIPObjective",
    "ClosedFormFlowObjective",
    "CoMMObjective",
    "ComponentsObjective",
    "ConditionalFlowObjective",
    "DisentangledSharedObjective",
    "DisentangledSpecificObjective",
    "DistanceInfoNCEObjective",
    "EverythingObjective",
    "Form",
    "Independence",
    "IndependentOf",
    "InvertibleObjective",
    "NCEClubObjective",
    "Negatives",
    "Objective",
    "ObjectiveOutput",
    "Orthogonality",
    "SpecificForm",
    "across_processes",
    "augmented_view",
    "clip_loss",
    "distance_info_nce_loss",
    "gather",
    "gather_objects",
    "gathered_sum",
    "joint_code",
    "n_masked_features",
    "nt_xent",
    "orthogonality_loss",
    "own_share",
    "rank",
    "world_size",
]
