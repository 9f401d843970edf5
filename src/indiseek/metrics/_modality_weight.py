"""Which modality's specific space tells a cell type apart, beside the weight that another method gives to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from indiseek._checks import check_choice, check_number

from ._checks import as_cells, check_paired
from ._retrieval import unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# A rank correlation of two classes is 1 or -1 whatever the codes are.
_LEAST_CLASSES = 3


@dataclass(frozen=True, eq=False)
class ModalityWeight:
    """Modality-weight score of cells and of their types.

    Attributes
    ----------
    theta
        Log ratio of each cell, ``(n_cells,)``, in nats: above 0 where the first space has more neighbours of its type.
    shares
        Share of neighbours of the cell's own type in the first and in the second space, ``(n_cells, 2)``.
    classes
        A row for each type, from the lowest mean of `theta`: ``n_cells``, the means ``share_first``, ``share_second``
        and ``theta``, where a weight was given its mean ``weight``, and whether the type is ``compared``.
    spearman
        Rank correlation of the types' means of `theta` and of the weight, over the types that are compared (higher is
        better, 1 the same order). None without a weight; NaN where one of both is the same for all types.
    """

    theta: NDArray[np.float64]
    shares: NDArray[np.float64]
    classes: pd.DataFrame
    spearman: float | None


def modality_weight(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    n_neighbors: int = 10,
    pseudocount: float = 1.0,
    min_cells: int | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> ModalityWeight:
    r"""Compare how well two specific spaces tell types apart, and the result with the weight of another method.

    With :math:`k_i` of a cell's `n_neighbors` nearest neighbours in space i of its own type, itself left out, and the
    pseudo-count a,

    .. math:: \theta = \log \frac{\beta_1}{\beta_2}, \qquad \beta_i = \frac{k_i + a}{n_{neighbors} + a} .

    The paper takes the first space for RNA, the second for protein, and compares the means of :math:`\theta` over each
    type with those of the RNA weight of weighted nearest neighbours [2]_, by their rank correlation. How it deals with
    cells without any neighbour of their type, where the ratio has no logarithm, it does not say: the pseudo-count is
    ours. The score does not ask whether the spaces are independent of what is shared. The features themselves, taken
    for both spaces, have a score too: read that of the codes beside it, and beside their leakage.

    Parameters
    ----------
    first, second
        Specific codes of the same test cells in the same order, ``(n_cells, n_latent)``; their dimensions may differ.
    labels
        Type of each cell, ``(n_cells,)``; none missing.
    weight
        Weight of the first modality of each cell by another method, ``(n_cells,)``, such as the column
        ``rna:mod_weight`` that ``muon.pp.neighbors`` writes. None (default) compares with nothing.
    n_neighbors
        Number of neighbours, default 10 as in the paper.
    pseudocount
        Neighbours added to those of the cell's own type in both spaces, default 1; above 0. Smaller ones give more
        to the cells with the fewest neighbours of their type.
    min_cells
        Types with fewer cells are not compared with the weight: by default those that cannot fill a neighbourhood,
        ``n_neighbors + 1``.
    metric
        ``"euclidean"`` (default) or ``"cosine"``. Of unit vectors both give the same neighbours. Of cells at the same
        distance those that are found first are taken.

    Returns
    -------
    ModalityWeight

    Raises
    ------
    TypeError
        If codes, weight or a setting are no numbers.
    ValueError
        If the cells differ, there are not more than `n_neighbors` of them, a label is missing, a setting is out of
        range, or fewer than 3 types are left to compare.

    References
    ----------
    .. [1] Gui et al., "IndiSeek learns information-guided disentangled representations", arXiv 2509.21584 (2025).
    .. [2] Hao et al., "Integrated analysis of multimodal single-cell data", Cell 184, 3573-3587 (2021).

    Examples
    --------
    >>> rna, prot = (
    ...     model.get_latent_representation(modality=m, kind="specific", indices=test) for m in ("rna", "prot")
    ... )
    >>> indiseek.metrics.modality_weight(rna, prot, types[test], weight=rna_weight[test]).spearman
    """
    check_number("n_neighbors", n_neighbors, low=1, whole=True)
    check_number("pseudocount", pseudocount, above=0)
    check_choice("metric", metric, ("euclidean", "cosine"))
    if min_cells is None:
        min_cells = n_neighbors + 1
    check_number("min_cells", min_cells, low=1, whole=True)
    spaces = [as_cells(code, name) for code, name in ((first, "first"), (second, "second"))]
    check_paired(spaces, ("first", "second"))
    n_cells = len(spaces[0])
    if n_cells <= n_neighbors:
        raise ValueError(
            f"expected more than n_neighbors={n_neighbors} cells, got {n_cells}; pass more cells or ask for fewer "
            "neighbours."
        )
    codes, types = _types(labels, n_cells)
    known = None if weight is None else as_cells(weight, "weight")
    if known is not None and known.shape != (n_cells, 1):
        raise ValueError(f"expected weight of shape ({n_cells},), got {known.shape}; give one number for each cell.")

    same = np.column_stack([_same(space, codes, n_neighbors, metric) for space in spaces])
    theta = np.log((same[:, 0] + pseudocount) / (same[:, 1] + pseudocount))
    values = {"share_first": same[:, 0] / n_neighbors, "share_second": same[:, 1] / n_neighbors, "theta": theta}
    if known is not None:
        values["weight"] = known[:, 0]
    sizes = np.bincount(codes, minlength=len(types))
    means = {name: np.bincount(codes, weights=value, minlength=len(types)) / sizes for name, value in values.items()}
    table = pd.DataFrame(
        {"n_cells": sizes, **means, "compared": sizes >= min_cells}, index=pd.Index(types, name="type")
    )
    return ModalityWeight(
        theta=theta,
        shares=same / n_neighbors,
        classes=table.sort_values("theta", kind="stable"),
        spearman=None if known is None else _spearman(table, min_cells),
    )


def _types(labels: ArrayLike, n_cells: int) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    values = pd.Series(np.asarray(labels, dtype=object).ravel())
    if len(values) != n_cells:
        raise ValueError(f"expected labels of {n_cells} cells, got {len(values)}; give one for each cell.")
    if values.isna().any():
        raise ValueError(
            f"expected a label for each cell, got none for {int(values.isna().sum())} of {n_cells}; leave these cells "
            "out of codes and labels."
        )
    codes, types = pd.factorize(values, sort=True)
    return codes, np.asarray(types, dtype=object)


def _same(space: NDArray[np.float64], codes: NDArray[np.intp], n_neighbors: int, metric: str) -> NDArray[np.float64]:
    """Number of neighbours of each cell's own type."""
    points = unit_rows(space) if metric == "cosine" else space
    # Without cells to look from, none is its own neighbour.
    neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
    found: NDArray[np.float64] = (codes[neighbors] == codes[:, None]).sum(axis=1).astype(np.float64)
    return found


def _spearman(table: pd.DataFrame, min_cells: int) -> float:
    compared = table[table["compared"]]
    if len(compared) < _LEAST_CLASSES:
        raise ValueError(
            f"expected at least {_LEAST_CLASSES} types of {min_cells} cells or more to compare, got {len(compared)} "
            f"of {len(table)}; pass more cells, or set min_cells lower."
        )
    # Means over other cells of the same shares differ by rounding.
    ranks = [rankdata(np.round(compared[name].to_numpy(), 12)) for name in ("theta", "weight")]
    if any(np.ptp(each) == 0 for each in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
