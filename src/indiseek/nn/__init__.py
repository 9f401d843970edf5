"""Networks."""

from indiseek.nn._bridge import CodeBridge
from indiseek.nn._critic import GaussianCritic, SeparableCritic
from indiseek.nn._flow import ConditionalFlow
from indiseek.nn._fusion import FusionTransformer
from indiseek.nn._mlp import MLP, Activation

__all__ = [
    "MLP",
    "Activation",
    "CodeBridge",
    "ConditionalFlow",
    "FusionTransformer",
    "GaussianCritic",
    "SeparableCritic",
]
