"""What a search gives back."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, eq=False)
class Tuning:
    """What :meth:`indiseek.IndiSeekModel.tune` has measured on the validation cells, and what it chose.

    Attributes
    ----------
    table
        One row a candidate. Rows of ``stage`` ``"shared"`` are shared codes of ``n_shared`` dimensions trained with
        ``alignment``; ``infonce`` is their held-out loss in nats (lower is better) with its standard error
        ``infonce_se`` over cells, ``foscttm`` their retrieval (lower is better), ``content_<modality>`` the R2 of the
        joint code to what the other modalities know of the modality (higher is better), and ``excess_<modality>`` the
        R2 above its null to what they cannot know (lower is better). Rows of stage ``"specific"`` are specific codes
        on top of the chosen shared ones, for ``"nce-club"`` one for each ``lam``: ``leakage`` is the worst R2 above
        its null to what a specific code should not hold, ``reconstruction`` the held-out relative error of
        ``"nce-club"`` (both lower is better). ``seconds`` is the time of a candidate, ``chosen`` marks the choice.
    chosen
        The model's arguments that were set.
    passed
        Whether the choice keeps to the limits of excess and, for ``"nce-club"``, leakage; False if no candidate did
        and the least bad one was taken.
    reasons
        One sentence for each choice.
    n_specific
        For the flow: the number of dimensions by modality that carry 95 % of what the whole specific code holds of
        what only that modality knows. A suggestion, unless ``choose_n_specific=True`` put it into `chosen`.
    dimensions
        For the flow: columns ``modality``, ``n_specific`` and ``private``, the R2 from the first ``n_specific``
        dimensions to what only the modality knows.
    n_cells
        Number of validation cells that were measured.
    """

    table: pd.DataFrame
    chosen: dict[str, Any]
    passed: bool
    reasons: tuple[str, ...]
    n_specific: dict[str, int]
    dimensions: pd.DataFrame
    n_cells: int

    def summary(self) -> str:
        """Return the choice and its reasons, one line each."""
        return "\n".join([self.headline, *(f"  {reason}." for reason in self.reasons)])

    @property
    def headline(self) -> str:
        """The choice in one line."""
        setting = ", ".join(f"{name}={value:g}" for name, value in self.chosen.items() if not isinstance(value, dict))
        for name, value in self.chosen.items():
            if isinstance(value, dict):
                setting += f", {name}={value}"
        outcome = "" if self.passed else "; NOT within the limits"
        return f"Chosen on {self.n_cells:,} validation cells: {setting}{outcome}"

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(self.headline)}</b></p>", "<ul>"]
        parts += [f"<li>{html.escape(reason)}.</li>" for reason in self.reasons]
        rendered = self.table.to_html(index=False, float_format="{:.3f}".format, na_rep="", max_rows=60)
        return "\n".join([*parts, "</ul>", f"<details><summary>candidates</summary>{rendered}</details>"])
