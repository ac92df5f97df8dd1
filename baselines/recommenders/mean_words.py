"""MeanWords: the mean of a title's word vectors, and the mean of the history: the trained reference."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from effbench import AdditivePooling, News, NewsIds, Recommender, TitleWords


class MeanWords(Recommender):
    """The mean of the words' vectors of a title; the user is the mean of the history. No attention.

    Definition::

        news = dropout(mean_i(word_i))      user = mean_j(news_j)      score of a candidate = news . user

    It is what the recommenders with attention have to beat. ``user=pooling`` pools the history by additive
    attention with a query of width 200. ``ids`` adds to each news of the training behaviours an embedding
    of its own, which stands for what its words do not tell.

    The vectors of words are d_model wide, through a linear map where the first weights are of another width.
    ``heads`` is not used. An empty title or history has the vector 0.

    Raises ValueError for a wrong option.
    """

    source = "none: a reference of effbench"

    def __init__(
        self,
        news: News,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        dropout: float,
        title: int = 0,
        user: Literal["mean", "pooling"] = "mean",
        ids: bool = False,
    ) -> None:
        super().__init__(news, d_model, heads, max_len=max_len, dropout=dropout)
        if user not in ("mean", "pooling"):
            raise ValueError(f"user is {user!r}, not mean or pooling")
        self.words = TitleWords(news, d_model, title=title)
        self.ids = NewsIds(news, d_model) if ids else None
        self.dropout = nn.Dropout(dropout)
        self.pool_history = AdditivePooling(d_model, 200) if user == "pooling" else None

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        vectors = self.words.encoded(rows, _mean)
        return self.dropout(vectors if self.ids is None else vectors + self.ids(rows))  # type: ignore[no-any-return]

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        if self.pool_history is None:
            return _mean(history, mask)
        return self.pool_history(history, mask)  # type: ignore[no-any-return]


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [B, D] of the real ones of x [B, N, D]; 0 where there is none."""
    total = x.masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
