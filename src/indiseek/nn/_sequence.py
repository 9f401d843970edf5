"""An encoder of sequences: text, sound, video features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class SequenceTransformer(nn.Module):
    """Transformer over the steps of a sequence that gives one token for each step.

    The encoder of the MultiBench comparison of CoMM: a linear map of each step, then five pre-LN blocks with five
    heads. It goes with :class:`indiseek.CoMMModel` and ``n_tokens=n_steps``, and is given as one of the ``own``
    networks of :class:`indiseek.Encoder`, by a function that knows how many steps there are (see the example).

    Parameters
    ----------
    n_features
        Number of features of a cell: ``n_steps`` times those of a step, one step after the other, or fewer of them, see
        `varies`.
    n_latent
        Number of outputs: ``n_steps`` times the dimension of a token, a multiple of `n_heads`.
    n_steps
        Steps of a sequence.
    n_layers, n_heads, n_hidden
        Blocks, attention heads, and width of the feed-forward layers.
    dropout
        Of the blocks.
    varies
        For each of the ``n_steps`` times the features of a step whether it is given, in order; the others are 0. For
        models, which leave features out that are the same in every cell: :func:`indiseek.datasets.multibench_affect`
        says which in ``.var["varies"]``. None for all.
    places
        Whether sines and cosines of the place are added to the tokens. Without, the order of the steps is not seen, as
        published.

    Raises
    ------
    ValueError
        If the numbers of features or outputs are no multiples of `n_steps`, a token's dimension none of `n_heads`, or
        `varies` names another number of features.

    References
    ----------
    Dufumier et al. (2025), arXiv 2409.07402; Liang et al. (2023), arXiv 2306.05268.

    Examples
    --------
    >>> mdata = indiseek.datasets.multibench_affect("mosi_data.pkl")
    >>> def vision(n_features, n_latent, varies=mdata["vision"].var["varies"].to_numpy()):
    ...     return indiseek.nn.SequenceTransformer(n_features, n_latent, n_steps=50, varies=varies)
    >>> def text(n_features, n_latent, varies=mdata["text"].var["varies"].to_numpy()):
    ...     return indiseek.nn.SequenceTransformer(n_features, n_latent, n_steps=50, varies=varies)
    >>> encoder = indiseek.Encoder(own={"vision": vision, "text": text})
    >>> as_they_are = {"vision": indiseek.data.Scale(), "text": indiseek.data.Scale()}
    >>> model = indiseek.CoMMModel(mdata, n_latent=40, n_tokens=50, n_heads=8, encoder=encoder, transforms=as_they_are)
    """

    given: Tensor | None
    places: Tensor | None

    def __init__(
        self,
        n_features: int,
        n_latent: int,
        *,
        n_steps: int,
        n_layers: int = 5,
        n_heads: int = 5,
        n_hidden: int = 2048,
        dropout: float = 0.1,
        varies: Sequence[bool] | NDArray[np.bool_] | None = None,
        places: bool = False,
    ) -> None:
        super().__init__()
        self.n_all = n_features if varies is None else len(varies)
        given = None if varies is None else torch.as_tensor(np.asarray(varies, dtype=bool)).nonzero()[:, 0]
        if given is not None and len(given) != n_features:
            raise ValueError(
                f"expected varies to name the {n_features} features that are given, got {len(given)} of {self.n_all}; "
                "it says of every feature of every step whether a model keeps it."
            )
        self.register_buffer("given", given, persistent=False)
        for name, value in {"n_features": self.n_all, "n_latent": n_latent}.items():
            if n_steps < 1 or value % n_steps:
                raise ValueError(
                    f"expected {name} to be a multiple of n_steps={n_steps}, got {value}; a sequence has as many "
                    "features, and the code as many tokens, in every step."
                )
        width = n_latent // n_steps
        if width % n_heads or (places and width % 2):
            raise ValueError(
                f"expected tokens of a dimension that is a multiple of n_heads={n_heads} (with places also of 2), got "
                f"{width}; change one of them."
            )
        self.n_steps = n_steps
        self.project = nn.Linear(self.n_all // n_steps, width, bias=False)
        block = nn.TransformerEncoderLayer(width, n_heads, n_hidden, dropout=dropout, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, n_layers, enable_nested_tensor=False)
        if places:
            rates = 1e4 ** (-torch.arange(0, width, 2) / width)
            angles = torch.arange(n_steps)[:, None] * rates
            self.register_buffer(
                "places", torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1), persistent=False
            )
        else:
            self.places = None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(n_cells, n_latent)``, one after the other, of ``(n_cells, n_features)`` values."""
        if self.given is not None:
            x = x.new_zeros(len(x), self.n_all).index_copy(1, self.given, x)
        tokens = self.project(x.unflatten(1, (self.n_steps, -1)))
        if self.places is not None:
            tokens = tokens + self.places
        code: Tensor = self.blocks(tokens).flatten(1)
        return code
