"""Plots of a generation: the time of a step and the state against length, and prefill against decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from effbench.show import units
from effbench.show.look import NothingToDraw, failures_note, hosts_note, mark_failures
from effbench.show.palette import Style, looks
from effbench.show.plots.cost_curves import (
    Cost,
    cost_at_one_length,
    draw_series,
    interval_notes,
    label_log_axis,
    set_log_axes,
    slopes_in_words,
    slopes_notes,
)
from effbench.show.plots.one_length import bars
from effbench.show.plots.sheet import Sheet, narrow, set_title
from effbench.show.tables import SHAPE, by_label, of_shape

_PANELS = (
    Cost("time_s", "time of a step", units.seconds, "time_s"),
    Cost("state_bytes", "state", units.size, "state_bytes"),
)


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per shape and machine: the time of a step and the state's size against the tokens before.

    Raises NothingToDraw.
    """
    return [
        _curves(rows, of_shape(raw, shape), shape, looks(frame))
        for shape, rows in _shapes(frame, "decode", "time_s")
    ]


def against_prefill(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per shape and machine: the time of a step against that of reading the tokens before.

    A mechanism's lengths are joined; its longest has the large marker. Raises NothingToDraw.
    """
    return [_scatter(rows, shape, looks(frame)) for shape, rows in _shapes(frame, "prefill", "prefill_s")]


def _shapes(frame: pd.DataFrame, kind: str, column: str) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    keys = [*SHAPE, "machine"]
    steps = frame[(frame["task"] == "") & (frame["mode"] == "decode")]
    shapes = [
        (dict(zip(keys, key, strict=True)), rows)
        for key, rows in steps.groupby(keys, sort=False)
        if rows[column].notna().any()
    ]
    if not shapes:
        raise NothingToDraw(
            f"there is nothing to draw for {kind}: no row of mode decode has a value of {column}"
        )
    return shapes


def _curves(rows: pd.DataFrame, raw: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    if rows["seq_len"].nunique() == 1:
        return _at_one_length(rows, shape, styles)
    figure = Sheet(len(_PANELS), wide=5.1, tall=2.5)
    raw = raw[raw["mode"] == "decode"]
    failed: set[str] = set()
    words: list[str] = []
    handles: list[Line2D] = []
    for axes, cost in zip(figure.panels, _PANELS, strict=True):
        set_log_axes(axes, rows, cost)
        axes.set_xlabel("tokens before the step")
        axes.set_ylabel(cost.axis)
        slopes = slopes_in_words(raw, cost)
        drawn = [
            draw_series(axes, name, mine, cost, styles[name], slopes.get((name, "decode")))
            for name, mine in by_label(rows)
        ]
        if not handles:  # the legend has the slopes of the time
            handles, words = drawn, list(slopes.values())
        failed |= mark_failures(axes, rows, cost.column, styles)
    figure.legend_below(handles)
    notes = [failures_note(failed), *interval_notes(rows, timed=True), *slopes_notes(words, " of the time")]
    set_title(figure, shape, "; ".join(filter(None, notes)))
    return figure


def _at_one_length(rows: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    """Draw a bar for each mechanism: with one length there is no curve."""
    known = [cost for cost in _PANELS if rows[cost.column].notna().any()]
    panels = [cost_at_one_length("", rows, cost, shape) for cost in known]
    panels = [replace(panel, axis=panel.axis.replace(" at ", " after ")) for panel in panels]
    figure = bars(panels, styles)
    set_title(figure, shape, "; ".join(filter(None, interval_notes(rows, timed=True, bar=True))))
    return figure


def _scatter(rows: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    known = rows[rows["prefill_s"].notna() & rows["time_s"].notna()]
    figure = Sheet(1, wide=6.8, tall=3.6)
    (axes,) = figure.panels
    handles = []
    for name, mine in by_label(known):
        mine = mine.sort_values("seq_len")
        handles += axes.plot(mine["prefill_s"], mine["time_s"], linewidth=1.0, markersize=3.5, label=name,
                             **styles[name])  # fmt: skip
        axes.scatter(mine["prefill_s"].iloc[-1:], mine["time_s"].iloc[-1:], s=60 if not narrow() else 30,
                     zorder=3, color=styles[name]["color"], marker=styles[name]["marker"])  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, column in ((axes.xaxis, "prefill_s"), (axes.yaxis, "time_s")):
        label_log_axis(axis, known[column], units.seconds)
    axes.set_xlabel("prefill: time to read the tokens before")
    axes.set_ylabel("decode: time of a step")
    figure.legend_below(handles)
    lengths = sorted(known["seq_len"].unique())
    span = f"N from {units.length(lengths[0])} to {units.length(lengths[-1])}; large marker: the longest N"
    set_title(figure, shape, "; ".join(filter(None, [span, hosts_note(known)])))
    return figure
