"""Charts of one length, a row for each mechanism: bars of costs, or dots of scores, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from effbench.records.analyse.summary import label
from effbench.show.look import GREY, wrapped
from effbench.show.palette import Style
from effbench.show.plots.sheet import Sheet, in_points, legend_letters, narrow, text_width
from effbench.show.tables import each_row

_ROW_INCHES = 0.34  # between two rows at least, on a screen
_WIDE = 3.4  # inches of a panel without labels, on a screen
_LABEL_INCHES = 1.0  # the room of labels at least
_LABEL, _NARROW_LABEL = 40, 20  # characters in a line of a label


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Rows of one length, the column that is drawn, its axis and ticks.

    The columns ``low`` and ``high`` of the rows are the ends of intervals, NaN where there is none.
    """

    title: str
    rows: pd.DataFrame
    column: str
    axis: str
    tick: Callable[[float], str]


def bars(panels: Sequence[Panel], styles: Mapping[str, Style]) -> Sheet:
    """Draw a bar from 0 for each mechanism, ordered by the values of the first panel, the smallest on top.

    The value is written behind its error bar. A noisy value has a hollow bar; a mechanism without a value
    has its status instead.
    """
    figure, places = _rows(panels, [])
    names = max(text_width(text, _letters()) for text in _broken(places)) + 0.4
    free = text_width(" 000 MiB") / (figure.inches() - names / figure.across)
    for axes, panel in zip(figure.panels, panels, strict=True):
        high = _limits(panel, [])[1]
        axes.set_xlim(0.0, high / (1 - free))
        if panel.column.endswith("_bytes"):
            axes.xaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2(high / 4))))
        for row in each_row(panel.rows):
            _bar(axes, row, panel, places[label(row.mechanism, row.options)], styles, high)
        axes.grid(False, axis="y")
    return figure


def dots(panel: Panel, styles: Mapping[str, Style], *, baselines: Mapping[str, float] | None = None) -> Sheet:
    """Draw a dot for each mechanism, the smallest value on top, on an axis that need not begin at 0.

    A mechanism without a value has its status instead. ``baselines`` are baseline scores: rows of their own,
    in grey, with a dashed line.
    """
    baselines = baselines or {}
    figure, places = _rows([panel], baselines)
    (axes,) = figure.panels
    for row in each_row(panel.rows):
        _dot(axes, row, panel, places[label(row.mechanism, row.options)], styles)
    for name, value in baselines.items():
        axes.axvline(value, color=GREY, linestyle="--", linewidth=0.9, zorder=1, gid=f"baseline-{name}")
        axes.plot(value, places[name], marker="|", markersize=9, color=GREY)
    low, high = _limits(panel, baselines.values())
    margin = 0.06 * (high - low or abs(high) or 1.0)
    axes.set_xlim(low - margin, high + margin)
    return figure


def _rows(panels: Sequence[Panel], baselines: Iterable[str]) -> tuple[Sheet, dict[str, float]]:
    """Return a sheet whose panels share named rows, and the place of each by its name: inches from below."""
    order = [*baselines, *_ordered(panels)]
    texts = _broken(order)
    line = _letters() * 1.45 / 72
    heights = [max(_row(), line * (text.count("\n") + 1) + 0.03) for text in texts]
    places = {
        name: sum(heights[:row]) + height / 2
        for row, (name, height) in enumerate(zip(order, heights, strict=True))
    }
    names = max(_LABEL_INCHES, *(text_width(text, _letters()) + 0.5 for text in texts))
    figure = Sheet(
        len(panels), wide=_WIDE + names / len(panels), tall=sum(heights), scaled=False,
        share=("none", "all"),
    )  # fmt: skip
    for axes, panel in zip(figure.panels, panels, strict=True):
        axes.set_title(panel.title)
        axes.set_ylim(-0.02, sum(heights) + 0.02)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        tick = panel.tick
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _, tick=tick: tick(value) if value else "0")
        )
        axes.set_xlabel(panel.axis)
        axes.set_yticks(list(places.values()), texts, parse_math=False)
    return figure, places


def _row() -> float:
    """Return the least inches from one row to the next."""
    return _letters() * 2.1 / 72 if narrow() else _ROW_INCHES


def _letters() -> float:
    return in_points(mpl.rcParams["ytick.labelsize"])


def _broken(names: Iterable[str]) -> list[str]:
    return [wrapped(name, _NARROW_LABEL if narrow() else _LABEL) for name in names]


def _limits(panel: Panel, baselines: Iterable[float]) -> tuple[float, float]:
    """Return limits that hold all values, and intervals unless they would compress the values."""
    values = [*panel.rows[panel.column].dropna(), *baselines]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    reach = max(high - low, 0.5 * abs(high))
    ends = [end for name in ("low", "high") for end in panel.rows[name].dropna()]
    return (
        min([low, *(max(end, low - reach) for end in ends)]),
        max([high, *(min(end, high + reach) for end in ends)]),
    )


def _ordered(panels: Sequence[Panel]) -> list[str]:
    """Return the mechanisms of all panels from bottom to top: failures, then the largest value first."""
    values: dict[str, float] = {}
    for panel in panels:
        for row in each_row(panel.rows):
            values.setdefault(label(row.mechanism, row.options), float(getattr(row, panel.column)))
    return sorted(
        values, key=lambda name: (pd.notna(values[name]), -values[name] if pd.notna(values[name]) else 0)
    )


def _bar(axes: Axes, row: Any, panel: Panel, place: float, styles: Mapping[str, Style], high: float) -> None:
    value = float(getattr(row, panel.column))
    if pd.isna(value):
        _failed(axes, row, place)
        return
    colour = styles[label(row.mechanism, row.options)]["color"]
    hollow = _is_noisy(row, panel)
    axes.barh(
        place, value, 0.62 * _row(), color="white" if hollow else colour, edgecolor=colour, linewidth=1.0,
        zorder=2, gid=f"bar-{label(row.mechanism, row.options)}",
    )  # fmt: skip
    end = value
    if pd.notna(row.low):
        end = max(value, row.high)
        axes.errorbar(value, place, xerr=[[value - row.low], [row.high - value]], color=GREY, capsize=2,
                      linewidth=1.0, zorder=3)  # fmt: skip
    axes.annotate(
        panel.tick(value), (min(end, high), place), xytext=(3, 0), textcoords="offset points",
        va="center", fontsize=legend_letters(), zorder=4,
    )  # fmt: skip


def _dot(axes: Axes, row: Any, panel: Panel, place: float, styles: Mapping[str, Style]) -> None:
    value = float(getattr(row, panel.column))
    if pd.isna(value):
        _failed(axes, row, place)
        return
    style = styles[label(row.mechanism, row.options)]
    if pd.notna(row.low):
        axes.hlines(place, row.low, row.high, color=style["color"], linewidth=2)
    axes.plot(value, place, marker=style["marker"], markersize=7, color=style["color"], clip_on=False,
              zorder=3, markerfacecolor="white" if _is_noisy(row, panel) else style["color"])  # fmt: skip


def _is_noisy(row: Any, panel: Panel) -> bool:
    return panel.column in ("time_s", "tokens_per_s") and bool(getattr(row, "noisy", ""))


def _failed(axes: Axes, row: Any, place: float) -> None:
    axes.text(
        0.01, place, str(row.status), transform=axes.get_yaxis_transform(), va="center",
        fontsize=legend_letters(), color=GREY, style="italic",
    )  # fmt: skip
