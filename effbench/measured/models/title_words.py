"""The parts that models of news share: titles as rows of vectors, and an embedding of each known news."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from effbench.measured.data.examples import PAD, Integers
from effbench.measured.data.news_titles import News
from effbench.measured.models.batches import sorted_batches
from effbench.measured.models.classifier import EMBEDDING_STD, token_embedding

# Tokens of the titles that are encoded in one call. Titles of similar length are encoded together, so that a
# few long ones do not pad all others; the memory of an evaluation does not grow with the number of news.
TOKENS = 8192

# Of the first weights of words, about that of GloVe's vectors: these models have no norm that would scale up
# smaller ones, and a product of three of them, as Fastformer's, would hardly have a gradient.
WORD_STD = 0.5


class Titles(nn.Module):
    """rows [n] of a table of news -> a vector for each token of their titles [n, T, width], mask [n, T].

    ``lengths`` [n_news] are the tokens of each title. A subclass defines ``forward``.
    """

    def __init__(self, lengths: Integers) -> None:
        super().__init__()
        self.lengths = np.maximum(1, lengths)

    def forward(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the first ``length`` tokens [n, length, width] of rows [n], and their mask [n, length]."""
        raise NotImplementedError

    def encoded(self, rows: Tensor, encode: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return ``encode(tokens, mask)`` [n, ...] of rows [n], computed in parts of similar length.

        ``encode`` gets tokens [m, T, width] and a mask [m, T], T being the longest title of its part.
        """
        lengths = self.lengths[rows.cpu().numpy()]
        parts = list(sorted_batches(lengths, TOKENS))
        if not parts:
            return encode(*self(rows, 1))
        done = [
            encode(*self(rows[torch.from_numpy(part).to(rows.device)], int(lengths[part[-1]])))
            for part in parts
        ]
        back = np.argsort(np.concatenate(parts))
        return torch.cat(done).index_select(0, torch.from_numpy(back).to(rows.device))


class TitleWords(Titles):
    """rows [n] of a table of news -> the words' vectors [n, T, width] and their mask [n, T].

    The first weights are ``news.vectors`` if there are any. ``width`` is that of the vectors, or ``d_model``
    if there are none; with ``mapped`` it is always d_model, through a linear map without bias where the
    vectors are of another width. ``title`` cuts titles to their first words (0: none is cut); the table has
    ``longest`` columns then. Padding has the vector 0.
    """

    tokens: Tensor

    def __init__(self, news: News, d_model: int, *, title: int = 0, mapped: bool = True) -> None:
        if title < 0:
            raise ValueError(f"title must be at least 0 (all words), got {title}")
        words = news.tokens[:, :title] if title else news.tokens
        super().__init__((words != PAD).sum(axis=1))
        self.longest = max(1, words.shape[1])
        self.width = d_model if mapped or news.vectors is None else news.vectors.shape[1]
        self.embedding = token_embedding(news.vocab_size, self.width, news.vectors, std=WORD_STD)
        with torch.no_grad():
            next(self.embedding.parameters())[PAD] = 0
        words = np.pad(words, ((0, 0), (0, self.longest - words.shape[1])), constant_values=PAD)
        self.register_buffer("tokens", torch.from_numpy(words.astype(np.int64)), persistent=False)

    def forward(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the words [n, length, width] of rows [n], and their mask [n, length]."""
        tokens = self.tokens[rows, :length]
        return self.embedding(tokens), tokens != PAD


class NewsIds(nn.Module):
    """rows [n] -> [n, d_model]: an embedding of each news of the training behaviours, zeros for others."""

    places: Tensor

    def __init__(self, news: News, d_model: int) -> None:
        super().__init__()
        known = news.trained.copy()
        known[0] = False
        places = np.where(known, np.cumsum(known), 0)
        self.register_buffer("places", torch.from_numpy(places.astype(np.int64)), persistent=False)
        weight = torch.randn(int(known.sum()) + 1, d_model) * EMBEDDING_STD
        weight[0] = 0
        self.embedding = nn.Embedding(len(weight), d_model, padding_idx=0, _weight=weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the embeddings [n, d_model] of rows [n]."""
        return self.embedding(self.places[rows])  # type: ignore[no-any-return]
