"""Scores of Fastformer's variants (ablations), as in Figures 3 and 4 of its paper, beside its differences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from effbench.records.analyse.published import published, published_scores, settled
from effbench.records.analyse.summary import label
from effbench.show.look import GREY, NothingToDraw, percent
from effbench.show.palette import Style, looks
from effbench.show.plots.sheet import Sheet, legend_letters, set_title
from effbench.show.plots.trainings import Interval, score_over_seeds, seeds_note
from effbench.show.tables import SHAPE, each_row

# task's name -> fastformer's variant as ``-m`` reads it -> metric's column -> score, 0 to 1
PublishedScores = Mapping[str, Mapping[str, Mapping[str, float]]]

REFERENCE = "fastformer"

# An option's values in the paper's order, the last the one that Fastformer uses, and the paper's names.
ABLATIONS = {
    "interaction": {"concat": "concatenation", "add": "addition", "product": "product"},
    "sharing": {
        "none": "no\nsharing",
        "query-value": "query–\nvalue",
        "head-wise": "+ head-\nwise",
        "layer-wise": "+ layer-\nwise",
    },
}
METRICS = {"accuracy": "test accuracy", "test_macro_f1": "test macro-F"}


class _Bar(NamedTuple):
    """A variant's score in one panel: its mean and interval, its number of seeds, and the paper's score."""

    value: str
    ours: Interval | None
    seeds: int
    status: str
    paper: float | None


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Draw :func:`ablations` beside the paper's scores."""
    return ablations(raw, _paper_scores())


def ablations(raw: pd.DataFrame, paper: PublishedScores) -> list[Figure]:
    """Scores of Fastformer's variants: the interaction of its vectors (Figure 3), its sharing (Figure 4).

    One figure per ablation, labelled with the option, with a column per task and rows of accuracy and
    macro-F. Variants differ by a point or two, so bars from 0 would all look equal. The axis therefore starts
    below the lowest value: the foot of each bar is broken, the axis label says where it starts, and the
    caption says that lengths are not to be compared. Error bars are 95 % t intervals over seeds.

    A published score is in brackets below its bar. It is many points from ours, because data, classes and
    word vectors differ, and drawing it would compress our bars. The hollow marker is our score of the variant
    that Fastformer uses plus the published difference to it. Raises NothingToDraw.
    """
    nothing = "there is nothing to draw for ablation: "
    rows = raw[(raw["probe"] == "accuracy") & (raw["mechanism"] == REFERENCE)]
    if rows.empty:
        raise NothingToDraw(f"{nothing}no training is of {REFERENCE}")
    variants = [_variant(str(options)) for options in rows["options"]]
    rows = rows.assign(**{name: [v.get(name) for v in variants] for name in ABLATIONS})
    styles = looks(raw)
    figures = []
    for name in ABLATIONS:
        for _, group in rows[rows[name].notna()].groupby([*SHAPE, "machine"], sort=False):
            tasks = [task for _, task in group.groupby(["task", "seq_len"]) if _compares(task, name)]
            if tasks:
                figures.append(_figure(tasks, name, paper, styles))
    if not figures:
        raise NothingToDraw(
            f"{nothing}no task has scores of two variants, such as {REFERENCE} "
            f"and {REFERENCE}:interaction=add or {REFERENCE}:sharing=none"
        )
    return figures


def _variant(options: str) -> dict[str, str]:
    """Return the ablations that these options belong to, as option -> value: both for the defaults."""
    defaults: dict[str, str] = published()["defaults"]
    chosen = {**defaults, **settled(options)}
    if set(chosen) != set(defaults):
        return {}
    return {
        name: chosen[name]
        for name in ABLATIONS
        if all(chosen[other] == default for other, default in defaults.items() if other != name)
    }


def _used(name: str) -> str:
    """Return the value of an ablation's option that the paper's Fastformer has."""
    return str(published()["defaults"][name])


def _compares(task: pd.DataFrame, name: str) -> bool:
    """True if two variants have a score."""
    scored = (
        task[(task["status"] == "ok") & task["accuracy"].notna()] if "accuracy" in task else task.iloc[:0]
    )
    return bool(scored[name].nunique() > 1)


def _figure(
    tasks: Sequence[pd.DataFrame], name: str, paper: PublishedScores, styles: Mapping[str, Style]
) -> Figure:
    metrics = [m for m in METRICS if any(m in task and task[m].notna().any() for task in tasks)]
    figure = Sheet(len(metrics) * len(tasks), wide=max(3.5, 5.0 / len(tasks)), tall=1.8, across=len(tasks))
    figure.set_label(name)
    colour = styles[_label_of(tasks[0], name)]["color"]
    counts: list[int] = []
    printed = False
    for place, axes in enumerate(figure.panels):
        metric, task = metrics[place // len(tasks)], tasks[place % len(tasks)]
        theirs = paper.get(str(task["task"].iloc[0]).split(":")[0], {})
        bars = [_bar(task, name, value, metric, theirs) for value in ABLATIONS[name]]
        counts += [bar.seeds for bar in bars if bar.seeds]
        printed |= any(bar.paper is not None for bar in bars)
        _bars(axes, bars, name, METRICS[metric], colour)
        if place < len(tasks) or figure.across < len(tasks):
            words = _data(task) if figure.page.width is None else str(task["task"].iloc[0]).split(":")[0]
            room = int(11 * figure.inches())
            axes.set_title(textwrap.fill(f"{words}, {task['seq_len'].iloc[0]} tokens", room))
    if printed:
        words = f"our score of {_used(name)} plus the published difference; in brackets: published score"
        handle = Line2D([], [], marker="D", linestyle="none", markerfacecolor="white",
                        markeredgecolor="black", markersize=5, label=words)  # fmt: skip
        figure.legend_below([handle], handlelength=1.5)
    first = tasks[0].iloc[0]
    figure_number = {"interaction": "Figure 3", "sharing": "Figure 4"}[name]
    shape = {n: first[n] for n in (*SHAPE, "machine")}
    notes = [
        f"tasks: {'; '.join(map(_data, tasks))}" if figure.page.width is not None else "",
        seeds_note(counts, "error bars"),
        "axes do not start at 0: compare differences, not bar lengths",
    ]
    title = f"Ablation of Fastformer's {name} (the paper's {figure_number})"
    set_title(figure, {**shape, "task": title}, "; ".join(filter(None, notes)))
    return figure


def _data(task: pd.DataFrame) -> str:
    return str(task["task"].iloc[0]).replace(",", ", ")


def _label_of(task: pd.DataFrame, name: str) -> str:
    """Return the label of the variant that Fastformer uses, or of another if that was not measured."""
    used = task[task[name] == _used(name)]
    row = (used if len(used) else task).iloc[0]
    return label(str(row["mechanism"]), str(row["options"]))


def _bar(
    task: pd.DataFrame, name: str, value: str, metric: str, theirs: Mapping[str, Mapping[str, float]]
) -> _Bar:
    rows = task[task[name] == value].sort_values("options").drop_duplicates("repeat")
    known = rows[(rows["status"] == "ok") & rows[metric].notna()] if metric in rows else rows.iloc[:0]
    key = REFERENCE if value == _used(name) else f"{REFERENCE}:{name}={value}"
    return _Bar(
        value=value,
        ours=score_over_seeds(known[metric], metric) if len(known) else None,
        seeds=len(known),
        status=str(rows["status"].iloc[0]) if len(rows) and not len(known) else "",
        paper=theirs.get(key, {}).get(metric),
    )


def _bars(axes: Axes, bars: Sequence[_Bar], name: str, words: str, colour: str) -> None:
    marks = _marks(bars, name)
    values = [v for bar in bars for v in bar.ours or () if not np.isnan(v)] + list(marks.values())
    if not values:
        axes.set_visible(False)
        return
    base, top = _cut(values)
    for x, bar in enumerate(bars):
        used = bar.value == _used(name)
        if bar.ours is not None:
            mean, low, high = bar.ours
            axes.bar(
                x,
                mean - base,
                0.62,
                bottom=base,
                color=colour if used else "#BDBDBD",
                zorder=2,
                gid=f"bar-{bar.value}",
            )
            if not np.isnan(low):
                axes.errorbar(x, mean, [[mean - low], [high - mean]], color="black", linewidth=1.1, capsize=3,
                              zorder=3)  # fmt: skip
            edge = mean if np.isnan(high) else high
            axes.annotate(f"{100 * mean:.1f}", (x, edge), xytext=(0, 2), textcoords="offset points",
                          ha="center", fontsize=legend_letters(),
                          fontweight="bold" if used else "normal")  # fmt: skip
            if base > 0:
                _break(axes, x, base, top)
        elif bar.status:
            axes.text(
                x, base + 0.04 * (top - base), bar.status, ha="center", fontsize=legend_letters(), color=GREY
            )
        if bar.value in marks:
            axes.plot(
                x + 0.31 if bar.ours else x, marks[bar.value], marker="D", markersize=5,
                markerfacecolor="white", markeredgecolor="black", linestyle="none", zorder=4,
                gid=f"published-{bar.value}",
            )  # fmt: skip
    axes.set_ylim(base, top)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    scores = ["" if bar.paper is None else f"\n({100 * bar.paper:.1f})" for bar in bars]
    ticks = [f"{ABLATIONS[name][bar.value]}{score}" for bar, score in zip(bars, scores, strict=True)]
    axes.set_xticks(range(len(bars)), ticks, fontsize=legend_letters())
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_ylabel(f"{words}\n(axis starts at {percent(base)})" if base > 0 else words)


def _marks(bars: Sequence[_Bar], name: str) -> dict[str, float]:
    """Return our score of the used variant plus the published difference to it, for each variant."""
    used = next((bar for bar in bars if bar.value == _used(name)), None)
    if used is None or used.ours is None or used.paper is None:
        return {}
    return {bar.value: used.ours[0] + bar.paper - used.paper for bar in bars if bar.paper is not None}


def _cut(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis: from a round value below all values, or from 0 if that is near."""
    low, high = min(values), max(values)
    reach = max(high - low, 0.01)
    base = low - 0.45 * reach
    step = 10.0 ** math.floor(math.log10(reach))
    base = math.floor(base / step) * step
    return (0.0 if base < 0.25 * high else round(base, 6)), high + 0.16 * reach


def _break(axes: Axes, x: float, base: float, top: float) -> None:
    """Draw a white zigzag through the foot of a bar that does not start at 0."""
    across = np.linspace(x - 0.36, x + 0.36, 9)
    height = base + (top - base) * (0.06 + 0.014 * (-1.0) ** np.arange(9))
    axes.plot(across, height, color="white", linewidth=2.2, zorder=2.6, solid_joinstyle="miter", gid="break")


def _paper_scores() -> PublishedScores:
    """Return the paper's scores of the tasks that read its data; stand-ins for them have none."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    columns = {"accuracy": "accuracy", "macro_f1": "test_macro_f1"}
    for row in each_row(pd.concat([published_scores("figure3"), published_scores("figure4")])):
        task = scores.setdefault(published()["datasets"][row.dataset]["task"], {})
        task.setdefault(row.mechanism, {})[columns[row.metric]] = float(row.published)
    return scores
