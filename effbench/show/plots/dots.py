"""Dot plots of one length: a row for each mechanism, its value as a dot with an interval."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from effbench.records.analyse.summary import label
from effbench.show.look import GREY, Style, wrapped
from effbench.show.plots.label_layout import label_room
from effbench.show.tables import each_row

_ROW_INCHES, _LINE_INCHES = 0.34, 0.16  # between two rows at least, and per line of their labels
_LABEL_INCHES = 2.3  # the room of labels at least
_LABEL_CHARACTERS = 40  # in a line of a label


def dots(
    panels: Sequence[tuple[str, pd.DataFrame]],
    column: str,
    *,
    styles: Mapping[str, Style],
    axis: str,
    tick: Callable[[float], str],
    bounds: tuple[str, str] | None = None,
    baselines: Mapping[str, float] | None = None,
    from_zero: bool = True,
) -> Figure:
    """Draw a panel for each (title, rows of one length), ordered by the values of the first panel.

    ``bounds`` are the columns of the interval's ends. A noisy value is hollow; a mechanism without a value
    has its status instead. ``baselines`` are baseline scores: rows of their own, in grey, with a dashed line.
    """
    baselines = baselines or {}
    names = _ordered(panels, column)
    places = {name: place for place, name in enumerate([*baselines, *names])}
    texts = [wrapped(name, _LABEL_CHARACTERS) for name in places]
    lines = [name.count("\n") + 1 for name in texts]
    apart = max([_ROW_INCHES, *(_LINE_INCHES * (a + b) / 2 for a, b in itertools.pairwise(lines))])
    wide = max(_LABEL_INCHES, label_room(texts, _LABEL_CHARACTERS) + 0.4) + 3.4 * len(panels)
    figure = Figure(figsize=(wide, 1.5 + apart * len(places)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(grid, panels, strict=True):
        axes.set_title(title, fontsize=9)
        for row in each_row(rows):
            _dot(axes, row, column, bounds, places[label(row.mechanism, row.options)], styles)
        for name, value in baselines.items():
            axes.axvline(value, color=GREY, linestyle="--", linewidth=0.9, zorder=1, gid=f"baseline-{name}")
            axes.plot(value, places[name], marker="|", markersize=9, color=GREY)
        axes.set_ylim(-0.6, len(places) - 0.4)
        axes.set_xlim(*_limits(rows, column, bounds, baselines.values(), from_zero))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value) if value else "0"))
        axes.set_xlabel(axis)
    grid[0].set_yticks(list(places.values()), texts, parse_math=False)
    return figure


def _limits(
    rows: pd.DataFrame,
    column: str,
    bounds: tuple[str, str] | None,
    baselines: Iterable[float],
    from_zero: bool,
) -> tuple[float, float]:
    """Return limits that hold all values, and intervals unless they would compress the values."""
    values = [*rows[column].dropna(), *baselines]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    reach = max(high - low, 0.5 * abs(high))
    ends = [end for name in bounds or () for end in rows[name].dropna()]
    low, high = (
        min([low, *(max(end, low - reach) for end in ends)]),
        max([high, *(min(end, high + reach) for end in ends)]),
    )
    margin = 0.06 * (high - low or abs(high) or 1.0)
    return (0.0 if from_zero else low - margin), high + margin


def _ordered(panels: Sequence[tuple[str, pd.DataFrame]], column: str) -> list[str]:
    """Return the mechanisms of all panels from bottom to top: failures, then the largest value first."""
    values: dict[str, float] = {}
    for _, rows in panels:
        for row in each_row(rows):
            values.setdefault(label(row.mechanism, row.options), float(getattr(row, column)))
    return sorted(
        values, key=lambda name: (pd.notna(values[name]), -values[name] if pd.notna(values[name]) else 0)
    )


def _dot(
    axes: Axes,
    row: object,
    column: str,
    bounds: tuple[str, str] | None,
    place: int,
    styles: Mapping[str, Style],
) -> None:
    value = float(getattr(row, column))
    if pd.isna(value):
        axes.text(
            0.01, place, str(getattr(row, "status", "")), transform=axes.get_yaxis_transform(), va="center",
            fontsize=8, color=GREY, style="italic",
        )  # fmt: skip
        return
    style = styles[label(getattr(row, "mechanism", ""), getattr(row, "options", ""))]
    if bounds is not None and pd.notna(getattr(row, bounds[0])):
        axes.hlines(
            place, getattr(row, bounds[0]), getattr(row, bounds[1]), color=style["color"], linewidth=2
        )
    noisy = column in ("time_s", "tokens_per_s") and bool(getattr(row, "noisy", ""))
    axes.plot(
        value, place, marker=style["marker"], markersize=7, color=style["color"], clip_on=False, zorder=3,
        markerfacecolor="white" if noisy else style["color"],
    )  # fmt: skip
