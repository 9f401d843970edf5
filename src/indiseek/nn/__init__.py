"""Networks."""

from indiseek.nn._bridge import CodeBridge
from indiseek.nn._conditional_gaussian import ConditionalGaussian
from indiseek.nn._conditional_quantiles import ConditionalQuantiles
from indiseek.nn._critic import GaussianCritic, SeparableCritic
from indiseek.nn._flow import ConditionalFlow
from indiseek.nn._fusion import FusionTransformer
from indiseek.nn._mixture import NormalMixture
from indiseek.nn._mlp import MLP, Activation
from indiseek.nn._nystrom_ridge import NystromRidge
from indiseek.nn._refining_flow import RefiningFlow

__all__ = [
    "MLP",
    "Activation",
    "CodeBridge",
    "ConditionalFlow",
    "ConditionalGaussian",
    "ConditionalQuantiles",
    "FusionTransformer",
    "GaussianCritic",
    "NormalMixture",
    "NystromRidge",
    "RefiningFlow",
    "SeparableCritic",
]
