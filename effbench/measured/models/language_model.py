"""Language model: embedding and encoder with the names of a Classifier, and an output layer tied to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effbench.measured.mechanism import State
from effbench.measured.models.classifier import EMBEDDING_STD
from effbench.measured.models.encoder import Encoder, FeatureDropout


class LanguageModel(nn.Module):
    """tokens [B, N], at [B, N] -> logits [Q, vocab_size], a row for each True of ``at``, row after row.

    Rows have no padding. Learned absolute positions are added to the token embeddings, whose transpose is
    the output layer (Press and Wolf 2017, arXiv 1608.05859), with a bias. ``tokens``, ``positions`` and
    ``encoder`` have the names and shapes that they have in a
    :class:`~effbench.measured.models.classifier.Classifier`, which can begin with their weights. ``max_len``
    is the longest N.
    """

    def __init__(
        self,
        make_mechanism: Callable[[], nn.Module],
        *,
        vocab_size: int,
        max_len: int,
        d_model: int,
        layers: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(max_len, d_model)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        self.embedding_dropout = FeatureDropout(dropout)
        self.encoder = Encoder(make_mechanism, d_model=d_model, layers=layers, dropout=dropout)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Logits [Q, vocab_size] at the True positions of ``at`` [B, N]."""
        x = self.encoder(self._embedded(tokens))
        return linear(x[at], self.tokens.weight, self.bias)

    def prefill(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[State]]:
        """Return the encoded tokens [B, N, d_model] and the state of each layer after the last one."""
        return self.encoder.prefill(self._embedded(tokens), mask)

    def _embedded(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.embedding_dropout(x)  # type: ignore[no-any-return]
