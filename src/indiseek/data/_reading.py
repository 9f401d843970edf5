"""Values of one modality as a model reads them: to be trained on, and of further cells."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from indiseek._checks import printable
from indiseek.data._components import CLRPCA, ComponentTransform, LogNormalizePCA, ScalePCA
from indiseek.data._disk import DiskMatrix, Values, is_sparse, mostly_zero, row_chunks
from indiseek.data._known_transforms import TRANSFORMS
from indiseek.data._matching import FeatureMatch
from indiseek.data._panels import measured_everywhere
from indiseek.data._setup import PROTEIN_NAMES, RNA_NAMES
from indiseek.data._summary import Facts, Summary, empty_cells
from indiseek.data._transforms import CLR, Scale, Transform
from indiseek.data._values import (
    as_counts,
    canonical_values,
    check_cells,
    check_counts,
    check_finite,
    lies_on_disk,
    some_of,
    stored_values,
    summary_of,
    with_features,
)

logger = logging.getLogger(__name__)

# Antibody panels have at most a few hundred features, transcriptomes and accessible regions thousands.
_MANY_FEATURES = 500
# More of them are better told by their components than by name.
_FEW_NAMED = 50
# Only counts stay on disk; their features are held.
_MANY_BYTES = 2**30
# Logarithms, log-ratios and z-scores of counts do not come so far.
_HIGHEST_LOG = 30.0
# So few features could all be one function of each other.
_FEW_FEATURES = 20
_LEAST_SPREAD = 1e-6
_SAMPLE_CELLS = 64
_STEP_CELLS = 1024


class Read(NamedTuple):
    """One modality to be trained on.

    Attributes
    ----------
    values
        ``(n_cells, n_features)``.
    transform
        The user's, or the one that was chosen.
    features, dropped
        Names of the features of `values`, and of those that have one value in all cells and are left out.
    """

    values: Values
    transform: Transform
    features: list[str]
    dropped: list[str]


def read_to_train(
    adata: AnnData,
    layer: str | None,
    name: str,
    given: Transform | None,
    has: NDArray[np.intp] | None = None,
    batch: NDArray[Any] | None = None,
    *,
    n_components: int | None = None,
) -> Read:
    """Read a modality to be trained on, and say what is done with it that its user may not expect.

    Parameters
    ----------
    adata
        The modality.
    layer
        Layer to read; None for ``X``.
    name
        Its name.
    given
        The user's transform; None to choose one.
    has
        Positions of the cells that have the modality; None for all.
    batch
        Batch of each of these; None for none.
    n_components
        As in :func:`choose_transform`.

    Raises
    ------
    ValueError
        If values are not finite, counts are negative, a cell has no counts, or no dimension is left.
    """
    values = canonical_values(adata, layer, name, cells=has)
    summary = summary_of(values)
    measured = np.arange(adata.n_vars)
    if summary.n_bad:
        measured = measured_everywhere(values, batch, summary.n_bad, adata.var_names, name)
        values = with_features(values, measured, as_sparse=is_sparse(values))
        summary = summary_of(values)
    if summary.near and not summary.whole and (given is None or given.needs_counts):
        values = as_counts(values)
        summary = summary_of(values)
    transform = choose_transform(name, summary, n_components) if given is None else given
    if transform.needs_counts:
        check_counts(summary, name)
    values, summary, kept = _that_vary(values, summary, adata.var_names[measured], name)
    kept = measured[kept]
    if given is None and transform.needs_counts and len(kept) == 1:
        logger.warning(
            f"{name!r} has one feature, {adata.var_names[kept[0]]!r}: its counts are scaled, because log-ratios and "
            "library sizes need two or more."
        )
        transform = Scale()
    if given is None and n_components is not None and (left := transform.max_output(len(kept))) < n_components:
        what = "principal components" if isinstance(transform, ComponentTransform) else "features, as they are"
        logger.info(f"{name!r}: {left} {what}, not the {n_components} principal components asked for: it has no more.")
    if given is None and not summary.whole:
        _warn_of_scale(adata, layer, name, summary)
    if transform.needs_counts:
        check_cells(summary.empty, adata.obs_names if has is None else adata.obs_names[has], name)
    _check_dimensions(values, transform, name)
    if isinstance(values, DiskMatrix):
        _warn_of_features(name, values.shape[0] * transform.max_output(values.shape[1]) * 4)
    is_kept = np.zeros(adata.n_vars, dtype=bool)
    is_kept[kept] = True
    return Read(values, transform, adata.var_names[is_kept].tolist(), adata.var_names[~is_kept].tolist())


def read_to_encode(
    adata: AnnData,
    layer: str | None,
    name: str,
    *,
    features: Sequence[str],
    dropped: Sequence[str],
    as_sparse: bool,
    counts: bool,
    match: FeatureMatch | None = None,
    has: NDArray[np.intp] | None = None,
) -> Values:
    """Read a modality of cells other than those of training, with features in the model's order.

    Parameters
    ----------
    adata
        The modality, with its features in any order.
    layer
        Layer to read; None for ``X``.
    name
        Its name.
    features
        Names of the model's features.
    dropped
        Names of those that training left out; they may be there or not.
    as_sparse
        Form of the values in training.
    counts
        Whether the model takes counts.
    match
        Which features are which; those that it has are read. None asks for the model's, as they are written.
    has
        Positions of the cells that have the modality; None for all.

    Raises
    ------
    ValueError
        If features are missing or unknown, values are not finite, or those for a model of counts are no counts.
    """
    order = _order(adata, name, features, dropped) if match is None else match.positions(adata.var_names)
    values = canonical_values(adata, layer, name, as_sparse=as_sparse, cells=has)
    if not np.array_equal(order, np.arange(adata.n_vars)):
        if isinstance(values, DiskMatrix):
            values = values.ordered(order)
        else:
            values = values[:, order]
            if not isinstance(values, np.ndarray):
                # Sums over a cell run in this order: sorted, they are the model's to the last bit.
                values.sort_indices()
    facts = Facts()
    empty = [np.zeros(0, dtype=bool)]
    for chunk in row_chunks(values):
        facts = facts.joined(chunk)
        empty.append(empty_cells(chunk))
    check_finite(facts.n_bad, name)
    if not counts:
        return values
    if facts.near and not facts.whole:
        values = as_counts(values, as_sparse=as_sparse)
    elif facts.lowest < 0 or not facts.whole:
        found = f"{facts.lowest:g}" if facts.lowest < 0 else "fractions"
        raise ValueError(
            f"expected in modality {name!r} counts, whole numbers of at least 0 as the model was trained on, got "
            f"{found}; put the counts into {'X' if layer is None else f'layer {layer!r}'}, as they were for training."
        )
    check_cells(np.concatenate(empty), adata.obs_names if has is None else adata.obs_names[has], name)
    return values


def _order(adata: AnnData, name: str, features: Sequence[str], dropped: Sequence[str]) -> NDArray[np.intp]:
    """Positions of the model's features, which must be all there are but for those that training left out."""
    wanted = pd.Index(features)
    missing = wanted.difference(adata.var_names, sort=False)
    extra = adata.var_names.difference(wanted, sort=False).difference(pd.Index(dropped), sort=False)
    if len(missing) or len(extra):
        parts = [
            f"{len(x)} {word} ({printable(', '.join(x[:5]))})"
            for x, word in ((missing, "missing"), (extra, "extra"))
            if len(x)
        ]
        raise ValueError(
            f"expected in modality {name!r} the {len(wanted)} features that the model was trained on, got "
            f"{' and '.join(parts)}; select the model's features, in any order, or call IndiSeekModel.map_query, which "
            "matches names and estimates what is missing."
        )
    order: NDArray[np.intp] = adata.var_names.get_indexer(wanted)
    return order


def choose_transform(name: str, summary: Summary, n_components: int | None = None) -> Transform:
    """Transform for a modality that the user has said nothing about.

    Parameters
    ----------
    name
        Name of the modality.
    summary
        What is known of its values.
    n_components
        Number of principal components; of proteins and of values that are no counts, where there are more features
        than that. None for as many as hold signal, where there are more than 50 features.
    """
    few = len(summary.low) <= (_FEW_NAMED if n_components is None else n_components)
    n_features = len(summary.low)
    if not summary.whole:
        return Scale() if few else ScalePCA(n_components=n_components)
    check_counts(summary, name)
    are_proteins = name.lower() in PROTEIN_NAMES or (name.lower() not in RNA_NAMES and n_features <= _MANY_FEATURES)
    if not are_proteins:
        return LogNormalizePCA(n_components=n_components)
    return CLR() if few else CLRPCA(n_components=n_components)


def _that_vary(
    values: Values, summary: Summary, names: pd.Index, where: str
) -> tuple[Values, Summary, NDArray[np.intp]]:
    """The features that differ between cells, what is known of them, and their positions; said if that is not all."""
    varies = summary.low < summary.high
    if len(names) and varies.all():
        return values, summary, np.arange(len(names))
    if not varies.any():
        raise ValueError(
            f"expected features that vary in modality {where!r}, got the same value in every cell in all "
            f"{len(names)}; name the layer that holds its values, or leave the modality out."
        )
    empty = ~varies & (summary.low == 0)
    constant = ~varies & ~empty
    parts = [
        f"{int(mask.sum())} with {what} in every cell ({some_of(names, mask)})"
        for mask, what in ((empty, "0"), (constant, "one value"))
        if mask.any()
    ]
    logger.warning(f"{where!r}: left out of {len(names)} features {' and '.join(parts)}.")
    kept = np.flatnonzero(varies)
    n_nonzero = summary.n_nonzero - values.shape[0] * int(constant.sum())
    values = with_features(values, kept, as_sparse=mostly_zero(n_nonzero, (values.shape[0], len(kept))))
    if constant.any():
        return values, summary_of(values), kept
    return values, replace(summary, low=summary.low[kept], high=summary.high[kept]), kept


def _check_dimensions(values: Values, transform: Transform, name: str) -> None:
    """Raise ValueError if a transform of ours would leave nothing that differs between cells."""
    n_features = values.shape[1]
    left = transform.max_output(n_features) - transform.n_constraints
    if left > 0 and n_features <= _FEW_FEATURES and type(transform) in TRANSFORMS.values():
        n_cells = values.shape[0]
        # What differs in a sample differs; only what does not is worth a look at all cells.
        for rows in (np.unique(np.linspace(0, n_cells - 1, _STEP_CELLS).astype(int)), np.arange(n_cells)):
            trial = copy.deepcopy(transform)
            trial.fit(values, rows)
            left = int((trial.apply_to(values, rows).std(dim=0) > _LEAST_SPREAD).sum())
            if left:
                break
    if left < 1:
        raise ValueError(
            f"expected modality {name!r} to differ between cells after its transform, got nothing that does from "
            f"{n_features} feature{'s' * (n_features > 1)} by {type(transform).__name__}, which looks at shares within "
            f"a cell; give more features, or pass transforms={{{name!r}: indiseek.data.Scale()}}."
        )


def _warn_of_scale(adata: AnnData, layer: str | None, name: str, summary: Summary) -> None:
    """Say what would be better for values that are no counts, where counts are what such a modality has."""
    remedy = _remedy(adata, layer, name, summary)
    if remedy is None:
        if name.lower() not in (*RNA_NAMES, *PROTEIN_NAMES) and len(summary.low) <= _MANY_FEATURES:
            return
        remedy = f"Put raw counts into mdata[{name!r}].X, or into a layer that setup_mudata is told."
    where = "X" if layer is None else f"layer {layer!r}"
    logger.warning(
        f"{where} of {name!r} holds no counts but other numbers: each feature is only scaled, which finds less than "
        f"the transforms for counts do. {remedy} To keep these values, pass transforms={{{name!r}: "
        f"indiseek.data.{(Scale if len(summary.low) <= _FEW_NAMED else ScalePCA).__name__}()}}."
    )


def _remedy(adata: AnnData, layer: str | None, name: str, summary: Summary) -> str | None:
    """The call that gives counts, where they lie beside the values or can be made of them; None where not."""
    # The likely name first.
    for other in sorted(set(adata.layers) - {layer}, key=lambda key: ("count" not in key.lower(), key)):
        if _are_counts(stored_values(adata, other)):
            return f"Layer {other!r} holds counts: call {_call(name, other)}."
    if layer is not None and _are_counts(adata.X):
        return f"X holds counts: call {_call(name, None)}."
    part = f"mdata[{name!r}]"
    raw = adata.raw
    if raw is not None and _are_counts(raw.X) and adata.var_names.isin(raw.var_names).all():
        return (
            f".raw holds counts: write {part}.layers['counts'] = {part}.raw[:, {part}.var_names].X and call "
            f"{_call(name, 'counts')}."
        )
    if summary.lowest >= 0 and float(summary.high.max()) >= _HIGHEST_LOG:
        stored = stored_values(adata, layer)
        source = f"{part}.X" if layer is None else f"{part}.layers[{layer!r}]"
        whole = f"{source}.rint()" if sparse.issparse(stored) else f"numpy.rint({source})"
        return (
            "They look like counts with fractions, as SoupX or CellBender may leave them: write "
            f"{part}.layers['counts'] = {whole} and call {_call(name, 'counts')}."
        )
    return None


def _call(name: str, layer: str | None) -> str:
    return f"setup_mudata(mdata, layers={{{name!r}: {layer!r}}}) of the model's class, before the model is made"


def _are_counts(stored: Any) -> bool:
    """Whether a sample of cells holds whole numbers of at least 0, not all of them 0 or 1."""
    if not hasattr(stored, "shape"):
        return False
    # Of a file, those that lie together.
    rows = np.unique(np.linspace(0, stored.shape[0] - 1, _SAMPLE_CELLS).astype(int))
    sample = stored[:_SAMPLE_CELLS] if lies_on_disk(stored) else stored[rows]
    data = sample.data if sparse.issparse(sample) else np.asarray(sample)
    if data.dtype.kind not in "iuf" or not data.size:
        return False
    return bool((data >= 0).all() and (data == np.rint(data)).all() and (data > 1).any())


def _warn_of_features(name: str, n_bytes: int) -> None:
    if n_bytes > _MANY_BYTES:
        logger.warning(
            f"the features that the model sees of {name!r} take {n_bytes / 2**30:.1f} GiB of memory (cells x features "
            "x 4 bytes); where that is too much, select fewer features, or for counts pass "
            f"transforms={{{name!r}: indiseek.data.LogNormalizePCA()}}."
        )
