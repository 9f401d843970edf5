"""The certificate: tables, verdicts and their renderings."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from ._thresholds import Thresholds

_KEYS = ("modality", "code", "target", "other", "feature")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What held-out cells say about shared and specific codes, whoever made them.

    Attributes
    ----------
    verdicts
        One row a check and modality: ``check`` (``"leakage"``, ``"information"``, ``"excess"``, ``"completeness"``,
        ``"retrieval"``), ``modality``, ``value``, ``threshold``, ``passed``, ``words``.
    leakage
        One row for each specific code and ``target``: ``"shared"`` (the other modality's shared code), ``"features"``
        (the other modality itself) and ``"predictable"`` (``E[X_i | X_j]``, the part of its own modality that the
        ``other`` one knows). ``ridge`` and ``nonlinear`` are out-of-fold R2, ``r2`` the larger, ``null`` the same on
        permuted cells, ``above_null`` their difference, ``ceiling`` the same from the modality itself. ``infonce`` is
        the held-out bound of a fresh critic in nats, at most ``infonce_limit``; ``dcor`` the bias-corrected squared
        distance correlation with permutation ``dcor_p``.
    content
        One row for each modality and code (``"specific"``, ``"shared"``, ``"joint"``): R2 to the ``predictable`` part
        ``E[X_i | X_others]`` and to the ``private`` part ``X_i - E[X_i | X_others]``, with nulls and ceilings, and to
        the ``features``, weighted by variance. ``private`` of a shared code is its excess. The rows
        ``"shared+specific"`` and ``"others' shared+specific"`` hold the R2 of both together.
    features
        One row a feature: R2 from ``shared``, ``specific``, ``both`` (the better of the own and the others' shared
        code beside the specific one); its variance split into ``shared``, ``specific_share`` and ``unexplained``;
        ``predictable`` by the other modalities. With replicates ``noise`` is the counting noise, ``private`` the rest
        that the other modalities do not predict, and ``specific_above_noise`` the specific share less the noise.
    retrieval
        One row a pair of modalities: ``foscttm``, ``recall`` among ``k``, ``median_rank``, each with its chance.
    n_cells, n_permutations, seed
        Cells used for probes, permutations of the distance correlation, seed.
    reference
        Whether ``E[X_i | X_j]`` was fitted on other cells (``"other cells"``) or cross-fitted (``"cross-fitted"``).
    thresholds
        The limits of the verdicts.
    """

    verdicts: pd.DataFrame
    leakage: pd.DataFrame
    content: pd.DataFrame
    features: pd.DataFrame
    retrieval: pd.DataFrame
    n_cells: int
    n_permutations: int
    seed: int
    reference: str
    thresholds: Thresholds

    @property
    def passed(self) -> bool:
        """Whether every verdict passes."""
        return bool(self.verdicts["passed"].all())

    def passes(self, check: str) -> bool:
        """Whether all verdicts of one check pass.

        Parameters
        ----------
        check
            ``"leakage"``, ``"information"``, ``"excess"``, ``"completeness"`` or ``"retrieval"``.

        Returns
        -------
        bool

        Raises
        ------
        ValueError
            If there is no such check.
        """
        chosen = self.verdicts[self.verdicts["check"] == check]
        if chosen.empty:
            known = ", ".join(map(repr, dict.fromkeys(self.verdicts["check"])))
            raise ValueError(f"expected check to be one of {known}, got {check!r}; do pick one")
        return bool(chosen["passed"].all())

    def summary(self) -> str:
        """Return the verdicts in words, one line each."""
        lines = [f"Certificate on {self.n_cells:,} held-out cells: {'passed' if self.passed else 'NOT passed'}"]
        lines += [f"  [{'pass' if row.passed else 'FAIL'}] {row.words}." for row in self.verdicts.itertuples()]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Return all numbers as one long table: table, modality, code, target, other, feature, quantity, value.

        A verdict's check stands under ``target`` and its value under the quantity ``found``.
        """
        long = []
        for name, table in self._tables().items():
            numbers = table.drop(columns="words", errors="ignore").rename(columns={"check": "target", "value": "found"})
            keys = [key for key in _KEYS if key in numbers.columns]
            values = numbers.columns.difference(keys, sort=False)
            numbers[values] = numbers[values].astype(float)
            melted = numbers.melt(id_vars=keys, var_name="quantity", value_name="value")
            melted.insert(0, "table", name)
            long.append(melted)
        frame = pd.concat(long, ignore_index=True)
        return frame.reindex(columns=["table", *_KEYS, "quantity", "value"])

    def to_json(self) -> str:
        """Return the whole certificate as JSON; a number that could not be computed is null."""
        head = {
            "passed": self.passed,
            "n_cells": self.n_cells,
            "n_permutations": self.n_permutations,
            "seed": self.seed,
            "reference": self.reference,
            "thresholds": asdict(self.thresholds),
        }
        tables = {name: json.loads(table.to_json(orient="records")) for name, table in self._tables().items()}
        return json.dumps(head | tables, indent=1)

    def _tables(self) -> dict[str, pd.DataFrame]:
        names = ("verdicts", "leakage", "content", "features", "retrieval")
        return {name: getattr(self, name) for name in names}

    def _repr_html_(self) -> str:
        outcome = "passed" if self.passed else "not passed"
        parts = [
            f"<p><b>Certificate on {self.n_cells:,} held-out cells: {outcome}</b></p>",
            "<ul>",
            *(
                f"<li>{'&#10003;' if row.passed else '&#10007;'} {html.escape(row.words)}.</li>"
                for row in self.verdicts.itertuples()
            ),
            "</ul>",
        ]
        for name, table in self._tables().items():
            if name != "verdicts":
                rendered = table.to_html(index=False, float_format="{:.3f}".format, na_rep="", max_rows=60)
                parts.append(f"<details><summary>{name}</summary>{rendered}</details>")
        return "\n".join(parts)
