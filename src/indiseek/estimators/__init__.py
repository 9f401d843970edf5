"""Estimators of mutual information, in nats."""

from indiseek.estimators._bounds import info_nce, nce_club, vclub
from indiseek.estimators._gaussian import gaussian_mutual_information, gaussian_nce_club

__all__ = ["gaussian_mutual_information", "gaussian_nce_club", "info_nce", "nce_club", "vclub"]
