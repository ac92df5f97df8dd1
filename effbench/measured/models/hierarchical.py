"""Hierarchical: a recommender around any mechanism, over the words of a title and over a history."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from effbench.measured.models.encoder import FeatureDropout
from effbench.measured.models.pooled_encoder import QUERY, Blocks, PooledEncoder
from effbench.measured.models.title_words import NewsIds, TitleWords
from effbench.measured.recommender import News, Recommender


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
        query: int = QUERY,
        ids: bool = False,
    ) -> None:
        super().__init__(news, d_model, 1, max_len=max_len, dropout=dropout)

        def level(longest: int) -> PooledEncoder:
            return PooledEncoder(
                lambda: make_mechanism(longest),
                d_model=d_model,
                layers=layers,
                blocks=blocks,
                ffn_width=ffn_width,
                query=query,
                dropout=dropout,
            )

        self.words = TitleWords(news, d_model, title=title)
        self.ids = NewsIds(news, d_model) if ids else None
        self.dropout = FeatureDropout(dropout)
        self.of_title = level(self.words.longest)
        self.of_history = level(max_len)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        vectors = self.words.encoded(rows, self._of_words)
        return vectors if self.ids is None else vectors + self.ids(rows)

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        return self.of_history(history.masked_fill(~mask[..., None], 0.0), mask)  # type: ignore[no-any-return]

    def _of_words(self, words: Tensor, mask: Tensor) -> Tensor:
        return self.of_title(self.dropout(words), mask)  # type: ignore[no-any-return]
