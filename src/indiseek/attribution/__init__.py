"""What genes and proteins mean in each space: shares of their variance, loadings, and axes that can be read."""

from indiseek.attribution._axes import ROTATIONS, Axes, find_axes, short_names, varimax
from indiseek.attribution._moments import Codes, Moments, Piece, moments
from indiseek.attribution._shares import Features, feature_shares
from indiseek.attribution._table import MIN_GROUP, group_directions, loading_table

__all__ = [
    "Axes",
    "Codes",
    "Features",
    "MIN_GROUP",
    "Moments",
    "Piece",
    "ROTATIONS",
    "feature_shares",
    "find_axes",
    "group_directions",
    "loading_table",
    "moments",
    "short_names",
    "varimax",
]
