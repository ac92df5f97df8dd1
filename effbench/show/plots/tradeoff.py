"""Trade-off plot from the summary: test score against training throughput, the bubble's area the memory."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from effbench.records.analyse.scores import with_score
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import NothingToDraw, hosts_note
from effbench.show.palette import Style, looks
from effbench.show.plots.bubble_chart import (
    Bubble,
    bubble_legend,
    draw_bubbles,
    name_bubbles,
    set_bubble_axes,
)
from effbench.show.plots.sheet import Sheet, set_title
from effbench.show.plots.trainings import drawn_scores, intervals_note, padding_note
from effbench.show.tables import SHAPE, each_row, of_shape

_NEEDED = ["score", "tokens_per_s", "peak_bytes"]


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task, shape and machine with all its lengths. Raises NothingToDraw."""
    keys = [*SHAPE, "task", "machine"]
    styles = looks(frame)
    figures = []
    for key, rows in with_score(frame[frame["task"] != ""]).groupby(keys, sort=False):
        known = rows[rows[_NEEDED].notna().all(axis=1)]
        if len(known):
            shape = dict(zip(keys, key, strict=True))
            figures.append(_figure(drawn_scores(known, of_shape(raw, shape)), shape, styles))
    if not figures:
        missing = ", ".join(_NEEDED)
        raise NothingToDraw(f"there is nothing to draw for tradeoff: no row has a value of {missing}")
    return figures


def _figure(known: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    several = known["seq_len"].nunique() > 1
    bubbles = [
        Bubble(
            label(row.mechanism, row.options), row.tokens_per_s, row.score, row.peak_bytes,
            units.length(row.seq_len) if several else "",
            [] if pd.isna(row.low) else [(row.tokens_per_s, row.low, row.tokens_per_s, row.high)],
        )
        for row in each_row(known)
    ]  # fmt: skip
    figure = Sheet(1, wide=6.8, tall=3.6)
    (axes,) = figure.panels
    draw_bubbles(axes, bubbles, styles)
    set_bubble_axes(axes, known, [*known["tokens_per_s"]])
    scores = known[["score", "low", "high"]].stack()
    margin = max(0.01, 0.15 * (scores.max() - scores.min()))
    axes.set_ylim(scores.min() - margin, scores.max() + margin)
    bubble_legend(figure, bubbles, styles)
    notes = [padding_note(known), intervals_note(known), hosts_note(known)]
    set_title(figure, shape, "; ".join(filter(None, notes)))
    name_bubbles(axes, bubbles)
    return figure
