from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from indiseek._checks import check_choice, check_flag

from ._arguments import Sizes, check_int, check_positive, is_number, modality_names, sizes_by_name
from ._simulation import Simulation

Form = Literal["conditioned", "paper", "code"]

_N_DRAWS = 1000
_N_ROUNDS = 50
# The published program takes the 26th lowest of so many condition numbers as the bound.
_N_POOL, _N_BELOW = 25_000, 25


class ContentStyleProcess:
    r"""Two modalities that share their content exactly and their style up to a random change.

    Content c, style s, changed style s' and modality-specific factors m_1, m_2 give

    .. math::

        s'_k = s_k + b_k\, \epsilon_k, \quad b_k \sim \operatorname{Bernoulli}(p), \qquad
        x_1 = f_1(c, s, m_1), \quad x_2 = f_2(c, s', m_2),

    with c, s, :math:`\epsilon`, m_1 and m_2 Gaussian of unit variance and f_1, f_2 two different invertible networks
    without noise: square layers with entries from U(-1, 1) and weights of unit length, leaky ReLU between them. The
    change is added, so that even at p = 1 independent style correlates by :math:`1 / \sqrt 2` between the modalities.
    Each modality has as many features as factors.

    The published process has layers that are better conditioned than ours and covariances that are hardly conditioned
    at all; `form` chooses:

    =================  ===================================================  ==========================================
    form               layers                                               covariances where `statistical`
    =================  ===================================================  ==========================================
    ``"conditioned"``  condition at most `max_condition`; the weights of    one for each block, condition at most
                       each output have unit length                         `max_condition`, mean variance 1
    ``"paper"``        condition at most the 0.001 quantile of 25,000       one for each block, as drawn
                       draws; the weights of each input have unit length
    ``"code"``         as ``"paper"``                                       as drawn, the same one for all blocks of a
                                                                            size
    =================  ===================================================  ==========================================

    ``"code"`` is the authors' program, which makes all covariances from one seed.

    Everything but the draws is fixed when the process is made; :meth:`sample` draws fresh cells of it.

    Parameters
    ----------
    n_content
        Number of content dimensions.
    n_style
        Number of style dimensions; 0 for none.
    n_specific
        Number of modality-specific dimensions, as a mapping by modality name or in the order rna, prot.
    statistical
        Dependence within each block: c, s, :math:`\epsilon`, m_1 and m_2 each get a covariance from a Wishart
        distribution with as many degrees of freedom as dimensions; `form` says how it is scaled and bounded. Else all
        are independent.
    causal
        Dependence of style on content: ``a + B c`` is added to s, with entries of a and B from N(0, 1).
    change_probability
        Probability p, in (0, 1], with which a style dimension of a cell changes, each on its own.
    n_layers
        Number of layers of f_1 and f_2; 1 is linear.
    slope
        Slope of the leaky ReLU for negative values, in (0, 1]. Nearer to 1 is easier to invert; 1 is linear.
    max_condition
        Of ``form="conditioned"`` alone: largest condition number of a layer or covariance, 20 if None; others are drawn
        again. Where the change of style is nearly singular style hardly changes, and passes for content.
    form
        ``"conditioned"``, ``"paper"`` or ``"code"``, see above.
    seed
        Fixes networks, covariances, a and B.

    Attributes
    ----------
    covariances
        Covariance of each block, ``content``, ``style``, ``change`` and ``specific_<modality>``, by name.
    offset, effect
        a, shape ``(n_style,)``, and B transposed, ``(n_content, n_style)``; zero unless `causal`.
    layers
        Matrices of f_1 and f_2 by modality, ``(n_factors, n_factors)`` each, from factors to features: a layer is
        ``x @ layer``. Factors stand in the order content, style, specific.
    slope
        Of the leaky ReLU.

    Raises
    ------
    ValueError
        If a size is no integer in range, there are not exactly two modalities, ``change_probability`` or ``slope`` is
        outside (0, 1], no draw reaches ``max_condition``, or it is given for another form.

    References
    ----------
    Daunhawer et al. (2023), arXiv 2303.09166, sections 3 and 5.1; von Kuegelgen et al. (2021), arXiv 2106.04619.
    Settings of the program: imantdaunhawer/multimodal-contrastive-learning on GitHub.
    """

    def __init__(
        self,
        n_content: int = 5,
        n_style: int = 5,
        n_specific: Sizes = (5, 5),
        *,
        statistical: bool = False,
        causal: bool = False,
        change_probability: float = 1.0,
        n_layers: int = 3,
        slope: float = 0.2,
        max_condition: float | None = None,
        form: Form = "conditioned",
        seed: int = 0,
    ) -> None:
        self.n_content = check_int(n_content, "n_content", 1)
        self.n_style = check_int(n_style, "n_style", 0)
        names = modality_names(n_specific)
        if len(names) != 2:
            raise ValueError(f"expected exactly two modalities, got {list(names)}; leave out the others.")
        self.n_specific = sizes_by_name(n_specific, "n_specific", names, minimum=0)
        check_flag("statistical", statistical)
        check_flag("causal", causal)
        if not is_number(change_probability) or not 0 < change_probability <= 1:
            raise ValueError(
                f"expected change_probability in (0, 1], got {change_probability!r}; "
                "style that never changes is content: count it in n_content"
            )
        self.change_probability = float(change_probability)
        check_int(n_layers, "n_layers", 1)
        if not is_number(slope) or not 0 < slope <= 1:
            raise ValueError(f"expected slope in (0, 1], got {slope!r}; at 0 the mixing has no inverse")
        self.slope = float(slope)
        check_choice("form", form, get_args(Form))
        if max_condition is not None and form != "conditioned":
            raise ValueError(
                f"expected max_condition with form='conditioned' alone, got {max_condition!r} with {form!r}; leave one "
                "out."
            )
        bound = check_positive(20.0 if max_condition is None else max_condition, "max_condition")
        self.seed = check_int(seed, "seed", 0)

        blocks = {"content": self.n_content, "style": self.n_style, "change": self.n_style} | {
            f"specific_{name}": n for name, n in self.n_specific.items()
        }
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(self.seed).spawn(8)]
        # One stream for each block: from a common one, blocks of equal size would get equal covariances.
        drawn = dict(zip(blocks, streams[:5], strict=True))
        if form == "code":
            drawn = {block: np.random.default_rng([self.seed, n]) for block, n in blocks.items()}
        self.covariances = {
            block: _covariance(n, drawn[block], bound if form == "conditioned" else None) if statistical else np.eye(n)
            for block, n in blocks.items()
        }
        factor = float(causal)
        self.offset = factor * streams[5].standard_normal(self.n_style)
        self.effect = factor * streams[5].standard_normal((self.n_content, self.n_style))
        self.layers: dict[str, list[np.ndarray]] = {}
        for (name, n), rng in zip(self.n_specific.items(), streams[6:], strict=True):
            width = self.n_content + self.n_style + n
            if form == "conditioned":
                self.layers[name] = [_layer(width, rng, bound) for _ in range(n_layers)]
            else:
                bound = _quantile(width, rng)
                # The program's layers are the transposes of these: there, what goes out of an input has unit length.
                self.layers[name] = [_layer(width, rng, bound).T for _ in range(n_layers)]
        self._roots = {block: _root(covariance) for block, covariance in self.covariances.items()}

    def sample(self, n_cells: int, *, seed: int = 0) -> Simulation:
        """Draw cells.

        Parameters
        ----------
        n_cells
            Number of cells.
        seed
            Fixes the draws. Other seeds give fresh cells of the same process, and more cells only add to them.

        Returns
        -------
        Simulation
            ``shared`` is content, ``style`` the style of each modality and ``specific`` its own factors;
            ``mutual_information`` is None, because it is infinite.

        Raises
        ------
        ValueError
            If an argument is no integer in range.
        """
        n_cells = check_int(n_cells, "n_cells", 1)
        streams = iter(np.random.SeedSequence([self.seed, check_int(seed, "seed", 0)]).spawn(6))
        drawn = {
            block: np.random.default_rng(next(streams)).standard_normal((n_cells, len(root))) @ root.T
            for block, root in self._roots.items()
        }
        content, original = drawn["content"], drawn["style"] + self.offset + drawn["content"] @ self.effect
        changes = np.random.default_rng(next(streams)).random(original.shape) < self.change_probability
        changed = original + changes * drawn["change"]
        style = dict(zip(self.n_specific, (original, changed), strict=True))
        specific = {name: drawn[f"specific_{name}"] for name in self.n_specific}
        features = {
            name: self._mix(name, np.hstack([content, style[name], specific[name]])).astype(np.float32)
            for name in self.n_specific
        }
        return Simulation(features=features, shared=content, specific=specific, style=style)

    def _mix(self, name: str, factors: np.ndarray) -> np.ndarray:
        first, *others = self.layers[name]
        x = factors @ first
        for layer in others:
            x = np.where(x > 0, x, self.slope * x) @ layer
        return x


def _layers(n: int, rng: np.random.Generator) -> np.ndarray:
    layers = rng.uniform(-1.0, 1.0, (_N_DRAWS, n, n))
    return np.asarray(layers / np.linalg.norm(layers, axis=1, keepdims=True))


def _layer(n: int, rng: np.random.Generator, max_condition: float) -> np.ndarray:
    """Square matrix with columns of unit length."""
    return _well_conditioned(lambda: _layers(n, rng), max_condition, f"layers of width {n}")


def _quantile(n: int, rng: np.random.Generator) -> float:
    """Condition number that few layers reach."""
    conditions = np.concatenate([np.linalg.cond(_layers(n, rng)) for _ in range(_N_POOL // _N_DRAWS)])
    return float(np.partition(conditions, _N_BELOW)[_N_BELOW])


def _covariance(n: int, rng: np.random.Generator, max_condition: float | None) -> np.ndarray:
    """Wishart draw with `n` degrees of freedom; where it is conditioned also scaled, to a mean variance of 1."""

    def draw() -> np.ndarray:
        roots = rng.standard_normal((_N_DRAWS, n, n))
        return roots @ roots.transpose(0, 2, 1)

    if n == 0:
        return np.zeros((0, 0))
    if max_condition is None:
        root = rng.standard_normal((n, n))
        return np.asarray(root @ root.T)
    covariance = _well_conditioned(draw, max_condition, f"covariances of {n} dimensions")
    return covariance * n / np.trace(covariance)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Matrix whose product with its transpose is the covariance, also where that is nearly singular."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _well_conditioned(draw: Callable[[], np.ndarray], max_condition: float, what: str) -> np.ndarray:
    best = np.inf
    for _ in range(_N_ROUNDS):
        candidates = draw()
        conditions = np.linalg.cond(candidates)
        passing = conditions <= max_condition
        if passing.any():
            return candidates[passing.argmax()]
        best = min(best, conditions.min())
    raise ValueError(
        f"expected max_condition that {what} reach, got {max_condition!r}; the best of {_N_DRAWS * _N_ROUNDS} draws "
        f"has {best:.3g}: raise it or take fewer dimensions"
    )
