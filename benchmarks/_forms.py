"""Ten shapes of dependence that no mean or covariance shows, or hardly, and none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def _base(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    return rng.standard_normal((n, 8)), rng.standard_normal((n, 8)), rng.standard_normal((n, 5))


def _cells(z: Array, w: Array, c: Array, rng: np.random.Generator) -> tuple[dict[str, Array], ...]:
    """Two modalities with shared code c; the features mix all of it."""
    shared = {"rna": c, "prot": c + 0.05 * rng.standard_normal(c.shape)}
    specific = {"rna": z, "prot": w}
    features = {
        name: np.hstack([shared[name], specific[name]]) @ rng.standard_normal((13, 16))
        + 0.3 * rng.standard_normal((len(c), 16))
        for name in shared
    }
    return features, shared, specific


def none(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """No dependence."""
    return _cells(*_base(rng, n), rng)


def parity(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The sign of a product of two dimensions is the sign of the shared one."""
    z, w, c = _base(rng, n)
    c[:, 0] = np.abs(c[:, 0]) * np.sign(z[:, 0] * z[:, 1])
    return _cells(z, w, c, rng)


def angle(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The shared dimension follows three times the angle of two."""
    z, w, c = _base(rng, n)
    c[:, 0] = np.cos(3 * np.arctan2(z[:, 0], z[:, 1])) + 0.7 * c[:, 0]
    return _cells(z, w, c, rng)


def sine(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The code is sin(8 c) of a shared dimension."""
    z, w, c = _base(rng, n)
    z[:, 0] = np.sin(8 * c[:, 0]) + 0.3 * z[:, 0]
    return _cells(z, w, c, rng)


def tails(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """Only the outer 5 % of one dimension are outer cells of the shared one."""
    z, w, c = _base(rng, n)
    outer = np.abs(z[:, 0]) > 1.96
    c[outer, 0] = rng.choice([-1.0, 1.0], outer.sum()) * (1.8 + np.abs(c[outer, 0]))
    return _cells(z, w, c, rng)


def inside(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """Within a type of 2 % of the cells one dimension equals the shared one."""
    z, w, c = _base(rng, n)
    few = rng.random(n) < 0.02
    z[few] += 3
    c[few, 0] = 2 * (z[few, 0] - 3)
    c[few, 1] += 3
    return _cells(z, w, c, rng)


def xor(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The sign of the code's dimension is that of a product of two shared ones."""
    z, w, c = _base(rng, n)
    z[:, 0] = np.abs(z[:, 0]) * np.sign(c[:, 0] * c[:, 1])
    return _cells(z, w, c, rng)


def joint(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """Both specific codes together tell the sign of the shared dimension, neither alone."""
    z, w, c = _base(rng, n)
    c[:, 0] = np.abs(c[:, 0]) * np.sign(z[:, 0] * w[:, 0])
    return _cells(z, w, c, rng)


def between(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The two specific codes depend on each other, neither on the shared ones."""
    z, w, c = _base(rng, n)
    w[:, 0] = np.abs(z[:, 0]) + 0.5 * w[:, 0]
    return _cells(z, w, c, rng)


def variance(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """The variance of the shared dimension follows the code, its mean does not."""
    z, w, c = _base(rng, n)
    c[:, 0] *= np.exp(0.5 * z[:, 0])
    return _cells(z, w, c, rng)


def shifted(rng: np.random.Generator, n: int) -> tuple[dict[str, Array], ...]:
    """A type of 3 % of the cells lies apart in the shared code and a little in the specific one."""
    z, w, c = _base(rng, n)
    few = rng.random(n) < 0.03
    z[few, :2] += 1.5
    c[few, 0] += 5
    return _cells(z, w, c, rng)


FORMS: dict[str, Callable[[np.random.Generator, int], tuple[dict[str, Array], ...]]] = {
    f.__name__: f for f in (none, parity, angle, sine, tails, inside, xor, joint, between, variance, shifted)
}
