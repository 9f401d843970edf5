from __future__ import annotations

import numpy as np
from scipy.stats import ortho_group

from indiseek._checks import check_flag

from ._arguments import Sizes, check_int, is_number, modality_names, sizes_by_name
from ._simulation import Simulation


def simulate_gaussian(
    n_cells: int = 8000,
    n_shared: int = 5,
    n_specific: Sizes = (5, 3),
    *,
    rho: float = 0.8,
    rotate: bool = True,
    seed: int = 0,
) -> Simulation:
    r"""Linear Gaussian modalities whose mutual information is known in closed form.

    Each of the d shared dimensions reaches both modalities through independent Gaussian noise,

    .. math::

        a_i = \sqrt{\rho}\, s + \sqrt{1 - \rho}\, e_i, \qquad x_i = R_i\, [a_i, z_i],

    with s, e_i and z_i standard normal and R_i a random rotation. Then corr(a_1, a_2) = rho in each dimension, and
    because R_i is invertible and z_i private

    .. math::

        I(X_1; X_2) = -\tfrac{d}{2} \log(1 - \rho^2) \quad \text{nats}.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_shared
        Number d of correlated dimensions.
    n_specific
        Number of private dimensions of each of the two modalities, as a mapping by name or in the order rna, prot.
        A modality has ``n_shared + n_specific`` features, so unequal numbers give modalities of unequal width.
    rho
        Correlation of each shared dimension between the modalities, in [0, 1).
    rotate
        Mix the dimensions of each modality by a random rotation. Without it the features are ``[a_i, z_i]`` in order.
    seed
        Fixes the rotations, which depend on nothing else, and the draws.

    Returns
    -------
    Simulation
        ``shared`` is s, ``specific`` is z_i and ``mutual_information`` the value above. The channel noise e_i is
        private to modality i too, but is not part of ``specific``: no function of x_i can tell it from s.

    Raises
    ------
    ValueError
        If a size is no integer in range, there are not exactly two modalities, or rho is outside [0, 1).

    References
    ----------
    Cover and Thomas, "Elements of Information Theory", 2nd ed. (2006), example 8.5.1.
    """
    n_cells = check_int(n_cells, "n_cells", 1)
    n_shared = check_int(n_shared, "n_shared", 1)
    names = modality_names(n_specific)
    if len(names) != 2:
        raise ValueError(f"expected exactly two modalities, got {list(names)}; leave out the others.")
    private = sizes_by_name(n_specific, "n_specific", names, minimum=0)
    check_flag("rotate", rotate)
    if not is_number(rho) or not 0 <= rho < 1:
        raise ValueError(f"expected rho in [0, 1), got {rho!r}; at 1 the mutual information is infinite")

    streams = np.random.SeedSequence(check_int(seed, "seed", 0)).spawn(1 + 2 * len(private))
    shared = np.random.default_rng(streams[0]).standard_normal((n_cells, n_shared))
    features, specific = {}, {}
    for k, (name, n_private) in enumerate(private.items()):
        width = n_shared + n_private
        rng = np.random.default_rng(streams[2 + 2 * k])
        noise = rng.standard_normal((n_cells, width))
        specific[name] = noise[:, n_shared:].copy()
        x = np.hstack([np.sqrt(rho) * shared + np.sqrt(1 - rho) * noise[:, :n_shared], specific[name]])
        if rotate and width > 1:
            rotation = ortho_group.rvs(width, random_state=np.random.default_rng(streams[1 + 2 * k]))
            x = x @ rotation.T
        features[name] = x.astype(np.float32)
    information = -0.5 * n_shared * float(np.log1p(-(rho**2)))
    return Simulation(features=features, shared=shared, specific=specific, mutual_information=information)
