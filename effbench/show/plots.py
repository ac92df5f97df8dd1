"""Every picture that effbench draws, for print, in colour and in grey: the kinds, and those of costs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from effbench.common.columns import score_unit
from effbench.common.spec import UsageError
from effbench.records.analyse.complexity import exponents, told
from effbench.records.analyse.crossover import crossovers
from effbench.records.analyse.scores import metric_of, with_score
from effbench.records.analyse.summary import label
from effbench.show import figures as paper_figures
from effbench.show import training_plots, units
from effbench.show.dots import dots
from effbench.show.look import (
    RC,
    NothingToDraw,
    crosses,
    draw_priors,
    few,
    label_ends,
    label_room,
    label_spots,
    looks,
    name_of,
    numbered,
    percent,
    priors,
    reach_priors,
    set_title,
    ticks_apart,
)
from effbench.show.tables import SHAPE, each_row, of_shape

_TRADEOFF = ["score", "tokens_per_s", "peak_bytes"]
_COST = ("time", "tokens", "memory", "flops", "roofline")
_SCORES = ("accuracy", "tradeoff")
KINDS = (*_COST, *_SCORES, *training_plots.KINDS, *paper_figures.KINDS)
SUFFIXES = (".png", ".svg", ".pdf")

MOST_CROSSOVERS = 3  # in a panel: more would hide the curves


@dataclass(frozen=True)
class _Curve:
    """A quantity against length: its column, axis name, how ticks read, and what its slope is fitted on."""

    column: str
    axis: str
    tick: Callable[[float], str]
    slopes: str | None


_CURVES = {
    "time": _Curve("time_s", "time per call", units.seconds, "time_s"),
    "tokens": _Curve("tokens_per_s", "tokens per second", units.count, None),
    "memory": _Curve("peak_bytes", "peak memory", units.size, "peak_bytes"),
    "flops": _Curve("flops", "FLOPs per call", units.count, "flops"),
}


def draw_all(frame: pd.DataFrame, raw: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Every kind that the frames have data for: (name, figure).

    At constant batch x length each length is a shape of its own, and its cost a picture with one point:
    ``figure2`` has the curves then.
    """
    found = []
    for kind in KINDS:
        if kind in _COST and _constant_tokens(frame):
            continue
        with contextlib.suppress(NothingToDraw):
            found += draw(frame, raw, kind)
    return found


def _constant_tokens(frame: pd.DataFrame) -> bool:
    cost = frame[frame["task"] == ""]
    tokens = cost["batch_size"] * cost["seq_len"]
    return bool(cost["batch_size"].nunique() > 1 and tokens.nunique() == 1)


def draw(frame: pd.DataFrame, raw: pd.DataFrame, kind: str) -> list[tuple[str, Figure]]:
    """The pictures of a kind, one a shape: (name, figure), from a summary frame and its raw frame.

    Raises UsageError for an unknown kind, and NothingToDraw for one whose data is missing.
    """
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    with mpl.rc_context(RC):
        if kind in training_plots.KINDS:
            found = training_plots.KINDS[kind](raw)
        elif kind in paper_figures.KINDS:
            found = paper_figures.KINDS[kind](raw)
        else:
            found = _draw(frame, raw, kind)
    if not found:
        needed = {"accuracy": "a score", "tradeoff": ", ".join(_TRADEOFF), "roofline": "roof_share"}
        missing = needed[kind] if kind in needed else _CURVES[kind].column
        raise NothingToDraw(f"there is nothing to draw for {kind}: no row has a value of {missing}")
    return found


def check_suffix(path: Path) -> None:
    """Raise UsageError where a picture of that name could not be saved."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{str(path)!r} does not end in {', '.join(SUFFIXES)}")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure in the format of the path's suffix; the bytes depend on the figure only.

    Raises UsageError for another suffix, or where the file cannot be written.
    """
    check_suffix(path)
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[
        path.suffix
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(RC):
            figure.savefig(path, dpi=160, metadata=metadata)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return path


def _draw(frame: pd.DataFrame, raw: pd.DataFrame, kind: str) -> list[tuple[str, Figure]]:
    trained = kind in _SCORES
    rows = frame[(frame["task"] != "") == trained]
    rows = with_score(rows) if trained else rows
    columns = {"accuracy": ["score"], "tradeoff": _TRADEOFF, "roofline": ["roof_share"]}
    needed = columns[kind] if kind in columns else [_CURVES[kind].column]
    keys = [*SHAPE, "task", "machine"] if trained else [*SHAPE, "machine"]
    styles = looks(frame)
    figures = []
    for key, group in rows.groupby(keys, sort=False):
        if not group[needed].notna().all(axis=1).any():
            continue
        shape = dict(zip(keys, key, strict=True))
        mine = of_shape(raw, shape)
        if kind == "accuracy":
            figures.append(_accuracy(group, mine, shape, styles))
        elif kind == "tradeoff":
            figures.append(_tradeoff(group, shape, styles))
        elif kind == "roofline":
            figures.append(_roofline(group, mine, shape, styles))
        else:
            figures.append(_curves(group, mine, shape, _CURVES[kind], styles))
    return numbered(kind, figures)


def _curves(
    rows: pd.DataFrame,
    raw: pd.DataFrame,
    shape: dict[str, Any],
    curve: _Curve,
    styles: dict[str, dict[str, Any]],
) -> Figure:
    shown = rows[rows[curve.column].notna() | ~rows["status"].isin(["ok", "interrupted"])]
    modes = [
        mode for mode in ("forward", "train") if mode in set(shown["mode"])
    ]  # all crosses is a panel too
    names = sorted({label(row.mechanism, row.options) for row in each_row(rows)})
    if rows["seq_len"].nunique() == 1:
        return _at_one_length(rows, modes, shape, curve, styles)
    slopes = _slopes(raw, curve) if curve.slopes else {}
    crossings = (
        _worth_marking(raw, rows) if curve.column == "time_s" else pd.DataFrame(columns=["mode", "crossover"])
    )
    columns = 2 if max(map(len, names)) <= 24 else 1
    height = 3.4 + 0.27 * -(-len(names) // columns)
    figure = Figure(figsize=(4.8 * len(modes) + 0.4, height), layout="constrained")
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    failed: set[str] = set()
    for axes, mode in zip(panels, modes, strict=True):
        inside = rows[rows["mode"] == mode]
        _set_log_axes(axes, rows, curve)
        axes.set_title(mode)
        handles = [_line(axes, inside, name, curve, styles[name], slopes.get((name, mode))) for name in names]
        failed |= crosses(axes, inside, curve.column, styles)
        _mark_crossovers(axes, crossings[crossings["mode"] == mode], styles)
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns, fontsize=8,
            bbox_transform=axes.transAxes + ScaledTranslation(0, -0.47, figure.dpi_scale_trans),
            handlelength=3.2, columnspacing=1.2, borderaxespad=0.0,
        )  # fmt: skip
    panels[0].set_ylabel(curve.axis)
    notes = [f"x at the upper edge: {', '.join(sorted(failed))}"] if failed else []
    if curve.column in ("time_s", "tokens_per_s"):
        wide = rows["noisy"].fillna("").astype(bool).any()
        notes.append("bars: 95 % interval" + ("; hollow: noisy" if wide else ""))
    if curve.slopes:
        notes.append("N^a: growth over the longest lengths measured")
    set_title(figure, shape, "; ".join(notes))
    return figure


def _at_one_length(
    rows: pd.DataFrame,
    modes: Sequence[str],
    shape: dict[str, Any],
    curve: _Curve,
    styles: dict[str, dict[str, Any]],
) -> Figure:
    """A dot for each mechanism: a curve of one point says nothing of growth."""
    timed = curve.column == "time_s"
    length = units.length(rows["seq_len"].iloc[0])
    figure = dots(
        [(mode, rows[rows["mode"] == mode]) for mode in modes], curve.column, styles=styles,
        axis=f"{curve.axis} at {length} tokens", tick=curve.tick,
        bounds=("time_low_s", "time_high_s") if timed else None,
    )  # fmt: skip
    noisy = timed and rows["noisy"].fillna("").astype(bool).any()
    notes = ["bars: 95 % interval" if timed else "", "hollow: noisy" if noisy else ""]
    set_title(figure, shape, "; ".join(filter(None, notes)))
    return figure


def _line(
    axes: Axes,
    inside: pd.DataFrame,
    name: str,
    curve: _Curve,
    style: dict[str, Any],
    slope: str | None,
) -> Line2D:
    """Draw one mechanism and return what stands for it in the legend."""
    mine = inside[[label(row.mechanism, row.options) == name for row in each_row(inside)]].sort_values(
        "seq_len"
    )
    known = mine[mine[curve.column] > 0]
    look = {**style, "linewidth": 1.4, "markersize": 4.5}
    text = name if slope is None else f"{name}  {slope}"
    (line,) = axes.plot(
        mine["seq_len"], mine[curve.column].where(mine[curve.column] > 0), label=text, **look
    )  # a gap where one failed
    if curve.column in ("time_s", "tokens_per_s") and len(known):
        low, high = known["time_low_s"], known["time_high_s"]
        if curve.column == "tokens_per_s":
            work = known["seq_len"] * known["batch_size"]
            low, high = work / high, work / low
        axes.vlines(known["seq_len"], low, high, color=style["color"], linewidth=3, alpha=0.35)
        noisy = known[known["noisy"].fillna("").astype(bool)]
        axes.scatter(noisy["seq_len"], noisy[curve.column], s=15, facecolors="white", zorder=3,
                     edgecolors=style["color"], linewidths=0.8, marker=style["marker"])  # fmt: skip
    return line


def _slopes(raw: pd.DataFrame, curve: _Curve) -> dict[tuple[str, str], str]:
    assert curve.slopes is not None
    found = {}
    for row in filter(told, each_row(exponents(raw, curve.slopes))):
        half = (row.exponent_high - row.exponent_low) / 2
        spread = f"±{half:.2f}" if half >= 0.005 else ""
        claim = f" (declared {row.declared})" if row.verdict == "grows faster" else ""
        found[label(row.mechanism, row.options), row.mode] = f"$N^{{{row.exponent:.2f}{spread}}}${claim}"
    return found


def _worth_marking(raw: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Of each mode the crossovers after which the fastest at the longest length leads, if they are few."""
    found = crossovers(raw)
    kept = []
    for mode, group in found[found["crossover"].notna()].groupby("mode"):
        last = rows[(rows["mode"] == mode) & rows["time_s"].notna()]
        last = last[last["seq_len"] == last["seq_len"].max()]
        best = last.loc[last["time_s"].idxmin()]
        # lines of several codes look alike in the picture and have no mark
        drawn = {label(row.mechanism, row.options) for row in each_row(rows)}
        leads = group[
            (group["faster_after"] == label(best["mechanism"], best["options"]))
            & group["faster_before"].isin(drawn)
        ]
        kept.append(leads if len(leads) <= MOST_CROSSOVERS else leads.iloc[:0])
    return pd.concat(kept) if kept else found.iloc[:0]


def _mark_crossovers(axes: Axes, crossings: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """A dotted line, in the colour of the one that falls behind, where another becomes faster."""
    low_at = 0.02
    for row in each_row(crossings.sort_values("crossover")):
        colour = styles[row.faster_before]["color"]
        axes.axvline(row.crossover, color=colour, linestyle=":", linewidth=1.0, zorder=0.5)
        low, high = (  # an open interval is shaded to the end of what was measured
            row.first if pd.isna(row.crossover_low) else row.crossover_low,
            row.last if pd.isna(row.crossover_high) else row.crossover_high,
        )
        axes.axvspan(low, high, color=colour, alpha=0.08, linewidth=0, zorder=0.4)
        text = f"{row.faster_after} faster than {row.faster_before}"
        place, low_at = low_at, (low_at + 0.33) % 1  # one above the other, so that neighbours never touch
        axes.annotate(text, (row.crossover, place), rotation=90,
                      xycoords=("data", "axes fraction"), xytext=(2, 0), textcoords="offset points",
                      fontsize=6, color=colour, va="bottom")  # fmt: skip


def _set_log_axes(axes: Axes, rows: pd.DataFrame, curve: _Curve) -> None:
    lengths = sorted(rows["seq_len"].unique())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2 if curve.column == "peak_bytes" else 10)
    axes.xaxis.set_major_locator(FixedLocator(ticks_apart(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.length(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: curve.tick(value)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("sequence length N (tokens)")
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    values = rows.loc[rows[curve.column] > 0, curve.column]
    if len(values):
        axes.set_ylim(values.min() / 1.6, values.max() * 2.6)  # room for the crosses above


def _accuracy(
    rows: pd.DataFrame, raw: pd.DataFrame, shape: dict[str, Any], styles: dict[str, dict[str, Any]]
) -> Figure:
    lengths = sorted(rows["seq_len"].unique())
    names = sorted({label(row.mechanism, row.options) for row in each_row(rows)})
    levels = priors(raw)
    share = score_unit(metric_of(rows)) == "share"
    tick = percent if share else units.ratio
    kinds = sorted(set(rows["score_interval"].dropna()))
    note = f"bars: 95 % interval, {', '.join(kinds)}" if kinds else "one seed: no interval"
    if len(lengths) == 1:
        axis = f"test {name_of(rows)} at {units.length(lengths[0])} tokens"
        figure = dots(
            [("", rows)], "score", styles=styles, axis=axis, tick=tick, bounds=("score_low", "score_high"),
            levels=levels, from_zero=False,
        )  # fmt: skip
        set_title(figure, shape, note)
        return figure
    columns = 3 if max(map(len, names)) <= 16 else 1
    size = (6.4 + (label_room([*levels, "100.0 %"]) if levels else 0), 3.9 + 0.27 * -(-len(names) // columns))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    offsets = np.linspace(-1, 1, len(names)) if len(names) > 1 else [0.0]
    for name, offset in zip(names, offsets, strict=True):
        mine = rows[[label(row.mechanism, row.options) == name for row in each_row(rows)]]
        mine = mine[mine["score"].notna()].sort_values("seq_len")
        errors = [mine["score"] - mine["score_low"], mine["score_high"] - mine["score"]]
        axes.errorbar(mine["seq_len"] * 1.02**offset, mine["score"], yerr=errors, label=name,
                      linewidth=1.4, markersize=5, capsize=2, **styles[name])  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks_apart(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.length(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_xlabel("sequence length N (tokens)")
    axes.set_ylabel(f"test {name_of(rows)}")
    crosses(axes, rows, "score", styles)
    known = rows[["score", "score_low", "score_high"]].stack()
    axes.set_ylim(*reach_priors(known.min(), known.max(), levels.values()))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns, fontsize=8, handlelength=3)
    set_title(figure, shape, note)
    if levels:
        label_ends(axes, draw_priors(axes, levels))
    return figure


def _roofline(
    rows: pd.DataFrame, raw: pd.DataFrame, shape: dict[str, Any], styles: dict[str, dict[str, Any]]
) -> Figure:
    """Achieved FLOP/s against arithmetic intensity under what this machine was measured to allow."""
    known = rows[rows["roof_share"].notna()]
    modes = [mode for mode in ("forward", "train") if mode in set(known["mode"])]
    names = sorted({label(row.mechanism, row.options) for row in each_row(known)})
    ceiling = raw[raw["peak_flops_per_s"].notna()].iloc[0]
    peak = float(ceiling["peak_flops_per_s"])
    slopes = {
        units.size(size): float(speed)
        for size, speed in zip(
            ceiling["samples_bandwidth_at_bytes"], ceiling["samples_bandwidth_bytes_per_s"], strict=True
        )
    }
    fastest, memory = max(slopes, key=lambda size: slopes[size]), list(slopes)[-1]
    first = min(known["arithmetic_intensity"].min() / 2, 0.5 * peak / slopes[fastest])
    last = known["arithmetic_intensity"].max() * 3
    figure = Figure(figsize=(4.8 * len(modes) + 0.4, 4.4), layout="constrained")
    panels = figure.subplots(1, len(modes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, mode in zip(panels, modes, strict=True):
        intensity = np.geomspace(first, last, 100)
        for size, dash in ((fastest, ":"), (memory, "--")):
            roof = np.minimum(peak, intensity * slopes[size])
            axes.plot(intensity, roof, color="#666666", linestyle=dash, linewidth=1.1,
                      label=f"{units.count(slopes[size], 'B')}/s, {size} of data")  # fmt: skip
        for name in names:
            mine = known[[label(row.mechanism, row.options) == name for row in each_row(known)]]
            mine = mine[mine["mode"] == mode].sort_values("seq_len")
            axes.plot(mine["arithmetic_intensity"], mine["flops_per_s"], label=name, linewidth=0.7,
                      markersize=4.5, **styles[name])  # fmt: skip
            for row in each_row(mine.iloc[-1:]):
                axes.annotate(units.length(row.seq_len), (row.arithmetic_intensity, row.flops_per_s),
                              xytext=(4, -7), textcoords="offset points", fontsize=6.5)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(known["flops_per_s"].min() / 2, max(peak, known["flops_per_s"].max()) * 1.5)
        axes.set_title(mode)
        axes.set_xlabel("arithmetic intensity (FLOP per byte moved)")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: few(value)))
    panels[0].set_ylabel("achieved FLOP/s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, handlelength=3)
    longest = units.length(known["seq_len"].max())
    note = (
        f"grey: {units.count(peak, 'FLOP')}/s and bandwidth, as measured here; {longest}: the longest length"
    )
    set_title(figure, shape, note)
    return figure


def _tradeoff(rows: pd.DataFrame, shape: dict[str, Any], styles: dict[str, dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    known = rows[rows["score"].notna() & rows["tokens_per_s"].notna() & rows["peak_bytes"].notna()]
    largest = float(known["peak_bytes"].max())
    most_area = 900.0
    several = known["seq_len"].nunique() > 1
    spots = []
    for row in each_row(known):
        name = label(row.mechanism, row.options)
        area = most_area * row.peak_bytes / largest
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
    bottom, top = known["score_low"].min(), known["score_high"].max()
    margin = max(0.01, 0.15 * (top - bottom))
    axes.set_ylim(bottom - margin, top + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: few(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("training throughput (tokens per second)")
    axes.set_ylabel(f"test {name_of(rows)}")
    sizes = [largest, largest / 2, largest / 4]
    handles = [
        Line2D([], [], marker="o", linestyle="none", color="#999999", markeredgecolor="black",
               markersize=(most_area * size / largest) ** 0.5, label=units.size(size))
        for size in sizes
    ]  # fmt: skip
    axes.legend(handles=handles, title="peak memory of\na training step", loc="center left", labelspacing=2.0,
                bbox_to_anchor=(1.0, 0.5), borderpad=1.2, handletextpad=1.4)  # fmt: skip
    set_title(figure, shape, f"bars: 95 % interval of {name_of(rows)}")
    bars = [(row.tokens_per_s, row.score_low, row.tokens_per_s, row.score_high) for row in each_row(known)]
    label_spots(axes, spots, [bar for bar in bars if pd.notna(bar[1])])
    return figure
