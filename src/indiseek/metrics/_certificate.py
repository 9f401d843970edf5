"""The certificate: verdicts, tables and their renderings."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd

from indiseek._checks import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._thresholds import Thresholds
    from ._verdict import Verdict

_KEYS = ("modality", "code", "target", "other", "feature", "covariate")
_RENAMED = {"check": "code", "value": "found"}
_MARKS = {"pass": "&#10003;", "FAIL": "&#10007;", "too few cells": "?", "note": "&#8226;"}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What held-out cells say about shared and specific codes, whoever made them.

    ``print(certificate)`` shows the verdicts in words.

    Attributes
    ----------
    verdicts
        One row a finding: ``check``, ``modality``, ``target``, ``verdict`` (``"pass"``, ``"FAIL"``, ``"too few cells"``
        or, for what is told and not judged, ``"note"``), ``words``, ``value`` with its 95 % interval ``low`` to
        ``high``, ``limit``, ``n_cells``, ``cells_needed`` (how many would do) and ``advice`` (what to do).
    tables
        What was measured, by check: :doc:`/certificate` explains the columns.
    n_cells, n_permutations, seed
        Cells used, permutations of the scan for other forms, seed.
    reference
        Whether ``E[X_i | X_j]`` was fitted on other cells (``"other cells"``) or cross-fitted (``"cross-fitted"``).
    thresholds
        The limits of the verdicts.
    n_fits
        Fits of which each was certified on held-out cells of its own, default 1.
    """

    verdicts: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    n_cells: int
    n_permutations: int
    seed: int
    reference: str
    thresholds: Thresholds
    n_fits: int = 1

    @property
    def verdict(self) -> Verdict:
        """``"FAIL"`` if any verdict is, else ``"too few cells"`` if any is, else ``"pass"``."""
        return _worst(self.verdicts["verdict"])

    @property
    def passed(self) -> bool:
        """Whether every verdict passes."""
        return self.verdict == "pass"

    def verdict_of(self, check: str) -> Verdict:
        """Return the worst verdict of one check.

        Parameters
        ----------
        check
            ``"independence"``, ``"probes"``, ``"excess"``, ``"completeness"``, ``"retrieval"`` or another one of the
            column ``check`` of ``verdicts``.

        Raises
        ------
        ValueError
            If there is no such check.
        """
        chosen = self.verdicts[self.verdicts["check"] == check]
        if chosen.empty:
            known = ", ".join(map(repr, dict.fromkeys(self.verdicts["check"])))
            raise ValueError(f"expected check to be one of {known}, got {check!r}; do pick one")
        return _worst(chosen["verdict"])

    def passes(self, check: str) -> bool:
        """Whether all verdicts of one check pass.

        Parameters
        ----------
        check
            As in :meth:`verdict_of`.

        Raises
        ------
        ValueError
            If there is no such check.
        """
        return self.verdict_of(check) == "pass"

    def table(self, check: str) -> pd.DataFrame:
        """Return what one check measured.

        Parameters
        ----------
        check
            One of ``tables``.

        Raises
        ------
        ValueError
            If nothing was measured under that name.
        """
        if check not in self.tables:
            known = ", ".join(map(repr, self.tables))
            raise ValueError(f"expected check to be one of {known}, got {check!r}; do pick one")
        return self.tables[check]

    @property
    def features(self) -> pd.DataFrame:
        """One row a feature: what the codes hold of it, and what another draw of the cell would repeat."""
        return self.table("features")

    @property
    def content(self) -> pd.DataFrame:
        """One row a modality and code: R2 to what the other modalities know of it, and to what they do not."""
        return self.table("content")

    @property
    def _title(self) -> str:
        fits = f" of {self.n_fits} fits" if self.n_fits > 1 else ""
        return f"Certificate on {self.n_cells:,} held-out cells{fits}: {_OUTCOME[self.verdict]}"

    def summary(self) -> str:
        """Return the verdicts in words, one line each, and under what does not pass what to do."""
        lines = [self._title]
        for row in self.verdicts.itertuples():
            lines.append(f"  [{row.verdict}] {row.words}.")
            if row.advice:
                lines.append(f"      What to do: {row.advice}.")
        return printable("\n".join(lines))

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Certificate on {self.n_cells:,} cells: {self.verdict}>"

    def to_frame(self) -> pd.DataFrame:
        """Return all numbers as one long table.

        Columns are table, modality, code, target, other, feature, covariate, quantity and value. A verdict's
        check stands under ``code`` and its value under the quantity ``found``. Texts are left out.
        """
        long = []
        for name, table in self._all_tables().items():
            numbers = table.rename(columns=_RENAMED) if name == "verdicts" else table
            keys = [key for key in _KEYS if key in numbers.columns]
            values = [
                column
                for column in numbers.columns
                if column not in keys and pd.api.types.is_numeric_dtype(numbers[column])
            ]
            melted = numbers[keys + values].astype(dict.fromkeys(values, float))
            melted = melted.melt(id_vars=keys, var_name="quantity", value_name="value")
            melted.insert(0, "table", name)
            long.append(melted)
        frame = pd.concat(long, ignore_index=True)
        return frame.reindex(columns=["table", *_KEYS, "quantity", "value"])

    def to_json(self) -> str:
        """Return the whole certificate as JSON; a number that could not be computed is null."""
        head = {
            "verdict": self.verdict,
            "passed": self.passed,
            "n_cells": self.n_cells,
            "n_fits": self.n_fits,
            "n_permutations": self.n_permutations,
            "seed": self.seed,
            "reference": self.reference,
            "thresholds": asdict(self.thresholds),
        }
        tables = {name: json.loads(table.to_json(orient="records")) for name, table in self._all_tables().items()}
        return json.dumps(head | tables, indent=1)

    def _all_tables(self) -> dict[str, pd.DataFrame]:
        return {"verdicts": self.verdicts, **self.tables}

    def _repr_html_(self) -> str:
        parts = [
            f"<p><b>{html.escape(self._title)}</b></p>",
            "<ul>",
        ]
        for row in self.verdicts.itertuples():
            advice = f"<br><i>What to do: {html.escape(row.advice)}.</i>" if row.advice else ""
            parts.append(
                f"<li>{_MARKS[row.verdict]} {html.escape(row.verdict)}: {html.escape(row.words)}.{advice}</li>"
            )
        parts.append("</ul>")
        for name, table in self.tables.items():
            rendered = table.to_html(index=False, float_format="{:.3f}".format, na_rep="", max_rows=60)
            parts.append(f"<details><summary>{html.escape(name)}</summary>{rendered}</details>")
        return "\n".join(parts)


_OUTCOME = {"pass": "passed", "FAIL": "NOT passed", "too few cells": "too few cells to tell"}


def _worst(verdicts: pd.Series) -> Verdict:
    found = set(verdicts)
    return "FAIL" if "FAIL" in found else ("too few cells" if "too few cells" in found else "pass")
