"""Rows of lookups: entries of a key with its value among questions for keys, and their baseline score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from effbench.common.spec import UsageError
from effbench.measured.data.examples import UNLABELLED, Integers


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """Rows ``tokens`` [n, length] of entries and questions, with ``values`` values.

    Every key has one entry in every row. Id k is the question for key k. Id ``keys + k * values + v`` is the
    entry of key k with value v.
    """

    tokens: Integers
    values: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def keys(self) -> int:
        """The number of keys, and of the entries of a row."""
        return keys_of(self.tokens.shape[1])

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, [n]."""
        return np.full(len(self), self.tokens.shape[1])

    def table(self) -> Integers:
        """Return the value of each key in each row, [n, keys]."""
        entries = self.tokens[self.tokens >= self.keys].reshape(len(self), self.keys) - self.keys
        values = np.empty_like(entries)
        np.put_along_axis(values, entries // self.values, entries % self.values, axis=1)
        return values

    def labels(self, rows: Integers) -> Integers:
        """Return, for the given rows, the entry of the key at each question, else UNLABELLED, [n, length]."""
        taken = Lookups(tokens=self.tokens[rows], values=self.values)
        asked = np.minimum(taken.tokens, self.keys - 1)  # an entry asks for nothing: any key will do
        answers = self.keys + asked * self.values + np.take_along_axis(taken.table(), asked, axis=1)
        return np.where(taken.tokens < self.keys, answers, UNLABELLED)


def keys_of(length: int) -> int:
    """Return the number of keys at a length: half of a row are entries, the larger half if it is odd."""
    return (length + 1) // 2


def lookup_parts(sizes: Mapping[str, int], length: int, values: int, seed: int) -> dict[str, Lookups]:
    """Return rows of ``length`` tokens for each part, in the order of ``sizes``; no row occurs twice.

    A part depends on the seed, on its rows and on the parts before it. Raises UsageError if more than half of
    all possible rows are asked for.
    """
    require_rows(sum(sizes.values()), length, values)
    seen: set[bytes] = set()
    parts = {}
    for number, (part, rows) in enumerate(sizes.items()):
        rng = np.random.default_rng((seed, number))
        tokens = np.empty((rows, length), dtype=np.int64)
        missing = np.arange(rows)
        while len(missing):
            tokens[missing] = _drawn(len(missing), length, values, rng)
            again = []
            for row in missing.tolist():
                digest = hashlib.blake2b(tokens[row].tobytes(), digest_size=16).digest()
                if digest in seen:
                    again.append(row)
                seen.add(digest)
            missing = np.array(again, dtype=np.int64)
        parts[part] = Lookups(tokens=tokens, values=values)
    return parts


def require_rows(rows: int, length: int, values: int) -> None:
    """Raise UsageError if so many different rows are more than half of all possible ones."""
    if 2 * rows > (possible := _possible(length, values)):
        raise UsageError(
            f"lookup: {rows} different rows are too many: there are {possible} of {length} tokens with "
            f"values={values}, of which at most half are drawn; raise seq_len, or ask for fewer rows"
        )


def _possible(length: int, values: int) -> int:
    """Return the number of different rows: orders of the tokens, the key without a question, and tables."""
    keys = keys_of(length)
    more = keys % values  # so many values occur once more than the others
    table = math.factorial(keys) // math.factorial(keys // values) ** values // (keys // values + 1) ** more
    return int(math.factorial(length) * math.comb(keys, length // 2) * table * (values if more else 1))


def _drawn(rows: int, length: int, values: int, rng: np.random.Generator) -> Integers:
    """Return rows [rows, length] of entries and questions in random order.

    In a row any two values occur equally often, or one of them once more if the keys do not divide.
    """
    keys = keys_of(length)
    numbers = np.broadcast_to(np.arange(keys), (rows, keys))
    table = rng.permuted((numbers + rng.integers(values, size=(rows, 1))) % values, axis=1)
    questions = rng.permuted(numbers, axis=1)[:, : length // 2]
    tokens = np.concatenate([questions, keys + numbers * values + table], axis=1)
    return rng.permuted(tokens, axis=1)


def lookup_priors(train: Lookups, test: Lookups) -> dict[str, float]:
    """Return the accuracy on the test questions of the best answer that reads no other token.

    ``key alone`` answers, for each key, the value that it has most often in the training part.
    """
    trained = train.table()
    counts = np.stack([(trained == value).sum(axis=0) for value in range(train.values)])
    return {"key alone": float((test.table() == counts.argmax(axis=0)).mean())}
