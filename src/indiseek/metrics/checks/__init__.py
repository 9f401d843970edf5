"""Checks of the certificate, one a file, in the order in which they are told."""

from ._check import Check, Finding, PooledCheck
from ._completeness import Completeness
from ._content import Content
from ._covariates import Covariates
from ._duplicates import Duplicates
from ._excess import Excess
from ._features import Features
from ._independence import Independence
from ._other_forms import OtherForms
from ._probes import Probes
from ._retrieval import Retrieval
from ._within_batches import WithinBatches

CHECKS: tuple[PooledCheck, ...] = (
    Duplicates(),
    Independence(),
    WithinBatches(),
    Probes(),
    OtherForms(),
    Excess(),
    Completeness(),
    Retrieval(),
    Covariates(),
    Content(),
    Features(),
)

__all__ = ["CHECKS", "Check", "Finding", "PooledCheck"]
