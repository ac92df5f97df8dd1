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
    """The form of a row: of ``length`` source tokens, ``items`` are items and the others are noise.

    An item has one of ``values`` ids from SPECIAL on, a noise token one of the ``noise`` ids behind them. All
    are drawn uniformly. The target holds the items in the order of the source. Items stand at some of
    ``places`` evenly spaced positions (of all positions, if the source is shorter): ``placement=free`` draws
    any subset of the places. ``placement=segments`` divides them into as many segments of consecutive places
    as there are items, whose sizes differ by at most one, and draws one place in each. Raises ValueError for
    numbers that no row can have.
    """

    length: int
    items: int
    values: int
    noise: int
    places: int
    placement: Placement

    def __post_init__(self) -> None:
        for name in ("items", "values", "noise"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.places < self.items:
            raise ValueError(f"places must be at least items ({self.items}), got {self.places}")
        if self.length < self.items:
            raise ValueError(f"{self.length} tokens have no room for {self.items} items")
        if self.vocab > _MOST_IDS:
            raise ValueError(
                f"values + noise must be at most {_MOST_IDS - SPECIAL}, got {self.values + self.noise}"
            )
        if self.placement not in ("segments", "free"):
            raise ValueError(f"placement is {self.placement!r}, not segments or free")

    @property
    def vocab(self) -> int:
        """Number of ids, padding, BEGIN and END included."""
        return SPECIAL + self.values + self.noise

    @property
    def positions(self) -> IntArray:
        """The positions of the places, ascending."""
        count = min(self.places, self.length)
        positions: IntArray = np.arange(count, dtype=np.int64) * self.length // count
        return positions

    @property
    def bounds(self) -> IntArray:
        """The first place of each segment, and the number of places, [items + 1]."""
        count = len(self.positions)
        bounds: IntArray = np.arange(self.items + 1, dtype=np.int64) * count // self.items
        return bounds

    def possible(self) -> int:
        """Return the number of different sources."""
        if self.placement == "free":
            places = math.comb(len(self.positions), self.items)
        else:
            places = math.prod(np.diff(self.bounds).tolist())
        return int(places * self.values**self.items * self.noise ** (self.length - self.items))

    def require(self, rows: int) -> None:
        """Raise UsageError if so many different sources are more than half of all possible ones."""
        if 2 * rows > (possible := self.possible()):
            raise UsageError(
                f"copying: {rows} different rows are too many: there are {possible} different sources, "
                "of which at most half are drawn; raise values, noise or seq_len, or ask for fewer rows"
            )


def copy_parts(sizes: Mapping[str, int], shape: CopyShape, seed: int) -> dict[str, SourceTargets]:
    """Return rows for each part, in the order of ``sizes``. No source occurs twice, in any part.

    A part depends on the seed, on its rows and on the parts before it. Raises UsageError if more than half of
    all possible sources are asked for.
    """
    shape.require(sum(sizes.values()))
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
        places: Integers = np.sort(distinct(rows, shape.items, len(shape.positions), rng), axis=1)
    else:
        places = rng.integers(shape.bounds[:-1], shape.bounds[1:], size=(rows, shape.items))
    np.put_along_axis(sources, shape.positions[places], targets, axis=1)
    return sources, targets


def copy_priors(train: SourceTargets, test: SourceTargets) -> dict[str, dict[str, float]]:
    """Return ``exact_match`` and ``token_accuracy`` on the test targets of each answer that copies nothing.

    ``majority`` answers at each place of the target the commonest value that training has there.
    ``any_order`` knows the items of the source but not their order: the expectation of a random order.
    All targets must have the same number of tokens.
    """
    items = int(test.target_lengths[0])
    trained, wanted = (part.targets.reshape(-1, items).astype(np.int64) for part in (train, test))
    common = np.array([np.bincount(column).argmax() for column in trained.T])
    nth = _occurrences(wanted)
    orders = np.log(nth).sum(axis=1) - math.lgamma(items + 1)  # log of the share of orders that are right
    return {
        "majority": {
            "exact_match": float((wanted == common).all(axis=1).mean()),
            "token_accuracy": float((wanted == common).mean()),
        },
        "any_order": {
            "exact_match": float(np.exp(orders).mean()),
            "token_accuracy": float((2 * nth - 1).sum(axis=1).mean() / items**2),
        },
    }


def _occurrences(targets: NDArray[np.integer[Any]]) -> IntArray:
    """Return, for each token of the sorted rows, how often it occurred up to there: 1, 2, ... [rows, items].

    The product over a row is that of the factorials of its counts, and the sum of 2 n - 1 that of their
    squares.
    """
    ordered = np.sort(targets, axis=1)
    nth = np.ones(ordered.shape, dtype=np.int64)
    for place in range(1, ordered.shape[1]):
        again = ordered[:, place] == ordered[:, place - 1]
        nth[again, place] = nth[again, place - 1] + 1
    return nth
