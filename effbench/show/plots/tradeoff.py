"""Trade-off plot from the summary: test score against training throughput, the bubble's area the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.records.analyse.scores import with_score
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import NothingToDraw, Style, hosts_note, looks, minor_tick, set_title
from effbench.show.plots.label_layout import label_spots
from effbench.show.plots.trainings import metric_words
from effbench.show.tables import SHAPE, each_row

_NEEDED = ["score", "tokens_per_s", "peak_bytes"]
_MOST_AREA = 900.0  # of a bubble, in square points


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task, shape and machine with all its lengths. Raises NothingToDraw."""
    keys = [*SHAPE, "task", "machine"]
    styles = looks(frame)
    figures = []
    for key, rows in with_score(frame[frame["task"] != ""]).groupby(keys, sort=False):
        known = rows[rows[_NEEDED].notna().all(axis=1)]
        if len(known):
            figures.append(_figure(known, dict(zip(keys, key, strict=True)), styles))
    if not figures:
        missing = ", ".join(_NEEDED)
        raise NothingToDraw(f"there is nothing to draw for tradeoff: no row has a value of {missing}")
    return figures


def _figure(known: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    largest = float(known["peak_bytes"].max())
    several = known["seq_len"].nunique() > 1
    spots = []
    for row in each_row(known):
        name = label(row.mechanism, row.options)
        area = _MOST_AREA * row.peak_bytes / largest
        axes.scatter(row.tokens_per_s, row.score, s=area, color=styles[name]["color"], alpha=0.55,
                     edgecolors="black", linewidths=0.7)  # fmt: skip
        axes.errorbar(row.tokens_per_s, row.score, linewidth=0.8, color="#555555", zorder=1,
                      yerr=[[row.score - row.score_low],
                            [row.score_high - row.score]])  # fmt: skip
        text = f"{name} {units.length(row.seq_len)}" if several else name
        spots.append((float(row.tokens_per_s), float(row.score), (area / np.pi) ** 0.5, text))
    axes.set_xscale("log")
    low, high = known["tokens_per_s"].min(), known["tokens_per_s"].max()
    axes.set_xlim(low / 1.5, high * 1.9)
    scores = known[["score", "score_low", "score_high"]].stack()
    bottom, top = scores.min(), scores.max()
    margin = max(0.01, 0.15 * (top - bottom))
    axes.set_ylim(bottom - margin, top + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: minor_tick(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("training throughput (tokens per second)")
    axes.set_ylabel(f"test {metric_words(known)}")
    sizes = [largest, largest / 2, largest / 4]
    handles = [
        Line2D([], [], marker="o", linestyle="none", color="#999999", markeredgecolor="black",
               markersize=(_MOST_AREA * size / largest) ** 0.5, label=units.size(size))
        for size in sizes
    ]  # fmt: skip
    axes.legend(handles=handles, title="peak memory of\na training step\n(area)", loc="center left",
                labelspacing=2.0, bbox_to_anchor=(1.0, 0.5), borderpad=1.2, handletextpad=1.4)  # fmt: skip
    bars_are = f"bars: 95 % confidence interval of the {metric_words(known)}"
    set_title(figure, shape, "; ".join(filter(None, [bars_are, hosts_note(known)])))
    bars = [(row.tokens_per_s, row.score_low, row.tokens_per_s, row.score_high) for row in each_row(known)]
    label_spots(axes, spots, [bar for bar in bars if pd.notna(bar[1])])
    return figure
