"""Networks."""

from indiseek.nn._critic import GaussianCritic, SeparableCritic
from indiseek.nn._mlp import MLP, Activation

__all__ = ["MLP", "Activation", "GaussianCritic", "SeparableCritic"]
