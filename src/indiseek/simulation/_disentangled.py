from __future__ import annotations

import numpy as np

from ._arguments import check_int, check_positive
from ._simulation import Simulation

_NAMES = ("rna", "prot")
_N_HIDDEN = 100
_LABEL_NOISE = 0.1


def simulate_disentangled(
    n_cells: int = 90_000,
    n_latent: int = 50,
    n_features: int = 100,
    *,
    gain: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Simulation:
    r"""Published benchmark of DisentangledSSL: mixtures of shared and private latents, and a label for each of them.

    Shared latents z_c and private latents z_1, z_2 have independent entries from N(0, 1/2), and

    .. math::

        h_i = [z_i, z_c]\, T_i, \qquad x_i = h_i + \text{noise} \cdot e_i, \qquad T_i \sim U(-1, 1).

    Each label is 1 for the half of the cells with the larger value of a random network of its own latents, one hidden
    layer of 100 ReLU units with weights from N(0, 1/n) for n inputs, plus N(0, 0.1^2). The network is not linear, so
    that a linear probe of the true latents themselves gets little more than 0.8 right.

    As published, modalities are linear and without noise and hence solved by canonical correlation analysis. With
    `gain` they are neither linear nor monotone,

    .. math::

        x_i = \cos\bigl(\text{gain} \cdot h_i / \operatorname{sd}(h_i) + \phi_i\bigr) + \text{noise} \cdot e_i,
        \qquad \phi_i \sim U(0, 2\pi),

    and by linear methods the harder to solve the larger the gain.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_latent
        Number of shared latents, and of private ones of each modality.
    n_features
        Number of features of each modality; with fewer than ``2 * n_latent`` they do not determine the latents.
    gain
        Standard deviation of the cosine's argument; None for linear modalities.
    noise
        Standard deviation of the feature noise.
    seed
        Fixes the mixtures, the labels' networks and the draws.

    Returns
    -------
    Simulation
        Modalities are called rna and prot. ``labels`` has ``shared``, ``rna`` and ``prot``: published as Y_c, Y_1
        and Y_2. ``mutual_information`` is None: without noise it is infinite.

    Raises
    ------
    ValueError
        If a size is no integer in range, or `gain` or `noise` is not a finite number of the right sign.

    References
    ----------
    Wang et al. (2025), arXiv 2410.23996, section 4.1.
    """
    n_cells = check_int(n_cells, "n_cells", 2)
    n_latent = check_int(n_latent, "n_latent", 1)
    n_features = check_int(n_features, "n_features", 1)
    gain = None if gain is None else check_positive(gain, "gain")
    noise = check_positive(noise, "noise", zero=True)
    map_stream, label_stream, latent_stream, noise_stream = (
        np.random.default_rng(child) for child in np.random.SeedSequence(check_int(seed, "seed", 0)).spawn(4)
    )
    latents = {name: np.sqrt(0.5) * latent_stream.standard_normal((n_cells, n_latent)) for name in ("shared", *_NAMES)}
    features = {}
    for name in _NAMES:
        mixture = map_stream.uniform(-1.0, 1.0, (2 * n_latent, n_features))
        phase = map_stream.uniform(0.0, 2.0 * np.pi, n_features)
        signal = np.hstack([latents[name], latents["shared"]]) @ mixture
        if gain is not None:
            signal = np.cos(gain * signal / np.sqrt(0.5 * np.square(mixture).sum(axis=0)) + phase)
        features[name] = (signal + noise * noise_stream.standard_normal(signal.shape)).astype(np.float32)
    return Simulation(
        features=features,
        shared=latents["shared"],
        specific={name: latents[name] for name in _NAMES},
        labels={name: _label(z, label_stream) for name, z in latents.items()},
    )


def _label(latents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 for the cells above the median of a random network's noisy value."""
    n_latent = latents.shape[1]
    hidden = np.maximum(latents @ rng.standard_normal((n_latent, _N_HIDDEN)) / np.sqrt(n_latent), 0.0)
    value = hidden @ rng.standard_normal(_N_HIDDEN) / np.sqrt(_N_HIDDEN)
    value = value + _LABEL_NOISE * rng.standard_normal(len(value))
    return (value > np.median(value)).astype(np.intp)
