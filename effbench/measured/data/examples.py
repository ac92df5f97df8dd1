"""Labelled rows of tokens, the three parts of a task's data, and the order in which rows are divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]

PAD = 0
UNLABELLED = -100  # the label of a token that is not predicted: torch's cross-entropy leaves it out


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Ragged token rows with a label each: row i is ``tokens[starts[i]:starts[i + 1]]``.

    ``tokens`` [all tokens], ``starts`` [n + 1] and ``labels`` [n] are integer arrays; id 0 is padding and
    stands in no row.
    """

    tokens: Integers
    starts: Integers
    labels: Integers

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, [n]."""
        return np.diff(self.starts)

    def row(self, i: int) -> Integers:
        """Return the tokens of row i."""
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    def take(self, rows: Integers, longest: int | None = None) -> Examples:
        """Return the given rows in the given order, cut to their first ``longest`` tokens."""
        places, starts = ragged_places(self.starts, rows, longest)
        return Examples(tokens=self.tokens[places], starts=starts, labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's data: three parts, the sizes that its model needs, and the baseline scores.

    ``priors`` are the scores on the test part of predictors that hardly read the input; ``facts`` are counts
    or shares worth keeping beside a score, and ``series`` are series of numbers. All three are copied into
    the record. ``vectors`` [vocab_size, width], if given, are the first weights of the token embedding; any
    width is possible.
    """

    train: Examples
    validation: Examples
    test: Examples
    vocab_size: int
    classes: int
    priors: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    vectors: NDArray[np.float32] | None = None


def ragged_places(
    starts: Integers, rows: Integers, longest: int | None = None, *, latest: bool = False
) -> tuple[Integers, Integers]:
    """Return (places of the values of these ragged rows, where each of these rows starts then).

    Row i is ``values[starts[i]:starts[i + 1]]``. Of more than ``longest`` values the first ones are taken, or
    the last ones if ``latest``.
    """
    lengths = starts[rows + 1] - starts[rows]
    if longest is not None:
        lengths = np.minimum(lengths, longest)
    taken = np.concatenate(([0], np.cumsum(lengths)))
    first = starts[rows + 1] - lengths if latest else starts[rows]
    return np.arange(taken[-1]) + np.repeat(first - taken[:-1], lengths), taken


def padded(
    values: Integers, starts: Integers, rows: Integers, fill: int = PAD
) -> tuple[Integers, NDArray[np.bool_]]:
    """Return (the ragged rows as [B, N] with ``fill`` behind them, a mask [B, N] that is True for a value).

    N is the longest row's length and at least 1.
    """
    places, taken = ragged_places(starts, rows)
    sizes = np.diff(taken)
    mask = np.arange(max(1, int(sizes.max(initial=0)))) < sizes[:, None]
    filled = np.full(mask.shape, fill, dtype=np.int64)
    filled[mask] = values[places]  # row-major on both sides
    return filled, mask


def joined_rows(rows: list[bytes]) -> tuple[NDArray[np.uint8], Integers]:
    """Return the rows' bytes in one array, and where each row starts [n + 1]."""
    starts = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    return np.frombuffer(b"".join(rows), dtype=np.uint8), starts


def stratified_order(labels: Integers, rng: np.random.Generator) -> Integers:
    """Return a random order of all rows whose every beginning has the classes in proportion."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    # Classes tie often: the shuffle decides.
    return shuffled[np.argsort(place[shuffled], kind="stable")]
