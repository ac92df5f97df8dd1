"""What all pictures share: a mechanism's colour and marker, captions, prior lines, labels that keep apart."""

from __future__ import annotations

import itertools
import math
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse.scores import metric_of
from effbench.records.analyse.statistics import mean_interval
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.tables import each_row, what_was_measured

# Okabe and Ito's colours without the yellow, which is too light for a line; markers and dashes carry the
# same information in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
GREY = "#666666"
TITLE_CHARACTERS_PER_INCH = 13
LABEL_POINTS = 8.0  # the size of a label's letters
LABEL_WIDTH = 24  # characters, before a label goes on in another line
RC: dict[Any, Any] = {
    "svg.hashsalt": "effbench",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

Style = dict[str, Any]
Interval = tuple[float, float, float]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class NothingToDraw(UsageError):
    """The records lack what a kind of picture needs; the text says what."""


# Mechanisms that look the same in every picture, whatever else it shows: a place in the cycles of colours,
# markers and dashes each.
PLACES = (
    "vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear", "poolingformer", "performer",
    "cosformer", "nystromformer", "luna", "fnet",
)  # fmt: skip
_LOOKS = len(COLOURS) * len(MARKERS) * len(DASHES)


def looks(frame: pd.DataFrame, more: Iterable[str] = ()) -> dict[str, Style]:
    """The look of each mechanism of a frame, and of ``more`` labels.

    Those of ``PLACES`` have their own, and so has one of them with options that is the only one of its name.
    Any other label has one by a hash of its text, moved on only where another label of the frame has that
    colour already and one is free.
    """
    names = {label(row.mechanism, row.options) for row in each_row(frame)} | set(more)
    kin = Counter(name.partition(":")[0] for name in names)
    own = {
        name: name.partition(":")[0] for name in names if name in PLACES or kin[name.partition(":")[0]] == 1
    }
    places = {name: PLACES.index(first) for name, first in own.items() if first in PLACES}
    for name in sorted(names - set(places)):
        start = zlib.crc32(name.encode()) % _LOOKS
        colours = {place % len(COLOURS) for place in places.values()}
        free = [
            place
            for step in range(_LOOKS)
            if (place := (start + step) % _LOOKS) >= len(PLACES) and place not in places.values()
        ]
        apart = [place for place in free if place % len(COLOURS) not in colours]
        places[name] = (apart or free)[0]
    return {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place % len(DASHES)],
        }
        for name, place in places.items()
    }


def set_title(figure: Figure, shape: Mapping[str, Any], note: str) -> None:
    """What was measured, on which machine, in which shape; wrapped to the figure's width."""
    what = str(shape["task"]).replace(",", ", ") if "task" in shape else what_was_measured(shape)
    model = f"{plural(int(shape['layers']), 'block')}, " if "task" in shape else ""
    second = (
        f"{model}batch {shape['batch_size']}, d_model {shape['d_model']}, {shape['heads']} heads, "
        f"{shape['dtype']}, {shape['device']}, {plural(int(shape['threads']), 'thread')}, "
        f"{shape['allocator']} allocator"
    )
    lines = filter(None, [f"{what} on {shape['machine']}", second, note])
    width = int(figure.get_figwidth() * TITLE_CHARACTERS_PER_INCH)
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines), fontsize=9)


def span(values: Iterable[float]) -> str:
    """``64``, or ``64 to 512`` where a caption speaks of several."""
    low, high = min(values := list(values)), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def numbered(kind: str, figures: Sequence[Figure]) -> list[tuple[str, Figure]]:
    """Names for the pictures of a kind: the kind's, with a number where there are several."""
    return [(kind if len(figures) == 1 else f"{kind}-{i}", figure) for i, figure in enumerate(figures, 1)]


def over_seeds(values: Sequence[float], *, log: bool = False) -> Interval:
    """(mean, low, high) with a 95 % t interval; of logarithms with ``log``. One seed has no bounds: NaN."""
    known = np.asarray(values, dtype=float)
    known = np.log(known) if log else known
    found = mean_interval(list(known)) if len(known) > 1 else (float(known[0]), math.nan, math.nan)
    return (math.exp(found[0]), math.exp(found[1]), math.exp(found[2])) if log else found


def score_over_seeds(values: Sequence[float]) -> Interval:
    """As :func:`over_seeds`, with bounds that a share can have."""
    mean, low, high = over_seeds(values)
    return (mean, low, high) if math.isnan(low) else (mean, max(0.0, low), min(1.0, high))


def seeds_note(counts: Iterable[int], bars: str = "bars") -> str:
    """What the bars are, for a caption; that there are none where a mechanism has one seed."""
    several = sorted({n for n in counts if n > 1})
    one = "one seed: no interval" if 1 in counts else ""
    drawn = f"{bars}: 95 % t interval over {span(several)} seeds" if several else ""
    return "; ".join(filter(None, [drawn, "without: one seed" if drawn and one else one]))


def priors(trained: pd.DataFrame) -> dict[str, float]:
    """Scores of what needs no training, from raw rows of one task: ``majority`` and its like."""
    return {
        column.removeprefix("prior_").replace("_", " "): float(trained[column].median())
        for column in trained.columns
        if column.startswith("prior_") and not column.endswith("_macro_f1") and trained[column].notna().any()
    }


def name_of(trained: pd.DataFrame) -> str:
    """The metric of rows of one task in words."""
    return units.score_words(metric_of(trained))


def percent(value: float, _: object = None) -> str:
    """A share as an axis writes it: as many digits as it needs."""
    return f"{round(100 * value, 6):g} %"


def few(value: float) -> str:
    """Labels for the minor ticks 2 and 5 of a decade, so that a narrow logarithmic axis has some."""
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return units.count(value) if digit in (2, 5) else ""


def ticks_apart(values: Sequence[int]) -> list[int]:
    """Ticks at measured values, leaving out those that would touch their neighbour on a logarithmic axis."""
    kept = [values[0]]
    for n in values[1:]:
        if n / kept[-1] >= (values[-1] / values[0]) ** 0.08:
            kept.append(n)
    return kept


def crosses(
    axes: Axes, inside: pd.DataFrame, column: str, styles: Mapping[str, Style], *, x: str = "seq_len"
) -> set[str]:
    """An x at the frame's upper edge for every cell that failed and has no value of the column."""
    statuses: set[str] = set()
    failed = inside[~inside["status"].isin(["ok", "interrupted"]) & inside[column].isna()]
    for at, cells in failed.groupby(x):
        for place, row in enumerate(each_row(cells)):
            statuses.add(str(row.status))
            axes.plot(
                float(at) * 1.09 ** (place - (len(cells) - 1) / 2), 0.985, marker="x", markersize=6,
                markeredgewidth=1.6, linestyle="none", transform=axes.get_xaxis_transform(), clip_on=False,
                color=styles[label(row.mechanism, row.options)]["color"], gid=f"failed-{row.status}",
            )  # fmt: skip
    return statuses


def reach_priors(low: float, high: float, levels: Iterable[float]) -> tuple[float, float]:
    """Limits for scores from ``low`` to ``high``: wider for a prior nearby, not for one far away.

    Far is more than the scores' own range (or five points) beyond them: reaching it would press them flat.
    """
    far = max(high - low, 0.05)
    near = [value for value in levels if low - far <= value <= high + far]
    low, high = min([low, *near]), max([high, *near])
    margin = max(0.005, 0.08 * (high - low))
    return low - margin, high + margin


def draw_priors(axes: Axes, levels: Mapping[str, float]) -> list[tuple[float, float, str, str]]:
    """A dashed line at each prior inside the limits; what :func:`label_ends` needs to name it."""
    low, high = axes.get_ylim()
    for name, value in levels.items():
        if low <= value <= high:
            axes.axhline(value, color=GREY, linestyle="--", linewidth=0.9, zorder=1, gid=f"prior-{name}")
    edge = axes.get_xlim()[1]
    return [(edge, value, f"{name} {percent(round(value, 3))}", GREY) for name, value in levels.items()]


def label_room(names: Iterable[str]) -> float:
    """Inches that :func:`label_ends` needs beside the axes."""
    widest = max(len(line) for name in names for line in wrapped(name).split("\n"))
    return 0.2 + widest * LABEL_POINTS * 0.56 / 72


def wrapped(name: str, width: int = LABEL_WIDTH) -> str:
    """A name longer than ``width`` in several lines, broken after its colons and commas where it can be."""
    if len(name) <= width:
        return name
    pieces = name.replace(":", ":\0").replace(",", ",\0").replace(" ", " \0").split("\0")
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> list[Annotation]:
    """Write (x, y, text, colour) to the right of the axes, moved up or down until no two touch.

    Heights outside the limits are written at the edge, with an arrow that says where they are. Call it when
    the limits are final: a pass of the figure's layout says how tall the axes are.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    points = 72 / figure.dpi
    box = axes.get_window_extent()
    bottom, top = sorted(axes.get_ylim())
    inside = [min(max(y, bottom), top) for _, y, _, _ in ends]
    texts = [("↓ " if y < bottom else "↑ " if y > top else "") + wrapped(text) for _, y, text, _ in ends]
    heights = [(text.count("\n") + 1) * LABEL_POINTS * 1.35 for text in texts]
    wanted = [
        float(axes.transData.transform((x, y))[1] * points) for (x, *_), y in zip(ends, inside, strict=True)
    ]
    found = keep_apart(wanted, heights, box.y0 * points, box.y1 * points)
    beside = axes.transAxes + ScaledTranslation(7 / 72, 0, figure.dpi_scale_trans)
    drawn = []
    for (x, _, _, colour), y, text, place, before in zip(ends, inside, texts, found, wanted, strict=True):
        early = box.x1 - float(axes.transData.transform((x, y))[0]) > 0.06 * box.width
        line = {
            "arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3,
            "relpos": (0.0, 0.5),
        }  # fmt: skip
        drawn.append(
            axes.annotate(
                text, (x, y), xytext=(1.0, (place / points - box.y0) / box.height), textcoords=beside,
                va="center", fontsize=LABEL_POINTS, color=colour, annotation_clip=False,
                arrowprops=line if early or abs(place - before) > 3 else None,
            )
        )  # fmt: skip
    return drawn


def keep_apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Centres nearest (in squares) to the wanted ones at which no two of these heights overlap.

    Isotonic regression: neighbours that would touch are moved as one. They stay between ``low`` and ``high``
    where there is room for all.
    """
    if not len(wanted):
        return []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(heights[a] + heights[b]) / 2 for a, b in itertools.pairwise(order)]
    stacked = np.concatenate([[0.0], np.cumsum(gaps)])
    blocks: list[tuple[float, int]] = []  # (mean, members)
    for value in np.asarray([wanted[i] for i in order]) - stacked:
        block = (float(value), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, count = blocks.pop()
            block = ((mean * count + block[0] * block[1]) / (count + block[1]), count + block[1])
        blocks.append(block)
    level = np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])
    least = low + heights[order[0]] / 2
    most = high - heights[order[-1]] / 2 - stacked[-1]
    places = np.clip(level, least, max(least, most)) + stacked
    found = [0.0] * len(order)
    for place, i in zip(places, order, strict=True):
        found[i] = float(place)
    return found


def label_spots(
    axes: Axes, spots: Sequence[tuple[float, float, float, str]], bars: Sequence[Box] = ()
) -> list[Annotation]:
    """Name bubbles (x, y, radius in points, name): the nearest place around each that meets nothing else.

    ``bars`` are boxes in data units that a name should not cross if it can be helped. Each name takes the
    cheapest of places on rings around its bubble given where the others are, three times over.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    points = 72 / figure.dpi
    frame: Box = tuple(v * points for v in axes.get_window_extent().extents)  # type: ignore[assignment]
    centers = axes.transData.transform([(x, y) for x, y, *_ in spots]) * points
    names = [wrapped(text) for *_, text in spots]
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
    drawn = []
    for i, ((x, y, r, _), name, (cx, cy), (width, height)) in enumerate(
        zip(spots, names, centers, sizes, strict=True)
    ):
        place = places[i][0][chosen[i]]
        gap = math.hypot(max(0.0, abs(place[0] - cx) - width / 2), max(0.0, abs(place[1] - cy) - height / 2))
        line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": r}
        drawn.append(
            axes.annotate(
                name, (x, y), xytext=(place[0] - cx, place[1] - cy), textcoords="offset points", va="center",
                ha="center", fontsize=LABEL_POINTS, arrowprops=line if gap > r + 8 else None, zorder=5,
            )
        )  # fmt: skip
    return drawn


def _text_size(axes: Axes, name: str, points: float) -> tuple[float, float]:
    text = axes.text(0, 0, name, fontsize=LABEL_POINTS)
    box = text.get_window_extent()
    text.remove()
    return box.width * points + 3, box.height * points + 2


def _places(cx: float, cy: float, r: float, size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Centres [k, 2] and boxes [k, 4] for a name on rings around a bubble, the nearest first."""
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
    """[k]: the area that each box [k, 4] shares with others, summed."""
    if not len(others):
        return np.zeros(len(boxes))
    a, b = boxes[:, None], np.asarray(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    area: np.ndarray = sides.clip(min=0).prod(axis=-1).sum(axis=1)
    return area


def _outside(boxes: np.ndarray, frame: Box) -> np.ndarray:
    area: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - _shared(boxes, [frame])
    return area
