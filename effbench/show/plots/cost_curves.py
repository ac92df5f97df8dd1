"""Plots of a cost against sequence length: time, tokens per second, peak memory and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from effbench.records.analyse.complexity import WIDEST, exponents, is_known
from effbench.records.analyse.crossover import crossovers
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import NothingToDraw, failures_note, hosts_note, mark_failures, set_length_axis
from effbench.show.palette import Style, looks
from effbench.show.plots.one_length import Panel, bars
from effbench.show.plots.sheet import Sheet, set_title
from effbench.show.tables import SHAPE, by_label, each_row, items_in_words, labels, of_shape

FEW_DECADES = 30  # a smaller range has one or two powers of 10 in it, too few for labels
MOST_CROSSOVERS = 3  # in a panel: more would hide the curves
TIMED = ("time_s", "tokens_per_s")  # the costs with intervals
UNKNOWN = "$N^?$"


@dataclass(frozen=True)
class Cost:
    """A quantity against length: its column, axis label, tick format, and the quantity its slope is of."""

    column: str
    axis: str
    tick: Callable[[float], str]
    slopes: str | None


def time(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Time per call with its interval, fitted slopes, and the crossovers if they are few."""
    return _draw(frame, raw, "time", Cost("time_s", "time per call", units.seconds, "time_s"))


def tokens(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Tokens per second with its interval."""
    return _draw(frame, raw, "tokens", Cost("tokens_per_s", "tokens per second", units.count, None))


def memory(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Peak memory with fitted slopes."""
    return _draw(frame, raw, "memory", Cost("peak_bytes", "peak memory", units.size, "peak_bytes"))


def flops(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """FLOPs per call with fitted slopes."""
    return _draw(frame, raw, "flops", Cost("flops", "FLOPs per call", units.count, "flops"))


def _draw(frame: pd.DataFrame, raw: pd.DataFrame, kind: str, cost: Cost) -> list[Figure]:
    """One figure per shape and machine. Raises NothingToDraw."""
    keys = [*SHAPE, "machine"]
    styles = looks(frame)
    figures = []
    calls = frame[(frame["task"] == "") & (frame["mode"] != "decode")]
    for key, rows in calls.groupby(keys, sort=False):
        if rows[cost.column].notna().any():
            shape = dict(zip(keys, key, strict=True))
            named = replace(cost, axis=cost.axis.replace("tokens", items_in_words(shape)))
            figures.append(_figure(rows, of_shape(raw, shape), shape, named, styles))
    if not figures:
        raise NothingToDraw(f"there is nothing to draw for {kind}: no row has a value of {cost.column}")
    return figures


def _figure(
    rows: pd.DataFrame,
    raw: pd.DataFrame,
    shape: dict[str, Any],
    cost: Cost,
    styles: dict[str, Style],
) -> Figure:
    shown = rows[rows[cost.column].notna() | ~rows["status"].isin(["ok", "interrupted"])]
    # a mode in which every configuration failed has a panel too
    modes = [mode for mode in ("forward", "train") if mode in set(shown["mode"])]
    if rows["seq_len"].nunique() == 1:
        return _at_one_length(rows, modes, shape, cost, styles)
    names = sorted(set(labels(rows)))
    slopes = slopes_in_words(raw, cost) if cost.slopes else {}
    crossings = _crossovers_to_mark(raw, rows) if cost.column == "time_s" else None
    figure = Sheet(len(modes), wide=5.0, tall=2.4, share=("none", "all"))
    failed: set[str] = set()
    for axes, mode in zip(figure.panels, modes, strict=True):
        inside = rows[rows["mode"] == mode]
        set_log_axes(axes, rows, cost)
        axes.set_title(mode)
        series = dict(by_label(inside))
        handles = [
            draw_series(axes, name, series.get(name, rows[:0]), cost, styles[name], slopes.get((name, mode)))
            for name in names
        ]
        failed |= mark_failures(axes, inside, cost.column, styles)
        if crossings is not None:
            handles += _mark_crossovers(axes, crossings[crossings["mode"] == mode], styles)
        figure.legend_under(axes, handles)
    for axes in figure.left:
        axes.set_ylabel(cost.axis)
    notes = [failures_note(failed), *interval_notes(rows, timed=cost.column in TIMED)]
    notes += slopes_notes(slopes.values())
    if crossings is not None and len(crossings):
        notes.append("dotted: crossover, shaded: its 95 % confidence interval")
    set_title(figure, shape, "; ".join(filter(None, notes)))
    return figure


def slopes_notes(slopes: Iterable[str], of: str = "") -> list[str]:
    """The caption's explanation of the slopes in a legend, if it has some; ``of`` names their quantity."""
    slopes = list(slopes)
    notes = [f"N^a: growth{of} fitted to the longest lengths"] if slopes else []
    unknown = f"N^?: not known, the 95 % interval of a is {WIDEST} wide or wider"
    return [*notes, unknown] if any(UNKNOWN in slope for slope in slopes) else notes


def interval_notes(rows: pd.DataFrame, *, timed: bool, bar: bool = False) -> list[str]:
    """The caption's explanation of intervals, hollow markers and hosts, as far as the figure has them.

    ``bar``: the values are bars themselves, and their intervals are error bars.
    """
    if not timed:
        return []
    known = rows["time_low_s"].notna().any()
    bars = f"{'error bars' if bar else 'bars'}: another run is inside with 95 %" if known else ""
    hollow = "hollow: noisy" if rows["noisy"].fillna("").astype(bool).any() else ""
    return [bars, hollow, hosts_note(rows)]


def _at_one_length(
    rows: pd.DataFrame,
    modes: Sequence[str],
    shape: dict[str, Any],
    cost: Cost,
    styles: dict[str, Style],
) -> Figure:
    """Draw a bar for each mechanism: with one length there is no curve."""
    panels = [cost_at_one_length(mode, rows[rows["mode"] == mode], cost, shape) for mode in modes]
    figure = bars(panels, styles)
    set_title(
        figure, shape, "; ".join(filter(None, interval_notes(rows, timed=cost.column in TIMED, bar=True)))
    )
    return figure


def cost_at_one_length(title: str, rows: pd.DataFrame, cost: Cost, shape: dict[str, Any]) -> Panel:
    """Return a panel of a bar chart with a cost at the only length of the rows."""
    length = f"{units.length(rows['seq_len'].iloc[0])} {items_in_words(shape)}"
    low, high = bounds(rows, cost)
    return Panel(
        title=title, rows=rows.assign(low=low, high=high), column=cost.column, tick=cost.tick,
        axis=f"{cost.axis} at {length}",
    )  # fmt: skip


def bounds(rows: pd.DataFrame, cost: Cost) -> tuple[pd.Series, pd.Series]:
    """Return the ends of a cost's intervals, NaN if it has none."""
    if cost.column not in TIMED:
        return (pd.Series(np.nan, index=rows.index),) * 2
    low, high = rows["time_low_s"], rows["time_high_s"]
    if cost.column == "tokens_per_s":
        work = rows["seq_len"] * rows["batch_size"]
        low, high = work / high, work / low
    return low, high


def draw_series(
    axes: Axes,
    name: str,
    rows: pd.DataFrame,
    cost: Cost,
    style: Style,
    slope: str | None,
) -> Line2D:
    """Draw the series of one mechanism and return its handle for the legend."""
    mine = rows.sort_values("seq_len")
    known = mine[mine[cost.column] > 0]
    values = mine[cost.column].where(mine[cost.column] > 0)  # a gap where a configuration failed
    text = name if slope is None else f"{name}  {slope}"
    (series,) = axes.plot(mine["seq_len"], values, label=text, **style)
    if cost.column in TIMED and len(known):
        axes.vlines(known["seq_len"], *bounds(known, cost), color=style["color"], linewidth=3, alpha=0.35)
        noisy = known[known["noisy"].fillna("").astype(bool)]
        axes.scatter(noisy["seq_len"], noisy[cost.column], s=15, facecolors="white", zorder=3,
                     edgecolors=style["color"], linewidths=0.8, marker=style["marker"])  # fmt: skip
    return series


def slopes_in_words(raw: pd.DataFrame, cost: Cost) -> dict[tuple[str, str], str]:
    """(label, mode) -> the fitted slope as a legend writes it: ``UNKNOWN`` if it is too uncertain."""
    assert cost.slopes is not None
    written = {}
    for row in each_row(exponents(raw, cost.slopes)):
        half = (row.exponent_high - row.exponent_low) / 2
        spread = f"±{half:.2f}" if half >= 0.005 else ""
        slope = f"$N^{{{row.exponent:.2f}{spread}}}$" if is_known(row) else UNKNOWN
        claim = f" (declared {row.declared})" if row.verdict == "grows faster" else ""
        written[label(row.mechanism, row.options), row.mode] = slope + claim
    return written


def _crossovers_to_mark(raw: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the crossovers of each mode to the mechanism that is fastest at the longest length, if few."""
    crossings = crossovers(raw)
    kept = []
    for mode, group in crossings[crossings["crossover"].notna()].groupby("mode"):
        last = rows[(rows["mode"] == mode) & rows["time_s"].notna()]
        last = last[last["seq_len"] == last["seq_len"].max()]
        best = last.loc[last["time_s"].idxmin()]
        # a mechanism measured in several versions of its code has several series, none of them marked
        drawn = set(labels(rows))
        leads = group[
            (group["faster_after"] == label(best["mechanism"], best["options"]))
            & group["faster_before"].isin(drawn)
        ]
        kept.append(leads if len(leads) <= MOST_CROSSOVERS else leads.iloc[:0])
    return pd.concat(kept) if kept else crossings.iloc[:0]


def _mark_crossovers(axes: Axes, crossings: pd.DataFrame, styles: dict[str, Style]) -> list[Line2D]:
    """Draw a dotted line at each crossover, in the colour of the mechanism that becomes the slower one.

    Returns its handles for the legend: beside the lines, names would be written over each other.
    """
    handles = []
    for row in each_row(crossings.sort_values("crossover")):
        colour = styles[row.faster_before]["color"]
        text = f"{row.faster_after} faster than {row.faster_before} from {row.crossover:.0f}"
        handles.append(
            axes.axvline(row.crossover, color=colour, linestyle=":", linewidth=1.0, zorder=0.5, label=text)
        )
        low, high = (  # an open interval is shaded to the last length measured
            row.first if pd.isna(row.crossover_low) else row.crossover_low,
            row.last if pd.isna(row.crossover_high) else row.crossover_high,
        )
        axes.axvspan(low, high, color=colour, alpha=0.08, linewidth=0, zorder=0.4)
    return handles


def set_log_axes(axes: Axes, rows: pd.DataFrame, cost: Cost) -> None:
    """Set both axes of a panel to logarithms: lengths, and the cost with its ticks and limits."""
    lengths = sorted(rows["seq_len"].unique())
    set_length_axis(axes, lengths, items=items_in_words(rows.iloc[0]))
    axes.set_yscale("log", base=2 if cost.column.endswith("_bytes") else 10)
    values = rows.loc[rows[cost.column] > 0, cost.column]
    label_log_axis(axes.yaxis, values, cost.tick, few=not cost.column.endswith("_bytes"))
    if len(values):
        axes.set_ylim(values.min() / 1.6, values.max() * 2.6)  # room for the x marks above


def label_log_axis(axis: Axis, values: pd.Series, tick: Callable[[float], str], *, few: bool = True) -> None:
    """Format the ticks of a logarithmic axis: with ``few`` at 1, 2 and 5 if the values span little."""
    if few and len(values) and values.max() < FEW_DECADES * values.min():
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
