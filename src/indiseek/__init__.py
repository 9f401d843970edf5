"""Shared and modality-specific latent spaces of paired single-cell data."""

import logging
from importlib.metadata import version

from indiseek import data, datasets, distributions, estimators, metrics, models, nn, objectives, pl, simulation, tuning
from indiseek.models import PAPER, ClosedForm, CoMMModel, DisentangledSSLModel, Flow, IndiSeekModel, NCEClub
from indiseek.nn import Encoder

__all__ = [
    "PAPER",
    "ClosedForm",
    "CoMMModel",
    "DisentangledSSLModel",
    "Encoder",
    "Flow",
    "IndiSeekModel",
    "NCEClub",
    "__version__",
    "data",
    "datasets",
    "distributions",
    "estimators",
    "metrics",
    "models",
    "nn",
    "objectives",
    "pl",
    "simulation",
    "tuning",
]

__version__ = version("indiseek")

# What a model chose for its user must be seen without any set-up, as in scanpy and scvi-tools.
_logger = logging.getLogger(__name__)
if not _logger.handlers:
    _logger.addHandler(logging.StreamHandler())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
