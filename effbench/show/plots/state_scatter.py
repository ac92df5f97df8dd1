"""Score of trainings against the bytes of state that generation keeps, as in Zoology and Based."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.common.columns import score_unit
from effbench.records.analyse.scores import metric_of
from effbench.show import units
from effbench.show.look import score_tick
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.cost_curves import label_log_axis
from effbench.show.plots.label_layout import end_handles, label_ends, label_room
from effbench.show.plots.sheet import Sheet
from effbench.show.plots.trainings import (
    absent,
    failure_of,
    metric_words,
    not_drawn,
    score_over_seeds,
    seeds_note,
    set_training_title,
    shape_of,
    trainings,
    with_values,
)
from effbench.show.tables import SHAPE, by_label

_NEEDED = ("score", "state_bytes")
_SMALLEST, _LARGER = 5.0, 1.5  # the diameter of a marker in points, and by how much that of a width is more


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task, length and machine, from the raw frame. Raises NothingToDraw.

    A point is the mean over seeds at one model width, its bar the 95 % t interval. The widths of a mechanism
    are joined. The caption names the mechanisms without a state.
    """
    trained = trainings(raw, "state", _NEEDED, keep_all=True)
    trained["state_bytes"] = trained["state_bytes"].where(trained["state_bytes"] > 0)  # 0 has no logarithm
    keys = [name for name in SHAPE if name not in ("batch_size", "d_model", "heads")]
    keys += ["task", "seq_len", "machine"]
    if trained.duplicated(["mechanism", "options", "d_model", "repeat", *keys]).any():
        keys += ["heads", "batch_size"]  # two points of a line at one width
    styles = looks(raw)
    groups = [group for _, group in trained.groupby(keys, sort=False)]
    return [_figure(group, styles) for group in groups if len(with_values(group, _NEEDED))]


def _figure(trained: pd.DataFrame, styles: dict[str, Style]) -> Figure:
    known = with_values(trained, _NEEDED)
    series = by_label(known)
    metric, baselines = metric_of(known), baseline_scores(known)
    figure = Sheet(1, wide=7.0, tall=3.4, beside=label_room(f"{name} 00.0 %" for name in baselines))
    (axes,) = figure.panels
    widths = sorted(int(width) for width in known["d_model"].unique())
    diameters = {w: _SMALLEST + _LARGER * i for i, w in enumerate(widths)}
    ends: list[float] = []
    for name, mine in series:
        colour, marker, dashes = (styles[name][key] for key in ("color", "marker", "linestyle"))
        points = []
        for width, rows in mine.groupby("d_model"):
            state = float(rows["state_bytes"].median())
            mean, low, high = score_over_seeds(rows["score"], metric)
            diameter = diameters[int(width)]  # a small marker is drawn over a large one
            axes.plot(state, mean, linestyle="none", color=colour, marker=marker, markersize=diameter,
                      markeredgecolor="white", markeredgewidth=0.4, zorder=3 - diameter / 100,
                      gid=f"point-{name}")  # fmt: skip
            axes.vlines(state, low, high, color=colour, linewidth=2.5, alpha=0.35, gid=f"bar-{name}")
            points.append((state, mean))
            ends += [mean, low, high]
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=0.9,
                  alpha=0.7, gid=f"line-{name}")  # fmt: skip
    share = score_unit(metric) == "share"
    low, high = score_limits(np.nanmin(ends), np.nanmax(ends), baselines.values())
    axes.set_ylim(*((max(low, -0.03), min(high, 1.03)) if share else (low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(score_tick(metric)))
    axes.set_ylabel(f"test {metric_words(known)}")
    axes.set_xscale("log", base=2)
    least, most = known["state_bytes"].min(), known["state_bytes"].max()
    stretch = max(1.5, (most / least) ** 0.08)
    axes.set_xlim(least / stretch, most * stretch)
    label_log_axis(axes.xaxis, known["state_bytes"], _size, few=False)
    axes.set_xlabel(
        f"state of one sequence after {units.length(known['seq_len'].iloc[0])} tokens, all layers"
    )
    named = draw_baselines(axes, baselines, metric)
    handles = [Line2D([], [], label=name, linewidth=0.9, **styles[name]) for name, _ in series]
    figure.legend_below([*handles, *end_handles(named)])
    sizes = f"markers grow with d_model: {', '.join(map(str, widths))}" if len(widths) > 1 else ""
    counts = [len(rows) for _, rows in known.groupby(["mechanism", "options", "d_model"])]
    notes = [seeds_note(counts), sizes, not_drawn(absent(trained, "d_model", "d_model {}", _lacks))]
    set_training_title(figure, shape_of(trained), notes)
    label_ends(figure, {axes: named})
    return figure


def _size(value: float) -> str:
    """Format a tick, a power of two: ``16 KiB``."""
    return re.sub(r"\.0+ ", " ", units.size(value))


def _lacks(rows: pd.DataFrame) -> str:
    """Say why rows of one width have no point, empty if they have one."""
    if len(with_values(rows, _NEEDED)):
        return ""
    return "no state recorded" if len(with_values(rows, ("score",))) else failure_of(rows)
