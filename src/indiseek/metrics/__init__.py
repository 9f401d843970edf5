"""Metrics: pure functions from arrays of held-out cells to numbers, dataclasses and tables."""

from ._baselines import cca, pls_svd
from ._certificate import Certificate
from ._certify import certify
from ._completeness import completeness
from ._conditional import conditional_mean
from ._critic import InformationBound, infonce_bound
from ._dependence import Dependence, distance_correlation
from ._explained import Explained, explained
from ._leakage import Leakage, leakage, leakages
from ._modality_weight import ModalityWeight, modality_weight
from ._noise import noise_share, overdispersion, thin_counts
from ._pooled import pooled_certificate
from ._predictability import predictability
from ._probes import feature_r2, probe_r2
from ._retrieval import foscttm, median_rank, recall_at_k
from ._thresholds import Thresholds
from .checks import CHECKS, Check, Finding

__all__ = [
    "CHECKS",
    "Certificate",
    "Check",
    "Dependence",
    "Explained",
    "Finding",
    "InformationBound",
    "Leakage",
    "ModalityWeight",
    "Thresholds",
    "cca",
    "certify",
    "completeness",
    "conditional_mean",
    "distance_correlation",
    "explained",
    "feature_r2",
    "foscttm",
    "infonce_bound",
    "leakage",
    "leakages",
    "median_rank",
    "modality_weight",
    "noise_share",
    "overdispersion",
    "pls_svd",
    "pooled_certificate",
    "predictability",
    "probe_r2",
    "recall_at_k",
    "thin_counts",
]
