"""A complete news recommender: the largest features of a title's words, and the mean of the history."""

from __future__ import annotations

from torch import Tensor

from effbench import News, Recommender, TitleWords


class LargestWords(Recommender):
    """The largest of each feature of a title's words; the user is the mean of the history.

    ``title`` cuts titles to their first words (0: not at all). The width is d_model; ``heads`` is not used.
    """

    source = "none: an example"

    def __init__(
        self, news: News, d_model: int, heads: int, *, max_len: int, dropout: float, title: int = 0
    ) -> None:
        super().__init__(news, d_model, heads, max_len=max_len, dropout=dropout)
        self.words = TitleWords(news, d_model, title=title)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        return self.words.encoded(rows, _largest)

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        total = history.masked_fill(~mask[..., None], 0.0).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _largest(words: Tensor, mask: Tensor) -> Tensor:
    """Return the largest of each feature [m, d_model] of words [m, T, d_model]; 0 for a title without any."""
    lowest = words.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    return lowest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
