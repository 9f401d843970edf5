"""What the report of a trained model is made of."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from indiseek._checks import check_mapping, check_number, check_path, check_seed, check_strings
from indiseek.data import Cells, LogNormalizePCA, check_replaceable, files_of, mark, replace_files
from indiseek.effects import Effects, log_normalized
from indiseek.metrics import Certificate
from indiseek.report import (
    CITATION,
    FEATURES_NOTE,
    FeatureValues,
    Page,
    Space,
    certificate_note,
    certificate_sentence,
    code_of,
    colours_of,
    counted,
    curves,
    effect_rows,
    feature_rows,
    feature_sentences,
    findings,
    first_colour,
    group_tables,
    in_words,
    maps_of,
    render,
    sentence_case,
    spoken,
    versions,
)

if TYPE_CHECKING:
    from indiseek.models._base import MultimodalModel

logger = logging.getLogger(__name__)

# A column that the page adds, under a name that no user is likely to have.
_PART = "part of the split"
_TRANSFORMS = {
    "log-normalize-pca": "log-normalised, {} components",
    "clr": "centred log-ratios",
    "clr-pca": "centred log-ratios, {} components",
    "scale": "scaled",
    "scale-pca": "scaled, {} components",
}


def write_report(
    model: MultimodalModel,
    path: str | Path,
    *,
    certificate: Certificate | None,
    effects: Effects | None,
    title: str | None,
    obs: Sequence[str] | None,
    color: str | None,
    coordinates: Mapping[str, NDArray[Any]] | None,
    max_cells: int,
    seed: int,
    least_held_out: int,
) -> None:
    """Check, measure what is not there yet, and write the page; arguments as in :meth:`MultimodalModel.report`.

    With fewer held-out cells than `least_held_out` there is no certificate.
    """
    target, mdata = _checked_path(path), model.adata
    cells, fitted = model._unchanged_cells(), model.fitted
    _check_class("certificate", certificate, Certificate, "model.certify()")
    _check_class("effects", effects, Effects, "model.compare()")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"expected title to be text, got {title!r}; give a string.")
    check_number("max_cells", max_cells, low=100, whole=True)
    check_seed("seed", seed)
    if mdata is None or fitted.split is None:
        raise RuntimeError("expected the cells that the model was trained on, got others; load it with its own MuData.")
    check_replaceable([target], map(Path, files_of(mdata)))
    annotations = _annotations(model, mdata, obs)
    features = {name: cells.schema.features[name] for name in model.modalities}
    first = _checked_color(color, annotations, features)
    if coordinates is not None:
        _check_coordinates(coordinates, len(cells), list(_titles(model)))
    if certificate is None and len(fitted.split.test) >= least_held_out:
        logger.info(f"report: certificate on {len(fitted.split.test):,} test cells, about a minute")
        certificate = model.certify(seed=seed)
    table = None if certificate is None else model._features_for_report(certificate)
    # What a cell lacks has no place on a map.
    rows = np.flatnonzero(cells.is_paired)
    if len(rows) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, int(max_cells), replace=False))
    spaces = _spaces(model, cells, rows, coordinates, seed)
    logger.info("report: values of the features")
    named = [] if table is None else list(zip(table["modality"].astype(str), table["feature"].astype(str), strict=True))
    colours = colours_of(annotations.iloc[rows], _values(model, cells, rows), first=named)
    parts = {name: getattr(fitted.split, name) for name in ("train", "validation", "test")}
    by_name = {"training" if name == "train" else name: part for name, part in parts.items()}
    setup, split_by = cells.schema.setup, fitted.split_options.get("split_by")
    keys = [key for key in dict.fromkeys([*setup.categorical, str(split_by)]) if key in annotations]
    page = Page(
        title=title
        or f"{in_words([spoken(name) for name in model.modalities])} of {len(cells):,} cells: shared, and known to one",
        written=f"{mark()} on {datetime.now(UTC):%Y-%m-%d}",
        summary=_summary(model, certificate, table),
        facts=_facts(model, cells, by_name),
        spaces=spaces,
        cells=cells.names[rows],
        n_cells=len(cells),
        colours=colours,
        first=first or first_colour(annotations, table),
        features=None if table is None else feature_rows(table),
        features_note="" if table is None else FEATURES_NOTE,
        certificate=certificate_note(
            None if certificate is None else certificate.n_cells, len(fitted.split.test), least_held_out
        ),
        findings=() if certificate is None else findings(certificate),
        groups=group_tables(annotations.drop(columns=[_PART]), keys, by_name),
        effects=None if effects is None else effect_rows(effects),
        curves=curves(model.history),
        versions=versions(),
        code=code_of(
            type(model).__name__,
            setup.record(),
            _given(model),
            split_by=split_by,
            certified=None if certificate is None else (certificate.seed, certificate.n_permutations),
        ),
        citation=CITATION,
    )
    text = render(page)
    replace_files(target.parent, {target.name: lambda at: _write(at, text)})
    logger.info(f"report: {target}, {len(text) / 1e6:.1f} MB")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _checked_path(path: str | Path) -> Path:
    target = check_path("path", path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"expected path to end with .html, got {target}; write for example report.html.")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"expected a folder {target.parent} to write in, got none; make it, or choose another.")
    if target.is_dir():
        raise FileExistsError(f"expected path to be a file, got the folder {target}; choose another name.")
    return target.absolute()


def _check_class(name: str, value: object, wanted: type, made_by: str) -> None:
    if value is not None and not isinstance(value, wanted):
        raise TypeError(
            f"expected {name} as {made_by} returns it, got {type(value).__name__}; give that, or leave it out."
        )


def _annotations(model: MultimodalModel, mdata: MuData, obs: Sequence[str] | None) -> pd.DataFrame:
    """Columns of all cells by name: those of the MuData, then those that only a modality has; and the split."""
    parts: dict[str, pd.Series] = {str(name): mdata.obs[name] for name in mdata.obs.columns}
    for modality in model.modalities:
        own = mdata.mod[modality].obs
        for name in map(str, own.columns):
            if name not in parts and f"{modality}:{name}" not in parts:
                parts[name] = own[name].reindex(mdata.obs_names)
    if obs is not None:
        obs = check_strings("obs", obs)
        unknown = [name for name in obs if name not in parts]
        if unknown:
            raise KeyError(f"expected obs to name columns of .obs, {list(parts)}, got {unknown}; choose some of these.")
        parts = {name: parts[name] for name in obs}
    split = np.full(mdata.n_obs, "none", dtype=object)
    for name, label in (("train", "training"), ("validation", "validation"), ("test", "test")):
        split[getattr(model.fitted.split, name)] = label
    parts[_PART] = pd.Series(pd.Categorical(split), index=mdata.obs_names)
    return pd.DataFrame(parts, index=mdata.obs_names)


def _checked_color(color: str | None, annotations: pd.DataFrame, features: Mapping[str, list[str]]) -> str | None:
    """The title that a colour has on the page."""
    if color is None or color in annotations:
        return color
    if not isinstance(color, str):
        raise TypeError(f"expected color to be the name of a column or feature, got {color!r}; give a string.")
    modality, _, within = color.partition(":")
    wanted = [(modality, within)] if modality in features and within else [(name, color) for name in features]
    found = [(name, feature) for name, feature in wanted if feature in features[name]]
    if not found:
        raise KeyError(
            f"expected color to be a column of .obs or a feature of {list(features)}, got {color!r}; check its name."
        )
    return f"{found[-1][1]} ({found[-1][0]})"


def _check_coordinates(coordinates: Mapping[str, NDArray[Any]], n_cells: int, keys: Sequence[str]) -> None:
    check_mapping("coordinates", coordinates, "coordinates by key of a space")
    unknown = [key for key in coordinates if key not in keys]
    if unknown:
        raise KeyError(f"expected coordinates of the spaces {keys}, got {unknown}; use these keys.")
    for key, xy in coordinates.items():
        shape = np.shape(xy)
        if shape != (n_cells, 2) or not np.isfinite(np.asarray(xy, dtype=np.float64)).all():
            raise ValueError(
                f"expected coordinates[{key!r}] of shape ({n_cells}, 2) and finite, got {shape}; give those of "
                "indiseek.pl.umap_coordinates(mdata, keys)."
            )


def _spaces(
    model: MultimodalModel,
    cells: Cells,
    rows: NDArray[np.intp],
    coordinates: Mapping[str, NDArray[Any]] | None,
    seed: int,
) -> list[Space]:
    """A map of each space that the model writes, the one of everything last and not shown at first."""
    codes, _ = model._obsm(model._tensors(cells, rows))
    known = {key: np.asarray(xy)[rows] for key, xy in (coordinates or {}).items()}
    missing = {key: code for key, code in codes.items() if key not in known}
    if missing:
        word = "map of 1 space" if len(missing) == 1 else f"maps of {len(missing)} spaces"
        logger.info(f"report: {word}, {len(rows):,} cells")
        known |= maps_of(missing, seed=seed)
    titles = _titles(model)
    ordered = sorted(codes, key=lambda key: list(titles).index(key))
    return [Space(*titles[key], known[key], shown=key != "X_indiseek") for key in ordered]


def _titles(model: MultimodalModel) -> dict[str, tuple[str, str]]:
    """Title and words of each space by its key, in the order in which they are shown."""
    names = [spoken(name) for name in model.modalities]
    all_of_them, both = in_words(names), "both" if len(names) == 2 else "all"
    found, last = {}, {}
    for name in model.fitted.trained_stages:
        space = model.module.stages[name].space
        if name == "everything" and space.joint is not None:
            last[space.joint] = ("Everything", f"all that {all_of_them} know of a cell, for clusters")
        elif space.joint is not None:
            words = f"what {all_of_them} {both} tell" if name == "shared" else f"what {all_of_them} tell together"
            found[space.joint] = (name.capitalize(), words)
        if space.each is not None:
            for modality, word in zip(model.modalities, names, strict=True):
                others = in_words([each for each in names if each != word])
                title = sentence_case(word)
                own = (f"{title}-specific", f"what {word} tells beyond {others}")
                found[space.each.format(modality=modality)] = (
                    own if name == "specific" else (title, f"what {word} tells")
                )
    return found | last


def _values(model: MultimodalModel, cells: Cells, rows: NDArray[np.intp]) -> list[FeatureValues]:
    found = []
    for name in model.modalities:
        transform, values = model.module.transform(name), cells.values[name][cells.at(name, rows)]
        if isinstance(transform, LogNormalizePCA):
            values, scale = log_normalized(values), "log(1 + counts per 10,000)"
        elif transform.needs_counts:
            values, scale = np.log1p(values), "log(1 + count)"
        else:
            scale = "value"
        found.append(FeatureValues(name, cells.schema.features[name], values, scale))
    return found


def _summary(model: MultimodalModel, certificate: Certificate | None, table: pd.DataFrame | None) -> list[str]:
    sentences = [] if certificate is None else [certificate_sentence(certificate, certificate.n_cells)]
    return sentences + ([] if table is None else feature_sentences(table, model.modalities))


def _facts(model: MultimodalModel, cells: Cells, parts: Mapping[str, NDArray[np.intp]]) -> list[tuple[str, str]]:
    fitted, setup = model.fitted, cells.schema.setup
    who = "" if cells.presence is None else f", {int(cells.is_paired.sum()):,} of them with all modalities"
    facts = [("Cells", f"{len(cells):,}{who}")]
    for name in model.modalities:
        transform = fitted.transforms[name]
        how = _TRANSFORMS.get(transform.name, transform.name).format(transform.n_output)
        facts.append((name, f"{len(cells.schema.features[name]):,} features; {how}"))
    if setup.batch_key is not None:
        facts.append((f"Batches ({setup.batch_key})", f"{cells.schema.n_categories[setup.batch_key]}, corrected for"))
    others = [key for key in setup.covariates if key != setup.batch_key]
    if others:
        facts.append(("Other covariates", ", ".join(others)))
    by = fitted.split_options.get("split_by")
    facts.append(("Split", f"{counted({name: len(part) for name, part in parts.items()})} cells"))
    facts.append(("Held out", "cells at random" if by is None else f"all cells of some values of {by}"))
    seconds = sum(fitted.stage_seconds.values())
    facts.append(("Model", f"{type(model).__name__} {version('indiseek')}, trained in {seconds:.0f}\u00a0s"))
    return facts


def _given(model: MultimodalModel) -> list[str]:
    """Arguments of the constructor that are not the defaults."""
    given = []
    for key, parameter in inspect.signature(type(model).__init__).parameters.items():
        value, default = getattr(model._options, key, None), parameter.default
        # A word that stands for options of its own.
        is_word = isinstance(default, str) and not isinstance(value, str)
        if value is not None and value != default and not (is_word and value == type(value)()):
            given.append(f"{key}={value!r}")
    return given
