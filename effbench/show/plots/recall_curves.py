"""Accuracy of associative recall (task ``mqar``) against the model's width or the number of pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from effbench.records.analyse.scores import metric_of
from effbench.show import units
from effbench.show.look import GREY, NothingToDraw, failures_note, mark_failures, percent, span
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores
from effbench.show.plots.sheet import Sheet, legend_letters
from effbench.show.plots.trainings import (
    metric_words,
    score_over_seeds,
    seeds_note,
    set_training_title,
    shape_of,
    trainings,
    with_values,
)
from effbench.show.tables import SHAPE, by_label

_PANELS_PER_ROW = 4


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per set of task options, from the raw frame. Raises NothingToDraw.

    If several widths were measured, width is the x axis, with a panel for each length and number of pairs;
    otherwise the number of pairs is, with a panel for each length. Bars are 95 % t intervals over seeds.
    """
    tasks = raw["task"].str.split(":").str[0] == "mqar"
    if not tasks.any():
        raise NothingToDraw("there is nothing to draw for recall: no record is of the task mqar")
    trained = trainings(raw[tasks], "recall", ("score",), keep_all=True)
    trained = trained.assign(pairs=[_pairs(row) for _, row in trained.iterrows()])
    trained["other"] = [re.sub(r"(?<=[:,])pairs=\d+,?", "", task).rstrip(":,") for task in trained["task"]]
    keys = [name for name in SHAPE if name not in ("batch_size", "d_model", "heads")] + ["other", "machine"]
    point = ["mechanism", "options", "seq_len", "pairs", "d_model", "repeat", *keys]
    if trained.duplicated(point).any():  # two points of a series at one place
        keys += ["heads", "batch_size"]
    styles = looks(raw)
    groups = [group for _, group in trained.groupby(keys, sort=False) if len(with_values(group, ("score",)))]
    return [_figure(group, styles) for group in groups]


def _pairs(row: pd.Series) -> float:
    """Return a record's number of pairs, from its task's option or its value; NaN if it has neither."""
    option = re.search(r"[:,]pairs=(\d+)", str(row["task"]))
    if option:
        return float(option[1])
    return float(row["pairs"]) if "pairs" in row and pd.notna(row["pairs"]) else float("nan")


def _figure(trained: pd.DataFrame, styles: dict[str, Style]) -> Figure:
    several = trained.groupby("seq_len")["pairs"].nunique().max() > 1 and trained["pairs"].notna().all()
    by_width = trained["d_model"].nunique() > 1 or not several
    x = "d_model" if by_width else "pairs"
    panel_keys = ["seq_len", "pairs"] if by_width else ["seq_len"]
    panels = [group for _, group in trained.groupby(panel_keys, dropna=False)]
    names = [name for name, _ in by_label(trained)]
    across = min(len(panels), _PANELS_PER_ROW)
    figure = Sheet(
        len(panels), wide=max(2.9, 5.7 / across), tall=2.1, across=across, least=1.5, share=("all", "all")
    )
    values = sorted(int(v) for v in trained[x].dropna().unique())
    counts: list[int] = []
    failed: set[str] = set()
    for axes, group in zip(figure.panels, panels, strict=True):
        axes.set_xscale("log", base=2)
        axes.set_ylim(-0.02, 1.06)
        pairs = "" if group["pairs"].isna().all() or not by_width else f", {span(group['pairs'])} pairs"
        axes.set_title(f"N = {units.length(group['seq_len'].iloc[0])}{pairs}")
        for name, mine in by_label(group):
            scores = {float(at): list(rows["score"]) for at, rows in with_values(mine, ("score",)).groupby(x)}
            counts += [len(seeds) for seeds in scores.values()]
            points = [score_over_seeds(seeds, metric_of(group)) for seeds in scores.values()]
            means, lows, highs = ([point[end] for point in points] for end in range(3))
            axes.plot(list(scores), means, label=name, **styles[name])
            axes.vlines(list(scores), lows, highs, color=styles[name]["color"], linewidth=2.5, alpha=0.35,
                        gid=f"bars-{name}")  # fmt: skip
        best_first = group.assign(rank=group["status"] != "ok").sort_values("rank")
        one_seed = best_first.drop_duplicates(["mechanism", "options", x])
        failed |= mark_failures(axes, one_seed, "score", styles, x=x)
        for name, value in baseline_scores(group).items():
            axes.axhline(value, color=GREY, linestyle="--", linewidth=0.9, gid=f"baseline-{name}")
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
        letters = 0.85 * legend_letters()
        for text, value in _joined(baseline_scores(group), 1.6 * letters / 72 / figure.tall):
            axes.annotate(text, (0.99, value), xycoords=("axes fraction", "data"), ha="right", xytext=(0, 2),
                          textcoords="offset points", fontsize=letters, color=GREY, bbox=box)  # fmt: skip
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlim(values[0] / 1.3, values[-1] * 1.3)
    for axes in figure.lowest:
        axes.set_xlabel("model width d_model" if by_width else "number of key-value pairs")
        axes.tick_params(labelbottom=True)
    for axes in figure.left:
        axes.set_ylabel(f"test {metric_words(trained)}")
    figure.legend_below([Line2D([], [], label=name, **styles[name]) for name in names])
    shape = {**shape_of(trained), "task": trained["other"].iloc[0]}
    set_training_title(figure, shape, [seeds_note(counts), failures_note(failed)])
    return figure


def _joined(baselines: Mapping[str, float], apart: float) -> list[tuple[str, float]]:
    """Return (names, height): baselines nearer than ``apart`` share one label, at the highest of them."""
    labels: list[tuple[str, float]] = []
    for name, value in sorted(baselines.items(), key=lambda baseline: baseline[1]):
        if labels and value - labels[-1][1] < apart:
            labels[-1] = (f"{labels[-1][0]}, {name}", value)
        else:
            labels.append((name, value))
    return labels
