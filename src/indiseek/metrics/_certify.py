"""Examine shared and specific codes on held-out cells, whichever model made them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from indiseek._checks import check_number

from ._cells import MIN_CELLS
from ._certificate import Certificate
from ._certify_inputs import check_inputs
from ._thresholds import Thresholds
from .checks import CHECKS, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike

    from ._certify_inputs import Inverse
    from .checks import Check


def certify(
    features: Mapping[str, ArrayLike],
    shared: Mapping[str, ArrayLike],
    specific: Mapping[str, ArrayLike] | None,
    *,
    joint: ArrayLike | None = None,
    reference: Mapping[str, ArrayLike] | None = None,
    reconstruction: Mapping[str, ArrayLike] | Inverse | None = None,
    replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    all_replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    batch: ArrayLike | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    feature_names: Mapping[str, Sequence[str]] | None = None,
    new_groups: str | None = None,
    n_permutations: int = 99,
    k: int = 10,
    max_cells: int = 5000,
    seed: int = 0,
    thresholds: Thresholds | None = None,
    checks: Sequence[Check] = CHECKS,
    watch: Callable[[Sequence[Check]], Iterable[Check]] | None = None,
) -> Certificate:
    """Certify that specific codes are independent of the other modalities, shared codes only shared, both complete.

    Nothing is taken from a model but its codes, and its inverse if it has one: every other number is measured afresh on
    the held-out cells given. The codes of MOFA, totalVI, CCA or any other method can be examined likewise.

    Parameters
    ----------
    features
        Transformed features of held-out cells for two or more modalities, each ``(n_cells, n_features)``.
    shared, specific
        Shared and specific codes of the same cells for the same modalities, each ``(n_cells, n_latent)``. None for
        ``specific`` leaves out its independence; completeness is then that of the shared codes.
    joint
        Joint shared code of the same cells, ``(n_cells, n_latent)``. If given, its excess is judged, not that of each
        modality's own shared code.
    reference
        Features of the training cells of the same modalities, each ``(n_reference, n_features)``: the conditional means
        ``E[X_i | X_j]`` are fitted on them, else cross-fitted inside the held-out cells. Held-out cells that equal one
        of them are left out.
    reconstruction
        Features as the codes give them back, for some or all modalities, each ``(n_cells, n_features)``; or a function
        of the shared and the specific codes by modality that returns them: a flow's exact inverse, or a decoder.
        Completeness is measured by it; without it a probe gives a lower bound.
    replicates
        For some or all modalities the two halves of what made the features, put through the same transform, each
        ``(n_cells, n_features)``: two libraries of the cells where the features are of both together, else two thinned
        halves of the counts (:func:`thin_counts`, which takes the :func:`overdispersion` where it is known). They tell
        counting noise from what another draw would repeat.
    all_replicates
        For some or all modalities of `replicates` the same two draws of *everything* that was measured (all genes, not
        only the components), each ``(n_cells, n_values)``: what the features leave out is told then.
    batch
        Batch of each cell, ``(n_cells,)``: independence is then also read within batches.
    covariates
        What else may be in the codes, by name, each ``(n_cells,)``: depth, batch, donor, any column of ``.obs``;
        numbers as they are, labels as indicators.
    feature_names
        For some or all modalities the names of the features; numbers otherwise.
    new_groups
        Name of the groups, such as the donor, where those of the held-out cells are others than those of training: the
        advice after a FAIL of independence is then of them.
    n_permutations
        Permutations of the scan for other forms, default 99; with 0 it is left out.
    k
        Neighbours of recall@k, default 10.
    max_cells
        At most this many cells are used, drawn at random, default 5,000; retrieval uses up to 10,000. Memory grows
        with its square.
    seed
        Seed of every draw, default 0.
    thresholds
        Limits of the verdicts, :class:`Thresholds` by default.
    checks
        What is measured and judged, in this order; all that the package has by default.
    watch
        What gives the checks one after another, such as :class:`tqdm.tqdm`.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If there are fewer than two modalities, they differ between the mappings, cells or features differ, there are
        fewer than 100 cells, or values are not finite.
    """
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(f"expected thresholds of class Thresholds, got {thresholds!r}; do pass Thresholds(...)")
    if not isinstance(checks, (list, tuple)) or not all(hasattr(check, "measure") for check in checks):
        raise TypeError(f"expected checks as a list of Check, got {checks!r}; do pick them from metrics.CHECKS")
    check_number("max_cells", max_cells, low=MIN_CELLS, whole=True)
    cells = check_inputs(
        features,
        shared,
        specific,
        joint=joint,
        reference=reference,
        reconstruction=reconstruction,
        replicates=replicates,
        all_replicates=all_replicates,
        batch=batch,
        covariates=covariates,
        feature_names=feature_names,
        new_groups=new_groups,
        n_permutations=n_permutations,
        k=k,
        seed=seed,
    )
    cells = cells.without_copies().draw(max_cells)
    limits = Thresholds() if thresholds is None else thresholds
    watched = checks if watch is None else watch(checks)
    measured = [(check, check.measure(cells, limits)) for check in watched]
    found = [(check, table) for check, table in measured if len(table)]
    return Certificate(
        verdicts_of(found, limits),
        {check.name: table for check, table in found},
        n_cells=cells.n_cells,
        n_permutations=n_permutations,
        seed=seed,
        reference="cross-fitted" if reference is None else "other cells",
        thresholds=limits,
    )


def verdicts_of(found: Sequence[tuple[Check, pd.DataFrame]], limits: Thresholds) -> pd.DataFrame:
    """What checks say of their tables, one row a finding."""
    findings = [check.judge(row, limits) for check, table in found for row in table.itertuples(index=False)]
    told = [asdict(finding) for finding in findings if finding is not None]
    return pd.DataFrame(told, columns=list(Finding.__dataclass_fields__))
