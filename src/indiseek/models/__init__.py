"""Models: what a user trains."""

from indiseek.models._base import MultimodalModel
from indiseek.models._comm import CoMMModel
from indiseek.models._disentangled_ssl import DisentangledSSLModel
from indiseek.models._embed import embed
from indiseek.models._indiseek import IndiSeekModel
from indiseek.models._load import load_model
from indiseek.models._paper import PAPER
from indiseek.models._tuning_result import Tuning

__all__ = [
    "PAPER",
    "CoMMModel",
    "DisentangledSSLModel",
    "IndiSeekModel",
    "MultimodalModel",
    "Tuning",
    "embed",
    "load_model",
]
