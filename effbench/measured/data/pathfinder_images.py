"""Pathfinder images: two contours of dashes among distractors, and discs on two of the contours' ends.

Hundreds of images are drawn in lock-step, since numpy takes as long for one dash as for a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effbench.measured.data.pathfinder_dashes import (
    Bools,
    Bytes,
    Ints,
    Shape,
    border,
    disc_picture,
    scaled,
    tables_of,
)

BLOCK = 256  # images drawn together, with a random state of their own; part of what a seed means

_PADDING = 1  # pixels along the edge that belong to no contour
_REDRAWS = 3  # ends that are tried for one dash, and places for the first of a distractor
_DISTRACTOR_TRIES = 5
_FREE = 76  # highest level of a pixel that counts as free: 0.3
_OVERLAP = 459  # the least sum of the levels of two masks that overlap: 1.8
_LEAST_FREE = 0.01  # share of the window: with less free, no distractor begins
_ATTEMPTS = 1024  # pairs of contours begun together


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Images and what they show; pixels are (row, column).

    ``images`` [n, side, side], ``labels`` [n], ``discs`` [n, 2, 2] the discs' centres, ``starts`` and
    ``ends`` [n, 2, 2] of the two contours, ``contours`` [n, 2, side, side] and ``distractors``
    [n, side, side] their masks.
    """

    images: Bytes
    labels: Ints
    discs: Ints
    starts: Ints
    ends: Ints
    contours: Bytes
    distractors: Bytes


def images(count: int, shape: Shape, seed: Sequence[int]) -> tuple[Bytes, Ints]:
    """Return ``count`` images [count, side, side] and labels; image i depends on shape, seed and i only."""
    pixels = np.empty((count, shape.side, shape.side), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for first, drawn in _blocks(count, shape, seed):
        rows = slice(first, min(first + BLOCK, count))
        pixels[rows] = drawn.images[: count - first]
        labels[rows] = drawn.labels[: count - first]
    return pixels, labels


def _blocks(count: int, shape: Shape, seed: Sequence[int]) -> Iterator[tuple[int, Drawn]]:
    for block, first in enumerate(range(0, count, BLOCK)):
        yield first, draw(shape, np.random.default_rng((*seed, block)))


def draw(shape: Shape, rng: np.random.Generator, count: int = BLOCK) -> Drawn:
    """Draw ``count`` images at once."""
    margins = rng.choice(np.array(shape.margins), size=count)
    rows = [np.flatnonzero(margins == margin) for margin in shape.margins]
    parts = [
        _Drawing(shape, margin, rng).draw(len(row)) for margin, row in zip(shape.margins, rows, strict=True)
    ]
    order = np.argsort(np.concatenate(rows))
    return Drawn(
        **{name: np.concatenate([vars(part)[name] for part in parts])[order] for name in vars(parts[0])}
    )


@dataclass(kw_only=True)
class _Growing:
    """The last dash of each of n contours in growth: window, pivot, angle (an index of the tables), end."""

    window: Ints
    pivot: Ints
    angle: Ints
    end: Ints

    def take(self, which: Ints | Bools) -> _Growing:
        return _Growing(
            window=self.window[which], pivot=self.pivot[which], angle=self.angle[which], end=self.end[which]
        )


class _Drawing:
    """A drawing of images with one margin."""

    def __init__(self, shape: Shape, margin: int, rng: np.random.Generator) -> None:
        self.shape, self.rng, self.tables = shape, rng, tables_of(shape, margin)
        self.border = border(shape, margin)
        self.width = shape.side + 2 * self.border
        inside = np.zeros((self.width, self.width), dtype=np.uint8)
        self.window = (slice(self.border, -self.border),) * 2
        inside[self.window] = 255
        self.inside = inside.ravel()

    def draw(self, count: int) -> Drawn:
        """Draw target contours, then distractors, discs, and the picture."""
        shape, side = self.shape, self.shape.side
        masks, dashes, ends = self._contours(count)
        lines = np.zeros_like(masks)
        contours = np.zeros((2, *masks.shape), dtype=np.uint8)
        rows = np.arange(count)
        for contour in range(2):
            for i in range(shape.contour_length):
                dash, end = dashes[:, contour, i], ends[:, contour, i]
                self._stamp(lines, rows, end, self.tables.lines[dash])
                self._stamp(contours[contour], rows, end, self.tables.masks[dash])
        others, other_masks = self._distractors(masks)

        labels = self.rng.integers(2, size=count)
        first = self.rng.integers(2, size=count)
        second = np.where(labels == 1, first, 1 - first)
        starts, finals = self._pixels(ends[:, :, 0]), self._pixels(ends[:, :, -1])
        discs = np.stack([starts[rows, first], finals[rows, second]], axis=1)
        marks = np.array(
            [
                np.maximum(*(disc_picture(side, shape.disc_radius, *disc) for disc in pair))
                for pair in discs.tolist()
            ],
            dtype=np.uint8,
        ).reshape(count, side, side)
        # Single precision, in which halves are rounded down more often than up, as in the original.
        level = np.maximum(
            (self._cut(lines) / 255 * shape.contour_contrast).astype(np.float32),
            (self._cut(others) / 255 * shape.distractor_contrast).astype(np.float32),
        ).astype(float)
        return Drawn(
            images=scaled(np.maximum(level, marks / 255)),
            labels=labels,
            discs=discs,
            starts=starts,
            ends=finals,
            contours=np.stack([self._cut(mask) for mask in contours], axis=1),
            distractors=self._cut(other_masks),
        )

    def _cut(self, windows: Bytes) -> Bytes:
        """Return windows without the border, [n, side, side]."""
        return windows.reshape(-1, self.width, self.width)[:, *self.window]

    def _pixels(self, places: Ints) -> Ints:
        """Return (row, column) of places, in a new last dimension."""
        return np.stack(np.divmod(places, self.width), axis=-1) - self.border

    def _around(self, windows: Bytes, rows: Ints, places: Ints) -> tuple[Bytes, Ints]:
        """Return the windows as one row, and in it the pixels around a place in each, [n, P]."""
        return windows.reshape(-1), (rows * self.width**2 + places)[:, None] + self.tables.around

    def _stamp(self, windows: Bytes, rows: Ints, places: Ints, picture: Bytes) -> None:
        """Put a picture [n, P] around a place in each of the rows, where it is lighter than what is there."""
        flat, where = self._around(windows, rows, places)
        flat[where] = np.maximum(flat[where], picture & self.inside[places[:, None] + self.tables.around])

    def _extend(self, masks: Bytes, last: _Growing) -> tuple[_Growing, Bools]:
        """Return one more dash for each contour, and a mask of those that have one.

        The dash before it becomes part of the masks. So a dash may overlap the one before it and, as in the
        original, the newest one of the other contour.
        """
        tables = self.tables
        pivot = last.pivot + tables.step[last.angle]
        places = pivot[:, None] + tables.candidates
        near = (last.window * self.width**2)[:, None, None] + places[:, :, None] + tables.disc
        free = 1 - masks.reshape(-1)[near].max(axis=2) / 255
        sums = np.cumsum(tables.weights[last.angle] * free * (self.inside[places] > 0), axis=1)
        grown = np.zeros(len(pivot), dtype=bool)
        chosen = np.zeros(len(pivot), dtype=np.int64)
        trying = np.flatnonzero(sums[:, -1] >= 1e-4)
        for _ in range(_REDRAWS):
            goal = self.rng.random(len(trying)) * sums[trying, -1]
            chosen[trying] = (sums[trying] > goal[:, None]).argmax(axis=1)
            end = places[trying, chosen[trying]]
            new = tables.masks[tables.dash[360 + chosen[trying]]]
            flat, where = self._around(masks, last.window[trying], end)
            new = new & self.inside[end[:, None] + tables.around]
            overlaps = (flat[where].astype(np.uint16) + new >= _OVERLAP).any(axis=1)
            grown[trying[~overlaps]] = True
            trying = trying[overlaps]
        longer = last.take(grown)
        self._stamp(masks, longer.window, longer.end, tables.masks[tables.dash[longer.angle]])
        rows = np.arange(len(pivot))
        return _Growing(window=last.window, pivot=pivot, angle=360 + chosen, end=places[rows, chosen]), grown

    def _edges(self) -> Bytes:
        """Return a mask [width²] of the edge of the window."""
        mask = np.zeros((self.shape.side,) * 2, dtype=np.uint8)
        mask[:_PADDING] = mask[-_PADDING:] = mask[:, :_PADDING] = mask[:, -_PADDING:] = 255
        return np.pad(mask, self.border).ravel()

    # Target contours.

    def _contours(self, count: int) -> tuple[Bytes, Ints, Ints]:
        """Return masks [count, width²] of two contours each; dashes and ends [count, 2, contour_length]."""
        attempts = [self._attempt()]
        while sum(len(masks) for masks, _, _ in attempts) < count:
            attempts.append(self._attempt())
        masks, dashes, ends = (np.concatenate(values)[:count] for values in zip(*attempts, strict=True))
        return masks, dashes, ends

    def _attempt(self) -> tuple[Bytes, Ints, Ints]:
        """Return the pairs of contours, of ``_ATTEMPTS``, that reach their length."""
        length, tables = self.shape.contour_length, self.tables
        masks = np.tile(self._edges(), (_ATTEMPTS, 1))
        dashes = np.zeros((_ATTEMPTS, 2, length), dtype=np.int64)
        ends = np.zeros((_ATTEMPTS, 2, length), dtype=np.int64)
        last = list(self._seeds())
        for i in range(length):
            for contour in range(2):
                if i > 0:
                    last[contour], grown = self._extend(masks, last[contour])
                    last = [other.take(grown) for other in last]
                window = last[contour].window
                dashes[window, contour, i] = tables.dash[last[contour].angle]
                ends[window, contour, i] = last[contour].end
        alive = last[1].window
        # As in the original, the first contour's last dash is not in the way of distractors.
        self._stamp(masks, alive, last[1].end, tables.masks[dashes[alive, 1, -1]])
        return masks[alive], dashes[alive], ends[alive]

    def _seeds(self) -> tuple[_Growing, _Growing]:
        """Return the first dashes of both contours; they are far enough from the edge to have room."""
        distance, rng = self.shape.seed_distance, self.rng
        box = np.full((1, self.width, self.width), False)
        middle = slice(self.border + 2 * distance, -self.border - 2 * distance)
        box[:, middle, middle] = True
        angle = rng.choice(self.tables.degrees, size=_ATTEMPTS)  # others would be drawn again
        tail, window = self._free_tails(box, np.zeros(_ATTEMPTS, dtype=np.int64), angle)
        angle = angle[window]
        first = _Growing(window=window, pivot=tail + self.tables.pivot[angle], angle=angle, end=tail)
        turn = rng.integers(360, size=len(window)) * np.pi / 180
        y, x = (np.rint(np.round(distance * f(turn), 9)).astype(int) for f in (np.sin, np.cos))
        tail = tail + y * self.width + x
        angle = rng.integers(360, size=len(window))
        second = _Growing(window=window, pivot=tail + self.tables.pivot[angle], angle=angle, end=tail)
        return first, second

    def _free_tails(self, free: Bools, rows: Ints, angle: Ints) -> tuple[Ints, Ints]:
        """Return tails of first dashes, for those that find room, and the indices of these.

        Window ``rows`` [n] of ``free`` [windows, width, width] must be free at the core of a dash at its
        angle; pixels outside the window count as free.
        """
        edge, side = self.border, self.shape.side
        tails = np.full(len(angle), -1)
        dash = self.tables.dash[angle]
        for kind in np.unique(dash[self.tables.first[dash]]):
            those = np.flatnonzero(dash == kind)
            windows = free[rows[those]] if len(free) > 1 else free
            room = np.ones((len(windows), side, side), dtype=bool)
            for y, x in self._pixels(self.tables.cores[kind] + edge * (self.width + 1)).tolist():
                room &= windows[:, edge + y : edge + y + side, edge + x : edge + x + side]
            row, place = np.nonzero(room.reshape(len(windows), -1))
            counts = np.bincount(row, minlength=len(windows))
            firsts = np.cumsum(counts) - counts
            if len(free) == 1:
                counts, firsts = np.repeat(counts, len(those)), np.repeat(firsts, len(those))
            pick = (self.rng.random(len(those)) * counts).astype(np.int64)
            some = counts > 0
            y, x = np.divmod(place[(firsts + pick)[some]], side)
            tails[those[some]] = (y + edge) * self.width + x + edge
        with_room = np.flatnonzero(tails >= 0)
        return tails[with_room], with_room

    # Distractors.

    def _distractors(self, masks: Bytes) -> tuple[Bytes, Bytes]:
        """Return pictures and masks [n, width²] of distractors that find room, and add them to ``masks``."""
        lines, own = np.zeros_like(masks), np.zeros_like(masks)
        tables, length = self.tables, self.shape.distractor_length
        for _ in range(self.shape.distractors):
            missing = np.arange(len(masks))
            for _ in range(_DISTRACTOR_TRIES):
                attempt = masks[missing]
                last = self._distractor_seeds(attempt)
                dashes, ends = tables.dash[last.angle][:, None], last.end[:, None]
                for _ in range(length - 1):
                    last, grown = self._extend(attempt, last)
                    last = last.take(grown)
                    dashes = np.column_stack([dashes[grown], tables.dash[last.angle]])
                    ends = np.column_stack([ends[grown], last.end])
                done = missing[last.window]
                for i in range(length):
                    self._stamp(lines, done, ends[:, i], tables.lines[dashes[:, i]])
                    self._stamp(own, done, ends[:, i], tables.masks[dashes[:, i]])
                    self._stamp(masks, done, ends[:, i], tables.masks[dashes[:, i]])
                missing = np.setdiff1d(missing, done, assume_unique=True)
        return lines, own

    def _distractor_seeds(self, masks: Bytes) -> _Growing:
        """Return first dashes that find room, in windows of which enough is free."""
        free = masks.reshape(-1, self.width, self.width) <= _FREE
        enough = free[:, *self.window].mean(axis=(1, 2)) >= _LEAST_FREE
        rows = np.flatnonzero(enough)
        seeds = []
        for _ in range(_REDRAWS):
            angle = self.rng.integers(360, size=len(rows))
            tail, with_room = self._free_tails(free, rows, angle)
            rows, angle = rows[with_room], angle[with_room]
            head, pivot = tail + self.tables.head[angle], tail + self.tables.pivot[angle]
            inside = (self.inside[head] > 0) & (self.inside[pivot] > 0)
            seeds.append(_Growing(window=rows, pivot=pivot, angle=angle, end=tail).take(inside))
            rows = rows[~inside]
        order = np.argsort(np.concatenate([seed.window for seed in seeds]))
        return _Growing(
            **{name: np.concatenate([vars(seed)[name] for seed in seeds])[order] for name in vars(seeds[0])}
        )
