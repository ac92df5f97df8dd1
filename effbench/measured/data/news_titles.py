"""News: the table of news that a recommender is made for, as numpy arrays. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.examples import PAD, Integers


@dataclass(frozen=True, kw_only=True)
class News:
    """A table of news. Histories and candidates name its rows; row 0 stands for 'no news'.

    ``titles`` [n_news] are the titles as text, "" in row 0. ``tokens`` [n_news, title] are the word ids of
    the same titles, 0 for padding, which comes after the words; row 0 is all padding. ``vectors``
    [vocab_size, width], if given, are the first weights of the word embedding. ``trained`` [n_news] is True
    for news that occurs in the training behaviours.

    Raises ValueError for arrays that do not fit together.
    """

    titles: Sequence[str]
    tokens: Integers
    vocab_size: int
    vectors: NDArray[np.float32] | None = None
    trained: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.titles)
        if self.tokens.ndim != 2 or len(self.tokens) != count or self.trained.shape != (count,):
            raise ValueError(
                f"{count} titles, tokens of shape {self.tokens.shape} and trained of shape "
                f"{self.trained.shape} are not one table of news"
            )
        if count < 1 or (self.tokens[0] != PAD).any():
            raise ValueError("row 0 of the news stands for no news and must be all padding")
        if ((self.tokens[:, :-1] == PAD) & (self.tokens[:, 1:] != PAD)).any():
            raise ValueError("in the tokens of news, padding must come after the words")
        if self.vectors is not None and len(self.vectors) != self.vocab_size:
            raise ValueError(f"{len(self.vectors)} vectors for a vocabulary of {self.vocab_size}")

    def __len__(self) -> int:
        return len(self.titles)

    @property
    def lengths(self) -> Integers:
        """Words of each title, [n_news]."""
        counts: Integers = (self.tokens != PAD).sum(axis=1)
        return counts
