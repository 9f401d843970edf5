from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

N_FEATURES = {"rna": 12, "prot": 10, "atac": 11}


@pytest.fixture(scope="package")
def simulated() -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Codes with a known share of leakage, and two draws of the features."""

    def make(leak=0.0, *, n=330, modalities=("rna", "prot"), seed=0):
        """Shared state (3), private states (2 each); every modality linear in both; codes known up to noise."""
        rng = np.random.default_rng(seed)
        c = rng.standard_normal((n, 3))
        features, shared, specific, halves = {}, {}, {}, {}
        for name in modalities:
            p = rng.standard_normal((n, 2))
            mixed = np.hstack([c, p]) @ rng.standard_normal((5, N_FEATURES[name]))
            halves[name] = tuple(mixed + 0.2 * rng.standard_normal(mixed.shape) for _ in range(2))
            features[name] = (halves[name][0] + halves[name][1]) / 2
            shared[name] = c + 0.05 * rng.standard_normal(c.shape)
            specific[name] = np.sqrt(1 - leak) * p + np.sqrt(leak) * c[:, :2]
        return {"features": features, "shared": shared, "specific": specific}, halves

    return make
