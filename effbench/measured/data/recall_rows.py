"""Rows of multi-query associative recall: their generator and their baseline scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.examples import Integers

_CHUNK = 1 << 21  # random numbers at a time

IntArray = NDArray[np.int64]
Unsigned = NDArray[np.unsignedinteger[Any]]


def possible_rows(vocab: int, length: int, pairs: int) -> int:
    """Return the number of different rows without fillers: keys, values and slots, each in order."""
    half, slots = vocab // 2, (length - 2 * pairs) // 2
    return math.perm(half - 1, pairs) * math.perm(half, pairs) * math.perm(slots, pairs)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one shape: ``tokens`` [n, length], and ``slots`` [n, pairs], the 0-based slot of each key."""

    tokens: Unsigned
    slots: Unsigned

    @property
    def positions(self) -> IntArray:
        """Position of each pair's query in its row, [n, pairs]."""
        positions: IntArray = 2 * self.slots.shape[1] + 2 * self.slots.astype(np.int64)
        return positions

    @property
    def values(self) -> IntArray:
        """Each pair's value, [n, pairs]."""
        return self.tokens[:, 1 : 2 * self.slots.shape[1] : 2].astype(np.int64)

    def take(self, rows: Integers) -> Block:
        """Return the given rows in the given order."""
        return Block(tokens=self.tokens[rows], slots=self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Recall:
    """A part of the data: its rows are those of the blocks, one block after the other."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return sum(len(block.tokens) for block in self.blocks)

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, [n]."""
        return np.concatenate([np.full(len(b.tokens), b.tokens.shape[1]) for b in self.blocks])


def generate(
    rows: int, length: int, pairs: int, vocab: int, alpha: float, fillers: bool, rng: np.random.Generator
) -> Block:
    """Return rows as the task ``mqar`` describes them."""
    half = vocab // 2
    kind = np.uint16 if max(vocab, length) <= 1 << 16 else np.uint32
    tokens: Unsigned = np.zeros((rows, length), dtype=kind)
    if fillers:
        tokens = rng.integers(vocab, size=(rows, length), dtype=kind)
    tokens[:, 0 : 2 * pairs : 2] = 1 + distinct(rows, pairs, half - 1, rng)
    tokens[:, 1 : 2 * pairs : 2] = half + distinct(rows, pairs, half, rng)
    weights = np.arange(1, (length - 2 * pairs) // 2 + 1, dtype=np.float64) ** (alpha - 1.0)
    slots = weighted(rows, pairs, weights, rng)
    where = np.arange(rows)[:, None]
    tokens[where, 2 * pairs + 2 * slots] = tokens[:, 0 : 2 * pairs : 2]
    return Block(tokens=tokens, slots=slots.astype(kind))


def distinct(rows: int, n: int, below: int, rng: np.random.Generator) -> IntArray:
    """Return [rows, n]: in each row n different numbers of 0 ... below - 1, all orders equally likely.

    Floyd's sampling (Bentley and Floyd 1987), one step for all rows at once: it needs no permutation of all
    numbers, and no more draws if n is nearly ``below``.
    """
    chosen = np.full((rows, n), -1, dtype=np.int64)
    for i in range(n):
        last = below - n + i
        drawn = rng.integers(last + 1, size=rows)
        chosen[:, i] = np.where((chosen[:, :i] == drawn[:, None]).any(axis=1), last, drawn)
    return rng.permuted(chosen, axis=1)


def weighted(rows: int, n: int, weights: NDArray[np.floating[Any]], rng: np.random.Generator) -> IntArray:
    """Return [rows, n]: n different places in each row, drawn one after the other in proportion to weights.

    An exponential race: the n shortest waiting times with these rates are a draw without replacement.
    """
    chosen = np.empty((rows, n), dtype=np.int64)
    step = max(1, _CHUNK // len(weights))
    for start in range(0, rows, step):
        times = rng.standard_exponential((min(step, rows - start), len(weights))) / weights
        first = np.argpartition(times, n - 1, axis=1)[:, :n]
        order = np.take_along_axis(times, first, axis=1).argsort(axis=1)
        chosen[start : start + step] = np.take_along_axis(first, order, axis=1)
    return chosen


def recall_priors(train: Recall, test: Recall) -> dict[str, float]:
    """Return accuracies on the test queries of answers that need no recall.

    ``majority`` answers the commonest value of training. ``a value of the row`` is the expectation of a
    random choice among the row's values. ``slot`` answers the value of the pair that most often has the
    query's slot in training rows of that shape (the first pair if training has no such shape or slot).
    """
    answers = np.concatenate([block.values.ravel() for block in train.blocks])
    common = int(np.bincount(answers).argmax())
    queries = sum(block.slots.size for block in test.blocks)
    by_slot = {block.tokens.shape[1:] + block.slots.shape[1:]: _pair_of_slot(block) for block in train.blocks}
    slot_hits = 0
    for block in test.blocks:
        n = block.slots.shape[1]
        blind = np.zeros((block.tokens.shape[1] - 2 * n) // 2, dtype=np.int64)
        guess = by_slot.get((block.tokens.shape[1], n), blind)
        slot_hits += int((guess[block.slots] == np.arange(n)).sum())
    return {
        "majority": sum(int((block.values == common).sum()) for block in test.blocks) / queries,
        "a value of the row": len(test) / queries,
        "slot": slot_hits / queries,
    }


def _pair_of_slot(block: Block) -> IntArray:
    """Return, for each slot, the pair whose query stands there most often."""
    n = block.slots.shape[1]
    slots = (block.tokens.shape[1] - 2 * n) // 2
    counts = np.zeros((slots, n), dtype=np.int64)
    np.add.at(counts, (block.slots, np.arange(n)), 1)
    likeliest: IntArray = counts.argmax(axis=1)
    return likeliest


def row_hashes(block: Block) -> NDArray[np.uint64]:
    """Return a number for each row: equal for equal rows, different for all others but one pair in 2^63."""
    columns = block.tokens.shape[1]
    weights = np.empty(columns, dtype=np.uint64)
    weights[:] = np.random.default_rng(0).integers(1 << 63, size=columns)
    weights = 2 * weights + 1
    hashes = np.zeros(len(block.tokens), dtype=np.uint64)
    for column in range(columns):
        hashes += block.tokens[:, column] * weights[column]  # modulo 2^64
    return hashes
