"""Hierarchical: a recommender around any mechanism, over the words of a title and over a history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from effbench.measured.models.classifier import AdditivePooling
from effbench.measured.models.encoder import Encoder, FeatureDropout
from effbench.measured.models.title_words import NewsIds, TitleWords
from effbench.measured.recommender import News, Recommender

Blocks = Literal["plain", "residual", "encoder"]


class Hierarchical(Recommender):
    """A mechanism over the words of each title, then another instance over the news of the history.

        news = pool(dropout(blocks(dropout(words))))      user = pool(dropout(blocks(history)))
        score of a candidate = news . user

    ``pool`` is additive pooling with a query of width ``query``; ``layers`` blocks stand on each level.
    ``make_mechanism(max_len)`` makes a mechanism for up to so many tokens. Words are in no order but that of
    the mechanism: there are no positions.

    ``blocks``: ``plain``, x <- mechanism(x), as published for news recommendation with Fastformer (Wu et al.
    2021, arXiv 2108.09084; its authors found layer norm and positions to harm there) and with self-attention
    (NRMS, Wu et al. 2019); ``residual``, x <- x + mechanism(x); ``encoder``, the pre-norm blocks of
    ``Encoder`` with feed-forward layers of width ``ffn_width``. ``title`` cuts titles (0: not at all);
    ``ids`` adds to each news of the training behaviours an embedding of its own.

    Titles of similar length are encoded together. A mechanism whose output depends on the number of padded
    tokens, as FNet's does, makes the vector of a title depend on the titles beside it.

    Raises ValueError for a wrong option.
    """

    source = "Wu et al. 2021, Fastformer: Additive Attention Can Be All You Need (arXiv 2108.09084)"

    def __init__(
        self,
        make_mechanism: Callable[[int], nn.Module],
        news: News,
        *,
        d_model: int,
        layers: int,
        max_len: int,
        dropout: float,
        title: int = 0,
        blocks: Blocks = "plain",
        ffn_width: int | None = None,
        query: int = 200,
        ids: bool = False,
    ) -> None:
        super().__init__(news, d_model, 1, max_len=max_len, dropout=dropout)
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        if blocks not in get_args(Blocks):
            raise ValueError(f"blocks is {blocks!r}, not one of {', '.join(get_args(Blocks))}")

        def level(longest: int) -> nn.Module:
            if blocks == "encoder":
                return Encoder(
                    lambda: make_mechanism(longest),
                    d_model=d_model,
                    layers=layers,
                    ffn_width=ffn_width,
                    dropout=dropout,
                )
            return _Blocks(lambda: make_mechanism(longest), layers, residual=blocks == "residual")

        self.words = TitleWords(news, d_model, title=title)
        self.ids = NewsIds(news, d_model) if ids else None
        self.dropout = FeatureDropout(dropout)
        self.mix_words = level(self.words.longest)
        self.pool_words = AdditivePooling(d_model, query)
        self.mix_history = level(max_len)
        self.pool_history = AdditivePooling(d_model, query)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        vectors = self.words.encoded(rows, self._of_words)
        return vectors if self.ids is None else vectors + self.ids(rows)

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        mixed = self.mix_history(history.masked_fill(~mask[..., None], 0.0), mask)
        return self.pool_history(self.dropout(mixed), mask)  # type: ignore[no-any-return]

    def _of_words(self, words: Tensor, mask: Tensor) -> Tensor:
        mixed = self.mix_words(self.dropout(words), mask)
        pooled: Tensor = self.pool_words(self.dropout(mixed), mask)
        return pooled


class _Blocks(nn.Module):
    """x [B, N, D], mask [B, N] -> [B, N, D]: mechanisms one after the other, without norms."""

    def __init__(self, make_mechanism: Callable[[], nn.Module], layers: int, *, residual: bool) -> None:
        super().__init__()
        first = make_mechanism()
        shared = getattr(first, "shares_layers", False)
        self.mechanisms = nn.ModuleList(
            first if shared or layer == 0 else make_mechanism() for layer in range(layers)
        )
        self.residual = residual

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for mechanism in self.mechanisms:
            # a mechanism may leave anything at padding, even NaN
            mixed = mechanism(x, mask).masked_fill(~mask[..., None], 0.0)
            x = x + mixed if self.residual else mixed
        return x
