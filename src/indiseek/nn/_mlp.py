"""Multilayer perceptrons, and the form of the networks that encode a modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import nn

from indiseek._checks import check_choice, check_flag, check_mapping, check_number, check_widths

Activation = Literal["gelu", "relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


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
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"expected activation to be one of {sorted(_ACTIVATIONS)}, got {activation!r}; choose one of them."
            )
        layers: list[nn.Module] = []
        for n_from, n_to in zip(widths[:-2], widths[1:-1], strict=True):
            layers.append(nn.Linear(n_from, n_to))
            if layer_norm:
                layers.append(nn.LayerNorm(n_to))
            layers.append(_ACTIVATIONS[activation]())
        layers.append(nn.Linear(widths[-2], n_out))
        super().__init__(*layers)


MakeNetwork = Callable[[int, int], nn.Module]
"""Called with the numbers of features and of latent dimensions; most simply a class of modules."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Form of the encoders, and of the decoders and critics that go with them.

    Attributes
    ----------
    hidden
        Widths of the hidden layers.
    activation
        ``"gelu"`` or ``"relu"``.
    layer_norm
        Whether hidden layers are normalised.
    initial_sd
        Standard deviation of the normal distribution from which the weights of linear maps are drawn; None for torch's
        uniform one. Biases are torch's, and modules of your own are left as they are.
    own
        Networks of your own by modality: a class or function that is called as ``own[modality](n_features, n_latent)``
        and gives a module that maps ``(n_cells, n_features)`` to ``(n_cells, n_latent)``. Called once for each code
        that the modality has. A saved model keeps its weights and its name, and :meth:`IndiSeekModel.load` takes the
        class or function itself as one of ``own_code``.

    Raises
    ------
    TypeError, ValueError
        If a width is no whole number of at least 1, or another setting is not one of those above.
    """

    hidden: Sequence[int] = (256, 256)
    activation: Activation = "gelu"
    layer_norm: bool = True
    initial_sd: float | None = None
    own: Mapping[str, MakeNetwork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "hidden", check_widths("hidden", self.hidden))
        check_choice("activation", self.activation, tuple(_ACTIVATIONS))
        check_flag("layer_norm", self.layer_norm)
        if self.initial_sd is not None:
            check_number("initial_sd", self.initial_sd, above=0)
        check_mapping("own", self.own, "classes or functions by modality")
        for name, make in self.own.items():
            if isinstance(make, nn.Module) or not callable(make):
                found = "a module" if isinstance(make, nn.Module) else type(make).__name__
                raise TypeError(
                    f"expected a class or function that makes the encoder of {name!r}, got {found}; give the class, "
                    "not a module: each code of a modality needs a network of its own."
                )

    def network(self, n_in: int, n_out: int, hidden: Sequence[int] | None = None) -> MLP:
        """New perceptron of this form, with other hidden layers where `hidden` says so."""
        widths = self.hidden if hidden is None else hidden
        network = MLP(n_in, n_out, hidden=widths, activation=self.activation, layer_norm=self.layer_norm)
        if self.initial_sd is not None:
            for layer in network:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=self.initial_sd)
        return network

    def of(self, modality: str, n_features: int, n_latent: int) -> nn.Module:
        """New encoder of a modality: the user's own, or a perceptron.

        Raises
        ------
        TypeError
            If the user's own is no module.
        ValueError
            If it does not give `n_latent` numbers for each cell.
        """
        if modality not in self.own:
            return self.network(n_features, n_latent)
        module = self.own[modality](n_features, n_latent)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"expected the encoder of {modality!r} to be a torch module, got {type(module).__name__}; return one."
            )
        mode = module.training
        with torch.no_grad():
            shape = tuple(cast(torch.Tensor, module.eval()(torch.zeros(2, n_features))).shape)
        module.train(mode)
        if shape != (2, n_latent):
            raise ValueError(
                f"expected the encoder of {modality!r} to map (2, {n_features}) to (2, {n_latent}), got {shape}; "
                "take both numbers from the arguments that it is called with."
            )
        return module
