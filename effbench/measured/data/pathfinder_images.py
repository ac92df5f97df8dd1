"""Pathfinder images: two contours of dashes among distractors, and discs on two of the contours' ends.

Hundreds of images are drawn in lock-step, since numpy costs the same for one dash as for a thousand. Whatever
depends on an angle alone is in a table: a candidate end of a dash is one of a few pixels around a pivot, so
that there are only some dozens of different dashes. A pixel is a number, its place in a window that is
bordered so that no dash reaches beyond it; "mask" is a dash thickened by the margin, in levels 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONTOUR_LENGTHS = {"baseline": 6, "intermediate": 9, "hard": 14}
SIDES = (32, 64, 128)
BLOCK = 256  # images drawn together, with a random state of their own; part of what a seed means

_FINE = 2  # dashes and discs are drawn this many times larger, then reduced
_PADDING = 1  # pixels along the edge that belong to no contour
_REDRAWS = 3  # ends that are tried for one dash, and places for the first of a distractor
_DISTRACTOR_TRIES = 5
_FREE = 76  # highest level of a pixel that counts as free: 0.3
_OVERLAP = 459  # the least sum of the levels of two masks that overlap: 1.8
_LEAST_FREE = 0.01  # of the window: where less is free, no distractor is begun
_ATTEMPTS = 1024  # pairs of contours begun together


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What images look like; lengths in pixels, contrasts relative to the discs'.

    A dash has ``dash_length`` and ``thickness``, and ``margin`` around it, drawn from ``margins`` for each
    image. ``continuity`` multiplies a turn before its cosine is taken: more is straighter.
    """

    side: int
    contour_length: int  # dashes
    distractor_length: int  # dashes
    distractors: int
    dash_length: int
    thickness: float
    margins: tuple[int, ...]
    continuity: float
    seed_distance: int
    disc_radius: float
    contour_contrast: float
    distractor_contrast: float


def shape_of(side: int, contour: Literal["baseline", "intermediate", "hard"]) -> Shape:
    """Long Range Arena's settings for windows of 32, 64 or 128 pixels (lra_benchmarks/data/pathfinder.py)."""
    length = CONTOUR_LENGTHS[contour]
    short = length // 3
    if side == 32:
        return Shape(
            side=32,
            contour_length=length,
            distractor_length=short,
            distractors=20 // short,
            dash_length=2,
            thickness=0.5,
            margins=(1,),
            continuity=1.0,
            seed_distance=7,
            disc_radius=1.5,
            contour_contrast=1.5,
            distractor_contrast=2.0,
        )
    if side == 64:
        return Shape(
            side=64,
            contour_length=length,
            distractor_length=short,
            distractors=22 // short,
            dash_length=5,
            thickness=1.0,
            margins=(1,),
            continuity=1.8,
            seed_distance=12,
            disc_radius=2.5,
            contour_contrast=0.8,
            distractor_contrast=0.8,
        )
    assert side == 128, side
    return Shape(
        side=128,
        contour_length=length,
        distractor_length=short,
        distractors=35 // short,
        dash_length=5,
        thickness=1.5,
        margins=(2, 3),
        continuity=1.8,
        seed_distance=20,
        disc_radius=3.0,
        contour_contrast=0.9,
        distractor_contrast=0.9,
    )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Images with what is known of them; pixels are (row, column).

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
    """``count`` images [count, side, side] with their labels; image i depends on the shape, seed and i."""
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
    """``count`` images at once."""
    margins = rng.choice(np.array(shape.margins), size=count)
    rows = [np.flatnonzero(margins == margin) for margin in shape.margins]
    parts = [
        _Drawing(shape, margin, rng).draw(len(row)) for margin, row in zip(shape.margins, rows, strict=True)
    ]
    order = np.argsort(np.concatenate(rows))
    return Drawn(
        **{name: np.concatenate([vars(part)[name] for part in parts])[order] for name in vars(parts[0])}
    )


# Tables.


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """All that depends on angles: 360 whole degrees, which first dashes have, then one for each candidate.

    Displacements are differences of places. C candidates, S different dashes, P pixels around one.
    """

    around: Ints  # [P], the pixels of a dash's picture
    lines: Bytes  # [S, P]
    masks: Bytes  # [S, P]
    cores: list[Ints]  # [S] of [pixels], of the mask of a first dash: where the level is full
    first: Bools  # [S], whether a contour may begin with the dash
    degrees: Ints  # [some], the angles of those
    dash: Ints  # [360 + C], the dash that is drawn at an angle, from its tail, or back from a candidate
    pivot: Ints  # [360], from the tail of a first dash to its pivot
    head: Ints  # [360], from the tail of a first dash to its head
    step: Ints  # [360 + C], from a pivot to the next
    candidates: Ints  # [C], from a pivot
    weights: Floats  # [360 + C, C], of the candidates after a dash at an angle
    disc: Ints  # [pixels], the margin around a pixel


def _displacement(angle: float, distance: float) -> tuple[int, int]:
    # Rounding first: 4 sin 30° is 2.
    return (
        int(np.ceil(round(distance * np.sin(angle), 9))),
        int(np.ceil(round(distance * np.cos(angle), 9))),
    )


def _disc(radius: int) -> list[tuple[int, int]]:
    reach = range(-radius, radius + 1)
    return [(y, x) for y in reach for x in reach if y * y + x * x <= radius * radius]


def _scaled(values: NDArray[Any]) -> Bytes:
    """Stretched over 0 to 255 from the least to the greatest in the last two dimensions."""
    least = values.min(axis=(-2, -1), keepdims=True)
    range_ = values.max(axis=(-2, -1), keepdims=True) - least
    scaled: Bytes = ((values - least) * (255 / range_) + 0.5).astype(np.uint8)
    return scaled


def _reduced(fine: NDArray[Any], side: int) -> Bytes:
    from PIL import Image

    return np.asarray(Image.fromarray(_scaled(fine)).resize((side, side), Image.Resampling.LANCZOS))


def _dash(shape: Shape, margin: int, end: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """A dash from the centre to an end, counted in fine pixels, and its mask: [2 reach + 1, 2 reach + 1]."""
    from PIL import Image, ImageDraw

    reach = _reach(shape, margin)
    centre, fine = reach * _FINE, 2 * reach * _FINE + 1
    picture = Image.new("L", (fine, fine))
    ImageDraw.Draw(picture).line(
        [(centre, centre), (centre + end[1], centre + end[0])], fill=255, width=round(shape.thickness * _FINE)
    )
    line = np.array(picture)
    far = margin * _FINE
    bordered = np.pad(line, far)
    mask = np.max(
        [bordered[far + y : far + y + fine, far + x : far + x + fine] for y, x in _disc(far)], axis=0
    )
    return _reduced(line, 2 * reach + 1), _reduced(mask, 2 * reach + 1)


def _reach(shape: Shape, margin: int) -> int:
    return shape.dash_length + int(np.ceil(shape.thickness)) + margin


def _border(shape: Shape, margin: int) -> int:
    """Pixels around the window: a candidate's pivot is close to the window, and so are its pixels."""
    return shape.dash_length + 5 * margin + 3


@lru_cache(maxsize=16)
def _tables(shape: Shape, margin: int) -> _Tables:
    reach, width = _reach(shape, margin), shape.side + 2 * _border(shape, margin)

    def places(displacements: Sequence[tuple[int, int]]) -> Ints:
        return np.array([y * width + x for y, x in displacements], dtype=np.int64)

    length, radius = shape.dash_length, shape.dash_length + margin
    turns = np.arange(0, 360, 360 / (2 * np.pi * radius)) * np.pi / 180  # a pixel apart
    circle = np.floor(np.round(radius * np.stack([np.sin(turns), np.cos(turns)], axis=1), 9)).astype(int)
    candidates = [(int(y), int(x)) for y, x in np.unique(circle, axis=0)]
    degrees = np.arange(-180, 180) * np.pi / 180
    ahead = np.array([np.arctan2(y, x) for y, x in candidates])
    angles = np.concatenate([degrees, ahead])
    difference = np.abs(ahead[None, :] - angles[:, None])
    turn = np.minimum(np.minimum(difference, 2 * np.pi - difference) * shape.continuity, np.pi / 2)

    # A first dash is drawn along its angle, a later one from its head back to its pivot.
    ends = [_displacement(a, length * _FINE) for a in [*degrees, *(ahead - np.pi)]]
    known = sorted(set(ends))
    pictures = [_dash(shape, margin, end) for end in known]
    # The original looks for room by a dilation with the core, seen in a window of radius pixels around the
    # tail and one off; and it finds none at all unless every pixel has one of the core's inside the window.
    # So few angles can begin a contour, most distractors fail, and contours lean to the upper left.
    cores, first = [], []
    row, column = np.indices((shape.side,) * 2)
    for _, mask in pictures:
        y, x = np.nonzero(mask == 255)
        y, x = y - reach + 1, x - reach + 1
        near = (np.abs(y) <= radius) & (np.abs(x) <= radius)
        core = list(zip(y[near].tolist(), x[near].tolist(), strict=True))
        cores.append(places(core))
        seen = [
            (row + v >= 0) & (row + v < shape.side) & (column + u >= 0) & (column + u < shape.side)
            for v, u in core
        ]
        first.append(bool(np.any(seen, axis=0).all()))
    dash = np.array([known.index(end) for end in ends])
    reached = range(-reach, reach + 1)
    head = [_displacement(a, length) for a in degrees]
    back = [_displacement(a - np.pi, radius) for a in degrees]
    return _Tables(
        around=places([(y, x) for y in reached for x in reached]),
        lines=np.stack([line.ravel() for line, _ in pictures]),
        masks=np.stack([mask.ravel() for _, mask in pictures]),
        cores=cores,
        first=np.array(first),
        degrees=np.flatnonzero(np.array(first)[dash[:360]]),
        dash=dash,
        pivot=places([(y + v, x + u) for (y, x), (v, u) in zip(head, back, strict=True)]),
        head=places(head),
        step=places([_displacement(a, length + 2 * margin) for a in angles]),
        candidates=places(candidates),
        weights=np.cos(turn) ** 2,
        disc=places(_disc(margin)),
    )


@lru_cache(maxsize=1024)
def _disc_picture(side: int, radius: float, row: int, column: int) -> Bytes:
    fine = np.arange(side * _FINE)
    y, x = fine[:, None] - row * _FINE, fine[None, :] - column * _FINE
    return _reduced((y * y + x * x <= (radius * _FINE) ** 2).astype(np.uint8), side)


# Drawing.


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
    """Images of one margin."""

    def __init__(self, shape: Shape, margin: int, rng: np.random.Generator) -> None:
        self.shape, self.rng, self.tables = shape, rng, _tables(shape, margin)
        self.border = _border(shape, margin)
        self.width = shape.side + 2 * self.border
        inside = np.zeros((self.width, self.width), dtype=np.uint8)
        self.window = (slice(self.border, -self.border),) * 2
        inside[self.window] = 255
        self.inside = inside.ravel()

    def draw(self, count: int) -> Drawn:
        """Target contours, then distractors, discs, and the picture."""
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
                np.maximum(*(_disc_picture(side, shape.disc_radius, *disc) for disc in pair))
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
            images=_scaled(np.maximum(level, marks / 255)),
            labels=labels,
            discs=discs,
            starts=starts,
            ends=finals,
            contours=np.stack([self._cut(mask) for mask in contours], axis=1),
            distractors=self._cut(other_masks),
        )

    def _cut(self, windows: Bytes) -> Bytes:
        """Without the border, [n, side, side]."""
        return windows.reshape(-1, self.width, self.width)[:, *self.window]

    def _pixels(self, places: Ints) -> Ints:
        """(row, column) of places, in a new last dimension."""
        return np.stack(np.divmod(places, self.width), axis=-1) - self.border

    def _around(self, windows: Bytes, rows: Ints, places: Ints) -> tuple[Bytes, Ints]:
        """The windows as one row, and in it the pixels around a place in each, [n, P]."""
        return windows.reshape(-1), (rows * self.width**2 + places)[:, None] + self.tables.around

    def _stamp(self, windows: Bytes, rows: Ints, places: Ints, picture: Bytes) -> None:
        """Put a picture [n, P] around a place in each of the rows, where it is lighter than what is there."""
        flat, where = self._around(windows, rows, places)
        flat[where] = np.maximum(flat[where], picture & self.inside[places[:, None] + self.tables.around])

    def _extend(self, masks: Bytes, last: _Growing) -> tuple[_Growing, Bools]:
        """One more dash each, and where there is one; the last one becomes part of the masks there.

        So a dash may overlap the one before it, and, as in the original, the newest one of the other contour.
        """
        tables = self.tables
        pivot = last.pivot + tables.step[last.angle]
        places = pivot[:, None] + tables.candidates
        near = (last.window * self.width**2)[:, None, None] + places[:, :, None] + tables.disc
        free = 1 - masks.reshape(-1)[near].max(axis=2) / 255
        sums = np.cumsum(tables.weights[last.angle] * free * (self.inside[places] > 0), axis=1)
        found = np.zeros(len(pivot), dtype=bool)
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
            found[trying[~overlaps]] = True
            trying = trying[overlaps]
        longer = last.take(found)
        self._stamp(masks, longer.window, longer.end, tables.masks[tables.dash[longer.angle]])
        rows = np.arange(len(pivot))
        return _Growing(window=last.window, pivot=pivot, angle=360 + chosen, end=places[rows, chosen]), found

    def _edges(self) -> Bytes:
        """A mask [width²] with nothing but the edge of the window."""
        mask = np.zeros((self.shape.side,) * 2, dtype=np.uint8)
        mask[:_PADDING] = mask[-_PADDING:] = mask[:, :_PADDING] = mask[:, -_PADDING:] = 255
        return np.pad(mask, self.border).ravel()

    # Target contours.

    def _contours(self, count: int) -> tuple[Bytes, Ints, Ints]:
        """Masks [count, width²] of two contours each; dashes and their ends [count, 2, contour_length]."""
        found = [self._attempt()]
        while sum(len(masks) for masks, _, _ in found) < count:
            found.append(self._attempt())
        masks, dashes, ends = (np.concatenate(values)[:count] for values in zip(*found, strict=True))
        return masks, dashes, ends

    def _attempt(self) -> tuple[Bytes, Ints, Ints]:
        """Those of ``_ATTEMPTS`` pairs of contours that reach their length."""
        length, tables = self.shape.contour_length, self.tables
        masks = np.tile(self._edges(), (_ATTEMPTS, 1))
        dashes = np.zeros((_ATTEMPTS, 2, length), dtype=np.int64)
        ends = np.zeros((_ATTEMPTS, 2, length), dtype=np.int64)
        last = list(self._seeds())
        for i in range(length):
            for contour in range(2):
                if i > 0:
                    last[contour], found = self._extend(masks, last[contour])
                    last = [other.take(found) for other in last]
                window = last[contour].window
                dashes[window, contour, i] = tables.dash[last[contour].angle]
                ends[window, contour, i] = last[contour].end
        alive = last[1].window
        # As in the original, the first contour's last dash is not in the way of distractors.
        self._stamp(masks, alive, last[1].end, tables.masks[dashes[alive, 1, -1]])
        return masks[alive], dashes[alive], ends[alive]

    def _seeds(self) -> tuple[_Growing, _Growing]:
        """The first dashes of both contours; they have room, being so far from the edge."""
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
        """Where first dashes may begin: a tail each for those that find one, and the indices of those.

        ``free`` [windows, width, width] is asked at ``rows`` [n]; the core of a dash at its angle must be
        free, and what is outside the window counts as free there.
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
        found = np.flatnonzero(tails >= 0)
        return tails[found], found

    # Distractors.

    def _distractors(self, masks: Bytes) -> tuple[Bytes, Bytes]:
        """Pictures and masks [n, width²] of distractors that find room in the masks, which they join."""
        lines, own = np.zeros_like(masks), np.zeros_like(masks)
        tables, length = self.tables, self.shape.distractor_length
        for _ in range(self.shape.distractors):
            missing = np.arange(len(masks))
            for _ in range(_DISTRACTOR_TRIES):
                attempt = masks[missing]
                last = self._distractor_seeds(attempt)
                dashes, ends = tables.dash[last.angle][:, None], last.end[:, None]
                for _ in range(length - 1):
                    last, found = self._extend(attempt, last)
                    last = last.take(found)
                    dashes = np.column_stack([dashes[found], tables.dash[last.angle]])
                    ends = np.column_stack([ends[found], last.end])
                done = missing[last.window]
                for i in range(length):
                    self._stamp(lines, done, ends[:, i], tables.lines[dashes[:, i]])
                    self._stamp(own, done, ends[:, i], tables.masks[dashes[:, i]])
                    self._stamp(masks, done, ends[:, i], tables.masks[dashes[:, i]])
                missing = np.setdiff1d(missing, done, assume_unique=True)
        return lines, own

    def _distractor_seeds(self, masks: Bytes) -> _Growing:
        """First dashes in those windows of which enough is free, where they find room."""
        free = masks.reshape(-1, self.width, self.width) <= _FREE
        enough = free[:, *self.window].mean(axis=(1, 2)) >= _LEAST_FREE
        rows = np.flatnonzero(enough)
        seeds = []
        for _ in range(_REDRAWS):
            angle = self.rng.integers(360, size=len(rows))
            tail, found = self._free_tails(free, rows, angle)
            rows, angle = rows[found], angle[found]
            head, pivot = tail + self.tables.head[angle], tail + self.tables.pivot[angle]
            inside = (self.inside[head] > 0) & (self.inside[pivot] > 0)
            seeds.append(_Growing(window=rows, pivot=pivot, angle=angle, end=tail).take(inside))
            rows = rows[~inside]
        order = np.argsort(np.concatenate([seed.window for seed in seeds]))
        return _Growing(
            **{name: np.concatenate([vars(seed)[name] for seed in seeds])[order] for name in vars(seeds[0])}
        )
