"""Variance of a target that a code explains: a leave-one-out covariance, whose mean does not grow with the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.linalg import svd
from scipy.special import ndtri
from scipy.stats import rankdata

from indiseek._checks import check_flag, check_number, check_seed

from ._checks import as_cells, check_paired
from ._probes import COLLAPSED, varying
from ._verdict import NORMAL_95, Verdict, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    # What is read of a centred target, for one code.
    Reader = Callable[[Array], "_Part"]

Key = TypeVar("Key", bound="Hashable")

# Less of it reads a rare type at two thirds of its size, more of it (a kernel alone) at twice.
_SHRINKAGE = 1.5
_N_LEADING = 5
_WINSOR = 5.0
# Up to so many cells, and three at least, may be far out in code and target together without counting more than others.
_STRAY = 0.005
_CLIP_LEADING = 4.0
_CLIP_PRODUCTS = 3.0
# What a shrunk prediction gains beyond the variance it explains, as measured for codes of 5 to 50 dimensions.
_GAIN = 1.3
_MAD_TO_SD = 1.4826
# How much of a leak is read depends on its shape; over six shapes the mean reading differs from the truth by so much.
_SHAPE = 0.08


@dataclass(frozen=True)
class Explained:
    """Share of a target's variance that a code explains, in two parts with their standard errors.

    Attributes
    ----------
    map
        By functions of single dimensions and of the leading components: the mean of the target shifts.
    products
        By products of any two dimensions, beyond the map: NaN if they were not asked for.
    se_map, se
        Standard errors of ``map`` and of ``total``.
    null_se
        Standard error of ``total`` if nothing were explained: what these cells can resolve.
    guard_map, guard
        Standard errors of ``map`` and ``total`` for the question whether a limit is exceeded: smaller than ``se``
        where the leak itself makes the estimate vary.
    concentration
        Share of the target's variance that lies in its leading direction: a leak there varies most.
    n_cells, n_inputs
        Cells and dimensions of the code.
    """

    map: float
    products: float
    se_map: float
    se: float
    null_se: float
    guard_map: float
    guard: float
    concentration: float
    n_cells: int
    n_inputs: int

    @property
    def total(self) -> float:
        """Share explained by the map and by products together; about 0 if nothing is, and it may fall below."""
        return self.map if np.isnan(self.products) else self.map + self.products

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``total``; no share exceeds 1."""
        reach = NORMAL_95 * self.se
        return min(1.0, self.total - reach), min(1.0, self.total + reach)

    def verdict(self, limit: float) -> Verdict:
        """``"pass"`` if the total is below the limit, ``"FAIL"`` if the total or the map alone is above it.

        Else ``"too few cells"``. A leak makes the estimate vary more than none does, so that the draws which read too
        little of it also show too small an error. What passes therefore has to pass with the error that it would have
        at the limit.

        Parameters
        ----------
        limit
            Largest share that is accepted.
        """
        by_map = at_most(self.map, self.se_map, limit, n_cells=self.n_cells, above=(self.map, self.guard_map))
        if by_map == "FAIL":
            return by_map
        at_limit = float(np.sqrt(self.null_se**2 + 4 * limit * self.concentration / self.n_cells))
        above = self.total, self.guard
        return at_most(self.total, max(self.se, at_limit), limit, n_cells=self.n_cells, above=above)


def explained(
    code: ArrayLike, target: ArrayLike, *, products: bool = True, max_cells: int = 4000, seed: int = 0
) -> Explained:
    r"""Share of the variance of a target that a code explains (0 nothing, 1 all).

    A cross-fitted probe asks how well a *prediction* from these cells does, and therefore finds less the fewer cells
    there are. Here every cell's target is multiplied with what a lightly shrunk linear fit on the *other* cells says
    of it; the sum estimates the variance explained, whatever the number of cells:

    .. math::

        L = \frac{\sum_i y_i \cdot P_i}{\sum_i |y_i|^2} - \frac{\sum_i h_i}{b n^2}, \qquad
        P = \frac{(H - \operatorname{diag} h)\, Y}{b}, \qquad
        H = F (F'F + 1.5\, n I)^{-1} F', \qquad h = \operatorname{diag} H

    with :math:`Y` the centred target and :math:`b = \sum_{i \ne j} H_{ij} K_{ij} / n`, :math:`K = FF'/D`, the share of
    a random effect of the features that the shrunken fit keeps. The :math:`D` features :math:`F` are the normal scores
    of every dimension, their squares, and products and cubes of the five leading components. The second term undoes
    the centring. **Products**: the same with the kernel of all products of two dimensions,
    :math:`K_2 = ((SS')^2 - S^2 S^{2\prime}) / (p (p - 1))`, cleared of :math:`F` on both sides and of its diagonal.

    Standard errors: without a leak :math:`V_0 = 2 (\sum a^2 - \sum h^2) / (b n)^2 \cdot \operatorname{tr} \Sigma^2 /
    (\operatorname{tr} \Sigma)^2`, with :math:`a` the eigenvalues of :math:`H` and :math:`\Sigma` the covariance of the
    target; with one, the spread of the cells' contributions :math:`2 y_i \cdot P_i - L |y_i|^2` less :math:`V_0`, if
    that is larger. To the intervals 8 % of the reading are added, because how much of a leak is read depends on its
    shape.

    Outliers are drawn in to 5 scaled median absolute deviations first, by column; a few cells that are outliers in code
    and target together get a target of median length. Duplicated cells predict each other: remove them before.

    Parameters
    ----------
    code
        Codes of held-out cells, ``(n_cells, n_inputs)``.
    target
        What they should not (or should) hold, ``(n_cells, n_targets)``, the same cells. Columns count by variance.
    products
        Whether products of two dimensions are read, default True: ``n_cells`` squared in memory.
    max_cells
        Cells for the products, drawn at random if there are more, default 4,000. The map uses all.
    seed
        Seed of that draw, default 0.

    Returns
    -------
    Explained

    Raises
    ------
    ValueError
        If cells differ, values are not finite, there are fewer than 20 cells, or the target is constant.

    See Also
    --------
    probe_r2 : how well the target is *predicted*, a lower bound that comes closer the more cells there are.
    """
    return explained_each(code, {"target": target}, products=products, max_cells=max_cells, seed=seed)["target"]


def explained_each(
    code: ArrayLike,
    targets: Mapping[Key, ArrayLike],
    *,
    products: bool = True,
    max_cells: int = 4000,
    seed: int = 0,
) -> dict[Key, Explained]:
    """Readings of several targets from one code, each as :func:`explained` gives it, for little more time than one.

    Map and kernel depend on the code alone, and they are what takes time.

    Parameters
    ----------
    code
        Codes of held-out cells, ``(n_cells, n_inputs)``.
    targets
        By any name ``(n_cells, n_targets)``, the same cells.
    products, max_cells, seed
        As in :func:`explained`.
    """
    z = as_cells(code, "code", min_cells=20)
    check_number("max_cells", max_cells, low=20, whole=True)
    check_seed("seed", seed)
    check_flag("products", products)
    if not targets:
        return {}
    z = winsorised(z)
    ys = {name: _prepared(z, target) for name, target in targets.items()}
    z = z[:, varying(z, least=COLLAPSED)]
    n_cells, n_inputs = z.shape
    if n_inputs == 0:
        # A collapsed code explains nothing, for certain.
        nothing = Explained(0.0, 0.0 if products else np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, n_cells, 0)
        return dict.fromkeys(targets, nothing)
    first, second, rows = _map(z), None, np.arange(n_cells)
    if products and n_inputs > 1:
        if n_cells > max_cells:
            rows = np.sort(np.random.default_rng([seed, 11]).permutation(n_cells)[:max_cells])
        second = _products(z[rows])
    found = {}
    for name, y in ys.items():
        by_map = first(y)
        parts = [by_map] if second is None else [by_map, second(y[rows])]
        variance, null, guard = (sum(getattr(part, of) for part in parts) for of in ("variance", "null", "guard"))
        total = sum(part.value for part in parts)
        found[name] = Explained(
            map=by_map.value,
            products=parts[1].value if second is not None else (0.0 if products else np.nan),
            se_map=float(np.hypot(np.sqrt(by_map.variance), _SHAPE * by_map.value)),
            se=float(np.hypot(np.sqrt(variance), _SHAPE * total)),
            null_se=float(np.sqrt(null)),
            guard_map=float(np.sqrt(by_map.guard)),
            guard=float(np.sqrt(guard)),
            concentration=float(np.square(svd(y, compute_uv=False)[0]) / np.square(y).sum()),
            n_cells=n_cells,
            n_inputs=n_inputs,
        )
    return found


def _prepared(z: Array, target: ArrayLike) -> Array:
    """The target, checked, without outliers and centred."""
    given = as_cells(target, "target", min_cells=20)
    check_paired((z, given), ("code", "target"))
    y = strays_drawn_in(z, winsorised(given))
    y = y - y.mean(axis=0)
    if not np.square(y).sum() > 1e-20 * np.square(given).sum():
        raise ValueError("expected a target that varies over cells, got constant columns; do drop them")
    return y


def winsorised(x: Array) -> Array:
    """Each column drawn in to 5 scaled median absolute deviations around its median."""
    reach = _WINSOR * _spread(x)
    # More than half of the values equal (an indicator): no scale to judge outliers by.
    reach = np.where(reach > 0, reach, np.inf)
    centre = np.median(x, axis=0)
    return np.clip(x, centre - reach, centre + reach)


def strays_drawn_in(z: Array, y: Array) -> Array:
    """The target, with cells brought back that are far from the median in code and target.

    They get the median distance. More than a few of them are no strays but a cell type, and stay.
    """
    far = np.ones(len(y), dtype=bool)
    away = y - np.median(y, axis=0)
    for lengths in (np.linalg.norm(z - np.median(z, axis=0), axis=1), length := np.linalg.norm(away, axis=1)):
        far &= lengths > np.median(lengths) + _WINSOR * _spread(lengths)
    if not 0 < far.sum() <= max(3, _STRAY * len(y)):
        return y
    y = y.copy()
    y[far] -= away[far] * (1.0 - np.median(length) / length[far])[:, None]
    return y


def _spread(x: Array) -> Array:
    return _MAD_TO_SD * np.median(np.abs(x - np.median(x, axis=0)), axis=0)


@dataclass(frozen=True)
class _Part:
    """A reading and its variances: of the estimate, without a leak, and for the question whether it is too large."""

    value: float
    variance: float
    null: float
    guard: float


def _map(z: Array) -> Reader:
    features = map_features(z)
    n, n_columns = features.shape
    u, s, _ = svd(features, full_matrices=False)
    w = np.square(s)
    a = w / (w + _SHRINKAGE * n)
    h = np.square(u) @ a
    slope = (a @ w - h @ np.square(features).sum(axis=1)) / (n_columns * n)
    centring = h.sum() / (slope * n**2)
    squares = float(np.square(a).sum() - np.square(h).sum())

    def read(y: Array) -> _Part:
        p = ((u * a) @ (u.T @ y) - h[:, None] * y) / slope
        return _part(y, p, centring, squares=squares, slope=slope, few=n < 4 * n_columns)

    return read


def _products(z: Array) -> Reader:
    """Products of two dimensions, cleared of the map; the kernel's diagonal is left out and its trace set to 0."""
    n, p = z.shape
    basis = _basis(map_features(z))
    free = n - basis.shape[1]
    scores = np.clip(normal_scores(z), -_CLIP_PRODUCTS, _CLIP_PRODUCTS)
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    squares = np.square(scores)
    kernel = (np.square(scores @ scores.T) - squares @ squares.T) / (p * (p - 1))
    cleared = _cleared(kernel, basis)
    a = cleared.copy()
    np.fill_diagonal(a, 0.0)
    a = _cleared(a, basis)
    # a's trace goes with the projector I - basis basis': without a leak the mean is exactly 0.
    excess = np.trace(a) / max(free, 1)
    a += excess * (basis @ basis.T)
    a[np.diag_indices(n)] -= excess
    # What the basis takes of any n numbers is not lost to the products, what it takes beyond that the map has counted.
    own = float(np.trace(cleared)) * n / max(free, 1)
    slope = float(np.vdot(a, kernel)) / own if own > 0 else 0.0
    if free < 1 or not slope > 0:
        return lambda y: _Part(0.0, np.inf, np.inf, np.inf)
    all_squares = float(np.square(a).sum())

    def read(y: Array) -> _Part:
        # The draw of cells has a mean of its own.
        y = y - y.mean(axis=0)
        return _part(y, (a @ y) / slope, 0.0, squares=all_squares, slope=slope, few=free < n // 2)

    return read


def _part(y: Array, p: Array, centring: float, *, squares: float, slope: float, few: bool) -> _Part:
    n, total = len(y), float(np.square(y).sum())
    value = float(np.vdot(y, p) / total - centring)
    covariance = y.T @ y / n
    null = 2 * squares / (slope * n) ** 2 * float(np.square(covariance).sum()) / float(np.trace(covariance)) ** 2
    each = 2 * np.einsum("ij,ij->i", y, p) - value * np.square(y).sum(axis=1)
    variance = max(null, float(n * each.var() / total**2) - null)
    guarded = each - np.square(p).sum(axis=1) / _GAIN
    guard = variance if few else min(variance, max(null, float(n * guarded.var() / total**2) - null))
    return _Part(value, variance, null, guard)


def map_features(z: Array) -> Array:
    """Features of the map, standardised, ``(n_cells, 3 n_inputs + 20)`` (fewer of the last with under five inputs)."""
    scores = normal_scores(z)
    n_leading = min(_N_LEADING, z.shape[1])
    u, s, _ = svd(z - z.mean(axis=0), full_matrices=False)
    leading = (u * np.sqrt(len(z)))[:, :n_leading][:, s[:n_leading] > 1e-9 * s[0]]
    leading = np.clip(leading, -_CLIP_LEADING, _CLIP_LEADING)
    first, second = np.triu_indices(leading.shape[1])
    columns = np.hstack(
        [scores, np.square(scores) - 1, scores**3 - 3 * scores, leading[:, first] * leading[:, second], leading**3]
    )
    columns = columns - columns.mean(axis=0)
    scale = columns.std(axis=0)
    varies = scale > 1e-9
    return columns[:, varies] / scale[varies]


def normal_scores(z: Array) -> Array:
    """Each column's ranks as quantiles of the normal distribution; ties share their mean rank."""
    scores = ndtri((rankdata(z, axis=0) - 0.5) / len(z))
    return (scores - scores.mean(axis=0)) / scores.std(axis=0)


def _basis(features: Array) -> Array:
    """Orthonormal basis of the features and the constant, ``(n_cells, rank)``."""
    u, s, _ = svd(np.hstack([np.ones((len(features), 1)), features]), full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


def _cleared(kernel: Array, basis: Array) -> Array:
    """The symmetric kernel, projected off the basis from both sides."""
    across = kernel @ basis
    inside = basis.T @ across
    outer = (across - 0.5 * basis @ inside) @ basis.T
    return kernel - outer - outer.T
