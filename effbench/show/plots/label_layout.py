"""Labels in a plot, placed so that no two overlap: beside the axes, or around bubbles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from effbench.show.look import LABEL_WIDTH, NARROW_LABEL_WIDTH, wrapped
from effbench.show.palette import Style, ink
from effbench.show.plots.sheet import Sheet, legend_letters, narrow, text_width

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


End = tuple[float, float, str, str]  # x, y, text, colour


def end_handles(ends: Sequence[End]) -> list[Line2D]:
    """Return what a legend says in a narrow column, where ends have no labels; nothing elsewhere."""
    if not narrow():
        return []
    look: Style = {"linestyle": "--", "linewidth": 0.9}
    return [Line2D([], [], color=colour, label=text, **look) for *_, text, colour in ends]


def label_room(names: Iterable[str]) -> float:
    """Return the inches that :func:`label_ends` needs beside the axes."""
    if narrow():
        return 0.0
    return 0.2 + max((text_width(_broken(name)) for name in names), default=0.0)


def label_height(names: Iterable[str]) -> float:
    """Return the inches that :func:`label_ends` needs for these names, one above the other."""
    if narrow():
        return 0.0
    lines = sum(_broken(name).count("\n") + 1 for name in names)
    return lines * legend_letters() * 1.35 / 72


def label_ends(figure: Sheet, ends_of: Mapping[Axes, Sequence[End]]) -> None:
    """Write texts to the right of panels, moved up or down until no two touch; none in a narrow column.

    A label for a height outside the limits is written at the edge, with an arrow that points to it. Call this
    once, after the limits are set: it settles the figure to get the heights of the panels.
    """
    if narrow() or not any(ends_of.values()):
        return
    figure.settle()
    for axes, ends in ends_of.items():
        _label_ends(figure, axes, ends)
    figure.unsettle()  # the panels make room for the labels


def _label_ends(figure: Sheet, axes: Axes, ends: Sequence[End]) -> None:
    points = 72 / figure.dpi
    letters = legend_letters()
    box = axes.get_window_extent()
    bottom, top = sorted(axes.get_ylim())
    inside = [min(max(y, bottom), top) for _, y, _, _ in ends]
    texts = [_broken(("↓ " if y < bottom else "↑ " if y > top else "") + text) for _, y, text, _ in ends]
    heights = [(text.count("\n") + 1) * letters * 1.35 for text in texts]
    wanted = [
        float(axes.transData.transform((x, y))[1] * points) for (x, *_), y in zip(ends, inside, strict=True)
    ]
    placed = keep_apart(wanted, heights, box.y0 * points, box.y1 * points)
    beside = axes.transAxes + ScaledTranslation(7 / 72, 0, figure.dpi_scale_trans)
    for (x, _, _, colour), y, text, place, before in zip(ends, inside, texts, placed, wanted, strict=True):
        early = box.x1 - float(axes.transData.transform((x, y))[0]) > 0.06 * box.width
        leader = {
            "arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3,
            "relpos": (0.0, 0.5),
        }  # fmt: skip
        axes.annotate(
            text, (x, y), xytext=(1.0, (place / points - box.y0) / box.height), textcoords=beside,
            va="center", fontsize=letters, color=ink(colour), annotation_clip=False, parse_math=False,
            arrowprops=leader if early or abs(place - before) > 3 else None,
        )  # fmt: skip


def _broken(name: str) -> str:
    return wrapped(name, NARROW_LABEL_WIDTH if narrow() else LABEL_WIDTH)


def keep_apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return the centres nearest to the wanted ones (least squares) at which no two heights overlap.

    The centres minus the heights stacked below each must not decrease: an isotonic regression. They stay
    between ``low`` and ``high`` if there is room for all.
    """
    if not len(wanted):
        return []
    from scipy.optimize import isotonic_regression  # slow to import

    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(heights[a] + heights[b]) / 2 for a, b in itertools.pairwise(order)]
    stacked = np.concatenate([[0.0], np.cumsum(gaps)])
    level = isotonic_regression(np.asarray([wanted[i] for i in order]) - stacked).x
    least = low + heights[order[0]] / 2
    most = high - heights[order[-1]] / 2 - stacked[-1]
    places = np.clip(level, least, max(least, most)) + stacked
    centres = np.empty(len(order))
    centres[order] = places
    return [float(centre) for centre in centres]


def label_spots(
    axes: Axes, spots: Sequence[tuple[float, float, float, str]], bars: Sequence[Box] = ()
) -> None:
    """Name bubbles (x, y, radius in points, name), each at the nearest place that overlaps nothing else.

    ``bars`` are boxes in data units that a name avoids if it can. In each of three rounds every name takes
    the cheapest place on rings around its bubble, given the places of the others.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Sheet)
    figure.settle()
    points = 72 / figure.dpi
    frame: Box = tuple(v * points for v in axes.get_window_extent().extents)  # type: ignore[assignment]
    centers = axes.transData.transform([(x, y) for x, y, *_ in spots]) * points
    names = [_broken(text) for *_, text in spots]
    sizes = [_text_size(axes, name, points) for name in names]
    bubbles = [
        (cx - r, cy - r, cx + r, cy + r) for (cx, cy), (_, _, r, _) in zip(centers, spots, strict=True)
    ]
    thin = [
        (x0 - 1, y0 - 1, x1 + 1, y1 + 1)
        for x0, y0, x1, y1 in (
            (*(axes.transData.transform(bar[:2]) * points), *(axes.transData.transform(bar[2:]) * points))
            for bar in bars
        )
    ]
    places = [
        _places(center[0], center[1], r, size)
        for center, (_, _, r, _), size in zip(centers, spots, sizes, strict=True)
    ]
    fixed = [
        np.hypot(*(at - center).T)
        + 50 * (_shared(boxes, bubbles) + _outside(boxes, frame))
        + 3 * _shared(boxes, thin)
        for (at, boxes), center in zip(places, centers, strict=True)
    ]
    chosen: dict[int, int] = {}
    for i in [*range(len(spots))] * 3:
        others = [places[j][1][k] for j, k in chosen.items() if j != i]
        chosen[i] = int(np.argmin(fixed[i] + 50 * _shared(places[i][1], others)))
    for i, ((x, y, r, _), name, (cx, cy), (width, height)) in enumerate(
        zip(spots, names, centers, sizes, strict=True)
    ):
        place = places[i][0][chosen[i]]
        gap = math.hypot(max(0.0, abs(place[0] - cx) - width / 2), max(0.0, abs(place[1] - cy) - height / 2))
        leader = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": r}
        axes.annotate(
            name, (x, y), xytext=(place[0] - cx, place[1] - cy), textcoords="offset points", va="center",
            ha="center", fontsize=legend_letters(), arrowprops=leader if gap > r + 8 else None, zorder=5,
            parse_math=False,
        )  # fmt: skip


def _text_size(axes: Axes, name: str, points: float) -> tuple[float, float]:
    text = axes.text(0, 0, name, fontsize=legend_letters(), parse_math=False)
    box = text.get_window_extent()
    text.remove()
    return box.width * points + 3, box.height * points + 2


def _places(cx: float, cy: float, r: float, size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return centres [k, 2] and boxes [k, 4] of places for a name on rings around a bubble, nearest first."""
    width, height = size
    angles, rings = np.meshgrid(np.radians(np.arange(0, 360, 15)), r + 2 + 6.0 * np.arange(30))
    at = np.stack(
        [
            (cx + np.cos(angles) * (rings + width / 2)).ravel(),
            (cy + np.sin(angles) * (rings + height / 2)).ravel(),
        ],
        axis=1,
    )
    half = np.array([width / 2, height / 2])
    return at, np.concatenate([at - half, at + half], axis=1)


def _shared(boxes: np.ndarray, others: Sequence[Box]) -> np.ndarray:
    """Return [k]: the area that each box [k, 4] shares with the others, summed."""
    if not len(others):
        return np.zeros(len(boxes))
    a, b = boxes[:, None], np.asarray(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    area: np.ndarray = sides.clip(min=0).prod(axis=-1).sum(axis=1)
    return area


def _outside(boxes: np.ndarray, frame: Box) -> np.ndarray:
    area: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - _shared(boxes, [frame])
    return area
