"""Pathfinder's dashes and discs: settings of images, and tables of all that depends on an angle alone.

A candidate end of a dash is one of a few pixels around a pivot, so there are only some dozens of different
dashes. A pixel is a number, its place in a window whose border is wide enough for every dash; a "mask" is a
dash thickened by the margin, in levels 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
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

_FINE = 2  # dashes and discs are drawn this many times larger, then reduced


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Settings of images; lengths in pixels, contrasts relative to the discs'.

    A dash has ``dash_length`` and ``thickness``, and ``margin`` around it, drawn from ``margins`` for each
    image. ``continuity`` multiplies a turn before its cosine is taken: larger is straighter.
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
    """Return LRA's settings for windows of 32, 64 or 128 pixels (lra_benchmarks/data/pathfinder.py)."""
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
class Tables:
    """Everything that depends on angles: 360 whole degrees for first dashes, then one for each candidate.

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


def scaled(values: NDArray[Any]) -> Bytes:
    """Stretch values over 0 to 255, from the least to the greatest in the last two dimensions."""
    least = values.min(axis=(-2, -1), keepdims=True)
    range_ = values.max(axis=(-2, -1), keepdims=True) - least
    scaled: Bytes = ((values - least) * (255 / range_) + 0.5).astype(np.uint8)
    return scaled


def _reduced(fine: NDArray[Any], side: int) -> Bytes:
    from PIL import Image

    return np.asarray(Image.fromarray(scaled(fine)).resize((side, side), Image.Resampling.LANCZOS))


def _dash(shape: Shape, margin: int, end: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """Return a dash from the centre to an end in fine pixels, and its mask: [2 reach + 1, 2 reach + 1]."""
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


def border(shape: Shape, margin: int) -> int:
    """Return the pixels around a window that candidates and their pivots need."""
    return shape.dash_length + 5 * margin + 3


@lru_cache(maxsize=16)
def tables_of(shape: Shape, margin: int) -> Tables:
    """Return the tables of a margin."""
    reach, width = _reach(shape, margin), shape.side + 2 * border(shape, margin)

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
    # The original looks for room by a dilation with the core, in a window of radius pixels around the tail
    # that is one pixel off. It finds none unless every pixel has one of the core's inside the window. So few
    # angles can begin a contour, most distractors fail, and contours lean to the upper left.
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
    return Tables(
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
def disc_picture(side: int, radius: float, row: int, column: int) -> Bytes:
    """Return a disc in a window, [side, side]."""
    fine = np.arange(side * _FINE)
    y, x = fine[:, None] - row * _FINE, fine[None, :] - column * _FINE
    return _reduced((y * y + x * x <= (radius * _FINE) ** 2).astype(np.uint8), side)
