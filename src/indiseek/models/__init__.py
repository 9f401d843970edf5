"""Models: what a user trains."""

from indiseek.models._base import MultimodalModel
from indiseek.models._indiseek import IndiSeekModel
from indiseek.models._paper import PAPER
from indiseek.models._tuning_result import Tuning

__all__ = ["PAPER", "IndiSeekModel", "MultimodalModel", "Tuning"]
