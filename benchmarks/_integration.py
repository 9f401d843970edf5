"""Methods that bring batches together: spaces of all cells of a study."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scanpy as sc
from _components import as_one_block, components, standardised
from _peers import fitted_mofa, fitted_totalvi, require, with_dense_protein
from _study import Study
from _types import Labels, Rows
from numpy.typing import NDArray

from indiseek import IndiSeekModel, metrics
from indiseek.data import CLR

Array = NDArray[Any]
_SPACES = {
    "X_indiseek_shared": "shared",
    "X_indiseek": "everything",
    "X_indiseek_rna": "rna",
    "X_indiseek_prot": "prot",
}

SCALES = {"components alike": standardised, "modalities alike": as_one_block}


@dataclass(frozen=True, eq=False)
class Found:
    """What a method made of a study.

    Attributes
    ----------
    spaces
        By name ``(n_cells, n_latent)`` of all cells.
    specific
        By modality what its specific code holds of batch, condition and the other modality's shared code.
    seconds
        Wall time of fit and codes.
    """

    spaces: dict[str, Array]
    seconds: float
    specific: dict[str, dict[str, float]] = field(default_factory=dict)


def trained(study: Study, seed: int, *, with_batch: bool = True) -> IndiSeekModel:
    """The default fit on the training cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IndiSeekModel.setup_mudata(study.mdata, batch_key="batch" if with_batch else None)
        model = IndiSeekModel(study.mdata)
        split = None if study.whole else [study.train, study.validation, study.test]
        model.train(seed=seed, external_indexing=split, accelerator="cpu", show_progress=False)
    return model


def _indiseek(study: Study, seed: int, *, with_batch: bool) -> Found:
    started = time.perf_counter()
    model = trained(study, seed, with_batch=with_batch)
    seconds = time.perf_counter() - started
    spaces = {name: study.mdata.obsm[key] for key, name in _SPACES.items()}
    side_by_side = [standardised(spaces[name], study.train) for name in ("shared", "rna", "prot")]
    specific = {} if study.whole else {name: _held(model, study, spaces[name], name) for name in model.modalities}
    return Found(spaces | {"shared + specific": np.hstack(side_by_side)}, seconds, specific)


def indiseek(study: Study, seed: int, epochs: int | None) -> Found:
    """IndiSeek as it comes, told the batch."""
    return _indiseek(study, seed, with_batch=True)


def indiseek_without(study: Study, seed: int, epochs: int | None) -> Found:
    """IndiSeek as it comes."""
    return _indiseek(study, seed, with_batch=False)


def _held(model: IndiSeekModel, study: Study, code: Array, name: str) -> dict[str, float]:
    """What the specific code of test cells explains, read as the certificate does."""
    test = study.test
    (other,) = (each for each in model.modalities if each != name)
    shared = model.get_latent_representation(modality=other, indices=test)
    batch = study.column("batch")[test]
    labels = {key: _indicators(study.column(key)[test]) for key in ("batch", "condition")}
    readings = metrics.explained(code[test], shared)
    found = {"leak": readings.total, "se": readings.se}
    found |= {f"explained {key}": metrics.explained(code[test], target).total for key, target in labels.items()}
    inside = [batch == label for label in np.unique(batch)]
    totals = [metrics.explained(code[test][cells], shared[cells]).total for cells in inside]
    return found | {"leak within batches": float(np.average(totals, weights=[cells.sum() for cells in inside]))}


def _indicators(labels: Labels) -> Array:
    return (labels[:, None] == np.unique(labels)).astype(np.float64)


def pca(study: Study, seed: int, epochs: int | None) -> Found:
    """Components of both modalities, nothing done about the batch."""
    started = time.perf_counter()
    return Found(of_both(study), time.perf_counter() - started)


def harmony(study: Study, seed: int, epochs: int | None) -> Found:
    """Harmony on components of both: it has no new cells, and is fitted on the test cells too."""
    started = time.perf_counter()
    spaces = {name: corrected(code, study.column("batch"), seed) for name, code in of_both(study).items()}
    return Found(spaces, time.perf_counter() - started)


def of_both(study: Study) -> dict[str, Array]:
    """Components of both modalities side by side, each component or each modality on one scale."""
    parts = components(study.mdata, study.train).values()
    return {name: np.hstack([scale(x, study.train) for x in parts]) for name, scale in SCALES.items()}


def corrected(code: Array, batch: Labels, seed: int) -> Array:
    """Code after Harmony with its defaults."""
    require("harmonypy")
    from harmonypy import run_harmony

    fitted = run_harmony(code, {"batch": batch}, ["batch"], random_state=seed, ncores=1, verbose=False)
    found: Array = np.asarray(fitted.Z_corr)
    return found if len(found) == len(code) else found.T


def totalvi(study: Study, seed: int, epochs: int | None) -> Found:
    """TOTALVI told the batch, fitted on training and validation cells."""
    every = np.arange(study.mdata.n_obs)
    seen = every if study.whole else np.sort(np.concatenate([study.train, study.validation]))
    parts = None if study.whole else [np.searchsorted(seen, rows) for rows in (study.train, study.validation)]
    started = time.perf_counter()
    model = fitted_totalvi(_with_batch(study, seen), parts, seed, epochs, batch_key="batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = model.get_latent_representation(_with_batch(study, every))
    return Found({"joint": code}, time.perf_counter() - started)


def _with_batch(study: Study, rows: Rows) -> Any:
    mdata = with_dense_protein(study.mdata, rows)
    mdata["rna"].obs["batch"] = study.column("batch")[rows]
    return mdata


def mofa(study: Study, seed: int, epochs: int | None) -> Found:
    """MOFA+ with a group for each batch: it has no encoder, and is fitted on the test cells too."""
    require("mofapy2")
    started = time.perf_counter()
    batch = study.column("batch")
    groups = [str(label) for label in np.unique(batch)]
    views = []
    for x in (_log_normalised(study), _clr(study)):
        x = x[:, x.std(axis=0) > 0]
        x = x / x.std()
        views.append([x[batch == group] for group in groups])
    nodes = fitted_mofa(views, ["rna", "prot"], groups, seed, epochs, convergence="fast")
    with contextlib.redirect_stdout(io.StringIO()):
        by_group = np.asarray(nodes["Z"].getExpectation())
    code = np.empty_like(by_group)
    code[np.concatenate([np.flatnonzero(batch == group) for group in groups])] = by_group
    return Found({"factors": code}, time.perf_counter() - started)


def _log_normalised(study: Study) -> Array:
    adata = study.mdata["rna"].copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    x: Array = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return x.astype(np.float64)


def _clr(study: Study) -> Array:
    values = study.mdata["prot"].X
    transform = CLR()
    transform.fit(values, study.train)
    return transform.apply_to(values).numpy().astype(np.float64)


class Method(NamedTuple):
    """Rows of the tables."""

    label: str
    encode: Callable[[Study, int, int | None], Found]


METHODS = {
    "indiseek": Method("IndiSeek, batch_key", indiseek),
    "indiseek-without": Method("IndiSeek, no batch_key", indiseek_without),
    "pca": Method("PCA 30 + 30", pca),
    "harmony": Method("Harmony, PCA 30 + 30", harmony),
    "totalvi": Method("totalVI, batch_key", totalvi),
    "mofa": Method("MOFA+, groups", mofa),
}


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Fills in the highest memory of this process while the block runs, in GiB, where Linux tells it."""
    found: dict[str, float] = {}
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    told = status.exists()
    if told:
        reset.write_text("5")
    yield found
    if told:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found["peak GiB"] = int(line.split()[1]) / 2**20
