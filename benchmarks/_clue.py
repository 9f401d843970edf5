"""CLUE (scglue) on the cells of one file: figures of its default fit as JSON.

Runs in an environment of its own, which ``make peers`` builds, since scglue cannot be imported where warnings are
errors; so nothing of this project is imported here.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

warnings.simplefilter("ignore")

import mudata  # noqa: E402
import scanpy as sc  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from scglue.models import SCCLUEModel, configure_dataset  # noqa: E402
from scglue.utils import log  # noqa: E402

_N_COMPONENTS = 50


def prepared(counts: AnnData) -> AnnData:
    """Counts for the decoder; log-normalised principal components for the encoder, as scglue's tutorials do."""
    adata = AnnData(counts.X.copy(), obs=counts.obs[[]], var=counts.var[[]])
    normalised = adata.copy()
    sc.pp.normalize_total(normalised)
    sc.pp.log1p(normalised)
    sc.pp.scale(normalised)
    sc.tl.pca(normalised, n_comps=min(_N_COMPONENTS, adata.n_vars - 1), svd_solver="auto")
    adata.obsm["X_pca"] = normalised.obsm["X_pca"]
    configure_dataset(adata, "NB", use_highly_variable=False, use_rep="X_pca", use_obs_names=True)
    return adata


def main(path: Path) -> None:
    """Fit and print."""
    log.console_log_level = logging.WARNING
    mdata = mudata.read_h5mu(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    cells = {name: prepared(adata) for name, adata in mdata.mod.items()}
    model = SCCLUEModel(cells)
    model.compile()
    with TemporaryDirectory() as directory:
        model.fit(cells, directory=directory)
    for name, adata in cells.items():
        model.encode_data(name, adata)
    wall = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"fit, s": wall, "peak RSS, GiB": peak / 2**20, "of which data and imports, GiB": before / 2**20}
    print(json.dumps(figures | {"cells": mdata.n_obs, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
