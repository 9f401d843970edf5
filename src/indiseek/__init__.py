"""Shared and modality-specific latent spaces of paired single-cell data."""

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indiseek import (
        attribution,
        data,
        datasets,
        distributions,
        effects,
        estimators,
        metrics,
        models,
        nn,
        objectives,
        pl,
        report,
        simulation,
        tuning,
    )
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
    "attribution",
    "data",
    "datasets",
    "distributions",
    "effects",
    "estimators",
    "metrics",
    "models",
    "nn",
    "objectives",
    "pl",
    "report",
    "simulation",
    "tuning",
]

__version__ = version("indiseek")

# Where the names above come from: layers are imported when they are asked for, because torch and scanpy take seconds,
# and the command line has something to say before.
_MODELS = ("PAPER", "ClosedForm", "CoMMModel", "DisentangledSSLModel", "Flow", "IndiSeekModel", "NCEClub")
_SOURCES = dict.fromkeys(_MODELS, "models") | {"Encoder": "nn"}


def __getattr__(name: str) -> Any:
    if name in _SOURCES:
        found = getattr(import_module(f"{__name__}.{_SOURCES[name]}"), name)
    elif name in __all__:
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# What a model chose for its user must be seen without any set-up, as in scanpy and scvi-tools.
_logger = logging.getLogger(__name__)
if not _logger.handlers:
    _logger.addHandler(logging.StreamHandler())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
