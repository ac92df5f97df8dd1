"""Bubble plot from the raw records: score against training throughput, the area the peak memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effbench.records.analyse.scores import metric_of
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.bubble_chart import (
    Bubble,
    bubble_legend,
    draw_bubbles,
    name_bubbles,
    set_bubble_axes,
)
from effbench.show.plots.label_layout import end_handles, label_ends, label_room
from effbench.show.plots.sheet import Sheet
from effbench.show.plots.trainings import (
    failure_of,
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


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task and length, from the raw frame. Raises NothingToDraw.

    A bubble is the mean over seeds; for throughput the geometric mean, since its axis is logarithmic. Bars
    are 95 % t intervals over seeds, of two seeds their range.
    """
    trained = trainings(raw, "bubble", _NEEDED)
    styles = looks(raw)
    return [_figure(group, shape_of(group), styles) for group in per_figure(trained)]


def _figure(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    bubbles: list[Bubble] = []
    absent, counts, speeds, scores = [], [], [], []
    for name, mine in by_label(trained):
        known = with_values(mine, _NEEDED)
        if known.empty:
            absent.append(f"{name} ({failure_of(mine)})")
            continue
        score = score_over_seeds(known["score"], metric_of(known))
        speed = over_seeds(known["tokens_per_s"], log=True)
        bars = [(speed[0], score[1], speed[0], score[2]), (speed[1], score[0], speed[2], score[0])]
        memory = float(known["peak_bytes"].median())
        bubbles.append(Bubble(name, speed[0], score[0], memory, bars=[] if np.isnan(score[1]) else bars))
        counts.append(len(known))
        scores += [value for value in score if not np.isnan(value)]
        speeds += [value for value in speed if not np.isnan(value)]
    baselines = baseline_scores(trained)
    figure = Sheet(1, wide=7.0, tall=3.8, beside=label_room(f"{name} 00.0 %" for name in baselines))
    (axes,) = figure.panels
    draw_bubbles(axes, bubbles, styles)
    set_bubble_axes(axes, trained, speeds)
    axes.set_ylim(*score_limits(min(scores), max(scores), baselines.values()))
    ends = draw_baselines(axes, baselines, metric_of(trained))
    bubble_legend(figure, bubbles, styles, end_handles(ends))
    set_training_title(figure, shape, [seeds_note(counts), not_drawn(absent)])
    label_ends(figure, {axes: ends})
    name_bubbles(axes, bubbles, baselines.values())
    return figure
