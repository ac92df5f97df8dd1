"""The interface of a news recommender, for effbench's own and for every plug-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effbench.measured.data.news_titles import News
from effbench.measured.mechanism import Unsupported

__all__ = ["MakeRecommender", "News", "Recommender"]


class Recommender(nn.Module):
    """Histories and candidates -> a score of each candidate; higher means a click is more likely.

    A subclass is built as ``Class(news, d_model, heads, *, max_len, dropout, **options)`` for one table of
    news and histories of at most ``max_len`` clicks. Its further keyword-only parameters are its options:
    their names, types, defaults and ``Literal`` choices are read from the source. ``source``, ``requires``
    and ``install`` are literals, as those of a mechanism. So is ``reads``: the options that name a folder,
    each with the files that it must have, ``{"folder": ("config.json", "*.bin|*.safetensors")}``. A run does
    not begin without them, and their content is part of the record's ``code``.

    It defines ``encode``, the features of news, and either ``user``, one vector of a history, whose product
    with a candidate's vector is the score, or its own ``score``. Features are computed once for every news
    and then shared by all histories and candidates that name it.

    Laws that every recommender keeps: padding of a history or of a title changes nothing, and neither does
    what stands in row 0 of the table; a row of a batch does not depend on the others; an empty history gives
    finite scores; in evaluation mode ``forward`` is ``score`` of the features of the whole table. A parameter
    with an attribute ``lr_factor`` is trained with the learning rate times it. Raise
    :class:`Unsupported` with a reason for what it cannot do, ValueError for a wrong option value.
    """

    source: ClassVar[str] = ""
    requires: ClassVar[str] = ""
    install: ClassVar[str] = ""
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, news: News, d_model: int, heads: int, *, max_len: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or d_model < 1 or d_model % heads:
            raise ValueError(f"heads ({heads}) must divide d_model ({d_model})")
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.d_model = d_model
        self.heads = heads
        self.max_len = max_len
        self.news_rows = len(news)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the features of news [n, ...] for rows [n] of the table."""
        raise NotImplementedError

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, D] of the features of a history [B, H, ...]; mask [B, H].

        A recommender that defines ``score`` needs no vector of a user.
        """
        raise NotImplementedError

    def score(self, history: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """Score candidates [B, C, ...] for histories [B, H, ...], both as features -> [B, C].

        mask [B, H] is True for a real click.
        """
        return torch.einsum("bcd,bd->bc", candidates, self.user(history, mask))

    def forward(self, history_rows: Tensor, mask: Tensor, candidate_rows: Tensor) -> Tensor:
        """Score candidates [B, C] for histories [B, H], both as rows of the table of news -> [B, C].

        mask [B, H] is True for a real click. Each news of the batch is encoded once.
        """
        # padding may name any row: nothing is computed for it
        history_rows = history_rows.masked_fill(~mask, 0)
        named = torch.cat((history_rows.flatten(), candidate_rows.flatten()))
        rows, places = torch.unique(named, return_inverse=True)
        features = self.encode(rows)
        history, candidates = (
            features.index_select(0, part).unflatten(0, shape)
            for part, shape in zip(
                places.split((history_rows.numel(), candidate_rows.numel())),
                (history_rows.shape, candidate_rows.shape),
                strict=True,
            )
        )
        return self.score(history, mask, candidates)


@dataclass(frozen=True, kw_only=True)
class MakeRecommender:
    """Makes new instances of the recommender that a cell names, on the CPU and in float32."""

    kind: Callable[..., Any]
    label: str
    d_model: int
    heads: int
    options: Mapping[str, Any]

    def __call__(self, news: News, *, max_len: int, dropout: float) -> Recommender:
        """Return a new instance for this table of news and histories of at most ``max_len`` clicks.

        Raises Unsupported if the recommender refuses its options.
        """
        try:
            made = self.kind(news, self.d_model, self.heads, max_len=max_len, dropout=dropout, **self.options)
        except ValueError as error:
            raise Unsupported(f"{self.label}: {error}") from None
        if not isinstance(made, Recommender):
            raise Unsupported(f"{self.label}: its class does not derive from effbench.Recommender")
        return made
