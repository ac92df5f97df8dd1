"""A gate's report as a forest plot: the ratio of each configuration with its interval."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from effbench.gate.report import Report
from effbench.show.gate_rows import Row, rows_of
from effbench.show.look import GREY, RC, TITLE_CHARACTERS_PER_INCH, NothingToDraw, wrapped

# (colour, marker, filled): the marker alone tells verdicts apart in grey; an arrow shows where the time went.
LOOKS = {
    "slower": ("#D55E00", ">", True),
    "suspected": ("#CC79A7", ">", False),
    "same": ("#0072B2", "o", True),
    "faster": ("#009E73", "<", True),
    "inconclusive": ("#B07400", "D", False),
    "unfit": ("#000000", "X", True),
    **dict.fromkeys(("new", "gone", "failed", "base-failed"), (GREY, "s", False)),
}
_LEGEND = "grey bars: the base over itself; band: within the threshold"
_BAND, _CONTROL = "#E8EEF4", "#C4C4C4"
_TICKS = (
    0.001, 0.01, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 0.98, 1.0,
    1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0, 1000.0,
)  # fmt: skip
_NAME_WIDTH = 44  # characters of a name before it continues on the next line
_ROW_INCHES, _MORE_INCHES = 0.27, 0.14
_FAR = 1.6  # an interval that reaches further beyond all ratios than this factor is cut at the edge


def forest(report: Report) -> Picture:
    """Draw for each configuration the ratio with its interval, the base over itself and the threshold.

    The axis is logarithmic; intervals that reach beyond it end in an arrow. Raises NothingToDraw where the
    report has no comparisons.
    """
    rows = rows_of(report)
    if not rows.comparisons:
        raise NothingToDraw("there is nothing to draw: no times were compared")
    names = [_broken(row.name, _NAME_WIDTH) for row in rows.comparisons]
    heights = [_ROW_INCHES + _MORE_INCHES * name.count("\n") for name in names]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    with mpl.rc_context(RC):
        picture = Picture(figsize=(8.6, 1.9 + sum(heights)), layout="constrained")
        axes = picture.subplots()
        low, high = _limits(rows.comparisons)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(sum(heights), 0.0)
        for row, place, height in zip(rows.comparisons, places, heights, strict=True):
            _draw(axes, row, place, 0.46 * height)
        axes.axvline(1.0, color=GREY, linewidth=0.8, zorder=1.5)
        axes.set_yticks(places, names, parse_math=False)  # a name may hold dollar signs
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("time of the head over time of the base (above 1 is slower)")
        width = int(picture.get_figwidth() * TITLE_CHARACTERS_PER_INCH)
        caption = "; ".join([*rows.legend[1:2], _LEGEND])
        title = [textwrap.fill(text, width) for text in (rows.title, rows.about, caption) if text]
        picture.suptitle("\n".join(title), fontsize=9, parse_math=False)
    return picture


def _broken(name: str, width: int) -> str:
    """The name in lines of limited width, broken after colons and commas where possible."""
    return "\n".join(textwrap.fill(part, width) for part in wrapped(name, width).split("\n"))


def _draw(axes: Axes, row: Row, place: float, half: float) -> None:
    colour, marker, filled = LOOKS[row.kind]
    low, high = axes.get_xlim()
    if threshold := row.numbers.get("threshold"):
        band = (max(low, 1 / (1 + threshold)), min(high, 1 + threshold))
        axes.fill_between(band, place - half, place + half, color=_BAND, linewidth=0, zorder=0)
    if row.control:
        ends = max(low, row.control[1]), min(high, row.control[2])
        axes.hlines(place, *ends, color=_CONTROL, linewidth=6, zorder=1)
    beside = axes.get_yaxis_transform()
    verdict = f"{row.kind}  {row.measured.partition(' ')[0]}".rstrip()
    axes.text(1.01, place, verdict, transform=beside, va="center", fontsize=8, color=colour)
    if not row.bounds:
        axes.text(0.01, place, "no time", transform=beside, va="center", fontsize=8, color=GREY)
        return
    ratio, least, most = row.bounds
    axes.hlines(place, max(low, least), min(high, most), color=colour, linewidth=1.6, zorder=2)
    for beyond, edge, arrow in ((least < low, low, CARETLEFT), (most > high, high, CARETRIGHT)):
        if beyond:
            axes.plot(edge, place, marker=arrow, color=colour, markersize=6, clip_on=False, zorder=3)
    face = colour if filled else "white"
    axes.plot(ratio, place, marker, color=colour, markersize=6, zorder=4, markerfacecolor=face)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Symmetrical about 1 in logarithms: all ratios and bands are inside, intervals if not far off."""
    centers, ends = [math.log(1.05)], [0.0]
    for row in rows:
        centers.append(math.log1p(row.numbers.get("threshold", 0.0)))
        for ratio, *interval in filter(None, (row.bounds, row.control)):
            centers.append(abs(math.log(ratio)))
            ends += [abs(math.log(value)) for value in interval]
    reach = max(*centers, min(max(ends), max(centers) * _FAR)) * 1.12
    return math.exp(-reach), math.exp(reach)


def _ticks(low: float, high: float) -> list[float]:
    """Round ratios inside the limits, those near 1 first, no two nearer than a twelfth of the axis."""
    kept: list[float] = []
    gap = math.log(high / low) / 12
    for value in sorted(_TICKS, key=lambda value: abs(math.log(value))):
        if low <= value <= high and all(abs(math.log(value / other)) >= gap for other in kept):
            kept.append(value)
    return sorted(kept)
