"""What of everything measured does not reach the features, although another draw of the cell would repeat it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ._probes import cross_predict

if TYPE_CHECKING:
    from ._cells import Cells

_NAMES = ("all_reproducible", "all_in_features", "all_left_out")


def left_out(cells: Cells, modality: str) -> dict[str, float]:
    r"""Shares of the variance of all values of a modality, at half the depth: NaN without their halves.

    With :math:`a` and :math:`b` all values from two draws of the cells and :math:`f(a)` the features of the first,
    what another draw repeats is :math:`\sum \operatorname{cov}(a, b)` over :math:`\sum \sqrt{\operatorname{var} a
    \operatorname{var} b}`; of that the features hold :math:`\sum \operatorname{cov}(\hat b, b)`, where :math:`\hat b`
    is a ridge regression on :math:`f(a)` fitted on other cells. The noise of the second draw is in neither.

    Parameters
    ----------
    cells
        The held-out cells.
    modality
        The modality.
    """
    if modality not in cells.all_replicates:
        return dict.fromkeys(_NAMES, math.nan)
    a, b = (half - half.mean(axis=0) for half in cells.all_replicates[modality])
    total = float(np.sqrt(a.var(axis=0) * b.var(axis=0)).sum())
    repeated = float((a * b).mean(axis=0).sum()) / total
    (predicted,) = cross_predict(cells.replicates[modality][0], [b], probe="ridge", seed=cells.seed)
    held = float(((predicted - predicted.mean(axis=0)) * b).mean(axis=0).sum()) / total
    held = min(max(held, 0.0), repeated)
    return dict(zip(_NAMES, (repeated, held, repeated - held), strict=True))
