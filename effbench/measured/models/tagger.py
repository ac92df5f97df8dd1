"""Tagger: embedding and encoder that predict a token of the vocabulary at chosen positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effbench.measured.mechanism import State
from effbench.measured.models.classifier import EMBEDDING_STD
from effbench.measured.models.encoder import Encoder, FeatureDropout


class Tagger(nn.Module):
    """tokens [B, N], mask [B, N], at [B, N] -> logits [Q, vocab_size], a row for each True of ``at``.

    Logits come in the order of the rows, then of the positions. They are computed only where ``at`` is True:
    logits of all positions, [B, N, vocab_size], would take most of the model's memory and time. Learned
    absolute positions are added to the token embeddings, whose transpose is the output layer (Press and Wolf
    2017, arXiv 1608.05859); with ``bias`` each token has a bias too. Only ``mask`` marks padding; no id is
    special. ``max_len`` is the longest N, ``ffn_width`` as in
    :class:`~effbench.measured.models.encoder.Encoder`.
    ``tokens``, ``positions`` and ``encoder`` have the names and shapes that they have in a
    :class:`~effbench.measured.models.classifier.Classifier`, which can begin with their weights.
    """

    def __init__(
        self,
        make_mechanism: Callable[[], nn.Module],
        *,
        vocab_size: int,
        max_len: int,
        d_model: int,
        layers: int,
        ffn_width: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(max_len, d_model)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        self.embedding_dropout = FeatureDropout(dropout)
        self.encoder = Encoder(
            make_mechanism, d_model=d_model, layers=layers, ffn_width=ffn_width, dropout=dropout
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, tokens: Tensor, mask: Tensor | None, at: Tensor) -> Tensor:
        """Logits [Q, vocab_size] at the True positions of ``at`` [B, N]; mask [B, N] is True for a token."""
        x = self.encoder(self._embedded(tokens), mask)
        return linear(x[at], self.tokens.weight, self.bias)

    def prefill(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[State]]:
        """Return the encoded tokens [B, N, d_model] and the state of each layer after the last one."""
        return self.encoder.prefill(self._embedded(tokens), mask)

    def _embedded(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.embedding_dropout(x)  # type: ignore[no-any-return]
