"""What training is for: orderings with a margin on test cells whose true latents are known, by fresh probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from indiseek.metrics import probe_r2
from indiseek.models import Flow, IndiSeekModel, NCEClub
from indiseek.nn import Encoder
from indiseek.simulation import Simulation, simulate_factors

SMALL = {"n_shared": 6, "encoder": Encoder(hidden=(64, 64))}
CLUB = SMALL | {"specific": NCEClub(critic_hidden=(64,), lam=1.0, n_critic_steps=4), "n_specific": 6}
FLOW = SMALL | {"specific": Flow(n_context=8), "n_specific": 20}
TRAIN = {"batch_size": 256, "accelerator": "cpu", "show_progress": False, "write_latents": False}


def _simulation() -> Simulation:
    return simulate_factors(3000, 3, (3, 3), (40, 30), seed=0)


def _train(simulation: Simulation, arguments: dict[str, Any], **options: Any) -> IndiSeekModel:
    model = IndiSeekModel(simulation.to_mudata(), **arguments)
    model.train(**TRAIN | options, train_size=0.8)
    return model


def _r2(model: IndiSeekModel, simulation: Simulation, name: str, codes: np.ndarray) -> tuple[float, float]:
    """R2 of a nonlinear probe from codes of the test cells to the true shared and private factors."""
    test = model.test_indices
    private = simulation.specific[name][test]
    return tuple(probe_r2(codes, truth, probe="nonlinear") for truth in (simulation.shared[test], private))


def _specific(model: IndiSeekModel, name: str) -> np.ndarray:
    return model.get_latent_representation(modality=name, kind="specific", indices=model.test_indices)


def test_the_independence_term_takes_the_shared_factors_out_of_the_specific_codes():
    simulation = _simulation()
    options = {"max_epochs": {"shared": 15, "specific": 40}}
    with_term = _train(simulation, CLUB, **options)
    without = _train(simulation, CLUB | {"specific": replace(CLUB["specific"], independence_weight=0.0)}, **options)
    for name in with_term.modalities:
        leak, private = _r2(with_term, simulation, name, _specific(with_term, name))
        leak_without, private_without = _r2(without, simulation, name, _specific(without, name))
        assert leak_without > 0.5 and private_without > 0.7
        assert leak < leak_without - 0.2
        assert private > leak + 0.2
        # The shared codes hold what is shared, and nothing of what is private.
        shared = with_term.get_latent_representation(modality=name, indices=with_term.test_indices)
        found, junk = _r2(with_term, simulation, name, shared)
        assert found > 0.8
        assert junk < 0.1


def test_the_flow_takes_the_shared_factors_out_and_keeps_the_private_ones():
    simulation = _simulation()
    model = _train(simulation, FLOW, max_epochs={"shared": 15, "context": 15, "specific": 10})
    for name in model.modalities:
        leak, private = _r2(model, simulation, name, _specific(model, name))
        features = model.get_features(modality=name, indices=model.test_indices)
        leak_of_features, _ = _r2(model, simulation, name, features)
        assert leak_of_features > 0.8
        assert leak < leak_of_features - 0.4
        assert private > 0.8
