"""Distributions that torch does not have."""

from indiseek.distributions._von_mises_fisher import bessel_ratio, sample_von_mises_fisher, von_mises_fisher_kl

__all__ = ["bessel_ratio", "sample_von_mises_fisher", "von_mises_fisher_kl"]
