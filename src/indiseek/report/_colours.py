"""What the cells of the maps can be coloured by: columns of ``.obs`` and features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from indiseek._checks import printable
from indiseek.report._encode import base64_of, quantised, squeezed
from indiseek.report._features import ranked

_LABELS = ("celltype", "cell_type", "cell type", "type", "label", "annot", "cluster", "leiden", "louvain")
# More names than these are those of cells.
MOST_CATEGORIES = 200
_GENE_LEVELS = 63
_MOST_OF_A_PANEL = 500
# Of the text of a page, for 7,000 cells and for 20,000: with it whole pages stay below 8 and 15 MB, which a mail takes.
_LEAST_BYTES, _BYTES_OF_A_CELL, _MOST_BYTES = 6_000_000, 600, 12_000_000


@dataclass(frozen=True, eq=False)
class FeatureValues:
    """Values of one modality's features in the cells of the maps.

    Attributes
    ----------
    modality
        Its name.
    names
        Names of the features.
    values
        ``(n_cells, n_features)``, dense or sparse, on the scale that is shown.
    scale
        What the values are, in words.
    """

    modality: str
    names: Sequence[str]
    values: Any
    scale: str


@dataclass(frozen=True, eq=False)
class Colours:
    """Colours as plain values for the page.

    Attributes
    ----------
    columns, features
        One dict each.
    n_features
        How many features there were; ``features`` has those for which there was room.
    """

    columns: list[dict[str, Any]]
    features: list[dict[str, Any]]
    n_features: int


def colours_of(
    columns: pd.DataFrame,
    features: Iterable[FeatureValues],
    *,
    first: Sequence[tuple[str, str]] = (),
    feature_bytes: int | None = None,
) -> Colours:
    """Pack what the maps can be coloured by.

    Parameters
    ----------
    columns
        Annotations of the cells of the maps, ``(n_cells, n_columns)``; those with more than 200 different words, and
        those without any value, are left out.
    features
        Features by modality; the last modality is offered first.
    first
        Modality and name of features that should be there before others; panels, of which somebody has chosen each
        feature, come before all.
    feature_bytes
        Most characters that features may take together, by default 6 to 12 million, the more the more cells there are.
        Of a modality for which they do not suffice, those that vary most are taken.
    """
    packed = [_column(str(name), columns.iloc[:, i]) for i, name in enumerate(columns.columns)]
    modalities = [(each, _by_column(each.values)) for each in features]
    wanted = {key: rank for rank, key in enumerate(first)}
    candidates = []
    for each, values in modalities:
        is_many = len(each.names) > _MOST_OF_A_PANEL
        for position, variance in enumerate(_variances(values)):
            rank = wanted.get((each.modality, str(each.names[position])), len(wanted))
            candidates.append((is_many, rank, -variance, each, values, position))
    candidates.sort(key=lambda entry: entry[:3])
    found, room = [], feature_bytes
    if room is None:
        room = min(max(_LEAST_BYTES, _BYTES_OF_A_CELL * len(columns)), _MOST_BYTES)
    for *_, each, values, position in candidates:
        feature = _feature(each, values, position)
        room -= len(feature["values"])
        if room < 0:
            break
        found.append(feature)
    order = {each.modality: rank for rank, (each, _) in enumerate(reversed(modalities))}
    found.sort(key=lambda feature: (order[feature["modality"]], feature.pop("position")))
    return Colours([each for each in packed if each is not None], found, len(candidates))


def _by_column(values: Any) -> Any:
    return sparse.csc_matrix(values) if sparse.issparse(values) else np.asarray(values)


def _variances(values: Any) -> NDArray[np.float64]:
    if not sparse.issparse(values):
        return np.asarray(values, dtype=np.float64).var(axis=0)
    mean = np.asarray(values.mean(axis=0)).ravel()
    return np.asarray(values.multiply(values).mean(axis=0)).ravel() - np.square(mean)


def _feature(of: FeatureValues, values: Any, position: int) -> dict[str, Any]:
    if sparse.issparse(values):
        # Of a gene, whose counts are few, no eye and no mean needs more; of 4,000 genes it spares a megabyte.
        steps = quantised(values[:, [position]].toarray().ravel(), n_levels=_GENE_LEVELS)
    else:
        steps = quantised(values[:, position])
    return {
        "modality": printable(of.modality),
        "name": printable(str(of.names[position])),
        "scale": of.scale,
        "low": steps.low,
        "high": steps.high,
        "clip": steps.clip,
        "values": squeezed(steps.values.tobytes()),
        "position": position,
    }


def _column(name: str, values: pd.Series) -> dict[str, Any] | None:
    title = printable(name)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        steps = quantised(values.to_numpy(dtype=np.float64, na_value=np.nan))
        packed = base64_of(steps.values)
        kept = values.notna().any()
        numbers = {"low": steps.low, "high": steps.high, "clip": steps.clip, "values": packed}
        return {"name": title, **numbers} if kept else None
    # Of mixed types no order is known but that of their words.
    words = values.map(lambda each: printable(str(each)), na_action="ignore").astype("category")
    known = [str(each) for each in (values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else [])]
    present = list(words.cat.remove_unused_categories().cat.categories)
    ordered = [printable(each) for each in known if printable(each) in present] or present
    if not 0 < len(ordered) <= MOST_CATEGORIES:
        return None
    codes = words.cat.set_categories(list(dict.fromkeys(ordered))).cat.codes.to_numpy()
    # 255 says that there is none.
    return {"name": title, "categories": list(dict.fromkeys(ordered)), "codes": base64_of(codes.astype(np.uint8))}


def first_colour(annotations: pd.DataFrame, table: pd.DataFrame | None) -> str | None:
    """What colours the maps at first: types of cells where there are any, else what one modality alone knows most of.

    Parameters
    ----------
    annotations
        Annotations of the cells, ``(n_cells, n_columns)``.
    table
        Table of features, as :func:`indiseek.report.feature_rows` takes it; None for none.
    """
    for word in _LABELS:
        for name in annotations:
            if word in str(name).lower() and 1 < annotations[name].nunique() <= 60:
                return str(name)
    if table is None or "specific" not in table or "modality" not in table:
        return None
    controls = table["is_control"].astype(bool) if "is_control" in table else np.zeros(len(table), dtype=bool)
    best = ranked(table[~controls]).iloc[:1]
    return f"{best['feature'].iloc[0]} ({best['modality'].iloc[0]})" if len(best) else None
