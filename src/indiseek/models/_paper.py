"""Settings that Gui et al. (2025) state, for exact reproduction."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final, NamedTuple


class _PaperSettings(NamedTuple):
    """Arguments by receiver."""

    model: MappingProxyType[str, Any]
    train: MappingProxyType[str, Any]


PAPER: Final = _PaperSettings(
    model=MappingProxyType(
        {
            "specific": "nce-club",
            "hidden": (50, 50, 50),
            "critic_hidden": (50, 50, 50),
            "activation": "relu",
            "layer_norm": False,
            "alignment": 0.0,
            "lam": 10.0,
            "independence": "nce-club",
            "independent_of": "other",
        }
    ),
    train=MappingProxyType(
        {
            "max_epochs": 2000,
            "batch_size": 128,
            "lr": 1e-4,
            "critic_lr": 1e-4,
            "n_critic_steps": 5,
            "early_stopping": False,
        }
    ),
)
"""Settings of the paper: ``IndiSeekModel(mdata, **PAPER.model)`` and ``model.train(**PAPER.train)``.

Multilayer perceptrons of four linear maps with 50 hidden units and ReLU, batches of 128 cells, Adam with learning
rate 1e-4, 2,000 epochs, 5 critic steps, and the weight of reconstruction that the paper uses on CITE-seq. The
paper's codes have 50 dimensions; set ``n_shared`` and ``n_specific`` to what the panel allows. What the paper leaves
open (how long the critics learn before their term is switched on, the critics' own learning rate) is ours.
"""
