"""What is told apart with three modalities: what all have in common, what two of them have, and what one has alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from indiseek.metrics import probe_r2
from indiseek.models import ClosedForm, IndiSeekModel
from indiseek.simulation import simulate_factors

NAMES = ("rna", "prot", "atac")
OWN_PAIRS = {name: [pair for pair in combinations(NAMES, 2) if name in pair] for name in NAMES}


@pytest.fixture(scope="module")
def sim():
    return simulate_factors(1500, 2, dict.fromkeys(NAMES, 2), dict.fromkeys(NAMES, 20), n_paired=1, seed=0)


def _trained(sim, modalities, **options):
    mdata = sim.to_mudata()
    IndiSeekModel.setup_mudata(mdata, modalities=modalities)
    model = IndiSeekModel(mdata, specific=ClosedForm(n_landmarks=200, refine=False), **options)
    model.train(max_epochs={"shared": 60}, accelerator="cpu", show_progress=False, write_latents=False)

    def held(name, kind, factors):
        code = model.get_latent_representation(modality=name, kind=kind, indices=model.test_indices)
        return probe_r2(code, factors[model.test_indices])

    return held


def test_a_wide_shared_code_holds_what_any_two_have_and_the_specific_one_what_is_alone(sim):
    held = _trained(sim, NAMES, n_shared=8, alignment=0.0)
    for name in NAMES:
        pairs = [sim.paired[pair] for pair in OWN_PAIRS[name]]
        (others,) = (factors for pair, factors in sim.paired.items() if name not in pair)
        assert held(name, "shared", sim.shared) > 0.6
        assert all(held(name, "shared", factors) > 0.5 for factors in pairs)
        assert held(name, "shared", others) < 0.1 and held(name, "shared", sim.specific[name]) < 0.2
        assert held(name, "specific", sim.specific[name]) > 0.6
        for factors in (sim.shared, others, *pairs):
            assert held(name, "specific", factors) < 0.1


def test_a_narrow_aligned_code_prefers_what_all_have(sim):
    held = _trained(sim, NAMES, n_shared=3, alignment=10.0)
    everyone = np.mean([held(name, "shared", sim.shared) for name in NAMES])
    paired = np.mean([held(name, "shared", sim.paired[pair]) for name in NAMES for pair in OWN_PAIRS[name]])
    assert everyone > 0.5 and everyone > paired + 0.3


def test_of_two_modalities_what_one_shares_with_the_third_is_its_own(sim):
    held = _trained(sim, ("rna", "prot"))
    for name, other in (("rna", "prot"), ("prot", "rna")):
        ((left_out),) = (pair for pair in OWN_PAIRS[name] if other not in pair)
        assert held(name, "specific", sim.paired[left_out]) > 0.6 and held(name, "shared", sim.paired[left_out]) < 0.1
        assert held(name, "specific", sim.paired["rna", "prot"]) < 0.1
        assert held(name, "shared", sim.paired["rna", "prot"]) > 0.5
