"""Bubble plot from the raw records: score against training throughput, the area the peak memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.show import units
from effbench.show.look import Style, looks, minor_tick, percent
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.label_layout import Box, label_ends, label_spots
from effbench.show.plots.trainings import (
    failure_of,
    metric_words,
    not_drawn,
    over_seeds,
    per_figure,
    score_over_seeds,
    seeds_note,
    set_training_title,
    shape_of,
    trainings,
    with_values,
)
from effbench.show.tables import by_label

_NEEDED = ("score", "tokens_per_s", "peak_bytes")
_MOST_AREA = 900.0  # of a bubble, in square points


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task and length, from the raw frame. Raises NothingToDraw.

    A bubble is the mean over seeds; for throughput the geometric mean, since its axis is logarithmic. Bars
    are 95 % t intervals over seeds.
    """
    trained = trainings(raw, "bubble", _NEEDED)
    styles = looks(raw)
    return [_figure(group, shape_of(group), styles) for group in per_figure(trained)]


def _figure(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    rows, absent = [], []
    for name, mine in by_label(trained):
        known = with_values(mine, _NEEDED)
        if known.empty:
            absent.append(f"{name} ({failure_of(mine)})")
            continue
        score, speed = score_over_seeds(known["score"]), over_seeds(known["tokens_per_s"], log=True)
        rows.append((name, score, speed, float(known["peak_bytes"].median()), len(known)))
    largest = max(row[3] for row in rows)
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    spots = []
    bars: list[Box] = []
    for name, score, speed, memory, _ in rows:
        colour = styles[name]["color"]
        area = _MOST_AREA * memory / largest
        axes.scatter(speed[0], score[0], s=area, color=colour, alpha=0.55, edgecolors="black",
                     linewidths=0.7, zorder=2.5, gid=f"bubble-{name}")  # fmt: skip
        axes.plot(speed[0], score[0], marker=".", markersize=3, color="black", zorder=3)
        spots.append((speed[0], score[0], (area / np.pi) ** 0.5, name))
        if not np.isnan(score[1]):
            look = {"color": colour, "linewidth": 1.0, "zorder": 2}
            axes.vlines(speed[0], score[1], score[2], gid=f"accuracy-{name}", **look)
            axes.hlines(score[0], speed[1], speed[2], gid=f"speed-{name}", **look)
            bars += [(speed[0], score[1], speed[0], score[2]), (speed[1], score[0], speed[2], score[0])]
    speeds = [v for row in rows for v in row[2] if not np.isnan(v)]
    scores = [v for row in rows for v in row[1] if not np.isnan(v)]
    baselines = baseline_scores(trained)
    stretch = max(1.4, (max(speeds) / min(speeds)) ** 0.18)
    axes.set_xlim(min(speeds) / stretch, max(speeds) * stretch)
    axes.set_ylim(*score_limits(min(scores), max(scores), baselines.values()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: minor_tick(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("training throughput of the whole model (tokens per second)")
    axes.set_ylabel(f"test {metric_words(trained)}")
    handles = [
        Line2D([], [], marker="o", linestyle="none", color="#AAAAAA", markeredgecolor="black",
               markeredgewidth=0.7, markersize=(_MOST_AREA * share) ** 0.5,
               label=units.size(share * largest))
        for share in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    heading = Line2D([], [], linestyle="none", label="peak memory of a\ntraining step (area)")
    figure.legend(handles=[heading, *handles], loc="outside lower center", ncols=4, handlelength=2.6,
                  columnspacing=2.5, borderpad=1.2, handletextpad=1.2)  # fmt: skip
    set_training_title(figure, shape, [seeds_note([row[4] for row in rows]), not_drawn(absent)])
    label_ends(axes, draw_baselines(axes, baselines))
    label_spots(axes, spots, bars)
    return figure
