"""Figures of the Fastformer paper drawn anew: time against Fastformer (2), ablations (3, 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from effbench.records.analyse.load import undisturbed
from effbench.records.analyse.published import MODES, published, published_scores, published_times, settled
from effbench.records.analyse.statistics import ratio_interval
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import (
    GREY,
    Interval,
    NothingToDraw,
    Style,
    crosses,
    label_ends,
    label_room,
    looks,
    numbered,
    percent,
    score_over_seeds,
    seeds_note,
    set_title,
    span,
    ticks_apart,
)
from effbench.show.tables import SHAPE, each_row

# panel (inference, training) -> mechanism as ``-m`` reads it -> length -> time in any one unit
PublishedTimes = Mapping[str, Mapping[str, Mapping[int, float]]]
# task's name -> fastformer's variant as ``-m`` reads it -> metric's column -> score, 0 to 1
PublishedScores = Mapping[str, Mapping[str, Mapping[str, float]]]

D_MODEL = 256  # the paper's width
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


def figure2(raw: pd.DataFrame, paper: PublishedTimes | None = None) -> list[tuple[str, Figure]]:
    """Time over Fastformer's at the same length, against length, at a constant number of tokens a batch.

    From time cells at d_model 256 whose batch_size x seq_len is the same at two lengths or more. Ratios are
    paired by repeat (``statistics.ratio_interval``). The paper's points stand beside
    ours as ratios too, since its unit of time is not known. Raises NothingToDraw.
    """
    nothing = "there is nothing to draw for figure2: "
    timed = raw[(raw["probe"] == "time") & (raw["task"] == "") & (raw["d_model"] == D_MODEL)]
    if timed.empty:
        raise NothingToDraw(f"{nothing}no time was measured at d_model {D_MODEL}")
    timed = timed.assign(tokens=timed["batch_size"] * timed["seq_len"])
    keys = [name for name in SHAPE if name != "batch_size"] + ["machine", "tokens"]
    groups = [group for _, group in timed.groupby(keys, sort=False) if group["seq_len"].nunique() > 1]
    if not groups:
        raise NothingToDraw(f"{nothing}no two lengths have the same batch_size x seq_len, as in the paper")
    found = [(group, ratios) for group in groups if len(ratios := _ratios(group))]
    if not found:
        raise NothingToDraw(
            f"{nothing}at a constant batch_size x seq_len no time of {REFERENCE} stands beside another's"
        )
    return numbered("figure2", [_figure2(group, ratios, paper or {}) for group, ratios in found])


def _ratios(timed: pd.DataFrame) -> pd.DataFrame:
    """Rows of (mechanism, options, mode, seq_len, status, ratio, low, high); failed cells have no ratio."""
    reference = _reference(timed)
    if reference is None:
        return pd.DataFrame()
    rows: list[dict[str, Any]] = []
    for (mode, n), cells in timed.groupby(["mode", "seq_len"]):
        samples = {key: _samples(mine) for key, mine in cells.groupby(["mechanism", "options"])}
        base = samples.get((REFERENCE, reference))
        for (mechanism, options), mine in cells.groupby(["mechanism", "options"]):
            if (mechanism, options) == (REFERENCE, reference):
                continue
            row = {"mechanism": mechanism, "options": options, "mode": mode, "seq_len": n, "status": "ok"}
            ours = samples[mechanism, options]
            if not ours:
                row["status"] = str(mine["status"].iloc[0])
            ratio = ratio_interval(ours, base) if ours and base else (math.nan,) * 3
            rows.append({**row, **dict(zip(("ratio", "low", "high"), ratio, strict=True))})
    found = pd.DataFrame(rows)
    return found if len(found) and found["ratio"].notna().any() else pd.DataFrame()


def _reference(timed: pd.DataFrame) -> str | None:
    """The options of the Fastformer that others are held against: none, or those of the only one there is."""
    mine = timed[(timed["mechanism"] == REFERENCE) & (timed["status"] == "ok")]
    options = sorted(set(mine["options"]))
    return "" if "" in options else options[0] if len(options) == 1 else None


def _samples(cells: pd.DataFrame) -> dict[int, list[float]]:
    ok = undisturbed(cells[cells["status"] == "ok"])
    return dict(zip(ok["repeat"], ok["samples_time_s"], strict=True)) if len(ok) else {}


def _figure2(timed: pd.DataFrame, ratios: pd.DataFrame, paper: PublishedTimes) -> Figure:
    modes = [mode for mode in MODES if mode in set(ratios["mode"])]
    theirs = {mode: _published_ratios(paper.get(MODES[mode], {})) for mode in modes}
    printed = sorted({name for each in theirs.values() for name in each})
    ours = sorted({label(row.mechanism, row.options) for row in each_row(ratios)})
    styles = _same_colour(looks(timed, printed), printed, ours)
    lengths = sorted(
        {*timed["seq_len"], *(n for each in theirs.values() for line in each.values() for n in line)}
    )
    named = [*ours, *(f"{name} (paper)" for name in printed), REFERENCE]
    figure = Figure(figsize=(len(modes) * (3.6 + label_room(named)) + 0.5, 5.0), layout="constrained")
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    failed: set[str] = set()
    ends: list[list[tuple[float, float, str, str]]] = []
    for axes, mode in zip(panels, modes, strict=True):
        inside = ratios[ratios["mode"] == mode]
        _log_axes(axes, [int(n) for n in lengths])
        axes.set_title(MODES[mode])
        axes.axhline(1.0, color="black", linewidth=0.9, zorder=1, gid=f"reference-{REFERENCE}")
        here = [(axes.get_xlim()[1], 1.0, REFERENCE, "black")]
        drawn = {}
        for name, mine in _lines(inside):
            drawn[name] = _our_line(axes, name, mine, styles[name])
        for name, line in theirs[mode].items():
            _their_line(axes, name, line, styles[name])
            if not any(name == each or each.startswith(f"{name}:") for each in drawn):
                last = max(line)
                drawn[f"{name} (paper)"] = (float(last), line[last], styles[name]["color"])
        ends.append([*here, *((x, y, name, colour) for name, (x, y, colour) in drawn.items())])
        failed |= crosses(axes, inside, "ratio", styles)
    values = [value for name in ("ratio", "low", "high") for value in ratios[name].dropna()] + [1.0]
    values += [v for each in theirs.values() for line in each.values() for v in line.values()]
    panels[0].set_ylim(min(values) / 1.4, max(values) * 1.9)
    panels[0].set_ylabel(f"time over that of {REFERENCE}")
    if printed:
        look: Style = {"color": GREY, "marker": "o", "markersize": 5}
        handles = [
            Line2D([], [], linestyle="-", label="measured here", **look),
            Line2D([], [], linestyle="--", markerfacecolor="white", label="the paper's Figure 2", **look),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=3.5)
    tokens = units.length(timed["tokens"].iloc[0])
    notes = [f"batch x length = {tokens} tokens", "bars: 95 % interval of the ratio, paired by repeat"]
    if printed:
        notes.append(
            "the paper: another machine and library, read from its figure to about 2 %, no intervals"
        )
    if failed:
        notes.append(f"x at the upper edge: {', '.join(sorted(failed))}")
    shape = {name: timed[name].iloc[0] for name in (*SHAPE, "machine")}
    set_title(figure, {**shape, "batch_size": span(timed["batch_size"])}, "; ".join(notes))
    for axes, each in zip(panels, ends, strict=True):
        label_ends(axes, each)
    return figure


def _published_ratios(times: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    base = times.get(REFERENCE, {})
    found = {
        name: {n: time / base[n] for n, time in sorted(line.items()) if n in base}
        for name, line in times.items()
        if name != REFERENCE
    }
    return {name: line for name, line in found.items() if line}


def _same_colour(styles: dict[str, Style], printed: Sequence[str], ours: Sequence[str]) -> dict[str, Style]:
    """The paper's line of a mechanism looks like ours, whatever options ours was given."""
    kin = {name: next((o for o in ours if o == name or o.startswith(f"{name}:")), name) for name in printed}
    return {**styles, **{name: styles[like] for name, like in kin.items()}}


def _lines(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    known = rows[rows["ratio"].notna()]
    return [
        (label(str(mechanism), str(options)), mine.sort_values("seq_len"))
        for (mechanism, options), mine in known.groupby(["mechanism", "options"])
    ]


def _our_line(axes: Axes, name: str, mine: pd.DataFrame, style: Style) -> tuple[float, float, str]:
    axes.plot(mine["seq_len"], mine["ratio"], label=name, linewidth=1.4, markersize=4.5,
              **{**style, "linestyle": "-"})  # fmt: skip
    axes.vlines(mine["seq_len"], mine["low"], mine["high"], color=style["color"], linewidth=3, alpha=0.35,
                gid=f"bars-{name}")  # fmt: skip
    return float(mine["seq_len"].iloc[-1]), float(mine["ratio"].iloc[-1]), str(style["color"])


def _their_line(axes: Axes, name: str, line: Mapping[int, float], style: Style) -> None:
    axes.plot(list(line), list(line.values()), label=f"{name} (paper)", linewidth=0.9, markersize=4.5,
              markerfacecolor="white", markeredgewidth=0.9, zorder=1.8,
              **{**style, "linestyle": (0, (4, 2))})  # fmt: skip


def _log_axes(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks_apart(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.length(value)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("sequence length N (tokens)")
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)


class _Bar(NamedTuple):
    """A variant's score in one panel: its mean with bounds, the seeds behind it, and the paper's score."""

    value: str
    ours: Interval | None
    seeds: int
    status: str
    paper: float | None


def ablation(raw: pd.DataFrame, paper: PublishedScores | None = None) -> list[tuple[str, Figure]]:
    """Scores of Fastformer's variants: how it lets vectors interact (Figure 3), what it shares (Figure 4).

    A picture an ablation, a column a task, rows of accuracy and macro-F; from the raw frame. Variants differ
    by a point or two of sixty or eighty, so that bars from 0 would look equal, bars from the majority's score
    nearly so (and a macro-F has no such score in the records), and bars from the worst variant leave that one
    without a bar. So the axis is cut below all that is drawn: every bar's foot is broken, the axis says where
    it begins, and the caption that lengths are not to be compared. The bars carry what decides, the 95 % t
    interval over seeds.

    A published score stands in brackets under its bar. Other data, classes and vectors put it many points
    from ours, which would press all bars flat; so the hollow mark is what the ablation is about, the
    published difference to the variant that Fastformer uses, set on our score of that one. Raises
    NothingToDraw.
    """
    nothing = "there is nothing to draw for ablation: "
    mine = raw[(raw["probe"] == "accuracy") & (raw["mechanism"] == REFERENCE)]
    if mine.empty:
        raise NothingToDraw(f"{nothing}no training is of {REFERENCE}")
    variants = [_variant(str(options)) for options in mine["options"]]
    mine = mine.assign(**{name: [v.get(name) for v in variants] for name in ABLATIONS})
    figures = []
    for name in ABLATIONS:
        rows = mine[mine[name].notna()]
        drawn = []
        for _, group in rows.groupby([*SHAPE, "machine"], sort=False):
            tasks = [task for _, task in group.groupby(["task", "seq_len"]) if _compares(task, name)]
            if tasks:
                drawn.append(_ablation(tasks, name, paper or {}))
        figures += numbered(f"ablation-{name}", drawn)
    if not figures:
        raise NothingToDraw(
            f"{nothing}no task has scores of two variants, such as {REFERENCE} "
            f"and {REFERENCE}:interaction=add or {REFERENCE}:sharing=none"
        )
    return figures


def _variant(options: str) -> dict[str, str]:
    """Which value of which ablation these options are: of both for the default, of none for any others."""
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
    """The value of an ablation's option that the paper's Fastformer has."""
    return str(published()["defaults"][name])


def _compares(task: pd.DataFrame, name: str) -> bool:
    scored = (
        task[(task["status"] == "ok") & task["accuracy"].notna()] if "accuracy" in task else task.iloc[:0]
    )
    return bool(scored[name].nunique() > 1)


def _ablation(tasks: Sequence[pd.DataFrame], name: str, paper: PublishedScores) -> Figure:
    metrics = [m for m in METRICS if any(m in task and task[m].notna().any() for task in tasks)]
    figure = Figure(
        figsize=(max(5.0, 3.3 * len(tasks) + 0.6), 2.5 * len(metrics) + 1.2), layout="constrained"
    )
    panels = figure.subplots(len(metrics), len(tasks), squeeze=False)
    colour = looks(tasks[0])[_label_of(tasks[0], name)]["color"]
    counts: list[int] = []
    printed = False
    for j, task in enumerate(tasks):
        theirs = paper.get(str(task["task"].iloc[0]).split(":")[0], {})
        for i, metric in enumerate(metrics):
            bars = [_bar(task, name, value, metric, theirs) for value in ABLATIONS[name]]
            counts += [bar.seeds for bar in bars if bar.seeds]
            printed |= any(bar.paper is not None for bar in bars)
            _bars(panels[i, j], bars, name, METRICS[metric], colour)
        words = str(task["task"].iloc[0]).replace(",", ", ")
        panels[0, j].set_title(f"{words}, {task['seq_len'].iloc[0]} tokens", fontsize=9, wrap=True)
    if printed:
        words = f"published difference to {_used(name)}, set on ours; in brackets: published score"
        handle = Line2D([], [], marker="D", linestyle="none", markerfacecolor="white",
                        markeredgecolor="black", markersize=5, label=words)  # fmt: skip
        figure.legend(handles=[handle], loc="outside lower center", fontsize=8)
    first = tasks[0].iloc[0]
    figure_number = {"interaction": "Figure 3", "sharing": "Figure 4"}[name]
    shape = {n: first[n] for n in (*SHAPE, "machine")}
    notes = [seeds_note(counts, "whiskers"), "broken bars: axes are cut, compare differences, not lengths"]
    title = f"Fastformer's {name} as in the paper's {figure_number}"
    set_title(figure, {**shape, "task": title}, "; ".join(filter(None, notes)))
    return figure


def _label_of(task: pd.DataFrame, name: str) -> str:
    """The label of the variant that Fastformer uses, or of any where that was not measured."""
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
        ours=score_over_seeds(known[metric]) if len(known) else None,
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
                          ha="center", fontsize=8, fontweight="bold" if used else "normal")  # fmt: skip
            if base > 0:
                _break(axes, x, base, top)
        elif bar.status:
            axes.text(x, base + 0.04 * (top - base), bar.status, ha="center", fontsize=8, color=GREY)
        if bar.value in marks:
            axes.plot(
                x + 0.31 if bar.ours else x, marks[bar.value], marker="D", markersize=5,
                markerfacecolor="white", markeredgecolor="black", linestyle="none", zorder=4,
                gid=f"published-{bar.value}",
            )  # fmt: skip
    axes.set_ylim(base, top)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    scores = ["" if bar.paper is None else f"\n({100 * bar.paper:.1f})" for bar in bars]
    ticks = [f"{ABLATIONS[name][bar.value]}{said}" for bar, said in zip(bars, scores, strict=True)]
    axes.set_xticks(range(len(bars)), ticks, fontsize=8)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_ylabel(f"{words}\n(axis from {percent(base)})" if base > 0 else words)


def _marks(bars: Sequence[_Bar], name: str) -> dict[str, float]:
    """Where the published differences to the used variant stand, on our score of that variant."""
    used = next((bar for bar in bars if bar.value == _used(name)), None)
    if used is None or used.ours is None or used.paper is None:
        return {}
    return {bar.value: used.ours[0] + bar.paper - used.paper for bar in bars if bar.paper is not None}


def _cut(values: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends: at a round value below all, or at 0 where that is near."""
    low, high = min(values), max(values)
    reach = max(high - low, 0.01)
    base = low - 0.45 * reach
    step = 10.0 ** math.floor(math.log10(reach))
    base = math.floor(base / step) * step
    return (0.0 if base < 0.25 * high else round(base, 6)), high + 0.16 * reach


def _break(axes: Axes, x: float, base: float, top: float) -> None:
    """A white zigzag through a bar's foot: it does not begin at 0."""
    across = np.linspace(x - 0.36, x + 0.36, 9)
    height = base + (top - base) * (0.06 + 0.014 * (-1.0) ** np.arange(9))
    axes.plot(across, height, color="white", linewidth=2.2, zorder=2.6, solid_joinstyle="miter", gid="break")


def _paper_times() -> PublishedTimes:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in each_row(published_times()):
        panel = found.setdefault(MODES[row.mode], {})
        panel.setdefault(row.mechanism, {})[int(row.seq_len)] = float(row.published_time)
    return found


def _paper_scores() -> PublishedScores:
    """Of the tasks that read the paper's data: what stands in for them has scores of its own."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    columns = {"accuracy": "accuracy", "macro_f1": "test_macro_f1"}
    for row in each_row(pd.concat([published_scores("figure3"), published_scores("figure4")])):
        task = found.setdefault(published()["datasets"][row.dataset]["task"], {})
        task.setdefault(row.mechanism, {})[columns[row.metric]] = float(row.published)
    return found


KINDS: dict[str, Callable[[pd.DataFrame], list[tuple[str, Figure]]]] = {
    "figure2": lambda raw: figure2(raw, _paper_times()),
    "ablation": lambda raw: ablation(raw, _paper_scores()),
}
