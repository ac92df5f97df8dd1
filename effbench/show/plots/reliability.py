"""Reliability of predicted click rates (task ``ctr``): observed against predicted rate of each bin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.records.analyse.statistics import proportion_interval
from effbench.show.look import GREY, minor_tick, percent
from effbench.show.palette import Style, looks
from effbench.show.plots.sheet import Sheet
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

_FIELDS = ("predicted", "observed", "candidates")
_NEEDED = tuple(f"samples_test_bin_{field}" for field in _FIELDS)
_BASELINE = tuple(f"samples_logreg_bin_{field}" for field in _FIELDS)
_WIDE = 30.0  # rates whose largest is so many times the smallest have logarithmic axes
_MARGIN = 1.15
_LEAST = 1e-4  # the lowest end of a logarithmic axis; a bin without a click is below it


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task and length, from the raw frame's samples. Raises NothingToDraw.

    A point is a bin of the test part's candidates: the mean predicted rate and the observed one, with the
    95 % interval of a binomial proportion (Wilson). Of several seeds the first is drawn: a mean over seeds
    would hide that one predicts too much and another too little.
    """
    trained = trainings(raw, "reliability", _NEEDED)
    styles = looks(raw)
    return [_figure(group, shape_of(group), styles) for group in per_figure(trained)]


def _figure(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    curves: list[tuple[str, list[np.ndarray], Style]] = []
    absent, seeds = [], 1
    for name, mine in by_label(trained):
        known = with_values(mine, _NEEDED).sort_values("repeat")
        if known.empty:
            absent.append(f"{name} ({failure_of(mine)})")
            continue
        seeds = max(seeds, len(known))
        curves.append((name, _bins(known.iloc[0], _NEEDED), styles[name]))
    compared = with_values(trained, _BASELINE)
    if len(compared):
        grey = {"color": GREY, "marker": "x", "linestyle": "--"}
        curves.append(("logistic regression", _bins(compared.iloc[0], _BASELINE), grey))
    figure = Sheet(1, wide=6.4, tall=4.6)
    (axes,) = figure.panels
    _set_axes(axes, np.concatenate([rate for _, (predicted, observed, _), _ in curves
                                    for rate in (predicted, observed)]))  # fmt: skip
    axes.plot([_LEAST / 10, 1], [_LEAST / 10, 1], color="black", linewidth=0.8, zorder=1, gid="perfect")
    for name, (predicted, observed, candidates), style in curves:
        ends = np.array([proportion_interval(round(share * count), int(count))[1:]
                         for share, count in zip(observed, candidates, strict=True)])  # fmt: skip
        axes.plot(predicted, observed, linewidth=1.1, **style)
        axes.vlines(predicted, *ends.T, color=style["color"], linewidth=2, alpha=0.35, gid=f"bars-{name}")
    handles = [Line2D([], [], linewidth=1.1, label=name, **style) for name, _, style in curves]
    handles.append(Line2D([], [], color="black", linewidth=0.8, label="perfect calibration"))
    figure.legend_below(handles)
    most = max(len(bins[0]) for _, bins, _ in curves)
    notes = [
        f"{most} bins of equally many candidates; bars: 95 % interval of a proportion (Wilson)",
        "first of several seeds" if seeds > 1 else "",
        not_drawn(absent),
    ]
    set_training_title(figure, shape, notes)
    return figure


def _bins(row: pd.Series, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the predicted and the observed rate and the number of candidates of each bin of a record."""
    return [np.asarray(row[name], dtype=float) for name in names]


def _set_axes(axes: Axes, rates: np.ndarray) -> None:
    """Set equal limits on both axes, which are logarithmic if the rates have a wide range."""
    high = min(1.0, rates.max() * _MARGIN)
    low = 0.0
    if (positive := rates[rates > 0]).size and high / positive.min() > _WIDE:
        low = max(_LEAST, positive.min() / _MARGIN)
        axes.set_xscale("log")
        axes.set_yscale("log")
    for axis, name in ((axes.xaxis, "predicted"), (axes.yaxis, "observed")):
        axis.set_major_formatter(FuncFormatter(percent))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: percent(value) if minor_tick(value) else ""))
        axis.set_label_text(f"{name} click rate of a bin's candidates")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
