"""Networks: encoders, critics, flows and fusion by attention."""

from indiseek.nn._critic import GaussianCritic, SeparableCritic
from indiseek.nn._flow import ConditionalFlow
from indiseek.nn._fusion import FusionTransformer
from indiseek.nn._mlp import MLP, Activation, Encoder

__all__ = [
    "MLP",
    "Activation",
    "ConditionalFlow",
    "Encoder",
    "FusionTransformer",
    "GaussianCritic",
    "SeparableCritic",
]
