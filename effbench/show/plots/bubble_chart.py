"""What plots of bubbles share: score against throughput, with the memory as area; names, axes, legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.records.analyse.scores import metric_of
from effbench.show import units
from effbench.show.look import minor_tick, score_tick
from effbench.show.palette import Style
from effbench.show.plots.label_layout import Box, label_spots
from effbench.show.plots.sheet import Sheet, narrow
from effbench.show.plots.trainings import metric_words


class Bubble(NamedTuple):
    """A point: mechanism, throughput (tokens per second), score, memory (bytes), and what tells it apart.

    ``bars`` are the lines of its intervals, as (x0, y0, x1, y1).
    """

    name: str
    speed: float
    score: float
    memory: float
    detail: str = ""
    bars: Sequence[Box] = ()


def most_area() -> float:
    """Return the largest area of a bubble in square points."""
    return 200.0 if narrow() else 900.0


def draw_bubbles(axes: Axes, bubbles: Sequence[Bubble], styles: Mapping[str, Style]) -> None:
    """Draw bubbles with their mechanisms' markers in the middle, and their intervals."""
    largest = max(bubble.memory for bubble in bubbles)
    for bubble in bubbles:
        style = styles[bubble.name]
        at = (bubble.speed, bubble.score)
        axes.scatter(*at, s=most_area() * bubble.memory / largest, color=style["color"], alpha=0.45,
                     edgecolors="black", linewidths=0.7, zorder=2.5, gid=f"bubble-{bubble.name}")  # fmt: skip
        axes.plot(*at, marker=style["marker"], markersize=4, color=style["color"], markeredgecolor="black",
                  markeredgewidth=0.4, zorder=3)  # fmt: skip
        look: Style = {"color": style["color"], "linewidth": 1.0, "zorder": 2}
        for x0, y0, x1, y1 in bubble.bars:
            if x0 == x1:
                axes.vlines(x0, y0, y1, gid=f"accuracy-{bubble.name}", **look)
            else:
                axes.hlines(y0, x0, x1, gid=f"speed-{bubble.name}", **look)


def set_bubble_axes(axes: Axes, trained: pd.DataFrame, speeds: Sequence[float]) -> None:
    """Name the axes and set the limits of the logarithmic one of throughput."""
    axes.set_xscale("log")
    stretch = max(1.4, (max(speeds) / min(speeds)) ** 0.18)
    axes.set_xlim(min(speeds) / stretch, max(speeds) * stretch)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: minor_tick(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(score_tick(metric_of(trained))))
    axes.set_xlabel("training throughput (tokens per second)")
    axes.set_ylabel(f"test {metric_words(trained)}")


def bubble_legend(
    figure: Sheet, bubbles: Sequence[Bubble], styles: Mapping[str, Style], more: Sequence[Line2D] = ()
) -> None:
    """Explain the areas below the panel; in a narrow column above it, and below it the mechanisms."""
    largest = max(bubble.memory for bubble in bubbles)
    if narrow():
        names = sorted({bubble.name for bubble in bubbles})
        marks = [Line2D([], [], label=name, **{**styles[name], "linestyle": "none"}) for name in names]
        figure.legend_below([*marks, *more], handlelength=2.0)
    heading = Line2D([], [], linestyle="none", label="peak memory of a\ntraining step (area)")
    sizes = [
        Line2D([], [], marker="o", linestyle="none", color="#AAAAAA", markeredgecolor="black",
               markeredgewidth=0.7, markersize=(most_area() * share) ** 0.5,
               label=units.size(share * largest))
        for share in ((0.25, 1.0) if narrow() else (0.25, 0.5, 1.0))
    ]  # fmt: skip
    if narrow():
        figure.legend_above([heading, *sizes], handlelength=2.0, handletextpad=0.6, columnspacing=0.8)
    else:
        figure.legend_below([heading, *sizes], handlelength=2.6, handletextpad=1.2, columnspacing=2.5,
                            borderpad=1.2)  # fmt: skip


def name_bubbles(axes: Axes, bubbles: Sequence[Bubble], baselines: Iterable[float] = ()) -> None:
    """Write the names beside the bubbles; in a narrow column, only what the legend does not say."""
    largest = max(bubble.memory for bubble in bubbles)
    spots = []
    for bubble in bubbles:
        text = bubble.detail if narrow() else f"{bubble.name} {bubble.detail}".rstrip()
        radius = float(np.sqrt(most_area() * bubble.memory / largest / np.pi))
        spots.append((bubble.speed, bubble.score, radius, text))
    if any(text for *_, text in spots):
        left, right = axes.get_xlim()
        lines = [bar for bubble in bubbles for bar in bubble.bars]
        label_spots(axes, spots, [*lines, *((left, value, right, value) for value in baselines)])
