"""Models: what a user trains."""

from indiseek.models._base import MultimodalModel
from indiseek.models._certificate import MIN_HELD_OUT_CELLS
from indiseek.models._comm import CoMMModel
from indiseek.models._disentangled_ssl import DisentangledSSLModel
from indiseek.models._embed import embed
from indiseek.models._indiseek import IndiSeekModel
from indiseek.models._load import load_model
from indiseek.models._options import PAPER, ClosedForm, Flow, NCEClub, Options
from indiseek.models._query import QuerySummary

__all__ = [
    "MIN_HELD_OUT_CELLS",
    "PAPER",
    "ClosedForm",
    "CoMMModel",
    "DisentangledSSLModel",
    "Flow",
    "IndiSeekModel",
    "MultimodalModel",
    "NCEClub",
    "Options",
    "QuerySummary",
    "embed",
    "load_model",
]
