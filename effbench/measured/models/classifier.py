"""Classifier: embedding, encoder, additive-attention pooling, linear layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effbench.measured.models.encoder import Encoder, FeatureDropout

EMBEDDING_STD = 0.02
NGRAM_BUCKETS = 200_003  # a prime
NGRAM_BASE = 1_000_003


class AdditivePooling(nn.Module):
    """x [B, N, d_model] -> [B, d_model]: sum_i a_i x_i with a = softmax_i(v . tanh(W x_i + b)).

    ``query`` is the width of v, d_model if None. Padding has weight exactly 0; a row of padding alone gives
    zeros.
    """

    def __init__(self, d_model: int, query: int | None = None) -> None:
        super().__init__()
        width = d_model if query is None else query
        self.hidden = nn.Linear(d_model, width)
        self.score = nn.Linear(width, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool x [B, N, d_model] over N; mask [B, N] is True for a real token."""
        scores_bn = self.score(torch.tanh(self.hidden(x))).squeeze(-1)
        if mask is None:
            weights_bn = scores_bn.softmax(dim=-1)
        else:
            scores_bn = scores_bn.masked_fill(~mask, torch.finfo(scores_bn.dtype).min)
            weights_bn = scores_bn.softmax(dim=-1).masked_fill(~mask, 0.0)
            x = x.masked_fill(~mask[..., None], 0.0)
        return torch.einsum("bn,bnd->bd", weights_bn, x)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Return the FLOPs of the products of one pass: W x, v . (), and the weighted sum."""
        width, d_model = self.hidden.weight.shape
        return 2 * batch_size * seq_len * (d_model * width + width + d_model)


def token_embedding(
    vocab_size: int, d_model: int, vectors: NDArray[np.float32] | None, *, std: float = EMBEDDING_STD
) -> nn.Module:
    """tokens [B, N] -> [B, N, d_model]; id 0 is padding. Without vectors, weights are drawn with ``std``."""
    if vectors is None:
        embedding = nn.Embedding(vocab_size, d_model, padding_idx=0)
        nn.init.normal_(embedding.weight, std=std)
        return embedding
    if len(vectors) != vocab_size:
        raise ValueError(f"{len(vectors)} vectors for a vocabulary of {vocab_size}")
    # a copy: training must not change what the task handed out
    own = torch.tensor(vectors)
    embedding = nn.Embedding(vocab_size, vectors.shape[1], padding_idx=0, _weight=own)
    if vectors.shape[1] == d_model:
        return embedding
    return nn.Sequential(embedding, nn.Linear(vectors.shape[1], d_model, bias=False))


class HashedNGrams(nn.Module):
    """tokens [B, N] -> [B, N, d_model]: an embedding of the n tokens that end at each position.

    Joulin et al. 2016, Bag of Tricks for Efficient Text Classification (arXiv 1607.01759): n-grams share
    ``NGRAM_BUCKETS`` rows by a hash. The first n - 1 positions have no n-gram and get zeros.
    """

    def __init__(self, n: int, d_model: int) -> None:
        super().__init__()
        self.n = n
        self.rows = nn.Embedding(NGRAM_BUCKETS, d_model)
        nn.init.normal_(self.rows.weight, std=EMBEDDING_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed the n-grams of tokens [B, N]."""
        ends = max(0, tokens.shape[1] - self.n + 1)
        hashed = torch.zeros_like(tokens[:, :ends])
        for offset in range(min(self.n, tokens.shape[1])):
            hashed = (hashed * NGRAM_BASE + tokens[:, offset : offset + ends]) % NGRAM_BUCKETS
        return nn.functional.pad(self.rows(hashed), (0, 0, tokens.shape[1] - ends, 0))


@dataclass(frozen=True, kw_only=True)
class WordRecipe:
    """The embedding of tokens that are words.

    ``vectors`` [vocab_size, width], if given, are the first weights of the embedding; a linear map without
    bias takes them to d_model where the widths differ. With ``ngrams`` of 2 or more, embeddings of hashed
    n-grams of up to that many tokens are added. In training, the embedding of a token or an n-gram is left
    out with probability ``word_dropout`` (Iyyer et al. 2015). Embeddings learn at ``embedding_lr`` times the
    rate of the training: a rare word gets few updates.
    """

    vectors: NDArray[np.float32] | None = None
    ngrams: int = 1
    word_dropout: float = 0.0
    embedding_lr: float = 1.0


class Classifier(nn.Module):
    """tokens [B, N], mask [B, N] -> logits [B, classes].

    Learned absolute positions are added to the token embeddings; id 0 is padding. ``max_len`` is the
    longest N. ``words`` says how tokens are embedded, by default plainly.
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
        ffn_width: int | None = None,
        dropout: float = 0.0,
        words: WordRecipe | None = None,
    ) -> None:
        super().__init__()
        words = words or WordRecipe()
        self.tokens = token_embedding(vocab_size, d_model, words.vectors)
        self.ngrams = nn.ModuleList(HashedNGrams(n, d_model) for n in range(2, words.ngrams + 1))
        self.word_dropout = words.word_dropout
        for module in (*self.tokens.modules(), *self.ngrams.modules()):
            if isinstance(module, nn.Embedding):
                module.weight.lr_factor = words.embedding_lr  # type: ignore[attr-defined]
        self.positions = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.positions.weight, std=EMBEDDING_STD)
        self.embedding_dropout = FeatureDropout(dropout)
        self.pooled_dropout = nn.Dropout(dropout)
        self.encoder = Encoder(
            make_mechanism, d_model=d_model, layers=layers, ffn_width=ffn_width, dropout=dropout
        )
        self.pooling = AdditivePooling(d_model)
        self.classify = nn.Linear(d_model, classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of tokens [B, N]; mask [B, N] is True for a real token."""
        x = self._without_some(self.tokens(tokens))
        for ngram in self.ngrams:
            x = x + self._without_some(ngram(tokens))
        x = x + self.positions.weight[: tokens.shape[1]]
        x = self.encoder(self.embedding_dropout(x), mask)
        return self.classify(self.pooled_dropout(self.pooling(x, mask)))  # type: ignore[no-any-return]

    def _without_some(self, x: Tensor) -> Tensor:
        if not self.training or self.word_dropout == 0:
            return x
        return x * (torch.rand(x.shape[:2], device=x.device) >= self.word_dropout)[..., None]
