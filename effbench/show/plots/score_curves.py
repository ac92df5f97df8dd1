"""Plot of a task's test score against sequence length, or a dot per mechanism at one length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from effbench.records.analyse.scores import metric_of, with_score
from effbench.show import units
from effbench.show.look import NothingToDraw, failures_note, mark_failures, score_tick, set_length_axis
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.label_layout import end_handles, label_ends, label_room
from effbench.show.plots.one_length import Panel, dots
from effbench.show.plots.sheet import Sheet, set_title
from effbench.show.plots.trainings import drawn_scores, intervals_note, metric_words, padding_note
from effbench.show.tables import SHAPE, by_label, of_shape


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task, shape and machine, from the summary frame. Raises NothingToDraw."""
    keys = [*SHAPE, "task", "machine"]
    styles = looks(frame)
    figures = []
    for key, rows in with_score(frame[frame["task"] != ""]).groupby(keys, sort=False):
        if rows["score"].notna().any():
            shape = dict(zip(keys, key, strict=True))
            figures.append(_figure(rows, of_shape(raw, shape), shape, styles))
    if not figures:
        raise NothingToDraw("there is nothing to draw for accuracy: no row has a value of a score")
    return figures


def _figure(rows: pd.DataFrame, raw: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    rows = drawn_scores(rows, raw)
    lengths = sorted(rows["seq_len"].unique())
    series = by_label(rows)
    baselines = baseline_scores(raw)
    tick = score_tick(metric_of(rows))
    short = padding_note(rows)  # in the axis too: a title is hidden in a paper
    note = "; ".join(filter(None, [short, intervals_note(rows)]))
    if len(lengths) == 1:
        axis = f"test {metric_words(rows)} at {units.length(lengths[0])} tokens"
        axis += ", mostly padding" if short else ""
        panel = Panel(title="", rows=rows, column="score", axis=axis, tick=tick)
        figure = dots(panel, styles, baselines=baselines)
        set_title(figure, shape, note)
        return figure
    figure = Sheet(1, wide=6.4, tall=3.0, beside=label_room(f"{name} 100.0 %" for name in baselines))
    (axes,) = figure.panels
    set_length_axis(axes, lengths)
    if short:
        axes.set_xlabel(f"{axes.get_xlabel()}, {short}")
    offsets = np.linspace(-1, 1, len(series)) if len(series) > 1 else [0.0]
    for (name, mine), offset in zip(series, offsets, strict=True):
        known = mine[mine["score"].notna()].sort_values("seq_len")
        errors = [known["score"] - known["low"], known["high"] - known["score"]]
        axes.errorbar(known["seq_len"] * 1.02**offset, known["score"], yerr=errors, label=name,
                      capsize=2, **styles[name])  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_ylabel(f"test {metric_words(rows)}")
    failed = mark_failures(axes, rows, "score", styles)
    values = rows[["score", "low", "high"]].stack()
    axes.set_ylim(*score_limits(values.min(), values.max(), baselines.values()))
    ends = draw_baselines(axes, baselines, metric_of(rows))
    figure.legend_below([*axes.get_legend_handles_labels()[0], *end_handles(ends)])
    set_title(figure, shape, "; ".join(filter(None, [note, failures_note(failed)])))
    label_ends(figure, {axes: ends})
    return figure
