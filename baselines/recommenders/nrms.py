"""NRMS: multi-head self-attention and additive pooling over words, and again over the history."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.recommenders._attention import HeadsOnly
from effbench import AdditivePooling, News, NewsIds, Recommender, TitleWords


class NRMS(Recommender):
    """Self-attention and additive pooling over the words of a title, then over the news of a history.

    Definition::

        news = pool(dropout(attend(dropout(words))))      user = pool(dropout(attend(history)))
        score of a candidate = news . user

    ``attend`` has heads without biases and no output projection; ``pool`` is additive pooling with a query
    of width ``query``. There are no positions, norms and feed-forward layers. Words enter at the width of
    their first vectors, or at d_model if there are none. Published: words of 300, d_model 400 and 20 heads,
    query 200, dropout 0.2, titles of 30 words and histories of 50 clicks; width, heads and lengths are the
    cell's here.

    The published code masks nothing: padding takes part in both softmaxes, and a score depends on it. Here
    it does not. ``title`` cuts titles (0: not at all); ``ids``, not published, adds to each news of the
    training behaviours an embedding of its own.

    Raises ValueError for a wrong option.
    """

    source = "Wu et al. 2019, Neural News Recommendation with Multi-Head Self-Attention (EMNLP 2019)"

    def __init__(
        self,
        news: News,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        dropout: float,
        title: int = 0,
        query: int = 200,
        ids: bool = False,
    ) -> None:
        super().__init__(news, d_model, heads, max_len=max_len, dropout=dropout)
        if query < 1:
            raise ValueError(f"query must be at least 1, got {query}")
        self.words = TitleWords(news, d_model, title=title, mapped=False)
        self.ids = NewsIds(news, d_model) if ids else None
        self.dropout = nn.Dropout(dropout)
        self.attend_words = HeadsOnly(self.words.width, d_model, heads)
        self.pool_words = AdditivePooling(d_model, query)
        self.attend_history = HeadsOnly(d_model, d_model, heads)
        self.pool_history = AdditivePooling(d_model, query)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        vectors = self.words.encoded(rows, self._of_words)
        return vectors if self.ids is None else vectors + self.ids(rows)

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        attended = self.dropout(self.attend_history(history, mask))
        return self.pool_history(attended, mask)  # type: ignore[no-any-return]

    def _of_words(self, words: Tensor, mask: Tensor) -> Tensor:
        attended = self.dropout(self.attend_words(self.dropout(words), mask))
        return self.pool_words(attended, mask)  # type: ignore[no-any-return]
