"""Multilayer perceptron shared by encoders, decoders and critics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

Activation = Literal["gelu", "relu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class MLP(nn.Sequential):
    """Multilayer perceptron.

    Parameters
    ----------
    n_in
        Number of input features.
    n_out
        Number of outputs.
    hidden
        Widths of the hidden layers, in order.
    activation
        Nonlinearity after each hidden layer.
    layer_norm
        Whether each hidden layer is normalised (LayerNorm) before its nonlinearity.

    Raises
    ------
    ValueError
        If a width is smaller than 1 or the activation is unknown.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "gelu",
        layer_norm: bool = True,
    ) -> None:
        widths = [n_in, *hidden, n_out]
        if min(widths) < 1:
            raise ValueError(f"expected layer widths of at least 1, got {widths}; give positive integers.")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"expected activation to be one of {sorted(ACTIVATIONS)}, got {activation!r}; choose one of them."
            )
        layers: list[nn.Module] = []
        for n_from, n_to in zip(widths[:-2], widths[1:-1], strict=True):
            layers.append(nn.Linear(n_from, n_to))
            if layer_norm:
                layers.append(nn.LayerNorm(n_to))
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(widths[-2], n_out))
        super().__init__(*layers)
