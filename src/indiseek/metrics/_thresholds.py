"""The limits of a certificate's verdicts."""

from __future__ import annotations

from dataclasses import dataclass

from indiseek._checks import check_number


@dataclass(frozen=True)
class Thresholds:
    """Limits of a certificate's verdicts.

    A verdict compares a limit with an interval, so that it is *pass*, *FAIL* or *too few cells*. How often each is
    wrong has been measured in simulations (``benchmarks/results/calibration.md``).

    Attributes
    ----------
    independence
        Largest share of the variance of its target that a specific code may explain, map and products together, default
        0.05; also the largest R2 of a nonlinear probe.
    excess
        Largest share of what the other modalities cannot know that a shared code may explain, default 0.1.
    completeness
        Smallest share of a modality's variance that its codes give back together, default 0.7.
    foscttm
        Largest FOSCTTM between the shared codes of two modalities, default 0.25, half of chance.

    Raises
    ------
    TypeError, ValueError
        If one is no number from 0 to 1.
    """

    independence: float = 0.05
    excess: float = 0.1
    completeness: float = 0.7
    foscttm: float = 0.25

    def __post_init__(self) -> None:
        """Check them."""
        for name in ("independence", "excess", "completeness", "foscttm"):
            check_number(name, getattr(self, name), low=0, high=1)
