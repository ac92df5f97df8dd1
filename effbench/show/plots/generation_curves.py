"""Sequence-to-sequence trainings: score, time to encode, and speeds of greedy and beam search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from effbench.common.columns import SOURCES, score_unit
from effbench.records.analyse.scores import metric_of
from effbench.show import units
from effbench.show.look import NothingToDraw, failures_note, mark_failures, score_tick, set_length_axis
from effbench.show.palette import Style, looks
from effbench.show.plots.baseline_lines import baseline_scores, draw_baseline_curves, score_limits
from effbench.show.plots.cost_curves import Cost, label_log_axis, set_log_axes
from effbench.show.plots.label_layout import end_handles, label_ends, label_room
from effbench.show.plots.sheet import Sheet
from effbench.show.plots.trainings import (
    Interval,
    absent,
    failure_of,
    metric_words,
    not_drawn,
    over_seeds,
    score_over_seeds,
    seeds_note,
    set_training_title,
    shape_of,
    trainings,
    with_values,
)
from effbench.show.tables import SHAPE, by_label

_BEAMS = ("samples_beam_width", "samples_width_tokens_per_s")
_TITLES = {
    Cost("encode_s", "time", units.seconds, None): f"Time to encode {SOURCES} sources (lower is better)",
    Cost(
        "decode_tokens_per_s", "tokens per second", units.count, None
    ): f"Greedy search, {SOURCES} sources together (higher is better)",
}
_MEASURED = {"encode_s": "time to encode", "decode_tokens_per_s": "speed of greedy search"}

Points = Mapping[str, Mapping[float, Sequence[float]]]  # mechanism -> x -> values, one for each seed
Widths = tuple[int, Points]  # a source length, and tokens per second against the beam's width


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per task, shape and machine, from the raw frame. Raises NothingToDraw.

    A point is the mean over seeds, the geometric mean for times and speeds; its bar is the 95 % t interval.
    The caption names what has no point.
    """
    trained = trainings(raw, "generation", ("score",), keep_all=True)
    trained = trained.sort_values(["mechanism", "options", "seq_len", "repeat"])
    for column in _MEASURED:
        if column in trained:
            trained[column] = trained[column].where(trained[column] > 0)  # 0 has no logarithm
    keys = [name for name in SHAPE if name != "batch_size"] + ["task", "machine"]
    if trained.duplicated(["mechanism", "options", "seq_len", "repeat", *keys]).any():
        keys.append("batch_size")  # two points of a line at one length
    styles = looks(raw)
    figures = [_figure(group, styles) for _, group in trained.groupby(keys) if _measured(group)]
    if not figures:
        raise NothingToDraw(
            f"there is nothing to draw for generation: no training has {', '.join(_MEASURED)} "
            f"or samples of beam_width"
        )
    return figures


def _measured(trained: pd.DataFrame) -> bool:
    """True if a record has a value that only the training of a model that generates has."""
    return len(_with_beams(trained)) > 0 or any(len(with_values(trained, (column,))) for column in _MEASURED)


def _with_beams(trained: pd.DataFrame) -> pd.DataFrame:
    """Return the records that ended well and have speeds at some widths of the beam."""
    known = with_values(trained, _BEAMS)
    return known[known[_BEAMS[0]].map(len) > 0] if len(known) else known


def _figure(trained: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    costs = [cost for cost in _TITLES if len(with_values(trained, (cost.column,)))]
    scored, widths = len(with_values(trained, ("score",))) > 0, _by_width(trained)
    panels = scored + len(costs) + (widths is not None)
    names = [name for name, _ in by_label(trained)]
    baselines = {float(n): baseline_scores(rows) for n, rows in trained.groupby("seq_len")}
    named = {name for each in baselines.values() for name in each}
    figure = Sheet(
        panels, wide=4.1, tall=2.0, across=2 if panels == 4 else panels,
        beside=label_room(f"{name} 00.0 %" for name in named),
    )  # fmt: skip
    grid = iter(figure.panels)
    # the best record of each point comes first: a length at which one seed failed has a point of the others
    first = trained.assign(failed=trained["status"] != "ok").sort_values("failed", kind="stable")
    first = first.drop_duplicates(["mechanism", "options", "seq_len"])
    failed: set[str] = set()
    ends: list[tuple[float, float, str, str]] = []
    score_axes = next(grid) if scored else None
    if score_axes is not None:
        ends = _draw_scores(score_axes, trained, baselines, styles)
        failed |= mark_failures(score_axes, first, "score", styles)
    for cost in costs:
        axes = next(grid)
        set_log_axes(axes, trained, cost)
        axes.set_title(_TITLES[cost])
        axes.set_ylabel(cost.axis)
        axes.set_xlabel("source length N (tokens)")
        _draw_points(axes, _by_length(trained, cost.column), styles, partial(over_seeds, log=True))
        failed |= mark_failures(axes, first, cost.column, styles)
    if widths is not None:
        _draw_widths(next(grid), widths, styles)
    handles = [Line2D([], [], label=name, **styles[name]) for name in names]
    figure.legend_below([*handles, *end_handles(ends)])
    well = trained[trained["status"] == "ok"]
    counts = [len(seeds) for _, seeds in well.groupby(["mechanism", "options", "seq_len"])]
    notes = [seeds_note(counts), failures_note(failed)]
    notes += ["dashed grey: baseline scores"] if ends else []
    set_training_title(figure, shape_of(trained), [*notes, not_drawn(_absent(trained, costs, widths))])
    if score_axes is not None:
        label_ends(figure, {score_axes: ends})
    return figure


def _draw_scores(
    axes: Axes,
    trained: pd.DataFrame,
    baselines: Mapping[float, Mapping[str, float]],
    styles: Mapping[str, Style],
) -> list[tuple[float, float, str, str]]:
    """Draw the scores and their baselines; return the baselines' labels for ``label_ends``."""
    metric = metric_of(trained)
    share = score_unit(metric) == "share"
    set_length_axis(axes, sorted(trained["seq_len"].unique()))
    ends = _draw_points(axes, _by_length(trained, "score"), styles, partial(score_over_seeds, score=metric))
    values = [value for each in baselines.values() for value in each.values()]
    low, high = score_limits(np.nanmin(ends), np.nanmax(ends), values)
    # scores that are all 0 are not spread over an axis of thousandths
    axes.set_ylim(*((max(low, -0.03), max(0.1, min(high, 1.06))) if share else (low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(score_tick(metric)))
    axes.set_title(f"Test {metric_words(trained)}")
    axes.set_ylabel(f"test {metric_words(trained)}")
    axes.set_xlabel("source length N (tokens)")
    return draw_baseline_curves(axes, baselines, metric)


def _draw_widths(axes: Axes, widths: Widths, styles: Mapping[str, Style]) -> None:
    length, points = widths
    set_length_axis(axes, sorted({int(width) for each in points.values() for width in each}))
    axes.set_yscale("log")
    values = pd.Series([v for each in points.values() for seeds in each.values() for v in seeds])
    label_log_axis(axes.yaxis, values, units.count)
    axes.set_ylim(values.min() / 1.6, values.max() * 1.6)
    axes.set_title(f"Beam search at N = {length} (higher is better)")
    axes.set_xlabel("beam width")
    axes.set_ylabel("tokens per second")
    _draw_points(axes, points, styles, partial(over_seeds, log=True))


def _draw_points(
    axes: Axes,
    points: Points,
    styles: Mapping[str, Style],
    interval: Callable[[Sequence[float]], Interval],
) -> list[float]:
    """Draw a line for each mechanism, with a gap where x has no value; return the means and bars' ends.

    The lines stand a little beside each other, so that their bars can be seen.
    """
    apart = 1.03 if len({x for each in points.values() for x in each}) > 1 else 1.15
    places = np.linspace(-1, 1, len(points)) if len(points) > 1 else np.zeros(1)
    ends: list[float] = []
    for (name, each), place in zip(points.items(), places, strict=True):
        at = [x * apart**place for x in each]
        spans = [interval(values) if values else (np.nan,) * 3 for values in each.values()]
        means, lows, highs = ([span[end] for span in spans] for end in range(3))
        axes.plot(at, means, label=name, **styles[name])
        axes.vlines(
            at, lows, highs, color=styles[name]["color"], linewidth=2.5, alpha=0.35, gid=f"bars-{name}"
        )
        ends += [*means, *lows, *highs]
    return ends


def _by_length(trained: pd.DataFrame, column: str) -> Points:
    """Return the values of each mechanism at each of its lengths, an empty list where it has none."""
    return {
        name: {
            float(n): [float(value) for value in with_values(rows, (column,)).get(column, ())]
            for n, rows in mine.groupby("seq_len")
        }
        for name, mine in by_label(trained)
    }


def _by_width(trained: pd.DataFrame) -> Widths | None:
    """Return tokens per second by beam width at the longest length that most mechanisms have it at.

    Most are more than half of those that have it at all; if no length has so many, as many as a length has.
    None if no record has it.
    """
    known = _with_beams(trained)
    if known.empty:
        return None
    counts = known.groupby("seq_len").apply(lambda rows: len(by_label(rows)), include_groups=False)
    most = min(counts.max(), len(by_label(known)) // 2 + 1)
    length = int(counts[counts >= most].index.max())
    points: dict[str, dict[float, list[float]]] = {}
    for name, rows in by_label(known[known["seq_len"] == length]):
        points[name] = {}
        for widths, speeds in zip(*(rows[column] for column in _BEAMS), strict=True):
            for width, speed in zip(widths, speeds, strict=True):
                points[name].setdefault(float(width), []).append(float(speed))
        points[name] = dict(sorted(points[name].items()))
    return length, points


def _absent(trained: pd.DataFrame, costs: Sequence[Cost], widths: Widths | None) -> list[str]:
    """Name the mechanisms, or their lengths, that lack a point in a panel, and say why."""
    at, drawn = widths or (0, {})

    def lacks(rows: pd.DataFrame) -> str:
        if with_values(rows, ("score",)).empty:
            return failure_of(rows)
        words = [_MEASURED[c.column] for c in costs if with_values(rows, (c.column,)).empty]
        if rows["seq_len"].iloc[0] == at and _with_beams(rows).empty:
            words.append("speed of beam search")
        return f"no {' or '.join(words)} recorded" if words else ""

    named = absent(trained, "seq_len", "{} tokens", lacks)
    if drawn:
        unmeasured = [name for name, mine in by_label(trained) if at not in set(mine["seq_len"])]
        named += [f"{name} at {at} tokens (not measured)" for name in unmeasured]
    return named
