"""Cells of made-up donors in two layers that share two axes, with an effect of the condition where it is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indiseek.effects import Labels, Profiles, profiles

N_EACH, N_CELLS = (24, 10), 40


@dataclass(frozen=True, eq=False)
class Cells:
    """Two layers of the same cells, and the donors' labels."""

    values: tuple[NDArray[np.float64], NDArray[np.float64]]
    donor: NDArray[np.intp]
    labels: Labels

    @property
    def profiles(self) -> Profiles:
        return profiles(self.values, self.values, self.donor)


def cells(
    seed: int,
    *,
    shared: float = 0.0,
    first: float = 0.0,
    second: float = 0.0,
    along: float = 0.0,
    halves: int = 0,
    batch_effect: float = 1.0,
    cases: tuple[int, ...] = (4, 4),
    of: tuple[int, ...] = (8, 8),
) -> Cells:
    """Donors of each batch, so many of them cases.

    `shared` moves the first shared axis of the cells of cases, `first` and `second` four features of one layer that
    have no part in it, `along` the features of the first layer as the shared axis would. With `halves` 1 half of the
    cells of cases has what `first` and `second` do, with 2 another half for each.
    """
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(len(of)), of)
    case = np.concatenate([rng.permutation(np.arange(n) < k) for n, k in zip(of, cases, strict=True)])
    donor = np.repeat(np.arange(len(batch)), N_CELLS)
    axes = rng.normal(size=(len(donor), 2)) + rng.normal(scale=0.1, size=(len(batch), 2))[donor]
    axes[:, 0] += shared * case[donor]
    inside = np.ones((2, len(donor)), dtype=bool)
    if halves:
        inside[:] = rng.random((halves, len(donor))) < 0.5
    values = []
    for layer, (n, push) in enumerate(zip(N_EACH, (first, second), strict=True)):
        loadings = np.zeros((2, n))
        loadings[:, 4:] = rng.choice([-1, 1], size=(2, n - 4))
        offsets = rng.normal(scale=0.1, size=(len(batch), n)) + batch_effect * rng.normal(size=(len(of), n))[batch]
        x = axes @ loadings + rng.normal(size=(len(donor), n)) + offsets[donor]
        x[:, :4] += push * (case[donor] & inside[layer])[:, None]
        if layer == 0:
            x += along * case[donor, None] * loadings[0]
        values.append(x)
    return Cells((values[0], values[1]), donor, Labels(case, batch))
