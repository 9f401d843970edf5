"""What a comparison gives back."""

from __future__ import annotations

import html
from dataclasses import dataclass

import pandas as pd

from indiseek._checks import printable


@dataclass(frozen=True, eq=False)
class Effects:
    """On which space a condition acts, in each group of cells.

    Attributes
    ----------
    effects
        One row for each group of cells and space: ``group``; ``space``, ``"shared"`` or the name of a modality for what
        it has alone; ``effect``, ``share``, ``p_first``, ``p_second``, ``pvalue`` and ``least_pvalue`` as
        :func:`compare_profiles` describes them; ``qvalue``, of Benjamini and Hochberg over the groups of one space;
        ``call``, whether the condition acts there; ``n_pairs``, the number of axes that the modalities share;
        ``n_first`` and ``n_second``, the replicates of either side; ``n_cells``.
    features
        One row for each group of cells and feature, as :func:`feature_effects` describes them, after ``group``. Effects
        are differences of the second side from the first, on the logarithmic scale.
    left_out
        Columns ``group`` and ``reason``: groups of cells that could not be compared.
    sides
        The two values of the condition that were compared.
    alpha
        The limit of ``qvalue``.
    thinned
        The same comparison after the counts of the first modality were thinned to one depth; None if not asked for.
    """

    effects: pd.DataFrame
    features: pd.DataFrame
    left_out: pd.DataFrame
    sides: tuple[str, str]
    alpha: float
    thinned: Effects | None = None

    @property
    def calls(self) -> dict[str, tuple[str, ...]]:
        """Spaces on which the condition acts, by group of cells."""
        by_group = self.effects.groupby("group", sort=False)
        return {str(group): tuple(rows.loc[rows["call"], "space"]) for group, rows in by_group}

    def summary(self) -> str:
        """Return what was found, a line for each group of cells."""
        first, second = self.sides
        lines = [f"{second} against {first}, spaces with q <= {self.alpha:g}:"]
        for group, spaces in self.calls.items():
            rows = self.effects[self.effects["group"] == group]
            words = ", ".join(spaces) or "none"
            if self.thinned is not None:
                words += f"; at one depth: {', '.join(self.thinned.calls.get(group, ())) or 'none'}"
            if rows["least_pvalue"].iloc[0] > self.alpha:
                words += f" (no p below {rows['least_pvalue'].iloc[0]:.3g} is possible with so few replicates)"
            lines.append(f"  {group}: {words}")
        lines += [f"  {row.group}: left out, {row.reason}" for row in self.left_out.itertuples()]
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        tables = {"effects": self.effects, "features": self.features, "left out": self.left_out}
        parts = [f"<pre>{html.escape(self.summary())}</pre>"]
        for name, table in tables.items():
            rendered = table.to_html(index=False, float_format="{:.3g}".format, na_rep="", max_rows=60)
            parts.append(f"<details><summary>{name}</summary>{rendered}</details>")
        return "\n".join(parts)
