from __future__ import annotations

import numpy as np

from ._arguments import Sizes, check_int, check_positive, is_number, modality_names, sizes_by_name
from ._simulation import Simulation


def simulate_trifeature(
    n_cells: int = 10_000,
    n_features: Sizes = (60, 60),
    *,
    n_states: int = 6,
    matched: float | None = None,
    noise: float = 0.5,
    draw: int = 0,
    seed: int = 0,
) -> Simulation:
    r"""Two modalities with answers that are redundant, unique to one of them, or known from both together only.

    Every cell has a shared state r, and for each modality i two private states u_i and a_i and a bit b_i, all uniform
    and, but for `matched`, independent. One-hot coded, modality i is

    .. math::

        h_i = [r, u_i, a_i, b_i] W_i, \qquad x_i = \tanh(h_i) V_i + h_i / 2 + \text{noise} \cdot e_i

    with fixed Gaussian W_i of unit variance and V_i of variance ``1 / n_features``. The labels are

    ===============  ==========================  ==========================================
    label            value                       known from
    ===============  ==========================  ==========================================
    ``redundant``    r                           either modality
    ``unique_<i>``   u_i                         modality i alone
    ``synergy``      1 where a_2 = M(u_1)        both together; neither alone tells anything
    ``xor``          b_1 xor b_2                 both together; neither alone tells anything
    ===============  ==========================  ==========================================

    where M is a fixed bijection of the states. It is the vector form of the image benchmark Trifeature: shape is
    r, texture u, and colour a.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_features
        Number of features of the two modalities, as a mapping by name or in the order rna, prot.
    n_states
        Number of states of r, u_i and a_i.
    matched
        Share of the cells with ``synergy`` 1, at random places: 1 for pairs that all obey M, from which M can be
        learned; 0.5 for balanced cells on which to test. None leaves a_2 independent of u_1.
    noise
        Standard deviation of the feature noise.
    draw
        Number of the sample of cells. Draws of one `seed` have the same W, V and M.
    seed
        Fixes W, V and M, and with `draw` the cells.

    Returns
    -------
    Simulation
        ``shared`` is r, ``specific`` is ``[u_i, a_i, b_i]``, one-hot coded; ``labels`` as above.

    Raises
    ------
    ValueError
        If a size is no integer in range, there are not exactly two modalities, ``matched`` is outside [0, 1] or
        ``noise`` negative.

    References
    ----------
    Hermann and Lampinen (2020), arXiv 2006.12433; Dufumier et al. (2025), arXiv 2409.07402.
    """
    n_cells = check_int(n_cells, "n_cells", 1)
    names = modality_names(n_features)
    if len(names) != 2:
        raise ValueError(f"expected exactly two modalities, got {list(names)}; leave out the others.")
    widths = sizes_by_name(n_features, "n_features", names, minimum=1)
    n_states = check_int(n_states, "n_states", 2)
    if matched is not None and not (is_number(matched) and 0 <= matched <= 1):
        raise ValueError(f"expected matched in [0, 1] or None, got {matched!r}; give a share.")
    noise = check_positive(noise, "noise", zero=True)
    seed, draw = check_int(seed, "seed", 0), check_int(draw, "draw", 0)

    maps = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, draw)))
    partner = maps.permutation(n_states)
    r = rng.integers(n_states, size=n_cells)
    u, a = rng.integers(n_states, size=(2, 2, n_cells))
    bits = rng.integers(2, size=(2, n_cells))
    if matched is not None:
        obeys = rng.permutation(n_cells) < round(matched * n_cells)
        # Any state but the partner, each as often.
        others = (partner[u[0]] + rng.integers(1, n_states, size=n_cells)) % n_states
        a[1] = np.where(obeys, partner[u[0]], others)

    features, specific = {}, {}
    shared = np.eye(n_states)[r]
    for i, (name, width) in enumerate(widths.items()):
        specific[name] = np.hstack([np.eye(n_states)[u[i]], np.eye(n_states)[a[i]], np.eye(2)[bits[i]]])
        factors = np.hstack([shared, specific[name]])
        hidden = factors @ maps.standard_normal((factors.shape[1], width))
        signal = np.tanh(hidden) @ maps.standard_normal((width, width)) / np.sqrt(width) + hidden / 2
        features[name] = (signal + noise * rng.standard_normal(signal.shape)).astype(np.float32)
    labels = {
        "redundant": r,
        **{f"unique_{name}": u[i] for i, name in enumerate(names)},
        "synergy": (a[1] == partner[u[0]]).astype(np.intp),
        "xor": bits[0] ^ bits[1],
    }
    return Simulation(features=features, shared=shared, specific=specific, labels=labels)
