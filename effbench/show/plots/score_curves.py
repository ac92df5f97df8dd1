"""Plot of a task's test score against sequence length, or a dot per mechanism at one length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from effbench.common.columns import score_unit
from effbench.records.analyse.scores import metric_of, with_score
from effbench.show import units
from effbench.show.look import (
    NothingToDraw,
    Style,
    failures_note,
    looks,
    mark_failures,
    percent,
    set_length_axis,
    set_title,
)
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.dots import dots
from effbench.show.plots.label_layout import label_ends, label_room
from effbench.show.plots.trainings import metric_words
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
    lengths = sorted(rows["seq_len"].unique())
    series = by_label(rows)
    baselines = baseline_scores(raw)
    tick = percent if score_unit(metric_of(rows)) == "share" else units.ratio
    kinds = sorted(set(rows["score_interval"].dropna()))
    note = f"bars: 95 % confidence interval ({', '.join(kinds)})" if kinds else "no confidence interval"
    if len(lengths) == 1:
        axis = f"test {metric_words(rows)} at {units.length(lengths[0])} tokens"
        figure = dots(
            [("", rows)], "score", styles=styles, axis=axis, tick=tick, bounds=("score_low", "score_high"),
            baselines=baselines, from_zero=False,
        )  # fmt: skip
        set_title(figure, shape, note)
        return figure
    columns = 3 if max(len(name) for name, _ in series) <= 16 else 1
    width = 6.4 + (label_room([*baselines, "100.0 %"]) if baselines else 0)
    figure = Figure(figsize=(width, 3.9 + 0.27 * -(-len(series) // columns)), layout="constrained")
    axes = figure.subplots()
    set_length_axis(axes, lengths)
    offsets = np.linspace(-1, 1, len(series)) if len(series) > 1 else [0.0]
    for (name, mine), offset in zip(series, offsets, strict=True):
        known = mine[mine["score"].notna()].sort_values("seq_len")
        errors = [known["score"] - known["score_low"], known["score_high"] - known["score"]]
        axes.errorbar(known["seq_len"] * 1.02**offset, known["score"], yerr=errors, label=name,
                      linewidth=1.4, markersize=5, capsize=2, **styles[name])  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_ylabel(f"test {metric_words(rows)}")
    failed = mark_failures(axes, rows, "score", styles)
    values = rows[["score", "score_low", "score_high"]].stack()
    axes.set_ylim(*score_limits(values.min(), values.max(), baselines.values()))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns, fontsize=8, handlelength=3)
    set_title(figure, shape, "; ".join(filter(None, [note, failures_note(failed)])))
    if baselines:
        label_ends(axes, draw_baselines(axes, baselines))
    return figure
