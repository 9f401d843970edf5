"""Networks: encoders, critics, flows and fusion by attention; maps given a condition, in closed form."""

from indiseek.nn._axes import leading_axes
from indiseek.nn._batch_displacement import BatchDisplacement
from indiseek.nn._conditional_gaussian import ConditionalGaussian, whitenable_axes
from indiseek.nn._conditional_quantiles import ConditionalQuantiles
from indiseek.nn._critic import ConcatCritic, Critic, GaussianCritic, SeparableCritic
from indiseek.nn._fitted import FittedModule
from indiseek.nn._flow import ConditionalFlow
from indiseek.nn._fusion import FusionTransformer
from indiseek.nn._mixture import NormalMixture
from indiseek.nn._mlp import MLP, Activation, Encoder
from indiseek.nn._nystrom_ridge import N_FOLDS, NystromRidge
from indiseek.nn._refining_flow import RefiningFlow
from indiseek.nn._sequence import SequenceTransformer

__all__ = [
    "MLP",
    "N_FOLDS",
    "Activation",
    "BatchDisplacement",
    "ConcatCritic",
    "ConditionalFlow",
    "ConditionalGaussian",
    "ConditionalQuantiles",
    "Critic",
    "Encoder",
    "FittedModule",
    "FusionTransformer",
    "GaussianCritic",
    "NormalMixture",
    "NystromRidge",
    "RefiningFlow",
    "SeparableCritic",
    "SequenceTransformer",
    "leading_axes",
    "whitenable_axes",
]
