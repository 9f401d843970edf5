"""Examine shared and specific codes on held-out cells, whichever model made them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._certificate import Certificate
from ._certify_inputs import Cells, check_inputs
from ._conditional import conditional_mean
from ._critic import infonce_bound
from ._dependence import distance_correlations
from ._leakage import leakages
from ._noise import noise_share
from ._probes import column_r2, feature_r2, varying
from ._retrieval import match_ranks
from ._thresholds import Thresholds, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_N_PROBE_NULLS = 5
_DEPENDENCE_CELLS = 2000


def certify(
    features: Mapping[str, ArrayLike],
    shared: Mapping[str, ArrayLike],
    specific: Mapping[str, ArrayLike] | None,
    *,
    joint: ArrayLike | None = None,
    reference: Mapping[str, ArrayLike] | None = None,
    replicates: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    feature_names: Mapping[str, Sequence[str]] | None = None,
    n_permutations: int = 100,
    k: int = 10,
    max_cells: int = 5000,
    seed: int = 0,
    thresholds: Thresholds | None = None,
) -> Certificate:
    """Certify that specific codes are independent of the other modalities, shared codes only shared, both complete.

    Nothing is taken from a model but its codes: every number comes from probes and critics fitted afresh on the
    held-out cells given. The codes of MOFA, totalVI, CCA or any other method can be examined likewise.

    Parameters
    ----------
    features
        Transformed features of held-out cells for two or more modalities, each ``(n_cells, n_features)``.
    shared, specific
        Shared and specific codes of the same cells for the same modalities, each ``(n_cells, n_latent)``. None for
        ``specific`` leaves out its leakage; completeness is then that of the joint code, or of the modality's own.
    joint
        Joint shared code of the same cells, ``(n_cells, n_latent)``. If given, its excess is judged, not that of each
        modality's own shared code.
    reference
        Features of other (training) cells of the same modalities, each ``(n_reference, n_features)``; the conditional
        means ``E[X_i | X_j]`` are fitted on them, else cross-fitted inside the held-out cells.
    replicates
        For some or all modalities two thinned halves of the held-out cells' counts (:func:`thin_counts`) put through
        the transform that made the features, each ``(n_cells, n_features)``: they give the counting noise.
    feature_names
        For some or all modalities the names of the features; numbers otherwise.
    n_permutations
        Permutations of the distance correlation, default 100.
    k
        Neighbours of recall@k, default 10.
    max_cells
        Probes use at most this many cells, drawn at random, default 5,000; retrieval uses all. Time grows with it.
    seed
        Seed of every draw, default 0.
    thresholds
        Limits of the verdicts, :class:`Thresholds` by default.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If there are fewer than two modalities, they differ between the mappings, cells or features differ, there are
        fewer than 100 cells, or values are not finite.
    """
    cells = check_inputs(
        features,
        shared,
        specific,
        joint=joint,
        reference=reference,
        replicates=replicates,
        feature_names=feature_names,
        k=k,
    )
    limits = Thresholds() if thresholds is None else thresholds
    retrieval = _retrieval(cells, k)
    cells = cells.draw(max_cells, seed)
    leakage, content, table = [], [], []
    for modality in cells.features:
        conditional = {other: _conditional(cells, modality, [other], seed) for other in cells.others(modality)}
        others = cells.others(modality)
        predictable = conditional[others[0]] if len(others) == 1 else _conditional(cells, modality, others, seed)
        if cells.specific:
            leakage += _leakage(cells, modality, conditional, n_permutations, seed)
        per_feature = _features(cells, modality, predictable, seed)
        content += _content(cells, modality, predictable, per_feature, seed)
        table.append(per_feature.drop(columns=["variance", "own", "cross", "joint"], errors="ignore"))
    tables = pd.DataFrame(leakage), pd.DataFrame(content), pd.concat(table, ignore_index=True), retrieval
    return Certificate(
        judge(*tables, limits),
        *tables,
        n_cells=cells.n_cells,
        n_permutations=n_permutations,
        seed=seed,
        reference="cross-fitted" if reference is None else "other cells",
        thresholds=limits,
    )


def _conditional(cells: Cells, modality: str, given: list[str], seed: int) -> Array:
    reference = None
    if cells.reference is not None:
        reference = cells.reference[modality], np.hstack([cells.reference[other] for other in given])
    inputs = np.hstack([cells.features[other] for other in given])
    return conditional_mean(cells.features[modality], inputs, reference=reference, seed=seed)


def _leakage(
    cells: Cells, modality: str, conditional: dict[str, Array], n_permutations: int, seed: int
) -> list[dict[str, object]]:
    x, z = cells.features[modality], cells.specific[modality]
    targets: dict[tuple[str, str], Array] = {}
    for other, mean in conditional.items():
        targets["shared", other] = cells.shared[other]
        targets["features", other] = cells.features[other]
        targets["predictable", other] = mean
    # A collapsed code, or a mean that no other modality shifts, holds nothing that could leak.
    targets = {key: target for key, target in targets.items() if varying(target).any()}
    named = {f"{kind} {other}": target for (kind, other), target in targets.items()}
    found = leakages(z, named, n_permutations=_N_PROBE_NULLS, seed=seed)
    ceilings = leakages(x, named, n_permutations=0, seed=seed)
    values = list(targets.values())
    distances = distance_correlations(z, values, n_permutations=n_permutations, max_cells=_DEPENDENCE_CELLS, seed=seed)
    distance_ceilings = distance_correlations(x, values, n_permutations=0, max_cells=_DEPENDENCE_CELLS, seed=seed)
    order = np.random.default_rng([seed, 5]).permutation(cells.n_cells)
    rows: list[dict[str, object]] = []
    for ((kind, other), target), leak, ceiling, distance, distance_ceiling in zip(
        targets.items(), found.values(), ceilings.values(), distances, distance_ceilings, strict=True
    ):
        bound = infonce_bound(z, target, seed=seed)
        rows.append(
            {
                "modality": modality,
                "target": kind,
                "other": other,
                "ridge": leak.ridge,
                "nonlinear": leak.nonlinear,
                "r2": leak.r2,
                "null": leak.null,
                "above_null": leak.above_null,
                "ceiling": ceiling.r2,
                "infonce": bound.nats,
                "infonce_null": infonce_bound(z, target[order], seed=seed).nats,
                "infonce_ceiling": infonce_bound(x, target, seed=seed).nats,
                "infonce_limit": bound.limit,
                "dcor": distance.value,
                "dcor_null": distance.null,
                "dcor_p": distance.p_value,
                "dcor_ceiling": distance_ceiling.value,
            }
        )
    return rows


def _features(cells: Cells, modality: str, predictable: Array, seed: int) -> pd.DataFrame:
    x, c = cells.features[modality], cells.shared[modality]
    given = np.hstack([cells.features[other] for other in cells.others(modality)])
    codes = {"shared": c}
    if cells.joint is not None:
        codes["joint"] = cells.joint
    if cells.specific:
        z = cells.specific[modality]
        others_shared = np.hstack([cells.shared[other] for other in cells.others(modality)])
        codes |= {"specific": z, "own": np.hstack([c, z]), "cross": np.hstack([others_shared, z])}
    r2 = {name: feature_r2(array, x, probe="nonlinear", seed=seed) for name, array in codes.items()}
    if cells.specific:
        both = np.maximum(r2["own"], r2["cross"])
        specific_share = np.maximum(both - np.maximum(r2["shared"], 0.0), 0.0)
    else:
        both = r2.get("joint", r2["shared"])
        specific_share = r2["specific"] = np.full(x.shape[1], np.nan)
    known = np.clip(column_r2(x, predictable), 0.0, 1.0)
    noise = np.full(x.shape[1], np.nan)
    if modality in cells.replicates:
        noise = (1.0 - known) * noise_share(*cells.replicates[modality], given=given, seed=seed)
    return pd.DataFrame(
        {
            "modality": modality,
            "feature": cells.feature_names[modality],
            "shared": r2["shared"],
            "specific": r2["specific"],
            "both": both,
            "specific_share": specific_share,
            "unexplained": 1.0 - both,
            "predictable": known,
            "private": 1.0 - known - noise,
            "noise": noise,
            "specific_above_noise": np.maximum(specific_share - noise, 0.0),
            "variance": x.var(axis=0),
        }
    ).assign(**{name: r2[name] for name in ("own", "cross", "joint") if name in r2})


def _content(
    cells: Cells, modality: str, predictable: Array, per_feature: pd.DataFrame, seed: int
) -> list[dict[str, object]]:
    x = cells.features[modality]
    parts = {"predictable": predictable, "private": x - predictable}
    parts = {name: part for name, part in parts.items() if varying(part).any()}
    ceilings = leakages(x, parts, n_permutations=0, seed=seed)
    codes = {"shared": cells.shared[modality]}
    if cells.specific:
        codes = {"specific": cells.specific[modality]} | codes
    if cells.joint is not None:
        codes["joint"] = cells.joint
    weights = per_feature["variance"]
    rows = []
    for code, array in codes.items():
        row: dict[str, object] = {"modality": modality, "code": code, "predictable": np.nan}
        for name, result in leakages(array, parts, n_permutations=_N_PROBE_NULLS, seed=seed).items():
            row |= {name: result.r2, f"{name}_null": result.null, f"{name}_ceiling": ceilings[name].r2}
        rows.append(row | {"features": _weighted(per_feature[code], weights)})
    for code, column in (("shared+specific", "own"), ("others' shared+specific", "cross")):
        if column in per_feature:
            rows.append({"modality": modality, "code": code, "features": _weighted(per_feature[column], weights)})
    return rows


def _weighted(r2: Array | pd.Series, weights: pd.Series) -> float:
    varies = np.isfinite(r2)
    return float(np.average(np.asarray(r2)[varies], weights=np.asarray(weights)[varies]))


def _retrieval(cells: Cells, k: int) -> pd.DataFrame:
    rows = []
    for modality, other in combinations(cells.features, 2):
        a, b = cells.shared[modality], cells.shared[other]
        if a.shape[1] != b.shape[1]:
            continue
        ranks = match_ranks(a, b)
        rows.append(
            {
                "modality": modality,
                "other": other,
                "foscttm": ranks.foscttm(),
                "foscttm_chance": 0.5,
                "k": k,
                "recall": ranks.recall(k),
                "recall_chance": k / ranks.n_cells,
                "median_rank": ranks.median_rank(),
                "median_rank_chance": (ranks.n_cells + 1) / 2,
            }
        )
    return pd.DataFrame(rows)
