"""An n-gram model of tokens with interpolated Kneser-Ney smoothing, and the unigram model below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.examples import Integers
from effbench.measured.data.source_targets import BEGIN

DISCOUNT = 0.75  # the usual constant; Ney et al. 1994 estimate 0.7 to 0.8 from counts
ORDER = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    """The counts of one order: keys of n-grams and of their contexts, both sorted."""

    keys: Integers
    counts: Integers
    contexts: Integers
    totals: Integers  # of each context
    kinds: Integers  # different tokens that follow each context


class KneserNey:
    """p(w | the two tokens before it), interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1999).

    With the discount D and a context h that was seen::

        p(w | h) = max(c(h w) - D, 0) / c(h) + D kinds(h) / c(h) p(w | h without its first token)

    c counts at the highest order; below it counts the different tokens before h w. A context that was not
    seen has the probability of the shorter one. The lowest order is interpolated with 1 / ``vocab_size``, so
    that every token of the vocabulary has a probability above 0, and they add up to 1.

    Rows [n, N] are segments of text: the context of the first token is BEGIN alone.
    """

    def __init__(self, rows: Integers, vocab_size: int) -> None:
        if vocab_size**ORDER >= 2**63:
            raise ValueError(f"a vocabulary of {vocab_size} is too large for {ORDER}-grams")
        self.vocab_size = vocab_size
        grams = _grams(rows, vocab_size)
        keys, counts = np.unique(grams, return_counts=True)
        # one occurrence is added to each, for tokens that training lacks
        occurrences = np.bincount(rows.reshape(-1), minlength=vocab_size) + 1
        self._unigram: Floats = occurrences / occurrences.sum()
        self._levels = [_level(keys, counts, vocab_size)]
        for order in range(ORDER - 1, 1, -1):
            # each different longer n-gram counts once for what is left without its first token
            keys, counts = np.unique(keys % vocab_size**order, return_counts=True)
            self._levels.append(_level(keys, counts, vocab_size))
        followers = np.bincount(keys % vocab_size, minlength=vocab_size)
        total = max(1, int(followers.sum()))
        spread = DISCOUNT * np.count_nonzero(followers) / total if followers.any() else 1.0
        self._lowest: Floats = np.maximum(followers - DISCOUNT, 0) / total + spread / vocab_size

    def of(self, rows: Integers) -> Floats:
        """Return the probability of every token of rows [n, N], given the two tokens before it: [n, N]."""
        return self.of_grams(_grams(rows, self.vocab_size)).reshape(rows.shape)

    def of_grams(self, grams: Integers) -> Floats:
        """Return p(c | a b) of n-grams by their key, (a vocab_size + b) vocab_size + c."""
        size = self.vocab_size
        p: Floats = self._lowest[grams % size]
        for order, level in zip(range(2, ORDER + 1), reversed(self._levels), strict=True):
            keys = grams % size**order
            seen, place = _found(level.contexts, keys // size)
            total, kinds = level.totals[place], level.kinds[place]
            known, at = _found(level.keys, keys)
            counts = np.where(known, level.counts[at], 0)
            with_own = np.maximum(counts - DISCOUNT, 0) / total + DISCOUNT * kinds / total * p
            p = np.where(seen, with_own, p)
        return p

    def unigram(self, rows: Integers) -> Floats:
        """Return the share that each token of rows [n, N] has of the training rows (add-one smoothing)."""
        return self._unigram[rows]


def _grams(rows: Integers, size: int) -> Integers:
    """Return the key of each token with the two before it in its row, [n N]."""
    padded = np.pad(rows.astype(np.int64), ((0, 0), (ORDER - 1, 0)), constant_values=BEGIN)
    keys = np.zeros(rows.shape, dtype=np.int64)
    for place in range(ORDER):
        keys = keys * size + padded[:, place : place + rows.shape[1]]
    return keys.reshape(-1)


def _level(keys: Integers, counts: Integers, size: int) -> _Level:
    """Return the counts with those of the contexts; ``keys`` are sorted and different."""
    contexts, first, kinds = np.unique(keys // size, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first) if len(first) else counts
    return _Level(keys, counts, contexts, totals, kinds)


def _found(sorted_keys: Integers, wanted: Integers) -> tuple[NDArray[np.bool_], Integers]:
    """Return (whether each wanted key is there, its place, 0 where it is not)."""
    place = np.searchsorted(sorted_keys, wanted)
    place[place == len(sorted_keys)] = 0
    found = sorted_keys[place] == wanted
    return found, np.where(found, place, 0)
