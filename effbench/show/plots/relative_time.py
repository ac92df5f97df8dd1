"""Time relative to Fastformer against length, as in Figure 2 of its paper, beside the paper's values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import Pair, by_pair
from effbench.records.analyse.published import MODES, published_times
from effbench.records.analyse.uncertainty import noise_of, ratio_interval
from effbench.show import units
from effbench.show.look import (
    GREY,
    NothingToDraw,
    failures_note,
    hosts_note,
    mark_failures,
    set_length_axis,
    span,
)
from effbench.show.palette import Style, looks
from effbench.show.plots.label_layout import label_ends, label_height, label_room
from effbench.show.plots.sheet import Sheet, narrow, set_title
from effbench.show.tables import SHAPE, by_label, each_row, labels

# panel (inference, training) -> mechanism as ``-m`` reads it -> length -> time in any one unit
PublishedTimes = Mapping[str, Mapping[str, Mapping[int, float]]]

D_MODEL = 256  # the paper's width
REFERENCE = "fastformer"  # the times are relative to this mechanism's


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Draw :func:`relative_times` beside the paper's values."""
    return relative_times(raw, _paper_times())


def relative_times(raw: pd.DataFrame, paper: PublishedTimes) -> list[Figure]:
    """Time relative to Fastformer's at the same length and a constant number of tokens per batch.

    From time cells at d_model 256 whose batch_size x seq_len is the same at two lengths or more. Ratios are
    paired by repeat (``uncertainty.ratio_interval``). The paper's values are ratios too, because the unit of
    its times is not known. Raises NothingToDraw.
    """
    nothing = "there is nothing to draw for figure2: "
    timed = raw[(raw["probe"] == "time") & (raw["task"] == "") & (raw["d_model"] == D_MODEL)]
    # the paper has neither decoding nor the time of a user encoder
    timed = timed[timed["mode"].isin(MODES) & (timed["scope"] != "user-encoder")]
    if timed.empty:
        raise NothingToDraw(f"{nothing}no {' or '.join(MODES)} pass was timed at d_model {D_MODEL}")
    timed = timed.assign(tokens=timed["batch_size"] * timed["seq_len"])
    keys = [name for name in SHAPE if name != "batch_size"] + ["machine", "tokens"]
    groups = [group for _, group in timed.groupby(keys, sort=False) if group["seq_len"].nunique() > 1]
    if not groups:
        raise NothingToDraw(f"{nothing}no two lengths have the same batch_size x seq_len, as in the paper")
    drawn = [(group, ratios) for group in groups if len(ratios := _ratios(group))]
    if not drawn:
        raise NothingToDraw(
            f"{nothing}no length has both a time of {REFERENCE} and one of another mechanism at a constant "
            "batch_size x seq_len"
        )
    return [_figure(group, ratios, paper) for group, ratios in drawn]


def _ratios(timed: pd.DataFrame) -> pd.DataFrame:
    """Return (mechanism, options, mode, seq_len, status, ratio, low, high); no ratio where one failed."""
    reference = _reference(timed)
    if reference is None:
        return pd.DataFrame()
    rows: list[dict[str, Any]] = []
    noise = noise_of(comparable(timed[timed["status"] == "ok"]))
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
            ratio = ratio_interval(ours, base, noise) if ours and base else (math.nan,) * 3
            rows.append({**row, **dict(zip(("ratio", "low", "high"), ratio, strict=True))})
    ratios = pd.DataFrame(rows)
    return ratios if len(ratios) and ratios["ratio"].notna().any() else pd.DataFrame()


def _reference(timed: pd.DataFrame) -> str | None:
    """Return the options of the Fastformer that the times are relative to: none, or those of the only one."""
    mine = timed[(timed["mechanism"] == REFERENCE) & (timed["status"] == "ok")]
    options = sorted(set(mine["options"]))
    return "" if "" in options else options[0] if len(options) == 1 else None


def _samples(cells: pd.DataFrame) -> dict[Pair, list[float]]:
    ok = comparable(cells[cells["status"] == "ok"])
    return by_pair(ok) if len(ok) else {}


def _figure(timed: pd.DataFrame, ratios: pd.DataFrame, paper: PublishedTimes) -> Figure:
    modes = [mode for mode in MODES if mode in set(ratios["mode"])]
    theirs = {mode: _published_ratios(paper.get(MODES[mode], {})) for mode in modes}
    printed = sorted({name for panel in theirs.values() for name in panel})
    ours = sorted(set(labels(ratios)))
    styles = _styles(timed, printed, ours)
    lengths = sorted(
        {*timed["seq_len"], *(n for panel in theirs.values() for series in panel.values() for n in series)}
    )
    named = [*ours, *(f"{name} (paper)" for name in printed), REFERENCE]
    figure = Sheet(
        len(modes),
        wide=3.8 + label_room(named),
        tall=max(3.4, label_height(named)),
        share=("none", "all"),
    )
    panels = figure.panels
    failed: set[str] = set()
    ends: list[list[tuple[float, float, str, str]]] = []
    shown: dict[str, Style] = {}
    for axes, mode in zip(panels, modes, strict=True):
        inside = ratios[ratios["mode"] == mode]
        _set_axes(axes, [int(n) for n in lengths])
        axes.set_title(MODES[mode])
        axes.axhline(1.0, color="black", linewidth=0.9, zorder=1, gid=f"reference-{REFERENCE}")
        here = [(axes.get_xlim()[1], 1.0, REFERENCE, "#000000")]
        drawn = {}
        for name, mine in by_label(inside[inside["ratio"].notna()].sort_values("seq_len")):
            drawn[name] = _draw_ours(axes, name, mine, styles[name])
            shown[name] = styles[name]
        for name, series in theirs[mode].items():
            _draw_theirs(axes, name, series, styles[name])
            if not any(name == ours or ours.startswith(f"{name}:") for ours in drawn):
                last = max(series)
                drawn[f"{name} (paper)"] = (float(last), series[last], styles[name]["color"])
                shown[f"{name} (paper)"] = styles[name]
        ends.append([*here, *((x, y, name, colour) for name, (x, y, colour) in drawn.items())])
        failed |= mark_failures(axes, inside, "ratio", styles)
    values = [value for name in ("ratio", "low", "high") for value in ratios[name].dropna()] + [1.0]
    values += [v for panel in theirs.values() for series in panel.values() for v in series.values()]
    panels[0].set_ylim(min(values) / 1.4, max(values) * 1.9)
    for axes in figure.left:
        axes.set_ylabel(f"time relative to {REFERENCE}")
    handles = []
    if narrow():
        handles += [
            Line2D([], [], label=name, **{**style, "linestyle": "-"}) for name, style in sorted(shown.items())
        ]
        handles.append(Line2D([], [], color="black", linewidth=0.9, label=REFERENCE))
    if printed:
        look: Style = {"color": GREY, "marker": "o", "markersize": 5}
        handles += [
            Line2D([], [], linestyle="-", label="measured here", **look),
            Line2D([], [], linestyle="--", markerfacecolor="white", label="paper, Figure 2", **look),
        ]
    if handles:
        figure.legend_below(handles)
    tokens = units.length(timed["tokens"].iloc[0])
    notes = [
        f"batch size x length = {tokens} tokens",
        "bars: another run is inside with 95 %, paired by repeat",
    ]
    if printed:
        notes.append(
            "paper: different machine and library, values read from its figure (about ± 2 %), no intervals"
        )
    notes += [failures_note(failed), hosts_note(timed)]
    shape = {name: timed[name].iloc[0] for name in (*SHAPE, "machine")}
    set_title(figure, {**shape, "batch_size": span(timed["batch_size"])}, "; ".join(filter(None, notes)))
    label_ends(figure, dict(zip(panels, ends, strict=True)))
    return figure


def _published_ratios(times: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    base = times.get(REFERENCE, {})
    ratios = {
        name: {n: time / base[n] for n, time in sorted(series.items()) if n in base}
        for name, series in times.items()
        if name != REFERENCE
    }
    return {name: series for name, series in ratios.items() if series}


def _styles(timed: pd.DataFrame, printed: Sequence[str], ours: Sequence[str]) -> dict[str, Style]:
    """Return the looks of our series, and the same for the paper's, whatever options our mechanism has."""
    like = {name: next((o for o in ours if o == name or o.startswith(f"{name}:")), name) for name in printed}
    styles = looks(timed, [name for name in printed if like[name] == name])
    return {**styles, **{name: styles[like[name]] for name in printed}}


def _draw_ours(axes: Axes, name: str, mine: pd.DataFrame, style: Style) -> tuple[float, float, str]:
    axes.plot(mine["seq_len"], mine["ratio"], label=name,
              **{**style, "linestyle": "-"})  # fmt: skip
    axes.vlines(mine["seq_len"], mine["low"], mine["high"], color=style["color"], linewidth=3, alpha=0.35,
                gid=f"bars-{name}")  # fmt: skip
    return float(mine["seq_len"].iloc[-1]), float(mine["ratio"].iloc[-1]), str(style["color"])


def _draw_theirs(axes: Axes, name: str, series: Mapping[int, float], style: Style) -> None:
    axes.plot(list(series), list(series.values()), label=f"{name} (paper)", linewidth=0.9,
              markerfacecolor="white", markeredgewidth=0.9, zorder=1.8,
              **{**style, "linestyle": (0, (4, 2))})  # fmt: skip


def _set_axes(axes: Axes, lengths: Sequence[int]) -> None:
    set_length_axis(axes, lengths)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _paper_times() -> PublishedTimes:
    times: dict[str, dict[str, dict[int, float]]] = {}
    for row in each_row(published_times()):
        panel = times.setdefault(MODES[row.mode], {})
        panel.setdefault(row.mechanism, {})[int(row.seq_len)] = float(row.published_time)
    return times
