"""Learning curves: validation score and training loss during training, mean and range over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from effbench.records.analyse.scores import metric_of, validation_metric_of
from effbench.show import units
from effbench.show.look import score_tick, span
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores, draw_baselines, score_limits
from effbench.show.plots.label_layout import end_handles, label_ends, label_height, label_room
from effbench.show.plots.sheet import Sheet, narrow
from effbench.show.plots.trainings import (
    failure_of,
    not_drawn,
    per_figure,
    set_training_title,
    shape_of,
    trainings,
    with_values,
)
from effbench.show.tables import by_label

NEEDED = ("samples_validation_score", "samples_train_loss")


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task and length, from the raw frame's samples. Raises NothingToDraw.

    The validation score and ``train_loss`` of each evaluation are drawn against ``curve_epoch`` and, in
    panels of their own, ``curve_seconds``; against the evaluation number if a record lacks the epochs. A line
    is the mean over seeds and the band its minimum and maximum: with few seeds a t interval at each
    evaluation would be wider than the figure. After some seeds stopped early the line is thin: the mean of
    the others.
    """
    trained = trainings(raw, "curves", NEEDED)
    styles = looks(raw)
    return [_figure(group, shape_of(group), styles) for group in per_figure(trained)]


def _figure(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    drawn = with_values(trained, NEEDED)
    against = [c for c in ("epoch", "seconds") if f"samples_curve_{c}" in drawn]
    against = [c for c in against if drawn[f"samples_curve_{c}"].notna().all()]
    across = [*reversed(against)] if "epoch" in against else [*against, "evaluation"]
    names = [name for name, mine in by_label(trained) if len(with_values(mine, NEEDED))]
    absent = [f"{name} ({failure_of(mine)})" for name, mine in by_label(trained) if name not in names]
    validated = validation_metric_of(trained)
    baselines = baseline_scores(trained) if validated == metric_of(trained) else {}
    named = [*(f"{name} 50.0 %" for name in baselines), *names]
    figure = Sheet(
        2 * len(across), wide=3.8, tall=max(2.0, label_height(named)), across=len(across), least=0.9,
        beside=label_room(named), share=("col", "row"),
    )  # fmt: skip
    panels = np.array(figure.panels, dtype=object).reshape(2, -1)
    stopped, counts = False, []
    ends: dict[tuple[int, int], list[tuple[float, float, str, str]]] = {}
    for name, mine in by_label(drawn):
        counts.append(len(mine))
        for i, column in enumerate(NEEDED):
            for j, unit in enumerate(across):
                x, values = aligned(mine, column, None if unit == "evaluation" else f"samples_curve_{unit}")
                stopped |= bool(np.isnan(values).any())
                y = _curve(panels[i, j], x, values, name, styles[name])
                ends.setdefault((i, j), []).append((float(x[-1]), y, name, styles[name]["color"]))
    scores = np.concatenate([np.asarray(s) for s in drawn[NEEDED[0]]])
    panels[0, 0].set_ylim(*score_limits(scores.min(), scores.max(), baselines.values()))
    panels[0, 0].yaxis.set_major_formatter(FuncFormatter(score_tick(validated)))
    panels[0, 0].yaxis.set_major_locator(MaxNLocator(5))
    panels[0, 0].set_ylabel(f"validation {units.score_words(validated)}")
    panels[1, 0].set_ylabel("training loss")
    seconds = "seconds" if narrow() else "training time in seconds (mean over seeds)"
    words = {"epoch": "epoch", "seconds": seconds, "evaluation": "evaluation number"}
    for j, unit in enumerate(across):
        panels[1, j].set_xlabel(words[unit])
        panels[1, j].xaxis.set_major_locator(MaxNLocator(3 if narrow() else 6, integer=unit == "evaluation"))
        labels = draw_baselines(panels[0, j], baselines, validated)
    several = [n for n in counts if n > 1]
    notes = [f"line: mean; band: minimum to maximum over {span(several)} seeds" if several else ""]
    notes.append("" if several and 1 not in counts else "no band: one seed")
    notes.append("thin line: mean of the seeds that had not stopped early" if stopped else "")
    set_training_title(figure, shape, [*notes, not_drawn(absent)])
    last = len(across) - 1
    if narrow():
        handles = [Line2D([], [], label=name, **styles[name]) for name in names]
        figure.legend_below([*handles, *end_handles(labels)])
    label_ends(figure, {panels[0, last]: [*ends[0, last], *labels], panels[1, last]: ends[1, last]})
    return figure


def aligned(mine: pd.DataFrame, column: str, x: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean x [evaluations], values [seeds, evaluations]); NaN after a seed's last evaluation."""

    def matrix(name: str) -> np.ndarray:
        rows = [np.asarray(values, dtype=float) for values in mine[name]]
        longest = max(map(len, rows))
        return np.stack([np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows])

    values = matrix(column)
    return (np.arange(1, values.shape[1] + 1.0) if x is None else np.nanmean(matrix(x), axis=0)), values


def _curve(axes: Axes, x: np.ndarray, values: np.ndarray, name: str, style: Style) -> float:
    """Draw a mechanism's mean and band, and return the mean at its last evaluation."""
    mean = np.nanmean(values, axis=0)
    whole = ~np.isnan(values).any(axis=0)
    count = int(whole.sum())
    look = {**style, "markersize": 3.5}
    axes.plot(x[:count], mean[:count], label=name, **look)
    if count < len(x):
        axes.plot(x[max(0, count - 1) :], mean[max(0, count - 1) :], linewidth=0.6, alpha=0.7,
                  gid=f"rest-{name}", **{**look, "marker": ""})  # fmt: skip
    if len(values) > 1:
        low, high = values[:, :count].min(axis=0), values[:, :count].max(axis=0)
        axes.fill_between(
            x[:count], low, high, color=style["color"], alpha=0.15, linewidth=0, gid=f"band-{name}"
        )
    return float(mean[-1])
