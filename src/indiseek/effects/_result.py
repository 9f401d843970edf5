"""What a comparison gives back."""

from __future__ import annotations

import html
from dataclasses import dataclass

import pandas as pd

from indiseek._checks import printable
from indiseek.effects._coordination import COORDINATED


@dataclass(frozen=True, eq=False)
class Effects:
    """On which space a condition acts, in each group of cells.

    Attributes
    ----------
    effects
        One row for each group of cells and space: ``group``; ``space``, ``"shared"``, the name of a modality for what
        it has alone, or ``"coordinated"`` for a new state that moves both modalities outside the axes they are known
        to share; ``effect``, ``share``, ``p_first``, ``p_second``, ``pvalue`` and ``least_pvalue`` as
        :func:`compare_profiles` and :func:`coordination` describe them; ``qvalue``, of Benjamini and Hochberg over the
        groups of one space; ``call``, whether the condition acts there; ``n_pairs``, the number of axes that the
        modalities share; ``n_first`` and ``n_second``, the replicates of either side; ``n_cells``.
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
            words = self._words(group, spaces)
            if self.thinned is not None:
                words += f"; at one depth: {self.thinned._words(group, self.thinned.calls.get(group, ()))}"
            if rows["least_pvalue"].iloc[0] > self.alpha:
                words += f" (no p below {rows['least_pvalue'].iloc[0]:.3g} is possible with so few replicates)"
            lines.append(f"  {group}: {words}")
        lines += [f"  {row.group}: left out, {row.reason}" for row in self.left_out.itertuples()]
        return printable("\n".join(lines))

    def _words(self, group: str, spaces: tuple[str, ...]) -> str:
        words = [space for space in spaces if space != COORDINATED]
        if COORDINATED in spaces:
            here = (self.effects["group"] == group) & (self.effects["space"] == COORDINATED)
            side = self.sides[int(self.effects.loc[here, "effect"].iloc[0] > 0)]
            words.append(f"coordinated in {side}, outside the known shared axes")
        return ", ".join(words) or "none"

    def _repr_html_(self) -> str:
        tables = {"effects": self.effects, "features": self.features, "left out": self.left_out}
        parts = [f"<pre>{html.escape(self.summary())}</pre>"]
        for name, table in tables.items():
            rendered = table.to_html(index=False, float_format="{:.3g}".format, na_rep="", max_rows=60)
            parts.append(f"<details><summary>{name}</summary>{rendered}</details>")
        return "\n".join(parts)
