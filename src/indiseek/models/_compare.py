"""What a comparison of conditions is made of in a trained model's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indiseek.data import Cells, LogNormalizePCA, watched
from indiseek.effects import Effects, compare
from indiseek.train import Pipeline


def compared(
    pipeline: Pipeline,
    cells: Cells,
    obs: pd.DataFrame,
    *,
    groupby: str,
    replicate: str,
    within: str | None,
    groups: Sequence[Any] | None,
    min_cells: int,
    n_permutations: int,
    alpha: float,
    thin_depth: bool,
    seed: int,
    show_progress: bool,
) -> Effects:
    """Effects by space of a model's two modalities.

    Parameters
    ----------
    pipeline
        Fitted transforms.
    cells
        Cells with both modalities.
    obs
        The columns that are named.
    groupby, replicate, within, groups, min_cells, n_permutations, alpha, seed
        As in :func:`indiseek.effects.compare`.
    thin_depth
        Whether the comparison at one depth is made too.
    show_progress
        Whether a progress bar is shown where it takes seconds.
    """
    names = pipeline.names
    if len(names) != 2:
        raise ValueError(
            f"expected a model of two modalities, got {list(names)}; make one of two, with setup_mudata(mdata, "
            f"modalities={list(names[:2])})."
        )
    without = [name for name in names if not pipeline.transform(name).needs_counts]
    if without:
        raise ValueError(
            f"expected counts of both modalities, got other values of {without}; name the layer that holds counts in "
            "setup_mudata(mdata, layers={...}) and train a model of it."
        )
    features = [part.cpu().numpy().astype(np.float64) for part in pipeline.tensors(cells).features]
    # A cell's protein counts add up to what a few proteins say, so that they are no depth to scale by.
    second = pipeline.transform(names[1])
    run = partial(
        compare,
        {name: cells.values[name] for name in names},
        dict(zip(names, features, strict=True)),
        obs,
        groupby=groupby,
        replicate=replicate,
        within=within,
        batch=cells.schema.setup.batch_key,
        groups=groups,
        features=cells.schema.features,
        centered=() if isinstance(second, LogNormalizePCA) else (names[1],),
        min_cells=min_cells,
        n_permutations=n_permutations,
        alpha=alpha,
        seed=seed,
        watch=partial(watched, desc="compare", unit="group", disable=not show_progress),
    )

    def components(counts: Any) -> NDArray[np.float64]:
        thinned = pipeline.transform(names[0]).apply_to(counts.astype(np.float32))
        return np.asarray(thinned.cpu().numpy(), dtype=np.float64)

    return replace(run(), thinned=run(thin=components)) if thin_depth else run()
