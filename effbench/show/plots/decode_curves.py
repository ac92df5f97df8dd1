"""Plots of a generation: the time of a step and the state against length, and prefill against decode."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from effbench.show import units
from effbench.show.look import (
    NothingToDraw,
    Style,
    failures_note,
    hosts_note,
    looks,
    mark_failures,
    set_title,
)
from effbench.show.plots.cost_curves import (
    Cost,
    draw_series,
    interval_notes,
    label_log_axis,
    set_log_axes,
    slopes_in_words,
)
from effbench.show.tables import SHAPE, by_label, labels, of_shape

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
    names = sorted(set(labels(rows)))
    figure = Figure(figsize=(10.2, 3.6 + 0.2 * -(-len(names) // 4)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS))
    raw = raw[raw["mode"] == "decode"]
    failed: set[str] = set()
    for axes, cost in zip(panels, _PANELS, strict=True):
        set_log_axes(axes, rows, cost)
        axes.set_xlabel("tokens before the step")
        axes.set_ylabel(cost.axis)
        slopes = slopes_in_words(raw, cost)
        for name, mine in by_label(rows):
            draw_series(axes, name, mine, cost, styles[name], slopes.get((name, "decode")))
        failed |= mark_failures(axes, rows, cost.column, styles)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=8, handlelength=3.2)
    notes = [failures_note(failed), *interval_notes(rows, timed=True)]
    notes.append("N^a: growth of the time, fitted to the longest lengths")
    set_title(figure, shape, "; ".join(filter(None, notes)))
    return figure


def _scatter(rows: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    known = rows[rows["prefill_s"].notna() & rows["time_s"].notna()]
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, mine in by_label(known):
        mine = mine.sort_values("seq_len")
        axes.plot(
            mine["prefill_s"], mine["time_s"], linewidth=1.0, markersize=3.5, label=name, **styles[name]
        )
        axes.scatter(mine["prefill_s"].iloc[-1:], mine["time_s"].iloc[-1:], s=60, zorder=3,
                     color=styles[name]["color"], marker=styles[name]["marker"])  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, column in ((axes.xaxis, "prefill_s"), (axes.yaxis, "time_s")):
        label_log_axis(axis, known[column], units.seconds)
    axes.set_xlabel("prefill: time to read the tokens before")
    axes.set_ylabel("decode: time of a step")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    lengths = sorted(known["seq_len"].unique())
    span = f"N from {units.length(lengths[0])} to {units.length(lengths[-1])}; large marker: the longest N"
    set_title(figure, shape, "; ".join(filter(None, [span, hosts_note(known)])))
    return figure
