"""Effects by space: whether a condition acts on what both layers share, or on one of them alone."""

from indiseek.effects._compare import MIN_COORDINATION, MIN_SHARE, compare
from indiseek.effects._coordination import coordination
from indiseek.effects._labels import Labels
from indiseek.effects._layers import log_centered, log_normalized, thinned
from indiseek.effects._moderated import moderated_t
from indiseek.effects._pairs import Pairs, canonical_pairs
from indiseek.effects._profiles import Layer, Profiles, profiles
from indiseek.effects._result import Effects
from indiseek.effects._spaces import compare_profiles, feature_effects

__all__ = [
    "Effects",
    "Labels",
    "Layer",
    "MIN_COORDINATION",
    "MIN_SHARE",
    "Pairs",
    "Profiles",
    "canonical_pairs",
    "compare",
    "compare_profiles",
    "coordination",
    "feature_effects",
    "log_centered",
    "log_normalized",
    "moderated_t",
    "profiles",
    "thinned",
]
