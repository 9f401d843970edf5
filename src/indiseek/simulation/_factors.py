from __future__ import annotations

from itertools import combinations

import numpy as np

from ._arguments import Sizes, check_int, check_positive, modality_names, sizes_by_name
from ._simulation import Simulation

_BIAS = 0.5
_N_REFERENCE = 10_000


def simulate_factors(
    n_cells: int = 8000,
    n_shared: int = 5,
    n_specific: Sizes = (5, 5),
    n_features: Sizes = (100, 50),
    *,
    noise: float = 0.1,
    n_hidden: int = 64,
    gain: float = 1.0,
    n_clusters: int | None = None,
    separation: float = 2.5,
    n_paired: int = 0,
    seed: int = 0,
) -> Simulation:
    r"""Modalities that mix shared and private Gaussian factors through a fixed random network.

    With shared factors c and private factors z_i, all independent and standard normal, modality i is

    .. math::

        x_i = \operatorname{standardise}\bigl(V_i \tanh(W_i [c, z_i] + b_i)\bigr) + \text{noise} \cdot e_i .

    The network has one hidden layer of ``n_hidden`` tanh units, with ``W_i ~ N(0, gain^2 / n_factors)``,
    ``b_i ~ N(0, 0.5^2)`` and ``V_i ~ N(0, 1)``. Each feature is centred and scaled to unit variance before the noise is
    added, by constants taken from 10,000 reference draws, so that the map from factors to features depends on ``seed``
    and on the sizes but not on the cells: a larger ``n_cells`` only adds cells.

    With ``n_clusters`` each modality also has a private discrete state, uniform over the states and independent of
    everything else. It enters the network beside z_i, as the corners of a regular simplex.

    With ``n_paired`` each two of three or more modalities have factors in common that no third one has.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_shared
        Number of shared factors.
    n_specific
        Number of private continuous factors of each modality, as a mapping by modality name or in the order rna, prot.
    n_features
        Number of features of each modality, likewise.
    noise
        Standard deviation of the feature noise; the signal has 1.
    n_hidden
        Number of hidden units. Fewer than about three to each factor lose information; many more make the map nearly
        linear.
    gain
        Scale of the hidden units' input. Larger is less linear, and harder to invert: with 2 the units saturate.
    n_clusters
        Number of private states of each modality; None for none.
    separation
        Root mean square of the simplex' coordinates, in units of a continuous factor's standard deviation.
    n_paired
        Number of factors that two modalities have and the others do not, for each two of them; 0 (default) of two.
    seed
        Fixes the networks and the draws.

    Returns
    -------
    Simulation
        ``specific`` holds the continuous private factors, ``clusters`` the states, ``paired`` what two modalities have
        alone. ``mutual_information`` is None: there is no closed form for it.

    Raises
    ------
    ValueError
        If a size is no integer in range, the modalities of ``n_specific`` and ``n_features`` differ, ``noise``,
        ``gain`` or ``separation`` is not a finite number of the right sign, or two modalities are to have factors that
        a third one has not and there is none.
    """
    n_cells = check_int(n_cells, "n_cells", 1)
    n_shared = check_int(n_shared, "n_shared", 1)
    names = modality_names(n_specific, n_features)
    private = sizes_by_name(n_specific, "n_specific", names, minimum=0)
    widths = sizes_by_name(n_features, "n_features", names, minimum=1)
    noise = check_positive(noise, "noise", zero=True)
    n_hidden = check_int(n_hidden, "n_hidden", 1)
    gain = check_positive(gain, "gain")
    separation = check_positive(separation, "separation")
    n_paired = check_int(n_paired, "n_paired", 0)
    if n_paired and len(names) < 3:
        raise ValueError(
            f"expected n_paired of 0 for {list(names)}, got {n_paired}; what two modalities share is n_shared: name "
            "three or more."
        )
    corners = np.zeros((1, 0)) if n_clusters is None else separation * _simplex(check_int(n_clusters, "n_clusters", 2))

    root = np.random.SeedSequence(check_int(seed, "seed", 0))
    shared_stream, *streams = root.spawn(1 + len(names))
    shared = np.random.default_rng(shared_stream).standard_normal((n_cells, n_shared))
    pairs = list(combinations(names, 2)) if n_paired else []
    paired = {
        pair: np.random.default_rng(stream).standard_normal((n_cells, n_paired))
        for pair, stream in zip(pairs, root.spawn(len(pairs)), strict=True)
    }
    features, specific, clusters = {}, {}, {}
    for name, stream in zip(names, streams, strict=True):
        network_rng, factor_rng, state_rng, noise_rng = (np.random.default_rng(child) for child in stream.spawn(4))
        common = np.hstack([shared, *(factors for pair, factors in paired.items() if name in pair)])
        network = _Network(network_rng, common.shape[1] + private[name], corners, n_hidden, widths[name], gain)
        specific[name] = factor_rng.standard_normal((n_cells, private[name]))
        state = state_rng.integers(len(corners), size=n_cells)
        if n_clusters is not None:
            clusters[name] = state
        signal = network(np.hstack([common, specific[name], corners[state]]))
        features[name] = (signal + noise * noise_rng.standard_normal(signal.shape)).astype(np.float32)
    return Simulation(features=features, shared=shared, specific=specific, clusters=clusters, paired=paired)


def _simplex(n: int) -> np.ndarray:
    """Corners of a centred regular simplex, shape ``(n, n - 1)``, coordinates with unit mean square."""
    # The left singular vectors of the centring matrix are an orthonormal basis of its (n - 1)-dimensional range.
    basis = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]
    return basis * np.sqrt(n)


class _Network:
    """Random one-hidden-layer network with standardised outputs."""

    def __init__(
        self,
        rng: np.random.Generator,
        n_factors: int,
        corners: np.ndarray,
        n_hidden: int,
        n_features: int,
        gain: float,
    ) -> None:
        n_inputs = n_factors + corners.shape[1]
        self._w = rng.standard_normal((n_inputs, n_hidden)) * gain / np.sqrt(n_factors)
        self._b = rng.standard_normal(n_hidden) * _BIAS
        self._v = rng.standard_normal((n_hidden, n_features))
        factors = rng.standard_normal((_N_REFERENCE, n_factors))
        state = rng.integers(len(corners), size=_N_REFERENCE)
        reference = self._raw(np.hstack([factors, corners[state]]))
        self._mean, self._scale = reference.mean(axis=0), reference.std(axis=0)

    def _raw(self, inputs: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ self._w + self._b) @ self._v

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        return (self._raw(inputs) - self._mean) / self._scale
