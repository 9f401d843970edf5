"""Fusion of modalities by attention over their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indiseek.nn._mlp import MLP, Encoder


class FusionTransformer(nn.Module):
    r"""One code of several modalities, or of those that are there, by one network.

    A converter (a multilayer perceptron of its own) turns each modality into a few tokens. Behind a learned first
    token they go through pre-LN self-attention; the first token's row, normalised, is the code.

    A modality that is absent has no tokens: nothing attends to zeros in its place, and because every cell of a call
    has the same modalities, there is no padding and no attention mask. No layer mixes cells.

    Memory of a training step grows with ``n_cells * (n_tokens * n_modalities + 1) * n_latent`` for each layer, and
    with the square of the number of tokens for the attention weights.

    Parameters
    ----------
    n_features
        Number of features by modality name, in order.
    n_latent
        Dimension of the tokens and of the code; a multiple of `n_heads`.
    n_tokens
        Tokens of each modality.
    n_layers
        Attention blocks.
    n_heads
        Attention heads.
    encoder
        Form of the converters.

    Raises
    ------
    ValueError
        If a number is smaller than 1 or `n_latent` is no multiple of `n_heads`.

    References
    ----------
    Dufumier et al. (2025), arXiv 2409.07402.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_latent: int,
        *,
        n_tokens: int = 2,
        n_layers: int = 1,
        n_heads: int = 4,
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        for name, value in {"n_tokens": n_tokens, "n_layers": n_layers, "n_heads": n_heads}.items():
            if value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}; give a positive integer.")
        if n_latent < 1 or n_latent % n_heads:
            raise ValueError(
                f"expected n_latent to be a multiple of n_heads={n_heads}, got {n_latent}; change one of them."
            )
        self.n_tokens = n_tokens
        self.converters = nn.ModuleList(encoder.of(name, n, n_tokens * n_latent) for name, n in n_features.items())
        self.first = nn.Parameter(0.02 * torch.randn(n_latent))
        self.blocks = nn.ModuleList(_Block(n_latent, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(n_latent)

    def tokens(self, modality: int, features: Tensor) -> Tensor:
        """Tokens ``(n_cells, n_tokens, n_latent)`` of ``(n_cells, n_features)`` values of one modality."""
        tokens: Tensor = self.converters[modality](features)
        return tokens.unflatten(-1, (self.n_tokens, -1))

    def fuse(self, tokens: Sequence[Tensor]) -> Tensor:
        """Code ``(n_cells, n_latent)`` of the tokens of one or more modalities."""
        sequence = torch.cat([self.first.expand(len(tokens[0]), 1, -1), *tokens], dim=1)
        for block in self.blocks[:-1]:
            sequence = block(sequence, sequence)
        # Of the last block only the first row is read.
        code: Tensor = self.norm(self.blocks[-1](sequence[:, :1], sequence)[:, 0])
        return code

    def forward(self, features: Sequence[Tensor | None]) -> Tensor:
        """Code of cells.

        Parameters
        ----------
        features
            ``(n_cells, n_features)`` for each modality, None for one that is absent.

        Returns
        -------
        ``(n_cells, n_latent)``.

        Raises
        ------
        ValueError
            If there is not one entry for each modality, or all are None.
        """
        present = [i for i, x in enumerate(features) if x is not None]
        if len(features) != len(self.converters) or not present:
            raise ValueError(
                f"expected features of {len(self.converters)} modalities, at least one not None, got {len(features)} "
                f"entries of which {len(present)} are not None; give None for a modality that is absent."
            )
        return self.fuse([self.tokens(i, x) for i, x in enumerate(features) if x is not None])


class _Block(nn.Module):
    """Pre-LN attention of some rows of a sequence to all of them, and a feed-forward layer."""

    def __init__(self, n_latent: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(n_latent)
        self.query = nn.Linear(n_latent, n_latent)
        self.key_value = nn.Linear(n_latent, 2 * n_latent)
        self.output = nn.Linear(n_latent, n_latent)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(n_latent), MLP(n_latent, n_latent, hidden=(4 * n_latent,), layer_norm=False)
        )

    def forward(self, rows: Tensor, sequence: Tensor) -> Tensor:
        """New values ``(n_cells, n_rows, n_latent)`` of `rows`, which are also the first of `sequence`."""
        normalised = self.norm(sequence)
        key, value = self.key_value(normalised).chunk(2, dim=-1)
        query, key, value = map(self._heads, (self.query(normalised[:, : rows.shape[1]]), key, value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        rows = rows + self.output(attended)
        return rows + self.feed_forward(rows)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
