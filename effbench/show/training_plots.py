"""Pictures of trainings: accuracy against speed and memory, learning curves, recall."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from effbench.records.analyse.scores import metric_of, with_score
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import (
    GREY,
    NothingToDraw,
    Style,
    crosses,
    draw_priors,
    few,
    label_ends,
    label_room,
    label_spots,
    looks,
    name_of,
    numbered,
    over_seeds,
    percent,
    priors,
    reach_priors,
    score_over_seeds,
    seeds_note,
    set_title,
    span,
    wrapped,
)
from effbench.show.tables import SHAPE, each_row

_PICTURE = [*SHAPE, "task", "seq_len", "machine"]
_MOST_AREA = 900.0  # of a bubble, in square points
_PANELS_A_ROW = 4


def bubble(raw: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Accuracy against training throughput, the bubble's area the peak memory: a picture a task and length.

    From the raw frame. A point is the mean over seeds, the geometric one for throughput since its axis is
    logarithmic; bars are 95 % t intervals over seeds. Raises NothingToDraw.
    """
    trained = _trained(raw, "bubble", ("score", "tokens_per_s", "peak_bytes"))
    styles = looks(raw)
    return numbered("bubble", [_bubble(group, _shape(group), styles) for group in _pictures(trained)])


def _bubble(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    rows, absent = [], []
    for name, mine in _by_label(trained):
        known = _known(mine, ("score", "tokens_per_s", "peak_bytes"))
        if known.empty:
            absent.append(f"{name} ({_status(mine)})")
            continue
        score, speed = score_over_seeds(known["score"]), over_seeds(known["tokens_per_s"], log=True)
        rows.append((name, score, speed, float(known["peak_bytes"].median()), len(known)))
    largest = max(row[3] for row in rows)
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    spots, bars = [], []
    for name, score, speed, memory, _ in rows:
        colour = styles[name]["color"]
        area = _MOST_AREA * memory / largest
        axes.scatter(speed[0], score[0], s=area, color=colour, alpha=0.55, edgecolors="black",
                     linewidths=0.7, zorder=2.5, gid=f"bubble-{name}")  # fmt: skip
        axes.plot(speed[0], score[0], marker=".", markersize=3, color="black", zorder=3)
        spots.append((speed[0], score[0], (area / np.pi) ** 0.5, name))
        if not np.isnan(score[1]):
            look = {"color": colour, "linewidth": 1.0, "zorder": 2}
            axes.vlines(speed[0], score[1], score[2], gid=f"accuracy-{name}", **look)
            axes.hlines(score[0], speed[1], speed[2], gid=f"speed-{name}", **look)
            bars += [(speed[0], score[1], speed[0], score[2]), (speed[1], score[0], speed[2], score[0])]
    speeds = [v for row in rows for v in row[2] if not np.isnan(v)]
    scores = [v for row in rows for v in row[1] if not np.isnan(v)]
    levels = priors(trained)
    stretch = max(1.4, (max(speeds) / min(speeds)) ** 0.18)
    axes.set_xlim(min(speeds) / stretch, max(speeds) * stretch)
    axes.set_ylim(*reach_priors(min(scores), max(scores), levels.values()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: few(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("training throughput of the whole model (tokens per second)")
    axes.set_ylabel(f"test {name_of(trained)}")
    handles = [
        Line2D([], [], marker="o", linestyle="none", color="#AAAAAA", markeredgecolor="black",
               markeredgewidth=0.7, markersize=2 * (_MOST_AREA * share / np.pi) ** 0.5,
               label=units.size(share * largest))
        for share in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    said = Line2D([], [], linestyle="none", label="peak memory of a\ntraining step (area)")
    figure.legend(handles=[said, *handles], loc="outside lower center", ncols=4, handlelength=2.6,
                  columnspacing=2.5, borderpad=1.2, handletextpad=1.2)  # fmt: skip
    _title(figure, shape, [seeds_note([row[4] for row in rows]), _not_drawn(absent)])
    label_ends(axes, draw_priors(axes, levels))
    label_spots(axes, spots, bars)
    return figure


def curves(raw: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Validation score and training loss as training goes on: a picture per task and length.

    From the raw frame's samples: the validation part's metric and ``train_loss`` of each evaluation, against
    ``curve_epoch`` and, in panels of their own, ``curve_seconds``; against the evaluation's number where a
    record of the picture lacks the epochs. A line is the mean over seeds, the band reaches from the lowest to
    the highest seed: of so few seeds a t interval at each evaluation would be wider than the picture. Where
    some seeds stopped early the line goes on thin, as the mean of the others. Raises NothingToDraw.
    """
    needed = ("samples_validation_score", "samples_train_loss")
    trained = _trained(raw, "curves", needed)
    styles = looks(raw)
    return numbered("curves", [_curves(group, _shape(group), styles) for group in _pictures(trained)])


def _curves(trained: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]) -> Figure:
    needed = ("samples_validation_score", "samples_train_loss")
    drawn = _known(trained, needed)
    against = [c for c in ("epoch", "seconds") if f"samples_curve_{c}" in drawn]
    against = [c for c in against if drawn[f"samples_curve_{c}"].notna().all()]
    across = [*reversed(against)] if "epoch" in against else [*against, "evaluation"]
    names = [name for name, mine in _by_label(trained) if len(_known(mine, needed))]
    absent = [f"{name} ({_status(mine)})" for name, mine in _by_label(trained) if name not in names]
    levels = priors(trained)
    lines = sum(wrapped(name).count("\n") + 1 for name in names) + len(levels)
    tall = max(5.2, 2 * 0.16 * lines + 1.6)
    figure = Figure(figsize=(3.6 * len(across) + 0.6 + label_room([*names, "majority 50.0 %"]), tall),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(2, len(across), sharex="col", sharey="row", squeeze=False)
    stopped, counts = False, []
    ends: dict[tuple[int, int], list[tuple[float, float, str, str]]] = {}
    for name, mine in _by_label(drawn):
        counts.append(len(mine))
        for i, column in enumerate(needed):
            for j, unit in enumerate(across):
                x, series = _aligned(mine, column, None if unit == "evaluation" else f"samples_curve_{unit}")
                stopped |= bool(np.isnan(series).any())
                y = _curve(panels[i, j], x, series, name, styles[name])
                ends.setdefault((i, j), []).append((float(x[-1]), y, name, styles[name]["color"]))
    scores = np.concatenate([np.asarray(s) for s in drawn[needed[0]]])
    panels[0, 0].set_ylim(*reach_priors(scores.min(), scores.max(), levels.values()))
    panels[0, 0].yaxis.set_major_formatter(FuncFormatter(percent))
    panels[0, 0].set_ylabel(f"validation {name_of(trained)}")
    panels[1, 0].set_ylabel("training loss")
    words = {"epoch": "epochs trained", "seconds": "seconds of training (mean over seeds)",
             "evaluation": "number of the evaluation"}  # fmt: skip
    for j, unit in enumerate(across):
        panels[1, j].set_xlabel(words[unit])
        panels[1, j].xaxis.set_major_locator(MaxNLocator(6, integer=unit == "evaluation"))
        levels_here = draw_priors(panels[0, j], levels)
    several = [n for n in counts if n > 1]
    notes = [f"band: lowest to highest of {span(several)} seeds" if several else ""]
    notes.append("" if several and 1 not in counts else "without a band: one seed")
    notes.append("thin: the seeds that had not stopped" if stopped else "")
    _title(figure, shape, [*notes, _not_drawn(absent)])
    last = len(across) - 1
    label_ends(panels[0, last], [*ends[0, last], *levels_here])
    label_ends(panels[1, last], ends[1, last])
    return figure


def _aligned(mine: pd.DataFrame, column: str, x: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(mean x [evaluations], series [seeds, evaluations]); NaN after the evaluation where a seed stopped."""

    def matrix(name: str) -> np.ndarray:
        rows = [np.asarray(series, dtype=float) for series in mine[name]]
        longest = max(map(len, rows))
        return np.stack([np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows])

    series = matrix(column)
    return (np.arange(1, series.shape[1] + 1.0) if x is None else np.nanmean(matrix(x), axis=0)), series


def _curve(axes: Axes, x: np.ndarray, series: np.ndarray, name: str, style: Style) -> float:
    """Draw a mechanism's mean and band, and return the height at which it ends."""
    mean = np.nanmean(series, axis=0)
    whole = ~np.isnan(series).any(axis=0)
    count = int(whole.sum())
    look = {**style, "markersize": 3.5}
    axes.plot(x[:count], mean[:count], label=name, linewidth=1.4, **look)
    if count < len(x):
        axes.plot(x[max(0, count - 1) :], mean[max(0, count - 1) :], linewidth=0.6, alpha=0.7,
                  gid=f"rest-{name}", **{**look, "marker": ""})  # fmt: skip
    if len(series) > 1:
        low, high = series[:, :count].min(axis=0), series[:, :count].max(axis=0)
        axes.fill_between(
            x[:count], low, high, color=style["color"], alpha=0.15, linewidth=0, gid=f"band-{name}"
        )
    return float(mean[-1])


def _joined(levels: Mapping[str, float]) -> list[tuple[str, float]]:
    """(names, height): priors too near each other for two labels share one, at the highest."""
    found: list[tuple[str, float]] = []
    for name, value in sorted(levels.items(), key=lambda level: level[1]):
        if found and value - found[-1][1] < 0.03:
            found[-1] = (f"{found[-1][0]}, {name}", value)
        else:
            found.append((name, value))
    return found


def recall(raw: pd.DataFrame) -> list[tuple[str, Figure]]:
    """The accuracy of associative recall (task ``mqar``) against the model's width, or the number of pairs.

    From the raw frame. Where several widths were measured they are the x axis, with a panel for each length
    and number of pairs; otherwise the number of pairs is, with a panel a length. Bars are 95 % t intervals
    over seeds. Raises NothingToDraw.
    """
    tasks = raw["task"].str.split(":").str[0] == "mqar"
    if not tasks.any():
        raise NothingToDraw("there is nothing to draw for recall: no record is of the task mqar")
    trained = raw[tasks & (raw["probe"] == "accuracy")]
    trained = _trained(trained, "recall", ("score",), whole=True)
    trained = trained.assign(pairs=[_pairs(row) for _, row in trained.iterrows()])
    trained["other"] = [re.sub(r"(?<=[:,])pairs=\d+,?", "", task).rstrip(":,") for task in trained["task"]]
    keys = [name for name in SHAPE if name not in ("batch_size", "d_model", "heads")] + ["other", "machine"]
    point = ["mechanism", "options", "seq_len", "pairs", "d_model", "repeat", *keys]
    if trained.duplicated(point).any():  # two points of a line at one place
        keys += ["heads", "batch_size"]
    styles = looks(raw)
    groups = [group for _, group in trained.groupby(keys, sort=False) if len(_known(group, ("score",)))]
    return numbered("recall", [_recall(group, styles) for group in groups])


def _pairs(row: pd.Series) -> float:
    """The number of pairs of a record: its task's option, or else its value; NaN if it has neither."""
    found = re.search(r"[:,]pairs=(\d+)", str(row["task"]))
    if found:
        return float(found[1])
    return float(row["pairs"]) if "pairs" in row and pd.notna(row["pairs"]) else float("nan")


def _recall(trained: pd.DataFrame, styles: dict[str, Style]) -> Figure:
    several = trained.groupby("seq_len")["pairs"].nunique().max() > 1 and trained["pairs"].notna().all()
    by_width = trained["d_model"].nunique() > 1 or not several
    x = "d_model" if by_width else "pairs"
    apart = ["seq_len", "pairs"] if by_width else ["seq_len"]
    panels = [group for _, group in trained.groupby(apart, dropna=False)]
    names = [name for name, _ in _by_label(trained)]
    across = min(len(panels), _PANELS_A_ROW)
    down = -(-len(panels) // across)
    wide = max(5.0, 2.7 * across + 0.7)
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(wide * 10 / (longest + 6))))
    figure = Figure(figsize=(wide, 2.5 * down + 1.1 + 0.2 * -(-len(names) // columns)), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    values = sorted(int(v) for v in trained[x].dropna().unique())
    counts: list[int] = []
    failed: set[str] = set()
    for axes, group in zip(grid, panels, strict=False):
        axes.set_xscale("log", base=2)
        axes.set_ylim(-0.02, 1.06)
        pairs = "" if group["pairs"].isna().all() or not by_width else f", {span(group['pairs'])} pairs"
        axes.set_title(f"N = {units.length(group['seq_len'].iloc[0])}{pairs}", fontsize=9)
        for name, mine in _by_label(group):
            known = [(at, each) for at, each in mine.groupby(x) if len(_known(each, ("score",)))]
            found = [score_over_seeds(_known(each, ("score",))["score"]) for _, each in known]
            counts += [len(_known(each, ("score",))) for _, each in known]
            at = [float(value) for value, _ in known]
            axes.plot(at, [f[0] for f in found], label=name, linewidth=1.3, markersize=4.5, **styles[name])
            axes.vlines(at, [f[1] for f in found], [f[2] for f in found], color=styles[name]["color"],
                        linewidth=2.5, alpha=0.35, gid=f"bars-{name}")  # fmt: skip
        cells = group.assign(rank=group["status"] != "ok").sort_values("rank")
        cells = cells.drop_duplicates(["mechanism", "options", x])
        failed |= crosses(axes, cells, "score", styles, x=x)
        for name, value in priors(group).items():
            axes.axhline(value, color=GREY, linestyle="--", linewidth=0.9, gid=f"prior-{name}")
        for text, value in _joined(priors(group)):
            axes.annotate(text, (0.99, value), xycoords=("axes fraction", "data"), ha="right", xytext=(0, 2),
                          textcoords="offset points", fontsize=7, color=GREY)  # fmt: skip
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlim(values[0] / 1.3, values[-1] * 1.3)
    for place, axes in enumerate(grid):
        axes.set_visible(place < len(panels))
        if place + across >= len(panels):  # the last of its column
            axes.set_xlabel("width of the model, d_model" if by_width else "key-value pairs to remember")
            axes.tick_params(labelbottom=True)
        if place % across == 0:
            axes.set_ylabel(f"test {name_of(trained)}")
    handles = [Line2D([], [], label=name, linewidth=1.3, markersize=4.5, **styles[name]) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3)
    shape = {**_shape(trained), "task": trained["other"].iloc[0]}
    crossed = f"x at the upper edge: {', '.join(sorted(failed))}" if failed else ""
    _title(figure, shape, [seeds_note(counts), crossed])
    return figure


def _trained(raw: pd.DataFrame, kind: str, needed: Sequence[str], *, whole: bool = False) -> pd.DataFrame:
    """The records of trainings with their ``score``, or NothingToDraw if none has values in these columns.

    Pictures without a value are left out, unless ``whole``.
    """
    trained = with_score(raw[raw["probe"] == "accuracy"])
    if trained.empty:
        raise NothingToDraw(f"there is nothing to draw for {kind}: no record is of the probe accuracy")
    if _known(trained, needed).empty:
        metric = metric_of(trained)
        words = [c.replace("score", metric).replace("samples_", "samples of ") for c in needed]
        raise NothingToDraw(f"there is nothing to draw for {kind}: no training has {' and '.join(words)}")
    if whole:
        return trained
    keep = [group for _, group in trained.groupby(_PICTURE, sort=False) if len(_known(group, needed))]
    return pd.concat(keep)


def _known(trained: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """The records that ended well and have values in all these columns."""
    if not set(needed) <= set(trained.columns):
        return trained.iloc[:0]
    return trained[(trained["status"] == "ok") & trained[list(needed)].notna().all(axis=1)]


def _pictures(trained: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in trained.groupby(_PICTURE, sort=False)]


def _by_label(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    names = pd.Series([label(row.mechanism, row.options) for row in each_row(rows)], index=rows.index)
    return [(str(name), group) for name, group in rows.groupby(names)]


def _status(mine: pd.DataFrame) -> str:
    return (
        str(mine.loc[mine["status"] != "ok", "status"].iloc[0])
        if (mine["status"] != "ok").any()
        else "no value"
    )


def _shape(rows: pd.DataFrame) -> dict[str, Any]:
    """What a caption says of these records: one value, or a range where there are several."""
    shape: dict[str, Any] = {name: rows[name].iloc[0] for name in (*SHAPE, "task", "machine")}
    for name in ("batch_size", "d_model", "heads"):
        shape[name] = span(rows[name])
    lengths = span(rows["seq_len"])
    return {**shape, "seq_len": lengths}


def _not_drawn(absent: Sequence[str]) -> str:
    return f"not drawn: {', '.join(absent)}" if absent else ""


def _title(figure: Figure, shape: dict[str, Any], notes: Sequence[str]) -> None:
    task = f"{shape['task']} at {shape['seq_len']} tokens"
    set_title(figure, {**shape, "task": task}, "; ".join(filter(None, notes)))


KINDS: dict[str, Callable[[pd.DataFrame], list[tuple[str, Figure]]]] = {
    "bubble": bubble,
    "curves": curves,
    "recall": recall,
}
