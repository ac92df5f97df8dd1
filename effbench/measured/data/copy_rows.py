"""Rows of selective copying: a few items among noise tokens, their generator and their baseline scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.measured.data.examples import Integers
from effbench.measured.data.recall_rows import IntArray, distinct
from effbench.measured.data.source_targets import SPECIAL, SourceTargets

Placement = Literal["segments", "free"]

_MOST_IDS = 1 << 16  # sources are 16-bit numbers


@dataclass(frozen=True, kw_only=True)
class CopyShape:
    """What a row looks like: ``length`` source tokens, of which ``items`` are items and the others noise.

    An item has one of ``values`` ids from SPECIAL on, a noise token one of the ``noise`` ids behind them. All
    are drawn uniformly. The target holds the items in the order of the source. ``placement=free`` draws the
    items' places from all subsets of places. ``placement=segments`` divides the source into as many segments
    of consecutive places as there are items, whose lengths differ by at most one, and draws one place in
    each. Raises UsageError for numbers that no row can have.
    """

    length: int
    items: int
    values: int
    noise: int
    placement: Placement

    def __post_init__(self) -> None:
        for name in ("items", "values", "noise"):
            if getattr(self, name) < 1:
                raise UsageError(f"copying: {name} must be at least 1, got {getattr(self, name)}")
        if self.length < self.items:
            raise UsageError(f"copying: seq_len {self.length} has no room for {self.items} items")
        if self.vocab > _MOST_IDS:
            raise UsageError(
                f"copying: values + noise must be at most {_MOST_IDS - SPECIAL}, "
                f"got {self.values + self.noise}"
            )
        if self.placement not in ("segments", "free"):
            raise UsageError(f"copying: placement is {self.placement!r}, not segments or free")

    @property
    def vocab(self) -> int:
        """Number of ids, padding, BEGIN and END included."""
        return SPECIAL + self.values + self.noise

    @property
    def bounds(self) -> IntArray:
        """Where each segment starts, and the length of the source, [items + 1]."""
        bounds: IntArray = np.arange(self.items + 1, dtype=np.int64) * self.length // self.items
        return bounds

    def possible(self) -> int:
        """Return the number of different sources."""
        if self.placement == "free":
            places = math.comb(self.length, self.items)
        else:
            places = math.prod(np.diff(self.bounds).tolist())
        return int(places * self.values**self.items * self.noise ** (self.length - self.items))


def copy_parts(sizes: Mapping[str, int], shape: CopyShape, seed: int) -> dict[str, SourceTargets]:
    """Return rows for each part, in the order of ``sizes``. No source occurs twice, in any part.

    A part depends on the seed, on its rows and on the parts before it. Raises UsageError if more than half of
    all possible sources are asked for.
    """
    total = sum(sizes.values())
    if 2 * total > shape.possible():
        raise UsageError(
            f"copying: {total} different rows are too many: there are {shape.possible()} different sources, "
            "of which at most half are drawn; raise values, noise or the length, or ask for fewer rows"
        )
    seen: set[bytes] = set()
    parts = {}
    for number, (part, rows) in enumerate(sizes.items()):
        rng = np.random.default_rng((seed, number))
        sources, targets = _new(rows, shape, rng, seen)
        parts[part] = SourceTargets(
            sources=sources.ravel(),
            source_starts=np.arange(rows + 1) * shape.length,
            targets=targets.ravel(),
            target_starts=np.arange(rows + 1) * shape.items,
        )
    return parts


def _new(
    rows: int, shape: CopyShape, rng: np.random.Generator, seen: set[bytes]
) -> tuple[Integers, Integers]:
    """Return sources [rows, length] whose digests are not in ``seen``, and targets [rows, items].

    Their digests are added to ``seen``.
    """
    sources = np.empty((rows, shape.length), dtype=np.uint16)
    targets = np.empty((rows, shape.items), dtype=np.uint16)
    missing = np.arange(rows)
    while len(missing):
        sources[missing], targets[missing] = _drawn(len(missing), shape, rng)
        again = []
        for row in missing.tolist():
            source = hashlib.blake2b(sources[row].tobytes(), digest_size=16).digest()
            if source in seen:
                again.append(row)
            seen.add(source)
        missing = np.array(again, dtype=np.int64)
    return sources, targets


def _drawn(
    rows: int, shape: CopyShape, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return sources [rows, length] and targets [rows, items]."""
    first = SPECIAL + shape.values
    sources = rng.integers(first, shape.vocab, size=(rows, shape.length), dtype=np.uint16)
    targets = rng.integers(SPECIAL, first, size=(rows, shape.items), dtype=np.uint16)
    if shape.placement == "free":
        places: Integers = np.sort(distinct(rows, shape.items, shape.length, rng), axis=1)
    else:
        places = rng.integers(shape.bounds[:-1], shape.bounds[1:], size=(rows, shape.items))
    np.put_along_axis(sources, places, targets, axis=1)
    return sources, targets


def copy_priors(train: SourceTargets, test: SourceTargets) -> dict[str, dict[str, float]]:
    """Return ``exact_match`` and ``token_accuracy`` on the test targets of answers that copy nothing.

    ``majority`` answers at each place of the target the commonest value that training has there. ``any
    order`` knows the items of the source but not their order: the expectation of a random order.
    All targets must have the same number of tokens.
    """
    items = int(test.target_lengths[0])
    trained, wanted = (part.targets.reshape(-1, items).astype(np.int64) for part in (train, test))
    common = np.array([np.bincount(column).argmax() for column in trained.T])
    counts = _counts(wanted)
    log_orders = np.array([math.lgamma(n + 1) for n in range(items + 1)])
    return {
        "exact_match": {
            "majority": float((wanted == common).all(axis=1).mean()),
            "any order": float(np.exp(log_orders[counts].sum(axis=1) - log_orders[items]).mean()),
        },
        "token_accuracy": {
            "majority": float((wanted == common).mean()),
            "any order": float(((counts / items) ** 2).sum(axis=1).mean()),
        },
    }


def _counts(targets: NDArray[np.integer[Any]]) -> IntArray:
    """Return how often each id occurs in each row: [rows, largest id + 1]."""
    counts = np.zeros((len(targets), int(targets.max()) + 1), dtype=np.int64)
    np.add.at(counts, (np.arange(len(targets))[:, None], targets), 1)
    return counts
