"""The extent of a training: how much it reads, as far as that is known before it begins."""

from __future__ import annotations

from dataclasses import dataclass

# A row with less than this share of the length that it stands for is mostly padding.
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The rows of a task's parts, what a model reads for one of them, and how often.

    ``tokens`` are the mean real tokens of a row of the test part, as the column ``mean_tokens`` counts them.
    ``passes`` are what the layers read for a row of the training part: (how many sequences, tokens of each),
    None for one of ``tokens``. ``scored`` is the same for a row that is scored, None for the same as in
    training. ``predicted`` tokens of a row are chosen among ``vocabulary`` ids, which a model embeds.
    ``written`` tokens of each row of the test part are written one after the other.
    """

    train: int
    validation: int
    test: int
    tokens: float
    epochs: int
    evaluations: int = 1
    passes: tuple[tuple[float, float], ...] | None = None
    scored: tuple[tuple[float, float], ...] | None = None
    predicted: float = 0.0
    vocabulary: int = 0
    written: int = 0


def mostly_padding(seq_len: int, mean_tokens: float) -> bool:
    """True if rows of so many tokens fill less than half of their length; False for NaN, not known."""
    return mean_tokens < HALF * seq_len


def padding_in_words(seq_len: int, mean_tokens: float) -> str:
    """Return ``rows have 11 of 3,000 tokens on average``."""
    digits = 0 if mean_tokens >= 10 else 1
    return f"rows have {mean_tokens:,.{digits}f} of {seq_len:,} tokens on average"
