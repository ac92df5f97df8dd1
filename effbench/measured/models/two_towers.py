"""TwoTowers: one encoder for both texts of a pair, and a small network on the two pooled vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from effbench.measured.models.classifier import EMBEDDING_STD, AdditivePooling, token_embedding
from effbench.measured.models.encoder import Encoder, FeatureDropout


class TwoTowers(nn.Module):
    """tokens [B, 2, N], mask [B, 2, N] -> logits [B, classes].

    Both sides go through the same embedding, encoder and pooling, as 2B rows in one call; with a and b their
    pooled vectors [B, d_model], an MLP reads [a, b, a * b, a - b] (LRA's dual encoder, Tay et al. 2021,
    arXiv 2011.04006). Learned absolute positions count from 0 on each side; id 0 is padding. ``max_len`` is
    the longest N.
    """

    def __init__(
        self,
        make_mechanism: Callable[[], nn.Module],
        *,
        vocab_size: int,
        classes: int,
        max_len: int,
        d_model: int,
        layers: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = token_embedding(vocab_size, d_model, None)
        self.positions = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.positions.weight, std=EMBEDDING_STD)
        self.embedding_dropout = FeatureDropout(dropout)
        self.encoder = Encoder(make_mechanism, d_model=d_model, layers=layers, dropout=dropout)
        self.pooling = AdditivePooling(d_model)
        self.compare = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(4 * d_model, d_model), nn.GELU(), nn.Linear(d_model, classes)
        )

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pooled vectors [R, d_model] of token rows [R, N]; mask [R, N] is True for a real token."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.pooling(self.encoder(self.embedding_dropout(x), mask), mask)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, classes] of pairs [B, 2, N]."""
        pooled = self.encode(tokens.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, (-1, 2))
        a, b = pooled.unbind(dim=1)
        return self.compare(torch.cat((a, b, a * b, a - b), dim=-1))  # type: ignore[no-any-return]
